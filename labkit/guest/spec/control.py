"""Before any check: does this runtime do anything at all here? Refusals show nothing where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from .cleanup import RECORDS, records
from .context import COMMANDS, SLEEPER, Config, Skip, Stop, SuiteRun, T
from .registry import Check, Requirement

CONTROL = Requirement("CONTROL", "MUST", "runtime.md#runtimeOperations", "A plain container works", "")
Run = Callable[[Check, SuiteRun], "dict[str, Any]"]


def command_lines() -> Iterator[bytes]:
    """Of the processes of the suite's PID namespace."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield (entry / "cmdline").read_bytes()


class NothingWorks(Exception):
    """No container can be created here, in the runtime's words."""


SEEN = "labkit-seen"  # in the command line of the plain container's process, and the name of a file that it makes


def smallest(t: T) -> Config:
    """A config with as little as a runtime can do with."""
    config = t.config(SLEEPER)
    config["linux"] = {"namespaces": [{"type": "pid"}, {"type": "mount"}]}
    config["mounts"] = config["mounts"][:1]
    del config["hostname"], config["process"]["capabilities"]
    return config


def plain_container(t: T) -> None:
    """Notes which commands work."""
    works: list[str] = []
    refusals = []
    for config in (t.config(f": >/out/{SEEN}; sleep 1000; :"), smallest(t)):
        c = t.try_create(config)
        # One that is there although create says that it failed is for the checks.
        there = c.created.ok or (t.has("state") and c.state().ok)
        refusals.append(f"create {c.created.words}" if c.created.status is None else c.created.words)
        if there or c.created.status is None:  # what hangs would hang again
            break
    if not there:
        t.note("refusal", refusals[0])
        t.skip(refusals[0])
    t.note("works", works)
    t.note("records", [str(path) for path in records(c.id)])
    works += ["create"] if c.created.ok else []
    works += ["state"] if t.has("state") and c.state().ok else []
    works += ["start"] if t.has("start") and c.start().ok else []
    if "start" in works and t.wait(lambda: (c.bundle.out / SEEN).exists(), 5):
        t.note("processes", any(SEEN.encode() in line for line in command_lines()))
    works += ["kill"] if t.has("kill") and c.kill().ok else []
    with suppress(Skip, Stop):  # its pid is not known, say
        c.wait_stopped(10)
    works += ["delete"] if t.has("delete") and c.delete(force=True).ok else []
    t.true(set(works) == COMMANDS, "every command works on a plain container", sorted(COMMANDS), works)


def controlled(suite: SuiteRun, run: Run, hide: Callable[[Path], bool]) -> SuiteRun:
    """The run, with the commands that work, and where all records are in one directory with that hidden: then no
    container has to be deleted for their sake. Raises NothingWorks.
    """
    if "create" in suite.lacks:  # what is left is judged without
        return replace(suite, works=frozenset())
    outcome = run(Check(CONTROL, plain_container, 150, exclusive=True), suite)
    notes = outcome.get("notes", {})
    if "works" not in notes:
        raise NothingWorks(notes.get("refusal") or outcome.get("message", ""))
    found = {Path(path).parent for path in notes["records"]}
    processes = notes.get("processes", True)
    # Where they are not the host's, the runtime keeps some of its own for each container until it is deleted.
    private = processes and len(found) == 1 and RECORDS not in found and "delete" in notes["works"]
    private = private and hide(found.pop())
    return replace(suite, works=frozenset(notes["works"]), processes=processes, private=private)
