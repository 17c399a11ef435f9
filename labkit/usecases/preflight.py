"""The simplest container first: what cannot run that gets one message, in the runtime's own words, and no suite.

The spec suite begins with it anyway; for any other suite its program is put on the machine and runs that alone.
"""

from __future__ import annotations

import re

from labkit.core.cell import Selection
from labkit.core.errors import CommandTimeout
from labkit.core.text import printable
from labkit.io.remote import Remote
from labkit.subjects import hints
from labkit.subjects.runtimes import Runtime
from labkit.suites import registry

_LIMIT = 180.0  # seconds: each step of the container has its own
_SAID = re.compile(r"no container can be created here: (.*)", re.DOTALL)


def told(stderr: str, runtime: Runtime) -> str:
    """Why the suite has run nothing where its plain container could not be made; empty where that is not why."""
    found = _SAID.search(printable(stderr.strip()))
    if not found:
        return ""
    advice = hints.find(found[1])
    why = f"{runtime.name} cannot run the simplest container, so nothing was tested: no container can be created here: "
    return f"{why}{found[1]}" + (f"; try {advice}" if advice else "")


def preflight(runtime: Runtime, remote: Remote, place: str) -> str:
    """Run a plain container; why that is not possible, empty where it is, or where the machine lacks what it takes to
    tell. place: where programs go in the machine.
    """
    suite = registry.find("spec")
    program = f"{place}/{suite.file_name()}"
    remote.upload(suite.program(), program, mode=0o755)
    selection = Selection(runtime_args=runtime.arguments)
    argv = [*suite.argv(program, runtime.command, selection), "--control"]
    try:
        answer = remote.run(argv, timeout=_LIMIT, keep=1 << 16, attached=True)
    except CommandTimeout as error:
        return f"{runtime.name} cannot run the simplest container within {_LIMIT:g} s: {error.message}"
    return told(answer.stderr, runtime) if answer.status == 2 else ""
