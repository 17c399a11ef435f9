"""A night as people run it, with simulated cells: what it runs, what it says, and what kills it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import pickle
import shlex
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit.cli.completion import complete
from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.core.errors import InfrastructureError, UsageError
from labkit.images import refs
from labkit.images.build import recipe
from labkit.io import process
from labkit.io.files import attempted
from labkit.matrix import bring, worker
from labkit.matrix.outbox import Outbox
from labkit.matrix.table import NightTable
from labkit.reports import files
from labkit.results.model import RuntimeInfo, Verdict
from labkit.store import nights as stored
from labkit.store import runs
from labkit.store.history import FILE, History
from labkit.store.past import key_of
from labkit.usecases import nightly
from tests.conftest import until
from tests.simulated import Nights, result, run_of
from tests.test_cli import COMMANDS

KEY = "debian-13/uml//sim/{}/spec"


@pytest.fixture
def nights(tmp_path: Path) -> Iterator[Nights]:
    made = Nights(tmp_path)
    yield made
    made.end()


def states(night: Mapping[str, Any]) -> dict[str, str]:
    return {cell["cell"].split("/")[4]: cell["state"] for cell in night["cells"]}


def test_a_night_runs_its_cells_and_brings_every_run_home(nights: Nights) -> None:
    night = nights.run()
    assert (night["complete"], night["exit_status"], night["schema"]) == (True, 0, 1)
    assert states(night) == {"r1": "done", "r2": "done", "r3": "done"}
    for cell in night["cells"]:
        results = json.loads((nights.reports / cell["run"] / "results.json").read_text())
        assert results["run"]["id"] == cell["run"]
        assert results["machine"]["night"] == night["id"]
        assert (nights.reports / cell["run"] / "report.html").exists()
        assert [attempt["outcome"] for attempt in cell["attempts"]] == ["done"]
    assert nights.left() == []
    assert "3 cells in" in nights.out
    assert "r1/spec: all as expected" in nights.err


def test_each_night_has_a_number_of_its_own_whatever_the_clock_says(nights: Nights) -> None:
    (nights.reports / "nights" / "20990101.7").mkdir(parents=True)
    first = nights.run()
    second = nights.run()
    assert [one["id"].partition(".")[2] for one in (first, second)] == ["8", "9"]


def test_what_changed_is_told_once_with_its_cells_and_since_when(nights: Nights) -> None:
    (nights.plan / "packages").write_text("libc6 2.41\nrunc 1.1.15-2\n")
    first = nights.run()
    nights.does("r1", "show bad")
    nights.does("r2", "show bad")
    (nights.plan / "packages").write_text("libc6 2.41\nrunc 1.1.15-3\nnew 1\n")
    second = nights.run(status=1)
    [failure] = second["changes"]["new_failures"]
    assert failure["identity"] == ["", "A-002", ""]
    assert failure["cells"] == [KEY.format("r1"), KEY.format("r2")]
    assert (failure["repeats"], failure["since"]) == (True, second["id"])
    assert failure["reference_fails"] is True
    lines = ["new not there -> 1", "runc 1.1.15-2 -> 1.1.15-3"]
    assert failure["lab"] == lines
    assert second["lab"] == {"debian-13": lines}
    nights.does("r2", "show flaky")
    third = nights.run(status=1)
    assert third["changes"]["new_failures"] == []
    [still] = third["changes"]["still_failing"]
    assert (still["cells"], still["since"]) == ([KEY.format("r1")], second["id"])
    assert [entry["cells"] for entry in third["changes"]["flaky"]] == [[KEY.format("r2")]]
    assert third["changes"]["fixed"] == []
    nights.does("r1", "show good")
    fourth = nights.run()
    assert [entry["cells"] for entry in fourth["changes"]["fixed"]] == [[KEY.format("r1")]]
    assert f"since {second['id']}" not in nights.out
    assert "\nfixed: 1\n  A-002\n" in nights.out
    assert first["changes"]["new_failures"] == []


def test_the_reference_is_another_runtime_of_the_same_place(nights: Nights) -> None:
    nights.does("r1", "show bad")
    [failure] = nights.run(status=1)["changes"]["new_failures"]
    assert failure["reference_fails"] is False
    for name in ("r2", "r3"):
        nights.does(name, "show bad")
    [failure] = nights.run(status=1)["changes"]["new_failures"]
    assert failure["cells"] == [KEY.format("r2"), KEY.format("r3")]
    assert failure["reference_fails"] is True


def test_a_failure_is_compared_with_the_last_night_that_has_the_cell(nights: Nights) -> None:
    nights.does("r1", "show bad")
    first = nights.run(status=1)
    nights.run("--only", "*/r2/*")
    night = nights.run(status=1)
    assert night["changes"]["new_failures"] == []
    assert [entry["since"] for entry in night["changes"]["still_failing"]] == [first["id"]]
    assert [entry["cells"] for entry in night["changes"]["still_failing"]] == [[KEY.format("r1")]]


def test_a_lab_that_fails_three_times_is_quarantined_and_the_others_go_on(nights: Nights) -> None:
    nights.does("r1", 'lab "no image"')
    nights.does("r2", 'lab "no such runtime" false')
    nights.does("r3.1", 'lab "once"')
    night = nights.run(status=3)
    assert states(night) == {"r1": "quarantined", "r2": "lab-error", "r3": "done"}
    assert [nights.ran(name) for name in ("r1", "r2", "r3")] == [3, 1, 2]
    errors = {one["cell"]: one["error"] for one in night["changes"]["lab_errors"]}
    assert errors == {KEY.format("r1"): "no image", KEY.format("r2"): "no such runtime"}
    assert night["complete"]
    assert nights.left() == []


def test_a_cell_that_cannot_exist_is_told_and_the_others_run(nights: Nights) -> None:
    nights.matrix = '[[matrix.include]]\nplatforms = ["debian-99", "nosuch"]\nruntimes = ["runc"]\n'
    nights.write()
    night = nights.run(status=3)
    assert [cell["state"] for cell in night["cells"]].count("done") == 3
    errors = [one["error"] for one in night["changes"]["lab_errors"]]
    assert any("unknown release of Debian '99'" in error for error in errors)
    assert any("unknown platform 'nosuch'" in error for error in errors)


def test_an_incomplete_run_is_tried_once_more_and_kept(nights: Nights) -> None:
    nights.does("r1.1", "show cut")
    nights.does("r2", "show cut")
    night = nights.run(status=4)
    assert [nights.ran(name) for name in ("r1", "r2", "r3")] == [2, 2, 1]
    statuses = {cell["cell"]: cell["status"] for cell in night["cells"]}
    assert statuses == {KEY.format("r1"): 0, KEY.format("r2"): 4, KEY.format("r3"): 0}


def test_a_cell_that_takes_too_long_is_ended_with_all_its_processes(nights: Nights) -> None:
    nights.matrix = 'limits = { "*/r1/*" = 0.5 }\n'
    nights.write()
    nights.does("r1", "(never) & never")
    night = nights.run(status=3)
    [cell] = [cell for cell in night["cells"] if "r1" in cell["cell"]]
    assert [attempt["outcome"] for attempt in cell["attempts"]] == ["timeout"] * 3
    assert "did not end within 0.5 s" in cell["error"]
    assert nights.left() == []


def test_a_process_that_dies_counts_as_lost(nights: Nights) -> None:
    nights.does("r1.1", "kill -9 $$")
    night = nights.run()
    [cell] = [cell for cell in night["cells"] if "r1" in cell["cell"]]
    assert [attempt["outcome"] for attempt in cell["attempts"]] == ["lost", "done"]
    assert "SIGKILL" in cell["attempts"][0]["error"]


@pytest.mark.parametrize("what", ["truncated", "not the one", "link", "no run", "not JSON"])
def test_a_damaged_bundle_costs_one_attempt(nights: Nights, what: str) -> None:
    scripts = {
        "link": "mkdir run; ln -s /etc/passwd run/results.json; exit 0",
        "no run": "mkdir run; exit 0",
        "not JSON": "mkdir run; echo '{' >run/results.json; exit 0",
    }
    if what in scripts:
        nights.does("r1.1", scripts[what])

    def damage() -> None:
        fetched = bring.bring

        def cut(reports: Path, night: str, ended: Any, key: str, bundle: Path, warn: Any) -> str:
            if ended.name.endswith("a1") and "/r1/" in key:
                data = bundle.read_bytes()
                bundle.write_bytes(data[: len(data) // 2] if what == "truncated" else b"x" * len(data))
            return fetched(reports, night, ended, key, bundle, warn)

        bring.bring = cut

    night = nights.run(first=damage if what not in scripts else lambda: None)
    [cell] = [cell for cell in night["cells"] if "r1" in cell["cell"]]
    assert [attempt["outcome"] for attempt in cell["attempts"]] == ["lost", "done"], cell
    assert nights.left() == []
    assert len([path for path in nights.reports.iterdir() if path.name.startswith("2")]) == 3


# --- what kills a night


class Killed:
    """Kills this process at the Nth of the points between what a night does."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self) -> None:
        for owner, names in (
            (NightTable, ("begin", "ended", "note", "close_waiting")),
            (Outbox, ("begin", "commit", "acknowledge", "remove")),
            (bring, ("bring", "unpack")),
            (files, ("write_all",)),
            (runs, ("new_directory", "point_latest")),
            (stored, ("write",)),
        ):
            for name in names:
                setattr(owner, name, self._around(getattr(owner, name)))
        NightTable.make = classmethod(self._around(NightTable.make.__func__))  # type: ignore[attr-defined,assignment]

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def around(*words: Any, **named: Any) -> Any:
            self._point()
            value = call(*words, **named)
            self._point()
            return value

        return around

    def _point(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_night_killed_at_every_point_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    point = 0
    while True:
        point += 1
        nights = Nights(tmp_path / str(point), cells=2)
        status = nights.wait(nights.start(first=Killed(point)))
        if status == 0:
            break
        assert status == -signal.SIGKILL, (point, nights.err)
        ended = nights.wait(nights.start("--resume"))
        if ended == 2:  # it had not begun yet, or had ended
            assert "there is no night to go on with" in nights.err or "came to its end" in nights.err, nights.err
            if "no night" in nights.err:
                nights.run()
        else:
            assert ended == 0, (point, nights.out, nights.err)
        night = nights.night()
        assert states(night) == {"r1": "done", "r2": "done"}, (point, night)
        assert (night["complete"], night["exit_status"]) == (True, 0), point
        assert max(nights.ran(name) for name in ("r1", "r2")) <= 2, point
        assert nights.left() == [], point
        kept = sorted(path.name for path in nights.reports.iterdir() if path.name.startswith("2"))
        assert kept == sorted(cell["run"] for cell in night["cells"]), point
        shutil.rmtree(nights.place)
    assert point > 40


def test_ctrl_c_ends_a_night_in_order_and_it_goes_on(nights: Nights) -> None:
    nights.does("r1", "[ $time -gt 1 ] || never")
    nights.matrix = "at_once = 1\n"
    nights.write()
    pid = nights.start()
    until(lambda: nights.ran("r1") == 1)
    os.kill(pid, signal.SIGINT)
    assert nights.wait(pid) == 130
    assert f"./lab nightly --resume goes on with night {nights.night()['id']}" in nights.err
    night = nights.night()
    assert (night["complete"], night["reason"]) == (False, "the night was interrupted")
    assert nights.left() == []
    done = nights.run("--resume")
    assert done["id"] == night["id"]
    assert states(done) == {"r1": "done", "r2": "done", "r3": "done"}
    assert "interrupted" not in str(done["changes"])
    nights.wait(nights.start("--resume"))
    assert "came to its end" in nights.err


@pytest.mark.parametrize("kills", [0, 1, 2])
def test_what_is_new_is_no_less_so_where_an_attempt_of_the_same_night_showed_it_first(
    nights: Nights, kills: int
) -> None:
    before = nights.run()
    cut = run_of([result("A-002", Verdict.FAIL, ["fail", "fail"])], "the machine is gone")
    nights.puts("cut-bad", cut)
    nights.does("r1.2", "show cut-bad 4")
    for kill in range(kills):
        nights.does(f"r1.{3 + kill}", "never")
    nights.does("r1", "show bad")
    for kill in range(kills):
        pid = nights.start(*(("--resume",) if kill else ()))
        until(lambda ran=3 + kill: nights.ran("r1") == ran)  # type: ignore[misc]
        os.kill(pid, signal.SIGKILL)
        nights.wait(pid)
    night = nights.run(*(("--resume",) if kills else ()), status=1)
    assert night["id"] != before["id"]
    [told] = night["changes"]["new_failures"]
    assert (told["identity"][1], told["since"], told["cells"]) == ("A-002", night["id"], [KEY.format("r1")])
    assert night["changes"]["still_failing"] == []
    with History.open(nights.reports / FILE, print) as history:
        history.sync(nights.reports)
        [of_night] = history.runs(KEY.format("r1"), night["id"])
        assert of_night.complete
        assert len(history.runs(KEY.format("r1"))) == 3


def test_a_second_night_says_that_one_runs_and_who_has_it_since_when(nights: Nights) -> None:
    nights.does("r1", "never")
    pid = nights.start()
    until(lambda: nights.ran("r1") == 1)
    other = nights.start()
    assert nights.wait(other) == 3
    assert f"a night runs already: process {pid} (`labkit nightly`) has held the night since" in nights.err
    os.kill(pid, signal.SIGTERM)
    assert nights.wait(pid) == 143
    assert nights.left() == []


def test_a_killed_night_leaves_no_process_behind_it(nights: Nights) -> None:
    nights.does("r1", "never")
    pid = nights.start()
    until(lambda: nights.ran("r1") == 1)
    os.kill(pid, signal.SIGKILL)
    nights.wait(pid)
    until(lambda: not [one for one in nights.left() if one.startswith("process")], 10)
    nights.does("r1", "show good")
    new = nights.run()
    assert "did not finish" in nights.err
    assert new["id"].endswith(".2")
    assert nights.left() == []


def test_a_table_of_a_newer_labkit_and_a_damaged_one_are_told(nights: Nights) -> None:
    ident = nights.run()["id"]
    table = nights.home / "nights" / ident / "cells.sqlite"
    with contextlib.closing(sqlite3.connect(table)) as db:
        db.execute("PRAGMA user_version = 9")
        db.commit()
    assert nights.wait(nights.start("--resume")) == 2
    assert "is of schema 9, this labkit knows 1" in nights.err
    for file in table.parent.iterdir():
        file.write_bytes(b"no database at all" * 100)
    assert nights.wait(nights.start("--resume")) == 3
    assert "file is not a database" in nights.err
    nights.run()


def test_a_full_disk_ends_a_night_with_what_it_has(nights: Nights) -> None:
    def fill() -> None:
        real = bring.bring

        def full(reports: Path, night: str, ended: Any, key: str, bundle: Path, warn: Any) -> str:
            if "/r2/" in key:
                raise InfrastructureError("no space left on the disk that holds x")
            return real(reports, night, ended, key, bundle, warn)

        bring.bring = full

    nights.matrix = "at_once = 1\n"
    nights.write()
    assert nights.wait(nights.start(first=fill)) == 3
    assert "no space left" in nights.err
    night = nights.night()
    assert night["reason"] == "no space left on the disk that holds x"
    done = nights.run("--resume")
    assert states(done) == {"r1": "done", "r2": "done", "r3": "done"}
    assert [nights.ran(name) for name in ("r1", "r2", "r3")] == [1, 1, 1]


def test_durations_beyond_their_own_history_are_told(nights: Nights) -> None:
    good = [result("A-001", Verdict.PASS)]
    nights.puts("slow", run_of(good, seconds=100.0))
    for seconds in (10.0, 11.0, 12.0, 10.0, 11.0):
        nights.puts("good", run_of(good, seconds=seconds))
        assert nights.run()["changes"]["slower"] == []
    nights.does("r2", "show slow")
    night = nights.run()
    assert night["changes"]["slower"] == [{"cell": KEY.format("r2"), "seconds": 100.0, "usual": 11.0, "bound": 14.0}]
    assert "slower than usual" in nights.out


# --- what the history says, and a night


def test_a_night_and_the_history_judge_alike_though_nights_are_gone(nights: Nights) -> None:
    nights.does("r1", "show bad")
    first = nights.run(status=1)
    nights.run(status=1)
    for ident in (first["id"],):
        shutil.rmtree(nights.reports / "nights" / ident)
    for run in nights.reports.glob(f"*-night-{first['id']}-*"):
        shutil.rmtree(run)
    third = nights.run(status=1)
    [still] = third["changes"]["still_failing"]
    assert (still["since"], still["cells"]) == (first["id"], [KEY.format("r1")])
    with History.open(nights.reports / FILE, print) as history:
        [one] = history.failing(third["id"])
        assert (one.since.night, one.streak, one.cell) == (first["id"], 3, KEY.format("r1"))


def test_a_run_tells_its_cell_and_night_though_that_is_gone(nights: Nights) -> None:
    night = nights.run()
    shutil.rmtree(nights.reports / "nights")
    (nights.reports / FILE).unlink()
    with History.open(nights.reports / FILE, print) as history:
        history.sync(nights.reports)
        assert history.cells() == [KEY.format(name) for name in ("r1", "r2", "r3")]
        assert {ran.night for ran in history.runs()} == {night["id"]}


def test_one_key_for_a_cell_and_for_its_run() -> None:
    selection = Selection(runtime_args=("--network", "a b"))
    cell = Cell("debian", "13", "uml", "m", "runsc", "spec", selection)
    run = replace(run_of([]), runtime=RuntimeInfo("runsc", "/usr/bin/runsc", "1", shlex.join(selection.runtime_args)))
    assert key_of(run) == cell.key == "debian-13/uml/runsc --network 'a b'/spec"


@pytest.mark.parametrize("what", ["newer", "no file"])
def test_without_the_history_a_night_judges_by_the_last_nights(nights: Nights, what: str) -> None:
    nights.does("r1", "show bad")
    first = nights.run(status=1)
    file = nights.reports / FILE
    if what == "newer":
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA user_version = 99")
            db.commit()
    else:
        for path in nights.reports.glob(f"{FILE}*"):
            path.unlink()
        file.mkdir()
    night = nights.run(status=1)
    assert "what is new is told by the last 30 nights alone" in nights.err
    assert night["changes"]["new_failures"] == []
    assert [entry["since"] for entry in night["changes"]["still_failing"]] == [first["id"]]


def test_a_latest_that_cannot_be_a_link_is_told_once(nights: Nights) -> None:
    (nights.reports / "latest").mkdir(parents=True)
    nights.run()
    assert nights.err.count("is a directory and no link") == 1


def test_a_night_of_a_newer_labkit_is_no_night_to_any_reader(nights: Nights) -> None:
    ident = nights.run()["id"]
    path = nights.reports / "nights" / ident / "night.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    (nights.reports / FILE).unlink()
    with pytest.raises(UsageError, match="has schema 2, this labkit knows 1"):
        stored.read(nights.reports, ident)
    with History.open(nights.reports / FILE, print) as history:
        history.sync(nights.reports)
        assert [(night.name, night.complete) for night in history.nights()] == [(ident, False)], "what its runs tell"
    assert nights.run()["id"].endswith(".2")


# --- what it would run


def test_the_plan_shows_cells_times_and_the_end_and_runs_nothing(nights: Nights) -> None:
    nights.matrix = 'limits = { "*" = 600, "*/r2/*" = 60 }\n'
    nights.write()
    assert nights.wait(nights.start("--plan")) == 0
    assert "how long it will take is not known" in nights.out
    assert nights.ran("r1") == 0
    nights.does("r2", "sleep 1")
    nights.run()
    assert nights.wait(nights.start("--plan", "--json")) == 0
    outlook = json.loads(nights.out)
    assert next(cell["cell"] for cell in outlook["cells"]) == KEY.format("r2")
    assert [cell["limit"] for cell in outlook["cells"]] == [60, 600, 600]
    assert outlook["seconds"] >= 1
    nights.wait(nights.start("--plan", "--verbose"))
    assert "expected to take" in nights.out
    assert "configuration: " in nights.err
    nights.wait(nights.start("--plan", "--checks", "QUERY-001", "--json"))
    assert len(json.loads(nights.out)["cells"]) == len(outlook["cells"])


@pytest.mark.parametrize(
    ("matrix", "words", "said"),
    [
        ("runtimes = []", (), "the matrix is empty"),
        ('exclude = ["*"]', (), "the matrix is empty: exclude leaves nothing of it"),
        ("runtime = []", (), "unknown key matrix.runtime; did you mean 'runtimes'?"),
        ("at_once = 0", (), "matrix.at_once is 0, must be a whole number from 1 to 1000"),
        ("limits = { '*' = -1 }", (), "must be"),
        ("platforms = 3", (), "matrix.platforms is 3, must be a list of platforms and releases"),
        ('engines = ["docker"]', (), "matrix.engines is named, and no suite of the matrix is run with engines"),
        ('registries = "zot"', (), "matrix.registries is named, and no suite of the matrix is run with registries"),
        ('suites = ["distribution"]', (), "matrix.runtimes is named, and no suite of the matrix is run with runtimes"),
        ("", ("--on", "nosuch"), "--on nosuch needs a key"),
        ("", ("--only", "*/nosuch/*"), "no cell of the matrix is called */nosuch/*"),
        ("", ("--matrix", "nosuch.toml"), "--matrix names"),
        ("", ("--resume", "--only", "x"), "--resume takes no --only"),
        ("", ("--resume",), "there is no night to go on with"),
        ('platforms = ["nosuch"]', (), "no cell of the matrix can exist"),
        ('checks = ["NOSUCH-1"]', (), "no cell of the matrix can exist"),
    ],
)
def test_a_matrix_that_is_not_right_is_told(nights: Nights, matrix: str, words: tuple[str, ...], said: str) -> None:
    text = (nights.place / "work" / "labkit.toml").read_text()
    key = matrix.partition(" ")[0]
    lines = [line for line in text.splitlines() if not (key and line.startswith(f"{key} "))]
    lines.insert(1, matrix)
    (nights.place / "work" / "labkit.toml").write_text("\n".join(lines))
    assert nights.wait(nights.start(*words)) == 2
    assert said in nights.err
    assert not nights.reports.exists()


def test_the_lock_of_a_night_is_one_that_others_can_read(nights: Nights) -> None:
    with attempted(nights.home / "locks" / "nightly.lock", "the night") as who:
        assert who is None
        started = time.monotonic()
        assert nights.wait(nights.start()) == 3
        assert time.monotonic() - started < 20


def test_the_worst_of_a_check_with_several_results_counts(nights: Nights) -> None:
    both = [result("A-001", Verdict.PASS), result("A-001", Verdict.FAIL)]
    nights.puts("bad", run_of(both))
    nights.does("r1", "show bad")
    [failure] = nights.run(status=1)["changes"]["new_failures"]
    assert (failure["identity"], failure["repeats"]) == (["", "A-001", ""], None)


# --- what images are made of


LISTS = """Origin: Debian
Date: {date}
Valid-Until: {date} and a week
SHA256:
 {digest} 1234 main/binary-amd64/Packages
 {other} 99 contrib/binary-amd64/Packages
"""


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_mirror_with_other_packages_makes_another_image_and_that_is_told(nights: Nights, tmp_path: Path) -> None:
    release = tmp_path / "mirror/dists/trixie/InRelease"
    release.parent.mkdir(parents=True)

    def signed(date: str, digest: str, other: str = "c") -> None:
        release.write_text(LISTS.format(date=date, digest=digest * 64, other=other * 64))

    nights.rebuild = True
    with serving(tmp_path / "mirror") as url:
        nights.write()
        file = nights.place / "work/labkit.toml"
        file.write_text(f'mirror = "{url}"\n{file.read_text()}')
        signed("Monday", "a")
        first = nights.run()
        assert first["mirrors"]["debian-13"]["date"] == "Monday"
        signed("Tuesday", "a", "d")  # signed anew, and another part has changed: nothing that an image is made of
        second = nights.run()
        assert second["lab"] == {}
        assert second["mirrors"]["debian-13"]["digest"] == first["mirrors"]["debian-13"]["digest"]
        signed("Wednesday", "b")
        third = nights.run()
        assert third["lab"] == {"debian-13": ["the mirror Tuesday -> Wednesday"]}
        assert "the mirror of debian-13 has other packages than last night" in nights.err
    fourth = nights.run()  # the mirror is gone
    assert "is not known, its image stays" in nights.err
    assert (fourth["mirrors"], fourth["lab"]) == (third["mirrors"], {})


def test_the_state_of_the_mirror_is_part_of_the_key_of_an_image(tmp_path: Path) -> None:
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    distro = settings.distro()
    plain = recipe(distro, settings)
    assert "state" not in plain.to_json()
    keys = [recipe(distro, settings.with_mirrors({"debian-13": word})).key for word in ("a", "b")]
    assert len({plain.key, *keys}) == 3
    assert recipe(distro, settings.with_mirrors({"debian-12": "a"})).key == plain.key
    cell = Cell("debian", "13", "uml", "m", "runc", "spec")
    again = pickle.loads(pickle.dumps(settings.with_mirrors({"debian-13": "a"}).of_cell(cell)))
    assert recipe(distro, again).key == keys[0]


def test_a_ref_that_has_moved_makes_another_image_and_that_is_told(nights: Nights, tmp_path: Path) -> None:
    place = tmp_path / "web/runc.git"
    place.mkdir(parents=True)

    def git(*words: str) -> str:
        env = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b",
        }
        return process.run(["git", "-C", place, *words], timeout=60, env=env).stdout.strip()

    git("init", "--quiet", "--bare", "--initial-branch=main")
    tree = git("mktree")
    commits = [git("commit-tree", tree, "-m", str(number)) for number in range(3)]

    def points(commit: str) -> None:
        git("update-ref", "refs/heads/main", commit)
        git("update-ref", "refs/heads/old/main", commits[2])  # ls-remote takes patterns for the ends of names
        git("update-server-info")

    nights.rebuild = True
    points(commits[0])
    with serving(tmp_path / "web") as url:
        nights.write()
        file = nights.place / "work/labkit.toml"
        text = file.read_text()
        file.write_text(f'mirror = "{url}/none"\nrunc = "{url}/runc.git#main"\n{text}')
        first = nights.run()
        assert first["refs"] == {"runc main": commits[0]}
        assert nights.run()["lab"] == {}
        points(commits[1])
        third = nights.run()
        said = f"runc main {commits[0][:7]} -> {commits[1][:7]}"
        assert third["lab"] == {"debian-13": [said]}
        assert said in nights.err
        git("update-ref", "-d", "refs/heads/main")
        git("update-server-info")
        fourth = nights.run()
        assert f"runc main cannot be had, it stays {commits[1][:7]}" in nights.err
        assert "has no ref main" in nights.err
        assert (fourth["refs"], fourth["lab"]) == (third["refs"], {})
    fifth = nights.run()  # the host is gone, too
    assert "does not tell what main is" in nights.err
    assert (fifth["refs"], fifth["exit_status"]) == (third["refs"], 0)


