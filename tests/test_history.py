"""The history of runs: what is kept of them in the SQLite file, and the questions it answers."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.core.cell import Cell, Selection
from labkit.core.errors import HostError, LabError
from labkit.results.model import Program, Result, Run, Verdict, exit_status
from labkit.store import spans
from labkit.store.history import FILE, History
from labkit.store.past import key_of, outlier_bound
from labkit.store.spans import Seen, decode, encode, seen_of, value_of
from tests.histories import BEGIN, a_run, keep, keep_night, nights

KEY = "debian-13/uml/runc/spec"


def opened(reports: Path) -> History:
    return History.open(reports / FILE, print)


def synced(reports: Path) -> History:
    history = opened(reports)
    history.sync(reports)
    return history


def letters(history: History, cell: str = KEY) -> list[str]:
    """The cell's grid in the words of a_run(); all verdicts of one run are a word."""
    words = {value_of(None): " ", value_of(Seen(Verdict.PASS)): ".", value_of(Seen(Verdict.FAIL)): "F"}
    words |= {value_of(Seen(Verdict.FAIL, True)): "f", value_of(Seen(Verdict.FLAKY)): "Y"}
    words |= {value_of(Seen(Verdict.SKIP)): "S"}
    grid = history.grid(cell)
    order = sorted(range(len(grid.tests)), key=lambda test: grid.tests[test])
    return ["".join(words[column[test]] for test in order) for column in grid.columns]


# --- spans


@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5).map(bytes), max_size=12))
def test_spans_and_bits_are_the_columns_again(columns: list[bytes]) -> None:
    made = sorted(encode(columns))
    found = decode(made, [spans.bits_of(column) for column in columns])
    assert [column.rstrip(b"\0") for column in found] == [column.rstrip(b"\0") for column in columns]
    assert all(len(column) == len(found[0]) for column in found)


def test_a_verdict_takes_a_row_only_where_it_changes() -> None:
    assert list(encode([b"\1\1", b"\1\1", b"\1\2", b"\0\0", b"\1\2"])) == [(0, 0, 1), (1, 0, 1), (1, 2, 2)]


def test_every_verdict_has_a_value() -> None:
    for verdict in Verdict:
        for expected in (False, True):
            for violation in (False, True):
                seen = Seen(verdict, expected, violation)
                assert seen_of(value_of(seen)) == seen
    assert seen_of(0) is None
    assert value_of(None) == 0


def test_values_are_those_that_files_hold() -> None:
    kept = {"fail": 1, "error": 2, "timeout": 3, "flaky": 4, "todo": 5, "no-assertions": 6, "skip": 7, "pass": 8}
    assert {verdict.value: value_of(Seen(verdict)) for verdict in Verdict if verdict.value in kept} == kept
    assert value_of(Seen(Verdict.FAIL, True)) == 17
    assert value_of(Seen(Verdict.PASS, False, True)) == 40


# --- what goes in


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    with opened(tmp_path) as history:
        assert history.add("n1", "a/cell", a_run(1, ".F fYS."))
    with opened(tmp_path) as history:
        [run] = history.runs()
        assert (run.cell, run.night, run.seconds, run.status, run.complete) == ("a/cell", "n1", 60.0, 1, True)
        assert (run.results, run.unexpected, run.worst) == (6, 1, Seen(Verdict.FAIL))
        assert run.facts["runtime"] == "runc 1.1.15"
        assert letters(history, "a/cell") == [".FfYS."]
        assert history.shown(run.name)["", "C-001", ""] == Seen(Verdict.FAIL)


@pytest.mark.parametrize("column", ["", ".", "S", "SS.", "SN", "f", "Sf", "F.", "Y", ".O", "SF", "E", "fF."])
@pytest.mark.parametrize("reason", [None, "cut off"])
def test_a_run_has_the_status_that_its_command_ended_with(tmp_path: Path, column: str, reason: str | None) -> None:
    run = a_run(1, column, reason=reason)
    with opened(tmp_path) as history:
        history.add("", "", run)
        [ran] = history.runs()
        assert (ran.status, ran.unexpected) == (exit_status(run), len(run.unexpected))


def test_a_run_is_added_once(tmp_path: Path) -> None:
    with opened(tmp_path) as history:
        directory = keep(tmp_path, a_run(1, ".F"))
        assert history.add("n1", KEY, a_run(1, ".F"), directory)
        assert not history.add("n1", KEY, a_run(1, ".F"), directory)
        assert history.sync(tmp_path).added == ()
        assert len(history.runs()) == 1


