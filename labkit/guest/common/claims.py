"""What a runtime says about itself."""

from __future__ import annotations

import json
import re
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Optional

from .errors import UsageError
from .text import printable
from .versions import first_line

OLDEST = (1, 0, 2)  # the version of the runtime-spec that a runtime is held to when it claims none


@dataclass(frozen=True)
class RuntimeClaims:
    """version: one printable line, which versions.told reads; spec: the newest runtime-spec it supports; features: None
    where it has none.
    """

    version: str
    spec: tuple[int, int, int]
    features: Optional[dict[str, Any]]

    @property
    def spec_text(self) -> str:
        return ".".join(map(str, self.spec))


def claims_of(runtime: Sequence[str], env: Optional[Mapping[str, str]] = None) -> RuntimeClaims:
    """What `--version` and `features` say, whatever that is. Raises UsageError if runtime cannot be executed."""
    said = answer([*runtime, "--version"], env=env)
    features: Optional[dict[str, Any]] = None
    if said:  # a program that does not even know --version is not asked for more
        with suppress(ValueError, RecursionError):
            found = json.loads(answer([*runtime, "features"], env=env))
            features = found if isinstance(found, dict) else None
    line = re.search(r"^spec:\s*(\S+)", said, re.MULTILINE)
    spec = parsed_version((features or {}).get("ociVersionMax")) or parsed_version(line and line[1])
    return RuntimeClaims(printable(first_line(said)) or "unknown", spec or OLDEST, features)


def parsed_version(text: object) -> Optional[tuple[int, int, int]]:
    """The numbers of a version such as "1.2.0-rc.1" or "1.2"; None where it is no version."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?![.\d])", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def answer(
    argv: Sequence[str], timeout: float = 10, most: int = 1 << 18, env: Optional[Mapping[str, str]] = None
) -> str:
    """The first bytes (most of them) that a program prints if it succeeds within timeout seconds, else "".

    Raises UsageError if it cannot be executed.
    """
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=env
        )
    except OSError as error:
        raise UsageError(f"{argv[0]!r} cannot be executed: {error.strerror}") from error
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + timeout
    with process.stdout as pipe:
        while len(said) < most and select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
            piece = pipe.read(most)
            if not piece:
                break
            said += piece
    try:
        status = process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    return said.decode("utf-8", "replace") if status == 0 else ""
