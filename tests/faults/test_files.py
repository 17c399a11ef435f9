"""Every file that labkit keeps, damaged, on simulated machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.driver import FaultLab, Templates, marked
from tests.faults.table import FILE_CASES, Damage, FileCase, Mend

pytestmark = pytest.mark.needs("qemu-img")


@pytest.mark.parametrize("case", marked(FILE_CASES))
def test_file(templates: Templates, case: FileCase) -> None:
    lab = templates.copy("running" if case.before == "tested" else case.before)
    try:
        if case.before == "tested":
            lab.run("test")
        check(lab, case)
    finally:
        lab.close()


def check(lab: FaultLab, case: FileCase) -> None:
    path = find(lab, case.file)
    if path.is_symlink():  # reports/latest: what stands there in its place
        path.unlink()
        path.touch()
    good = path.read_bytes()
    damage(path, case.damage)
    done = lab.run(*case.command, status=case.status)
    assert case.says in done.stderr, done
    assert lab.state() == case.after, done
    if case.mend is Mend.FILE:
        path.write_bytes(good)
    elif case.mend is Mend.KEY:
        path.unlink()
    elif case.mend is Mend.STATE:
        lab.run("up", "--discard-state")
    lab.run("up")
    lab.nothing_left()
    if case.before != "new":
        assert lab.precious()


def find(lab: FaultLab, pattern: str) -> Path:
    """The one file that the pattern stands for."""
    if pattern.startswith("locks/"):
        path = lab.home / pattern
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"pid": 1, "command": ["lab", "up"], "since": 1.0}))
        return path
    (path,) = [*lab.home.glob(pattern), *lab.cwd.glob(pattern)]
    return path


def damage(path: Path, how: Damage) -> None:
    data = path.read_bytes()
    match how:
        case Damage.MISSING:
            path.unlink()
            return
        case Damage.EMPTY:
            data = b""
        case Damage.CUT:
            data = data[: len(data) // 2]
        case Damage.BINARY:
            data = bytes(range(256)) * max(1, len(data) // 256)
        case Damage.NEWER:
            data = newer(data)
    path.write_bytes(data)


def newer(data: bytes) -> bytes:
    """The file as a newer labkit might have it."""
    try:
        value = json.loads(data)
    except ValueError:
        return data + b"\nof a newer labkit\n"
    return json.dumps({**value, "schema": 99, "form": 99, "of_a_newer_labkit": {"a": 1}}).encode()