def test_a_run_that_is_judged_again_is_read_again(tmp_path: Path) -> None:
    nights(tmp_path, ["..", ".F", "FF"])
    with synced(tmp_path) as history:
        keep(tmp_path, a_run(2, ".fF"))
        assert history.sync(tmp_path).changed == (a_run(2, "").run.id,)
        assert letters(history) == [".. ", ".fF", "FF "]
        assert [run.night for run in history.runs()] == ["20261101.1", "20261102.1", "20261103.1"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(1, 8)),
    columns=st.lists(st.text(" .Ff", min_size=4, max_size=4), min_size=7, max_size=7),
)
def test_the_order_in_which_runs_come_does_not_matter(tmp_path: Path, order: list[int], columns: list[str]) -> None:
    for file in tmp_path.glob(f"{FILE}*"):
        file.unlink()
    with opened(tmp_path) as history:
        for number in order:
            history.add("", "", a_run(number, columns[number - 1]))
        used = [test for test in range(4) if any(column[test] != " " for column in columns)]
        assert letters(history) == ["".join(column[test] for test in used) for column in columns]
        assert [run.name for run in history.runs(KEY)] == [a_run(number, "").run.id for number in range(1, 8)]
        assert [run.unexpected for run in history.runs(KEY)] == [column.count("F") for column in columns]


def test_runs_are_in_the_order_of_their_numbers_whatever_the_clock_said(tmp_path: Path) -> None:
    set_back = dataclasses.replace(a_run(2, "F").run, id="20200101T000000Z.2-debian-13-runc-spec", started=BEGIN)
    with opened(tmp_path) as history:
        for run in (a_run(1, "."), dataclasses.replace(a_run(2, "F"), run=set_back), a_run(10, ".")):
            history.add("", "", run)
        assert letters(history) == [".", "F", "."]


def test_a_run_that_no_night_made_belongs_to_its_cell_too(tmp_path: Path) -> None:
    runs = nights(tmp_path, [".", "F"])
    keep(tmp_path, a_run(3, "."))
    with synced(tmp_path) as history:
        assert [(run.cell, run.night) for run in history.runs()] == [
            (KEY, "20261101.1"), (KEY, "20261102.1"), (KEY, ""),
        ]  # fmt: skip
        assert key_of(runs[0]) == KEY


def test_the_key_that_a_run_tells_is_that_of_its_cell() -> None:
    cell = Cell("debian", "13", "uml", "m", "runc", "spec", Selection())
    assert key_of(a_run(1, "")) == cell.key == KEY
    own = dataclasses.replace(cell, runtime="/usr/local/bin/runc")
    assert key_of(a_run(1, "", path="/usr/local/bin/runc")) == own.key == "debian-13/uml//usr/local/bin/runc/spec"
    assert key_of(a_run(1, "", arguments="--systemd-cgroup")) == "debian-13/uml/runc --systemd-cgroup/spec"
    assert key_of(dataclasses.replace(a_run(1, ""), machine={})) == "elsewhere/recorded/runc/spec"


def test_a_night_says_which_cell_a_run_is_of(tmp_path: Path) -> None:
    run = a_run(1, ".F")
    keep(tmp_path, run)
    with synced(tmp_path) as history:
        assert history.cells() == [KEY]
        keep_night(tmp_path, "20261101.1", {"debian-13/uml/runc@main/spec": run})
        assert history.sync(tmp_path).changed == (run.run.id,)
        assert history.cells() == ["debian-13/uml/runc@main/spec"]
        assert [night.name for night in history.nights()] == ["20261101.1"]
        assert history.sync(tmp_path).changed == ()


def test_a_run_that_its_night_names_no_more_is_not_of_it(tmp_path: Path) -> None:
    first, second = a_run(1, "F", reason="cut off"), a_run(2, ".F")
    keep_night(tmp_path, "20261101.1", {KEY: first}, complete=False)
    with synced(tmp_path) as history:
        assert [ran.night for ran in history.runs(KEY)] == ["20261101.1"]
        keep_night(tmp_path, "20261101.1", {KEY: second})
        history.sync(tmp_path)
        assert [ran.night for ran in history.runs(KEY)] == ["", "20261101.1"]
        assert [one.streak for one in history.failing("20261101.1")] == [1]


