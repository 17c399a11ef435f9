"""What was unpacked judged: by what layers have (labkit.guest.images.layers), and by what is outside of the root."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from labkit.core.text import one_line
from labkit.guest.images import cases
from labkit.guest.images.escapes import SECRET
from labkit.results.engines.events import Event
from labkit.results.images.findings import Cannot, Finding, Found, no_error, refused
from labkit.results.tap import JSON

_FAILS = ("LAYER-006", "LAYER-007", "LAYER-017")
ESCAPES = tuple(f"LAYER-{number:03}" for number in range(50, 62))
_SECRET = hashlib.sha256(SECRET).hexdigest()


def check(ident: str, name: str, event: Event) -> Iterator[Found]:
    """What is wrong with an image of this name by this check."""
    if isinstance(why := event.get("cannot"), str):
        yield Cannot(why)
    elif ident in ESCAPES:
        yield from _outside(event)
    elif ident in _FAILS:
        if event.get("status") == 0:
            yield no_error(event)
    elif event.get("status") != 0 or not isinstance(event.get("tree"), dict):
        yield refused(event)
    else:
        yield from _shows(ident, name, event)


def _outside(event: Event) -> Iterator[Found]:
    seen = event.get("outside")
    for change in seen if isinstance(seen, list) else ["it was not looked at"]:
        said = one_line(str(change), 200)
        yield Finding(said, f"outside of the root file system: {said}", "nothing changes", said)
    tree = event.get("tree")
    for path, entry in tree.items() if isinstance(tree, dict) else ():
        if isinstance(entry, dict) and entry.get("sha256") == _SECRET:
            yield Finding("gives away", f"{path} is a file of the host", "no such file", entry)


def _shows(ident: str, name: str, event: Event) -> Iterator[Found]:
    tree = event.get("tree")
    assert isinstance(tree, dict)  # see check()
    for path, wanted in cases.named(name).shows[ident].items():
        entry = tree.get(path)
        short = one_line(path.removeprefix("t/"), 40)
        if wanted is None:
            if entry is not None:
                yield Finding(f"{short} is there", f"{path} is there", None, entry)
        elif not isinstance(entry, dict):
            yield Finding(f"{short} is missing", f"{path} is missing", dict(wanted))  # type: ignore[arg-type]
        else:
            for key, value in wanted.items():
                seen = _named(entry, tree, key, str(value))
                if seen != value:
                    shown: JSON = value  # type: ignore[assignment]
                    yield Finding(f"{short} {key}", f"{key} of {path}", _said(key, shown), _said(key, seen))


def _named(entry: dict[str, JSON], tree: dict[str, JSON], key: str, other: str) -> JSON:
    """An attribute of an entry; of the same file as another, that one."""
    if key != "same":
        return entry.get(key)
    beside = tree.get(other)
    return (
        other
        if entry.get(key) == other or (isinstance(beside, dict) and beside.get(key) == entry.get(key) is not None)
        else None
    )


def _said(key: str, value: JSON) -> JSON:
    return f"{value:04o}" if key == "mode" and isinstance(value, int) else value
