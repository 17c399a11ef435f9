"""Nights on real machines of User-Mode Linux, of few checks: what they bring home, and what kills them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.usecases import evidence
from tests.conftest import Lab, until

pytestmark = pytest.mark.machine

MATRIX = """
[matrix]
platforms = ["debian-13"]
providers = ["uml"]
runtimes = ["runc", "crun"]
suites = ["spec"]
rebuild = false
checks = ["QUERY-001", "STATE-001"]
"""


@pytest.fixture
def night(uml: Lab) -> Iterator[Path]:
    path = uml.cwd / "night.toml"
    path.write_text(MATRIX)
    yield path
    uml.kill_all()


def document(lab: Lab) -> Any:
    places = sorted((lab.cwd / "reports/nights").iterdir(), key=lambda path: int(path.name.rpartition(".")[2]))
    return json.loads((places[-1] / "night.json").read_text())


def machines(lab: Lab) -> list[str]:
    return [path.name for path in (lab.home / "machines").iterdir() if path.name.startswith("night-")]


def left(lab: Lab) -> list[str]:
    """What a night must not leave: machines, their processes, cells, bundles."""
    found = machines(lab) + [str(path) for path in (lab.home / "outbox").glob("*/*")]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                marked = f"_LABKIT_OWNER={lab.home}/"
                if f"{marked}machines/night-".encode() in (entry / "environ").read_bytes():
                    found.append(f"process {entry.name}")
            except OSError:
                continue
    return found


def test_a_night_of_two_runtimes_and_the_next_one(uml: Lab, night: Path) -> None:
    images = sorted(path.name for path in (uml.home / "images").iterdir())
    first = uml.json("nightly", "--matrix", str(night))
    assert [(cell["state"], cell["status"]) for cell in first["cells"]] == [("done", 0)] * 2
    for cell in first["cells"]:
        place = uml.cwd / "reports" / cell["run"]
        results = json.loads((place / "results.json").read_text())
        assert [entry["id"] for entry in results["results"]] == ["QUERY-001", "STATE-001"]
        assert results["machine"]["name"].startswith(f"night-{first['id']}-c")
        assert evidence.packages_of(place)["runc"].startswith("1.")
    log = next((uml.cwd / "reports/nights" / first["id"] / "logs").iterdir()).read_text()
    assert "running spec against" in log
    second = uml.json("nightly", "--matrix", str(night), "--only", "*/crun/*")
    assert len(second["cells"]) == 1
    assert (second["lab"], second["changes"]["new_failures"]) == ({}, [])
    assert sorted(path.name for path in (uml.home / "images").iterdir()) == images
    assert left(uml) == []
    assert uml.json("nightly", "--matrix", str(night), "--plan")["seconds"] > 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_night_that_is_ended_leaves_no_machine_and_goes_on(uml: Lab, night: Path, how: signal.Signals) -> None:
    child = uml.start("nightly", "--matrix", str(night))
    until(lambda: any((uml.home / "machines" / name / "volume").exists() for name in machines(uml)), 180)
    os.kill(child.pid, how)
    ended = uml.end(child)
    assert ended.returncode == (-9 if how == signal.SIGKILL else 130)
    assert "Traceback" not in ended.stderr
    if how == signal.SIGINT:
        assert left(uml) == []
    ident = document(uml)["id"]
    assert document(uml)["complete"] is False
    uml.run("nightly", "--resume")
    done = document(uml)
    assert done["id"] == ident
    assert [(cell["state"], cell["status"]) for cell in done["cells"]] == [("done", 0)] * 2
    assert left(uml) == []
    assert not [path for path in (uml.cwd / "reports").iterdir() if path.name.endswith(".part")]


def test_what_a_killed_night_left_is_removed_by_the_next_one(uml: Lab, night: Path) -> None:
    child = uml.start("nightly", "--matrix", str(night))
    until(lambda: machines(uml), 180)
    cells = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and f"{uml.home}/outbox/".encode() in _environment(entry)
    ]
    os.kill(child.pid, signal.SIGSTOP)  # a cell whose night dies gets a signal that it clears up at
    for pid in (*cells, child.pid):
        os.kill(pid, signal.SIGKILL)
    uml.end(child)
    assert machines(uml)
    done = uml.run("nightly", "--matrix", str(night), "--only", "*/runc/*")
    assert "which a killed night left" in done.stderr
    assert "did not finish" in done.stderr
    assert left(uml) == []


def _environment(entry: Path) -> bytes:
    try:
        return (entry / "environ").read_bytes()
    except OSError:
        return b""


def has_kernel(lab: Lab, machine: str) -> bool:
    """Whether its kernel runs: what keeps its console is there before, and is not missed."""
    with contextlib.suppress(AssertionError, OSError, IndexError):
        return lab.uml(machine) > 0
    return False


def test_a_machine_that_dies_makes_an_incomplete_run_and_the_cell_runs_again(uml: Lab, night: Path) -> None:
    night.write_text(MATRIX.replace('"runc", "crun"', '"runc"').replace(', "STATE-001"]', "]"))
    child = uml.start("nightly", "--matrix", str(night))
    until(lambda: machines(uml), 180)
    [name] = machines(uml)
    until(lambda: has_kernel(uml, name), 180)
    uml.kill_machine(name)
    ended = uml.end(child)
    assert ended.returncode == 0, ended.stderr
    [cell] = document(uml)["cells"]
    assert len(cell["attempts"]) == 2
    assert left(uml) == []


def test_an_image_that_cannot_be_made_is_not_tried_for_every_cell(uml: Lab, night: Path) -> None:
    matrix = MATRIX.replace("debian-13", "debian-12")
    matrix = matrix.replace('"runc", "crun"', '"runc", "crun", "runc --debug", "crun --debug"')
    night.write_text(f"{matrix}at_once = 1\n")
    uml.run("nightly", "--matrix", str(night), status=3, env={"LABKIT_MIRROR": "http://127.0.0.1:9"})
    cells = document(uml)["cells"]
    assert [cell["state"] for cell in cells] == ["lab-error"] * 4
    told = [attempt["error"] for cell in cells for attempt in cell["attempts"]]
    again = [text for text in told if "Debian 12 could not be made, and is not tried a 4th time: the image of" in text]
    assert (len(told), len(again)) == (7, 4)
    assert all("Debian 12 could not be built" in text for text in told)
    assert left(uml) == []