def test_nights_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number, name in enumerate(["20261126.10", "20261126.2", "20261125.11"], 1):
        keep_night(tmp_path, name, {KEY: a_run(number, ".")}, complete=number != 2, exit_status=number)
    with synced(tmp_path) as history:
        assert [night.name for night in history.nights()] == ["20261126.2", "20261126.10", "20261125.11"]
        night = history.nights()[0]
        assert (night.complete, night.status, night.seconds) == (False, 2, 3600.0)
        assert (night.states, night.runs) == ({KEY: "done"}, {KEY: a_run(2, "").run.id})


def test_a_night_without_its_file_is_what_its_runs_tell(tmp_path: Path) -> None:
    with opened(tmp_path) as history:
        history.add("20261101.1", "a", a_run(1, "."))
        history.add("20261101.1", "b", a_run(2, ".", seconds=90))
        [night] = history.nights()
        assert (night.complete, night.status, night.seconds) == (False, None, 86490.0)
        assert (night.states, night.runs["b"]) == ({"a": "done", "b": "done"}, a_run(2, "").run.id)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "\0", '{"started": 1}', '{"started": "2026-11-26T00:00:00Z", "cells": [1]}', "[" * 9000],
)
def test_a_night_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    nights(tmp_path, ["."])
    bad = tmp_path / "nights" / "20261101.1" / "night.json"
    bad.write_text(text)
    with synced(tmp_path) as history:
        assert history.nights() == []
        assert len(history.runs()) == 1


def test_a_run_that_cannot_be_read_is_told_and_read_once(tmp_path: Path) -> None:
    directory = keep(tmp_path, a_run(1, "."))
    (directory / "results.json").write_text('{"schema": 1')
    keep(tmp_path, a_run(2, "."))
    with opened(tmp_path) as history:
        found = history.sync(tmp_path)
        assert found.added == (a_run(2, "").run.id,)
        [(name, why)] = found.unread
        assert name == directory.name and "not JSON" in why
        assert history.sync(tmp_path).unread == found.unread
        keep(tmp_path, a_run(1, "F"))
        assert history.sync(tmp_path) == dataclasses.replace(found, added=(directory.name,), unread=())
        assert letters(history) == ["F", "."]
        (directory / "results.json").write_text("x")
        assert len(history.sync(tmp_path).unread) == 1
        shutil.rmtree(directory)
        assert history.sync(tmp_path).unread == ()


def test_a_run_whose_directory_is_gone_stays(tmp_path: Path) -> None:
    runs = nights(tmp_path, [".", "F", "F"])
    with synced(tmp_path) as history:
        shutil.rmtree(tmp_path / runs[1].run.id)
        assert history.sync(tmp_path).gone == (runs[1].run.id,)
        assert history.sync(tmp_path).gone == ()
        assert [run.gone for run in history.runs()] == [False, True, False]
        assert letters(history) == [".", "F", "F"]
        keep(tmp_path, runs[1])
        history.sync(tmp_path)
        assert not any(run.gone for run in history.runs())


def test_what_turned_out_to_be_no_run_does_not_stay(tmp_path: Path) -> None:
    keep(tmp_path, a_run(1, ".F"))
    begun = keep(tmp_path, a_run(2, "", reason="the run did not finish"))
    keep(tmp_path, a_run(3, "FF"))
    with synced(tmp_path) as history:
        assert [run.complete for run in history.runs()] == [True, False, True]
        shutil.rmtree(begun)
        history.sync(tmp_path)
        assert letters(history) == [".F", "FF"]
        assert [run.name for run in history.runs()] == [a_run(1, "").run.id, a_run(3, "").run.id]


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-01-01T00:00:00Z"])
def test_times_may_be_any_that_there_are(tmp_path: Path, text: str) -> None:
    run = a_run(1, ".")
    moment = datetime.fromisoformat(text)
    keep(tmp_path, run)
    with opened(tmp_path) as history:
        history.add("", "", dataclasses.replace(run, run=dataclasses.replace(run.run, started=moment, finished=moment)))
        assert len(history.runs()) == 1
        assert history.stale(datetime.now(UTC), 1) == []


def test_a_run_of_a_few_checks_says_nothing_of_the_others(tmp_path: Path) -> None:
    nights(tmp_path, ["F.F", " F ", "F.F"])
    with synced(tmp_path) as history:
        assert letters(history) == ["F.F", " F ", "F.F"]
        since = history.since(KEY, ("", "C-000", ""))
        assert since and since.night == "20261101.1"
        [span] = history.spans(KEY, ("", "C-000", ""))
        assert (span.runs, span.last.night) == (2, "20261103.1")


