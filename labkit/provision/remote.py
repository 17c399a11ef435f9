"""A bootstrap over SSH: a plan's files are uploaded, and its script is run, step by step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from labkit.core.deadline import Deadline
from labkit.core.errors import CommandTimeout, MachineError
from labkit.core.observer import Observer
from labkit.core.text import printable
from labkit.provision.bootstrap import BootstrapPlan

if TYPE_CHECKING:
    from labkit.io.remote import Remote

_SCRIPT = "/var/lib/labkit/bootstrap"
_UNREACHABLE = 69  # the script's status where an address does not answer that it would need
_TRYING = re.compile(r"labkit: (trying [0-9]+ addresses)")
_STEP = re.compile(r"labkit: step ([a-z0-9-]+)$")


def provision(remote: Remote, plan: BootstrapPlan, observer: Observer, *, timeout: float) -> None:
    """Run the plan's script on the machine, as root; timeout is the limit `build`, in seconds, and bounds all of it.

    Raises MachineError where a step fails or the time is up; run again, the script resumes at that step.
    """
    deadline = Deadline.after(timeout, "build")
    lines = _Lines(observer)
    doing = ""
    try:
        for upload in plan.uploads:
            observer.step(f"uploading {upload.local.name}")
            doing = f" while {upload.local.name} was uploaded"
            remote.upload(upload.local, upload.remote, timeout=max(deadline.left, 1.0))
        remote.upload(plan.script.encode(), _SCRIPT, mode=0o755)
        doing = ""
        answer = remote.run(
            ["sh", _SCRIPT],
            timeout=max(deadline.left, 1.0),
            on_stdout=lines.take,
            on_stderr=lines.take,
            keep=1 << 16,
        )
    except CommandTimeout as error:
        doing = doing or (f" at step {lines.step}" if lines.step else "")
        raise MachineError(
            f"the bootstrap of {remote.endpoint} did not end within {deadline.allowed}; it was ended{doing}",
            hint="give it more time and run the command again: it goes on at that step",
        ) from error
    if answer.status == _UNREACHABLE and not lines.step:
        said = printable(answer.stderr.strip()[-4000:], newlines=True)
        raise MachineError(
            f"the bootstrap of {remote.endpoint} was not begun, addresses do not answer from there:\n"
            + "\n".join(f"  {line}" for line in said.splitlines() if not line.startswith("labkit: ")),
            hint="once they answer, run the command again; or name others in labkit.toml: mirror, proxy, runc = ... "
            "and their like",
        )
    if answer.status:
        where = f" at step {lines.step}" if lines.step else ""
        raise MachineError(
            f"the bootstrap of {remote.endpoint} failed{where} with status {answer.status}",
            hint=printable(answer.stderr.strip()[-2000:], newlines=True) or None,
        )


def step_seconds(text: str) -> dict[str, float]:
    """Return how many seconds each step of a machine's bootstrap took, by what its script wrote to bootstrap.tsv."""
    rows = [line.split("\t") for line in text.splitlines()]
    return {
        printable(row[1][:100]): float(row[3])
        for row in rows
        if len(row) == 4 and row[2] == "done" and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,2})?", row[3])
    }


class _Lines:
    """Passes what the script prints to an observer, line by line."""

    def __init__(self, observer: Observer) -> None:
        self.step = ""
        self._observer = observer
        self._rest = b""

    def take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-4096:]
        for raw in lines:
            line = printable(raw.decode("utf-8", "replace"))
            if found := _STEP.fullmatch(line):
                self.step = found[1]
                self._observer.step(f"bootstrap: {self.step}")
            elif found := _TRYING.fullmatch(line):
                self._observer.step(f"bootstrap: {found[1]}")
            else:
                self._observer.detail(line)