def test_a_ref_that_was_never_had_is_told_and_the_night_goes_on(nights: Nights, tmp_path: Path) -> None:
    nights.rebuild = True
    nights.write()
    file = nights.place / "work/labkit.toml"
    with serving(tmp_path) as url:
        file.write_text(f'mirror = "{url}/none"\nrunc = "{url}/none.git#main"\n{file.read_text()}')
        assert nights.run()["refs"] == {}
    assert "runc main cannot be had, what is built of it is whatever it is then" in nights.err


def test_a_night_builds_of_the_commits_that_refs_stood_for_when_it_began(tmp_path: Path) -> None:
    url = "https://example.org/runc.git"
    (tmp_path / "labkit.toml").write_text(f'runc = "{url}#main"\nruntime_tools = "{url}"\ngo = "release:1.27.3"\n')
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    pinned = nightly._pinned(settings, {"runc main": "a" * 40, "runtime-tools HEAD": "b" * 40})
    assert [str(pinned.sources()[tool]) for tool in ("runc", "runtime-tools")] == [
        f"{url}#{'a' * 40}",
        f"{url}#{'b' * 40}",
    ]
    assert pinned.sources()["go"] == settings.sources()["go"]
    distro = settings.distro()
    others = [nightly._pinned(settings, {"runc main": letter * 40}) for letter in "ab"]
    assert len({recipe(distro, one).key for one in (settings, *others)}) == 3