def test_of_several_results_of_one_identity_the_worst_counts(tmp_path: Path) -> None:
    base = a_run(1, ".")

    def assertion(verdict: Verdict, **more: str) -> Result:
        return Result("1", "has a state", "MUST", "", verdict, 0.0, more, program="create")

    run = dataclasses.replace(
        base,
        results=(assertion(Verdict.PASS), assertion(Verdict.FAIL), assertion(Verdict.SKIP)),
        programs=(Program("create", Verdict.FAIL, 1.0), Program("delete", Verdict.PASS, 1.0)),
    )
    with opened(tmp_path) as history:
        history.add("", "", run)
        assert history.shown(run.run.id) == {
            ("create", "has a state", ""): Seen(Verdict.FAIL),
            ("create", "(program)", ""): Seen(Verdict.PASS),
            ("delete", "(program)", ""): Seen(Verdict.PASS),
        }
        violation = dataclasses.replace(run, results=(assertion(Verdict.PASS, violation="runtime.md#x"),))
        history.add("", "", violation)
        assert history.shown(run.run.id)["create", "has a state", ""] == Seen(Verdict.PASS, False, True)


# --- questions


def test_what_fails_newly_and_since_when(tmp_path: Path) -> None:
    nights(tmp_path, ["...F", "F..F", "F.FF", "FFF."])
    with synced(tmp_path) as history:
        found = {one.identity[1]: one for one in history.failing("20261104.1")}
        assert {name: (one.since.night, one.streak) for name, one in found.items()} == {
            "C-000": ("20261102.1", 3), "C-001": ("20261104.1", 1), "C-002": ("20261103.1", 2),
        }  # fmt: skip
        assert found["C-000"].before == Seen(Verdict.PASS)
        assert found["C-000"].title == "what C-000 is about"
        assert [one.identity[1] for one in history.newly_failing("20261104.1")] == ["C-001"]
        assert [one.identity[1] for one in history.alerts("20261104.1", 2)] == ["C-000", "C-002"]
        assert [one.identity[1] for one in history.fixed("20261104.1")] == ["C-003"]
        assert [one.identity[1] for one in history.newly_failing("20261101.1")] == ["C-003"]
        assert history.newly_failing("20261101.1")[0].before is None
        assert not history.failing("no such night")
        assert not history.fixed("no such night")


def test_what_the_policy_expects_does_not_fail_newly(tmp_path: Path) -> None:
    nights(tmp_path, ["..f", "f.F"])
    with synced(tmp_path) as history:
        [one] = history.newly_failing("20261102.1")
        assert (one.identity[1], one.before) == ("C-002", Seen(Verdict.FAIL, expected=True))


def test_runs_between_nights_do_not_hide_what_a_night_finds(tmp_path: Path) -> None:
    first, second = a_run(1, "."), a_run(3, "F")
    keep_night(tmp_path, "20261101.1", {KEY: first})
    keep(tmp_path, a_run(2, "F"))
    keep_night(tmp_path, "20261102.1", {KEY: second})
    with synced(tmp_path) as history:
        assert [one.since.name for one in history.newly_failing("20261102.1")] == [second.run.id]
        since = history.since(KEY, ("", "C-000", ""))
        assert since and since.night == ""


def test_a_check_that_a_night_did_not_run_goes_on_afterwards(tmp_path: Path) -> None:
    nights(tmp_path, ["F.", " .", "F."])
    with synced(tmp_path) as history:
        [one] = history.failing("20261103.1")
        assert (one.streak, one.since.night) == (2, "20261101.1")
        assert history.newly_failing("20261103.1") == []


def test_since_when_something_is_as_it_is(tmp_path: Path) -> None:
    nights(tmp_path, ["F", ".", "f", "F", "T"])
    with synced(tmp_path) as history:
        since = history.since(KEY, ("", "C-000", ""))
        assert since and since.night == "20261103.1"
        assert history.since(KEY, ("", "C-999", "")) is None
        assert history.since("no/such/cell", ("", "C-000", "")) is None
        assert [(span.seen.verdict.value, span.runs) for span in history.spans(KEY, ("", "C-000", ""))] == [
            ("fail", 1), ("pass", 1), ("fail", 1), ("fail", 1), ("timeout", 1),
        ]  # fmt: skip


