"""What runtimes print for --version, read in one place: who they say they are, and their versions in order."""

from __future__ import annotations

import re
from typing import Optional

Key = tuple[list[int], tuple[int, int]]

_LONGEST = 1000  # characters of a line that is looked at
_NUMBER = r"(?:release-|v)?\d[\w.+~:-]*"
# runc version 1.1.15+ds1 / crun version 1.8.1 / youki version: 0.5.5 / runsc version release-20230904.0 /
# kata-runtime  : 3.2.0 / crun 0.10.6 / NVIDIA Container Runtime version 1.13.5
_LINE = re.compile(
    rf"([A-Za-z][\w .+-]{{0,62}}?)\s*(\bversion\b\s*:?\s*|:\s*|\s)({_NUMBER})(?=[\s,;)]|$)", re.IGNORECASE | re.ASCII
)
_NO_NAMES = {"commit", "error", "go", "libseccomp", "spec", "usage", "warning"}
# Kata Containers containerd shim (Golang): id: "io.containerd.kata.v2", version: 3.2.0, commit: ...
_INSIDE = re.compile(rf"\bversion\b\s*:?\s*({_NUMBER})(?=[\s,;)]|$)", re.IGNORECASE)
_VERSION = re.compile(
    r"(?:release-|v)?(?:0\.0~)?([0-9]{1,18}(?:\.[0-9]{1,18}){0,9})(?:[-~.]?(rc|alpha|beta)\.?([0-9]{0,9}))?"
)
# /usr/bin/docker-registry github.com/docker/distribution 2.8.3+ds1
_MODULE = re.compile(r"\S{1,300} ([\w.-]+\.[a-z]+(?:/[\w.-]+)*?/([\w.-]+))(?:/v[0-9]+)? v?(\d[\w.+~:-]*)$", re.ASCII)
# As it was called until the project moved, and is by distributions still.
_CALLED = {"github.com/docker/distribution": "docker-registry"}
_STAGES = {"alpha": 0, "beta": 1, "rc": 2}
_RELEASED = (3, 0)


def told(said: str) -> tuple[str, str]:
    """The name and the version of a runtime in what it prints for --version, or in the first line of that; "" for what
    it does not tell.
    """
    lines = [line.strip()[:_LONGEST] for line in said.strip().splitlines()[:20]]
    first = lines[0] if lines else ""
    match = _LINE.match(first)
    if match and ("version" in match[2].lower() or "." in match[3]) and (name := _name(match[1])):
        return name, match[3]
    if match := _MODULE.match(first):
        return _CALLED.get(match[1], match[2]), match[3]
    if match := _INSIDE.search(first):
        return "", match[1]
    for line in lines[1:]:  # sysbox-runc has a line for each
        if match := re.fullmatch(rf"version\s*:\s*({_NUMBER})", line, re.IGNORECASE):
            return _name(first), match[1]
    if match := re.match(r"([A-Za-z][\w.+-]{0,62})\s+version\b", first):
        return _name(match[1]), ""  # "runc version unknown", "runc version spec: 1.0.1"
    return "", first if re.fullmatch(_NUMBER, first) else ""


def first_line(said: str) -> str:
    """One line with the name and the version, as far as they are told: the first, or one made of several."""
    first = said.strip().partition("\n")[0].strip()
    name, version = told(said)
    return first if not version or version in first else f"{name} version {version}".strip()


def _name(text: str) -> str:
    """A name as a policy has it: NVIDIA Container Runtime is nvidia-container-runtime."""
    words = text.strip(" :").split()
    name = "-".join(words) if len(words) == 1 else "-".join(words).lower()
    known = re.fullmatch(r"[A-Za-z][\w.+-]{0,62}", name, re.ASCII) and not {*name.lower().split("-")} & _NO_NAMES
    return name if known else ""


def key(version: str) -> Optional[Key]:
    """What a version is ordered by, None where the text begins with none.

    Missing parts count as zero; alpha, beta and release candidates come before their release; what a distribution adds
    (1.1.15+ds1, 1.1.12-0ubuntu2) counts for nothing. Debian's 0.0~20240729.0 is gVisor's release-20240729.0.
    """
    match = _VERSION.match(version)
    return _key(match) if match else None


def plain(version: str) -> str:
    """What of a version counts for its order, as exact() takes it; "" where the text begins with none."""
    match = _VERSION.match(version)
    if match is None:
        return ""
    return match[1] + (f"-{match[2]}.{int(match[3] or 0)}" if match[2] else "")


def exact(text: str) -> Optional[Key]:
    """As key, of a text that is a version and nothing else."""
    match = _VERSION.fullmatch(text)
    return _key(match) if match else None


def _key(match: re.Match[str]) -> Key:
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers, (_STAGES[match[2]], int(match[3] or 0)) if match[2] else _RELEASED