@pytest.mark.parametrize(
    ("ref", "moves"),
    [("main", True), ("", True), ("v1.3", True), ("a" * 40, False), ("5e6390", True), ("5e63903", False)],
)
def test_what_moves(ref: str, moves: bool) -> None:
    assert refs.moves(ref) is moves


def test_completion_offers_the_cells_of_the_matrix(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nights.place / "work")
    for name in [name for name in os.environ if name.startswith("LABKIT_")]:
        monkeypatch.delenv(name)
    keys = [KEY.format(name) for name in ("r1", "r2", "r3")]
    assert list(complete(["nightly", "--only", "debian-13/"], COMMANDS)) == keys
    other = nights.place / "other.toml"
    other.write_text('[matrix]\nplatforms = ["debian-12"]\nruntimes = ["crun"]\nproviders = ["uml"]\n')
    words = ["nightly", "--matrix", str(other), "--only", ""]
    assert list(complete(words, COMMANDS)) == ["debian-12/uml/crun/spec"]
    assert "QUERY-001" in list(complete(["nightly", "--checks", "QUERY-"], COMMANDS))
    assert "QUERY-001" in list(complete(["test", "--only", "QUERY-"], COMMANDS))


def test_a_cell_of_another_labkit_is_refused(tmp_path: Path) -> None:
    (tmp_path / worker.JOB).write_bytes(b"0.0.1 0123456789abcdef\nwhatever that labkit has sent")
    done = process.run(worker.own_program(tmp_path), timeout=60, cwd=tmp_path, check=False)
    assert done.status == 3
    told = json.loads((tmp_path / worker.ERROR).read_text())
    assert "labkit's code has changed while the night runs: it began with 0.0.1 0123456789abcdef" in told["message"]


def test_a_night_writes_the_pages_of_the_history(nights: Nights) -> None:
    nights.run()
    assert (nights.reports / "site/index.html").exists()
