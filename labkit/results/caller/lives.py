"""Checks of the lifecycle: the calls about each container, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from labkit.core.text import one_line
from labkit.results.caller.calls import Call, begun_before_end
from labkit.results.caller.findings import Check, Finding, Found, Undecided

_ABOUT_ONE = {"exec", "ps", "pause", "resume", "update", "checkpoint", "events"}


@dataclass(slots=True)
class _Life:
    """A container from its create on. deleted: by which call; starts: those that are not known to have failed."""

    create: Call
    starts: list[Call] = field(default_factory=list)
    failed_starts: list[Call] = field(default_factory=list)
    deleted: Call | None = None

    @property
    def there(self) -> bool:
        return self.create.failed is not True and self.deleted is None

    @property
    def certain(self) -> bool:
        """Whether it is known that create succeeded: by its status, or by what was done with it afterwards."""
        return self.create.failed is False or (self.create.failed is None and bool(self.starts))


@dataclass(frozen=True, slots=True)
class _Seen:
    """A finding of the walk, with the check that it belongs to."""

    check: str
    found: Found


def _walk(calls: tuple[Call, ...]) -> Iterator[_Seen]:
    lives: dict[tuple[str, str], _Life] = {}
    ended: list[_Life] = []
    for call in calls:
        if not call.id:
            continue
        key = (call.root, call.id)
        life = lives.get(key)
        if call.command in ("create", "run", "restore"):
            if life is not None and life.there and call.command != "restore":
                yield _Seen("CALL-020", Finding("an ID that is there", call, "an ID of its own", _of(call)))
            elif call.command != "restore":
                yield _Seen("CALL-020", None)
            if life is not None and life.there and call.failed:
                continue  # it was refused, and the first one is what it was
            if life is not None:
                ended.append(life)
            if call.command == "run":  # foreground, and deleted by itself
                lives.pop(key, None)
            else:
                lives[key] = _Life(call)
        elif call.command == "start":
            yield _Seen("CALL-021", _started(life, call))
            if life is not None and life.deleted is None:
                if life.starts:
                    yield _Seen("CALL-022", Finding("a second start", call, "one start", _of(call)))
                else:
                    yield _Seen("CALL-022", None)
                (life.failed_starts if call.failed else life.starts).append(call)
        elif call.command == "kill":
            yield _Seen("CALL-023", _there(life, call, "kill"))
        elif call.command == "delete":
            yield _Seen("CALL-025", _deleted(life, call))
            if life is not None and life.deleted is None and call.failed is not True:
                life.deleted = call
        elif call.command in _ABOUT_ONE:
            yield _Seen("CALL-027", _there(life, call, call.command))
    for life in (*ended, *lives.values()):
        yield _end(life)


def _of(call: Call) -> str:
    return one_line(call.id, 100)


def _started(life: _Life | None, call: Call) -> Found:
    if life is None:
        return Finding("start of what was never created", call, "create before", _of(call))
    if life.deleted is not None:
        return Finding("start of what is deleted", call, "create before", _of(call))
    if life.create.failed:
        return Finding("start after a failed create", call, "create that succeeded", _of(call))
    if begun_before_end(call, life.create):
        return Finding("start before create had ended", call, "start after create", _of(call))
    return None


def _there(life: _Life | None, call: Call, command: str) -> Found:
    if life is None:
        return Finding(f"{command} of what was never created", call, "create before", _of(call))
    if life.deleted is not None:
        return Finding(f"{command} of what is deleted", call, "a container that is there", _of(call))
    if life.create.failed and command != "kill":
        return Finding(f"{command} after a failed create", call, "a container that is there", _of(call))
    return None


def _deleted(life: _Life | None, call: Call) -> Found:
    forced = call.has("--force", "-f")
    if life is None:
        return Finding("delete of what was never created", call, "create before", _of(call), forced)
    if life.deleted is not None:
        return Finding("delete of what is deleted", call, "one delete", _of(call), forced)
    return None  # also after a failed create: whoever does not know what is left clears up


def _end(life: _Life) -> _Seen:
    check = "CALL-026" if life.failed_starts and not life.starts else "CALL-024"
    if life.create.failed or life.deleted is not None:
        return _Seen(check, None if life.deleted is not None else Undecided(life.create, ""))
    if life.create.failed is None and not life.certain and not life.failed_starts:
        return _Seen(check, Undecided(life.create, "the record does not tell whether create succeeded"))
    what = "a failed start and no delete" if check == "CALL-026" else "no delete"
    return _Seen(check, Finding(what, life.create, "delete", _of(life.create)))


def _only(check: str) -> Check:
    def of(calls: tuple[Call, ...]) -> Iterator[Found]:
        for seen in _walk(calls):
            if seen.check == check and not (isinstance(seen.found, Undecided) and not seen.found.why):
                yield seen.found

    return of


def ids(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if call.command != "create" or not call.id:
            continue
        if "/" in call.id or "\0" in call.id or call.id in (".", ".."):
            yield Finding("an ID that is no name of a file", call, "a name of a file", _of(call))
        elif len(call.id.encode("utf-8", "surrogatepass")) > 255:
            yield Finding("an ID of more than 255 bytes", call, "a name of a file", _of(call))
        elif not call.id.isprintable():
            yield Finding("an ID with what cannot be printed", call, "a name of a file", _of(call))
        else:
            yield None


CHECKS: dict[str, Check] = {
    **{f"CALL-{n:03}": _only(f"CALL-{n:03}") for n in (*range(20, 28),)},
    "CALL-030": ids,
}