def test_what_fails_now_counts_runs_of_a_part(tmp_path: Path) -> None:
    nights(tmp_path, ["F" * 10 + "F", "F" * 10, "." * 9 + "F"])
    keep(tmp_path, a_run(4, "F"))
    keep(tmp_path, a_run(5, "  F"))
    with synced(tmp_path) as history:
        found = {one.identity[1]: (one.since.name, one.streak) for one in history.failing_now(KEY)}
        assert found == {
            "C-000": (a_run(4, "").run.id, 1), "C-002": (a_run(5, "").run.id, 1), "C-009": (a_run(1, "").run.id, 3),
        }  # fmt: skip
        assert history.failing_now("no/such/cell") == []


def test_what_is_flaky(tmp_path: Path) -> None:
    nights(tmp_path, ["......", "F.F..F", "..FY.F", "F.F.S."])
    with synced(tmp_path) as history:
        found = {one.identity[1]: (one.flips, one.flaky, one.runs) for one in history.flaky()}
        assert found == {"C-000": (3, 0, 4), "C-003": (0, 1, 4)}
        assert [one.identity[1] for one in history.flaky()] == ["C-000", "C-003"]
        assert history.flaky()[0].changed.night == "20261104.1"
        assert history.flaky(last=2) == [dataclasses.replace(history.flaky()[1], runs=2)]
        assert history.flaky(cell="no/such/cell") == []


def test_what_took_longer_than_usual(tmp_path: Path) -> None:
    took = [60.0, 61.0, 59.0, 62.0, 60.0, 61.0, 63.0, 80.0]
    for number, seconds in enumerate(took, 1):
        keep_night(tmp_path, f"n{number}", {KEY: a_run(number, "..", seconds=seconds)})
    keep(tmp_path, a_run(20, ".", seconds=1.0))  # a few checks
    keep(tmp_path, a_run(21, "..", seconds=900.0, reason="cut off"))
    with synced(tmp_path) as history:
        found = history.durations(KEY)
        assert [run.seconds for run in found.runs] == took
        assert (found.usual, found.slower) == (61.0, True)
        assert found.bound == 61.5 + 3 * 1.5
        assert [one.cell for one in history.slower("n8")] == [KEY]
        assert history.slower("n7") == []
        assert history.seconds_last(KEY) == 80.0
        assert history.seconds_last("no/such/cell") is None


def test_too_few_runs_bound_nothing() -> None:
    assert outlier_bound([1.0, 1.0, 1.0, 1.0]) is None
    assert outlier_bound([10.0] * 5) == 11.0
    assert outlier_bound([10.0, 20.0, 30.0, 40.0, 50.0]) == 40.0 + 3 * 20.0


def test_what_is_stale(tmp_path: Path) -> None:
    nights(tmp_path, [".", "."])
    with synced(tmp_path) as history:
        last = history.runs()[-1].started
        assert history.stale(last + timedelta(hours=30), 36) == []
        [found] = history.stale(last + timedelta(hours=40), 36)
        assert (found.cell, found.last.night, found.age) == (KEY, "20261102.1", timedelta(hours=40))


def test_checks_are_found_by_their_words(tmp_path: Path) -> None:
    nights(tmp_path, [".."])
    with synced(tmp_path) as history:
        assert history.identities("C-001") == [(("", "C-001", ""), "what C-001 is about")]
        assert history.identities("C-0") == []
        assert history.names() == ["C-000", "C-001"]


# --- the file


def test_a_damaged_file_is_made_again_from_the_runs_and_told(tmp_path: Path) -> None:
    nights(tmp_path, [".F" * 400, "FF" * 400])
    with synced(tmp_path) as history:
        before = letters(history)
    whole = (tmp_path / FILE).read_bytes()
    middle = len(whole) // 2
    damages = {
        "cut": whole[: middle + 100],
        "text": b"this is no database" * 1000,
        "head": b"\0" * 100 + whole[100:],
        "middle": whole[:middle] + b"\xa5" * 8192 + whole[middle + 8192 :],
    }
    for name, content in damages.items():
        for end in ("-wal", "-shm"):
            (tmp_path / f"{FILE}{end}").unlink(missing_ok=True)
        (tmp_path / FILE).write_bytes(content)
        told: list[str] = []
        with History.open(tmp_path / FILE, told.append) as history:
            assert len(history.sync(tmp_path).added) == 2, name
            assert letters(history) == before, name
        [line] = told
        assert line.startswith(f"{tmp_path / FILE} is damaged (") and "made again from the runs" in line, name


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    with History.open(tmp_path / FILE, pytest.fail) as history:
        assert history.runs() == []


