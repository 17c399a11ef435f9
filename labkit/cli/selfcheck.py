"""labkit's own checks, as CI runs them: one list of commands, all of them run."""

from __future__ import annotations

import functools
import shlex
import sys
from pathlib import Path

from labkit.core.errors import UsageError
from labkit.io import process

_PYTEST = ("pytest", "-q")
_FAST = (("ruff", "check", "."), ("mypy",), _PYTEST)
_SLOW = (
    (*_PYTEST, "--durations=20", "-m", "host_runtime"),
    # Emulated kernels panic now and then (docs/decisions.md, 11); for anything else a test has one chance.
    (*_PYTEST, "--durations=20", "-m", "machine", "--reruns=1", "--only-rerun=kernel panicked"),
)
_BOUND = 7200.0  # seconds for one command; image builds and boots under emulation are slow


def run(checkout: Path, *, fast: bool) -> int:
    """Run all of them in the checkout, each printed before it runs; 0, or the status of the first that failed.

    UsageError where this is no checkout.
    """
    if not (checkout / "pyproject.toml").is_file():
        raise UsageError("check needs a checkout of labkit; this is an installed one")
    say = functools.partial(print, flush=True)
    failed: list[process.Completed] = []
    for words in _FAST if fast else _FAST + _SLOW:
        say(f"$ {shlex.join(words)}")
        argv = [sys.executable, "-m", *words]
        # The person's own tools: settings of pytest, pip or CI are meant for them.
        done = process.run(argv, timeout=_BOUND, cwd=checkout, passing=process.ALL, check=False, on_line=say)
        if done.status:
            failed.append(done)
    for done in failed:
        say(f"{done.outcome}: {shlex.join(done.argv[2:])}")
    return failed[0].exit_status if failed else 0
