"""labkit in a process forked from this one: to load it anew for each call would take longer than most calls."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from labkit.cli import program


def forked(
    words: Sequence[str],
    environ: Mapping[str, str],
    cwd: Path,
    out: int,
    err: int,
    first: Callable[[], None] = lambda: None,
) -> int:
    """Start `labkit words`, with its outputs in the descriptors; its pid. first is called in it before it begins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: pytest-xdist has some
        pid = os.fork()
    if pid == 0:
        _be_labkit(words, environ, cwd, out, err, first)
    return pid


def _be_labkit(
    words: Sequence[str], environ: Mapping[str, str], cwd: Path, out: int, err: int, first: Callable[[], None]
) -> NoReturn:
    """The whole life of the forked child."""
    status = 70
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for target, source in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
            os.dup2(source, target)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environ)
        tempfile.tempdir = None
        faulthandler.enable(file=2)
        sys.argv = ["labkit", *words]
        warnings.simplefilter("ignore")
        first()
        program.main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