def test_a_file_of_an_older_labkit_is_made_again(tmp_path: Path) -> None:
    nights(tmp_path, ["F"])
    synced(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("PRAGMA user_version = 0")
    told: list[str] = []
    with History.open(tmp_path / FILE, told.append) as history:
        history.sync(tmp_path)
        assert letters(history) == ["F"]
    assert "of an older labkit" in told[0]


def test_a_file_of_a_newer_labkit_is_refused_and_left(tmp_path: Path) -> None:
    synced(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("PRAGMA user_version = 7")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(LabError, match=r"is of a newer labkit: version 7, this one knows 1") as error:
        opened(tmp_path)
    assert error.value.hint and "made again from the runs" in error.value.hint
    assert (tmp_path / FILE).read_bytes() == before


def test_somebody_elses_database_is_left(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("CREATE TABLE mine (x)")
    with pytest.raises(LabError, match="is a database, but none of labkit's"):
        opened(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(LabError, match="is no file"):
        opened(tmp_path)


def test_a_link_of_somebody_elses_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / FILE).symlink_to(precious)
    with pytest.raises(LabError, match="is no file"):
        opened(tmp_path / "reports")
    assert precious.read_bytes() == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_file_of_another_user_is_not_used(tmp_path: Path) -> None:
    synced(tmp_path).close()
    os.chown(tmp_path / FILE, 12345, 12345)
    with pytest.raises(LabError, match="belongs to another user"):
        opened(tmp_path)


def _adds(reports: Path, begin: int) -> None:
    for number in range(begin, begin + 20):
        with opened(reports) as history:
            history.add("", "", a_run(number, ".F" if number % 2 else "F."))


def test_several_processes_write_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_adds, args=(tmp_path, 1 + 20 * n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    with opened(tmp_path) as history:
        assert letters(history) == [".F" if number % 2 else "F." for number in range(1, 61)]


def test_an_interrupted_write_leaves_what_was(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Cut(tuple[Result, ...]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield from tuple(self[:1])
            raise Stop

    with opened(tmp_path) as history:
        history.add("", "", a_run(1, ".F"))
        broken = a_run(2, "FF")
        with pytest.raises(Stop):
            history.add("", "", dataclasses.replace(broken, results=Cut(broken.results)))
        assert letters(history) == [".F"]
        history.add("", "", broken)
        assert letters(history) == [".F", "FF"]


def test_where_nothing_can_be_written_the_questions_are_answered_all_the_same(tmp_path: Path) -> None:
    nights(tmp_path, [".", "F"])
    synced(tmp_path).close()
    keep_night(tmp_path, "20261103.1", {KEY: a_run(3, "F")})
    child = os.fork()
    if child == 0:  # as a user who may only read
        status = 1
        try:
            if os.geteuid() == 0:
                tmp_path.chmod(0o755)
                for parent in tmp_path.parents[:3]:
                    parent.chmod(0o755)
                os.setgid(65534)
                os.setuid(65534)
            else:
                tmp_path.chmod(0o555)
            with opened(tmp_path) as history:
                assert history.sync(tmp_path).added == (a_run(3, "").run.id,)
                assert letters(history) == [".", "F", "F"]
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with opened(tmp_path) as history:
        history._db.execute("PRAGMA max_page_count = 30")  # SQLite's word for it is the same
        with pytest.raises(HostError, match="no space left"):
            for number in range(1, 200):
                history.add("", "", a_run(number, {f"check {number} {n}": "F" for n in range(50)}))


def test_hostile_text_is_kept_as_it_is(tmp_path: Path) -> None:
    evil = "'; DROP TABLE run; --<script>\0\x1b[31m\u202e\U0001f600"
    half = "\ud800 half"
    run: Run = a_run(1, {evil: "F", half: "."})
    with opened(tmp_path) as history:
        history.add(evil, evil, run)
        assert history.since(evil, ("", evil, "")) is not None
        history.add("", "", a_run(2, {evil: ".", half: "F"}))
        assert {one.identity[1] for one in history.failing(evil)} == {evil}
        assert history.names() == sorted([evil, r"\ud800 half"])
