"""`history`, `flaky`, `nights` and `site` as they are typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from labkit.store.history import FILE
from tests.histories import EVIL, a_past, a_run, keep, keep_night, nights
from tests.test_cli import Done, labkit

KEY = "debian-13/uml/runc/spec"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    return tmp_path


def run(place: Path, *words: str, status: int = 0) -> Done:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(place), "LABKIT_HOME": str(place / "home")}
    done = labkit(*words, environ=environ, cwd=place)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    return done


def test_a_check_in_every_cell_that_has_it(place: Path) -> None:
    nights(place / "reports", ["..", ".F", ".F"])
    keep(place / "reports", a_run(9, " .", runtime="crun"))
    done = run(place, "history", "C-001")
    assert done.stdout.split("\n\n") == [
        "debian-13/uml/crun/spec: C-001 what C-001 is about\n"
        "pass in the newest of 1 runs, good since 2026-11-10 02:00 (20261110T020000Z.9-debian-13-crun-spec)\n"
        "pass  1 run  2026-11-10 02:00 (20261110T020000Z.9-debian-13-crun-spec)",
        "debian-13/uml/runc/spec: C-001 what C-001 is about\n"
        "fail in the newest of 3 runs, bad since night 20261102.1\n"
        "pass  1 run   night 20261101.1\n"
        "fail  2 runs  night 20261102.1  to night 20261103.1\n",
    ]


def test_cells_by_name_by_pattern_and_by_a_run(place: Path) -> None:
    made = nights(place / "reports", ["..", ".F"])
    for word in (KEY, "*/runc/*", made[0].run.id):
        [cell] = json.loads(run(place, "history", word, "--json").stdout)["cells"]
        assert (cell["cell"], len(cell["runs"])) == (KEY, 2)
        assert [one["identity"] for one in cell["failing"]] == [["", "C-001", ""]]
    shown = run(place, "history", KEY).stdout
    assert f"{KEY}: 2 runs" in shown
    assert "C-001  fail  since night 20261102.1  what C-001 is about" in shown


@pytest.mark.parametrize("words", [("history", KEY), ("flaky",), ("nights",), ("site",)])
def test_verbose_says_more(words: tuple[str, ...], place: Path) -> None:
    nights(place / "reports", ["..", ".F"])
    assert "configuration: " not in run(place, *words).stderr
    assert "configuration: " in run(place, *words, "--verbose").stderr


def test_a_word_that_names_nothing(place: Path) -> None:
    done = run(place, "history", "C-001", status=2)
    assert f"there are no runs in {place / 'reports'} yet" in done.stderr
    nights(place / "reports", [".."])
    assert "is called 'C-00'; did you mean 'C-00" in run(place, "history", "C-00", status=2).stderr
    assert f"did you mean '{KEY}'?" in run(place, "history", "debian-13/uml/runc", status=2).stderr
    assert "the value of ID|CELL is empty" in run(place, "history", "", status=2).stderr


@pytest.mark.parametrize("words", [("history", "x"), ("flaky",), ("nights",), ("site",)])
def test_where_there_are_no_reports(place: Path, words: tuple[str, ...]) -> None:
    (place / "reports").rmdir()
    done = run(place, *words, status=2)
    assert f"there are no runs yet: {place / 'reports'} is not there" in done.stderr
    assert not (place / "reports").exists()


def test_nothing_is_flaky_and_no_night_has_run(place: Path) -> None:
    keep(place / "reports", a_run(1, "."))
    assert run(place, "flaky").stdout == "nothing is flaky in the newest runs\n"
    assert run(place, "nights").stdout == "no night has run yet\n"
    assert json.loads(run(place, "flaky", "--json").stdout) == json.loads(run(place, "nights", "--json").stdout) == []


def test_nights_the_newest_first(place: Path) -> None:
    a_past(place / "reports")
    shown = run(place, "nights").stdout.splitlines()
    assert [line.split()[0] for line in shown[:4]] == ["NIGHT", "20261211.40", "20261210.39", "20261209.38"]
    assert "incomplete" in shown[3]
    assert "3 done, 1 lab-error" in "\n".join(shown)


@pytest.mark.parametrize(
    ("complete", "status", "outcome"),
    [
        (True, 1, "findings"),
        (False, 1, "incomplete, findings"),
        (False, 4, "incomplete"),
    ],
)
def test_the_outcome_of_a_night(place: Path, complete: bool, status: int, outcome: str) -> None:
    keep_night(place / "reports", "20261101.1", {KEY: a_run(1, ".")}, complete=complete, exit_status=status)
    cells = re.split(r"\s{2,}", run(place, "nights").stdout.splitlines()[1])
    assert cells[2].startswith(outcome)
    assert cells[2].count("incomplete") <= 1


def test_hostile_names_are_shown_on_one_line(place: Path) -> None:
    evil = EVIL + "\x1b[31m\n\x00"
    keep(place / "reports", a_run(1, {evil: "F"}))
    for words in (("history", "*"), ("history", evil.partition("\x00")[0])):
        done = labkit(*words, environ={"HOME": str(place), "PATH": "/usr/bin:/bin"}, cwd=place)
        assert not {"\x1b", "\u202e", "\x00"} & {*done.stdout, *done.stderr}


def test_what_cannot_be_read_is_told_and_left_out(place: Path) -> None:
    nights(place / "reports", [".", "F"])
    for number in range(3, 11):
        (keep(place / "reports", a_run(number, ".")) / "results.json").write_text('{"schema": 99')
    done = run(place, "history", KEY)
    assert f"{KEY}: 2 runs" in done.stdout
    assert done.stderr.count("is left out") == 5
    assert "3 more runs are left out" in done.stderr


def test_a_damaged_history_is_made_again_and_told(place: Path) -> None:
    nights(place / "reports", [".", "F"])
    before = run(place, "history", KEY).stdout
    file = place / "reports" / FILE
    file.write_bytes(b"no database" * 999)
    done = run(place, "history", KEY)
    assert done.stdout == before
    assert f"warning: {file} is damaged (file is not a database): it is made again from the runs" in done.stderr
    assert run(place, "history", KEY).stderr == ""


def test_a_history_of_a_newer_labkit_is_refused(place: Path) -> None:
    nights(place / "reports", ["."])
    run(place, "nights")
    with sqlite3.connect(place / "reports" / FILE) as database:
        database.execute("PRAGMA user_version = 2")
    for words in (("history", KEY), ("flaky",), ("nights",), ("site",)):
        done = run(place, *words, status=3)
        assert "is of a newer labkit: version 2, this one knows 1" in done.stderr
        assert "hint: use that labkit; or remove the file" in done.stderr


def test_the_site_goes_below_the_reports_or_where_it_is_told(place: Path) -> None:
    nights(place / "reports", [".", "F"])
    assert run(place, "site").stdout == f"{place / 'reports' / 'site' / 'index.html'}\n"
    assert json.loads(run(place, "site", "--out", "some where", "--json").stdout) == {"page": "some where/index.html"}
    assert len(list((place / "some where" / "cells").iterdir())) == 1
    (place / "file").touch()
    assert "cannot write in" in run(place, "site", "--out", "file", status=3).stderr


def test_runs_and_the_history_do_not_get_in_each_others_way(place: Path) -> None:
    """The site and the index lie among the runs, and are none."""
    nights(place / "reports", [".", "F"])
    run(place, "site")
    done = run(place, "report", "--run", "no such run", status=2)
    assert "there is no run no such run" in done.stderr
    shutil.rmtree(place / "reports" / "site")
    assert len(json.loads(run(place, "history", KEY, "--json").stdout)["cells"][0]["runs"]) == 2


def test_completion_offers_cells_and_checks(place: Path) -> None:
    nights(place / "reports", [".."])
    assert run(place, "--complete", "--", "lab", "history", "").stdout == ""  # nothing is read for a press of TAB
    run(place, "nights")
    offered = [
        line.partition("\t")[0] for line in run(place, "--complete", "--", "lab", "history", "").stdout.splitlines()
    ]
    assert {KEY, "C-000", "C-001"} <= {*offered}


def test_only_what_is_new_is_read(place: Path) -> None:
    """Of what is known a command looks at size and time alone."""
    made = nights(place / "reports", [".", "F"])
    before = run(place, "history", KEY).stdout
    file = place / "reports" / made[0].run.id / "results.json"
    about = file.stat()
    file.write_bytes(b"x" * about.st_size)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    done = run(place, "history", KEY)
    assert (done.stdout, done.stderr) == (before, "")
