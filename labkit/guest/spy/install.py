"""What is installed of the spy: its program, and the text of its configuration."""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Iterable, Mapping

from . import spy

ENDING = ".spy"  # of the configuration's name, after that of the program

# Python keeps no compiled form of a script, and to compile spy.py takes half the time of a call. So it is kept beside
# the program, for each version of Python, by whoever may write there first; nobody else's is taken.
_STUB = """#!{python} -SI
import marshal
import posix
import sys

SOURCE = {source!r}
KEY = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER + {digest!r}


def code(path):
    cache = path + ".spy." + sys.implementation.cache_tag
    try:
        fd = posix.open(cache, posix.O_RDONLY | posix.O_NOFOLLOW)
        kept = posix.fstat(fd)
        data = posix.read(fd, 1 << 20)
        posix.close(fd)
        if data.startswith(KEY) and kept.st_uid == posix.stat(path).st_uid and not kept.st_mode & 0o22:
            return marshal.loads(data[len(KEY):])
    except (OSError, ValueError, EOFError, TypeError):
        pass
    made = compile(SOURCE, path, "exec")
    part = "%s.%d" % (cache, posix.getpid())
    try:
        if posix.geteuid() == posix.stat(path).st_uid:
            fd = posix.open(part, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o644)
            data = KEY + marshal.dumps(made)
            whole = posix.write(fd, data) == len(data)
            posix.close(fd)
            posix.rename(part, cache) if whole else posix.unlink(part)
    except OSError:
        pass
    return made


exec(code(sys.argv[0]))
"""


def program(python: str = "/usr/bin/python3") -> bytes:
    """The spy as a file for a system whose Python is at that path."""
    data = pkgutil.get_data(__package__ or "", "spy.py")
    assert data is not None
    source = data.decode()
    digest = hashlib.sha256(source.encode()).digest()
    return _STUB.format(python=python, source=source, digest=digest).encode()


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
