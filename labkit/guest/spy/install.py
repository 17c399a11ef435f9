"""What is installed of the spy: its program, and the text of its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from . import spy

ENDING = ".spy"  # of the configuration's name, after that of the program


def program(python: str = "/usr/bin/python3") -> bytes:
    """The spy as a file for a system whose Python is at that path."""
    first, rest = Path(spy.__file__).read_bytes().split(b"\n", 1)
    return b"#!%b %b\n%b" % (python.encode(), first.split(b" ", 1)[1], rest)


def configuration(
    runtime: str,
    record: str,
    *,
    arguments: Iterable[str] = (),
    state: Iterable[str] = spy.STATE,
    faults: Iterable[Mapping[str, str]] = (),
    line: int = spy.LINE,
    file: int = spy.FILE,
) -> str:
    """The text of NAME.spy; ValueError where the spy would not take it."""
    lines = [f"runtime = {runtime}", f"record = {record}", *(f"arg = {word}" for word in arguments)]
    lines += [f"state = {' '.join(state)}", f"line = {line}", f"file = {file}"]
    for fault in faults:
        lines += ["", "[fault]", *(f"{key} = {word}" for key, word in fault.items())]
    if any("\n" in one for one in lines):
        raise ValueError("a value of the spy's configuration has a line break in it")
    text = "\n".join(lines) + "\n"
    try:
        spy.parsed(text, "configuration")
    except spy.Wrong as error:
        raise ValueError(str(error)) from error
    return text
