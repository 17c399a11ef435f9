"""What `gc` leaves of nights: real ones, of simulated cells."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from labkit.core import config
from labkit.core.config import Keep
from labkit.core.errors import UsageError
from labkit.core.observer import Silent
from labkit.images.collect import Kind
from labkit.io import libvirt
from labkit.io.files import attempted, usage
from labkit.matrix.outbox import served
from labkit.store.history import FILE, History
from labkit.usecases.gc import Collected, gc
from tests.many_nights import KEEP, Script
from tests.simulated import Nights
from tests.test_nightly import KEY


class Told(Silent):
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warn(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nights]:
    monkeypatch.setattr(libvirt, "there", lambda: False)
    made = Nights(tmp_path, cells=2)
    yield made
    made.end()


def collected(nights: Nights, keep: str | None, *, dry_run: bool = False, told: Told | None = None) -> Collected:
    environ = {"LABKIT_HOME": str(nights.home), "HOME": str(nights.place), "PATH": os.environ["PATH"]}
    if keep:
        environ["LABKIT_NIGHTS_KEEP"] = keep
    settings = config.load(cwd=nights.place / "work", environ=environ)
    return gc(settings, told or Silent(), dry_run=dry_run)


def going(done: Collected, kind: Kind = Kind.NIGHT) -> list[str]:
    return sorted(thing.name for thing in done.things if thing.remove and thing.kind is kind)


def there(nights: Nights) -> list[str]:
    """The nights of which anything is there, by the number."""
    found = {path.name for place in (nights.home / "nights", nights.home / "outbox", nights.reports / "nights")
             if place.is_dir() for path in place.iterdir() if path.is_dir()}  # fmt: skip
    return sorted((name.rpartition(".")[2] for name in found), key=int)


def of(nights: Nights, night: Mapping[str, Any]) -> list[str]:
    return sorted(path.name for path in nights.reports.glob(f"2*-night-{night['id']}-*"))


def failing(nights: Nights, night: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    with History.open(nights.reports / FILE, print) as history:
        history.sync(nights.reports)
        return [(one.cell, one.since.night, one.streak) for one in history.failing(night["id"])]


def test_nights_beyond_the_newest_go_with_their_runs_and_the_history_stays(nights: Nights) -> None:
    nights.does("r1", "show bad")
    made = [nights.run(status=1) for _ in range(4)]
    before = usage(nights.place)
    said = failing(nights, made[3])
    shown = collected(nights, "2 nights", dry_run=True)
    assert there(nights) == ["1", "2", "3", "4"]
    done = collected(nights, "2 nights")
    assert going(done) == going(shown) == [made[0]["id"], made[1]["id"]]
    assert shown.freed == done.freed > 0
    assert abs(before - usage(nights.place) - done.freed) < 128 << 10
    assert there(nights) == ["3", "4"]
    assert [len(of(nights, night)) for night in made] == [0, 0, 2, 2]
    assert failing(nights, made[3]) == said == [(KEY.format("r1"), made[0]["id"], 4)]
    with History.open(nights.reports / FILE, print) as history:
        assert [ran.gone for ran in history.runs(KEY.format("r1"))] == [True, True, False, False]
        assert len(history.nights()) == 4
    night = nights.run(status=1)
    assert night["changes"]["new_failures"] == []
    assert [one["since"] for one in night["changes"]["still_failing"]] == [made[0]["id"]]
    assert not going(collected(nights, None))


def test_the_newest_night_stays_whatever_is_kept(nights: Nights) -> None:
    made = [nights.run() for _ in range(2)]
    for keep in ("1 nights", "1M", "1 day"):
        collected(nights, keep)
        assert "2" in there(nights)
        assert len(of(nights, made[1])) == 2


def test_the_size_of_nights_counts_from_the_newest(nights: Nights) -> None:
    nights.does("r1", "mkdir -p run/raw; head -c 700000 /dev/urandom >run/raw/x")
    for _ in range(4):
        nights.run()
    done = collected(nights, "2M")
    assert [name.rpartition(".")[2] for name in going(done)] == ["1", "2"]


def test_nights_go_by_their_age(nights: Nights) -> None:
    made = [nights.run() for _ in range(3)]
    for night, day in ((made[0], "01"), (made[1], "20")):
        path = nights.reports / "nights" / night["id"] / "night.json"
        path.write_text(json.dumps({**night, "started": f"2025-10-{day}T00:00:00Z"}))
    assert going(collected(nights, "9 weeks", dry_run=True)) == [made[0]["id"], made[1]["id"]]
    assert going(collected(nights, "2 nights, 36500 days", dry_run=True)) == [made[0]["id"]]


def test_what_the_next_night_is_compared_with_stays_though_its_night_goes(nights: Nights) -> None:
    nights.does("r1", "show bad")
    first = nights.run(status=1)
    nights.does("r1", "show cut")
    second = nights.run(status=4)
    done = collected(nights, "1 nights")
    assert going(done) == [first["id"]]
    [kept] = [run for run in of(nights, first) if "-r1-" in run]
    [why] = [thing.why for thing in done.things if thing.name == first["id"]]
    assert "nights are compared with it" in why
    assert (nights.reports / kept / "results.json").exists()
    collected(nights, "1 nights")
    assert (nights.reports / kept / "results.json").exists()
    nights.does("r1", "show bad")
    third = nights.run(status=1)
    assert third["changes"]["new_failures"] == []
    assert [one["since"] for one in third["changes"]["still_failing"]] == [first["id"]]
    assert second["id"] in str(collected(nights, "1 nights").to_json())
    assert kept not in of(nights, first)


def test_numbers_of_runs_go_on_after_the_newest_was_not_a_complete_one(nights: Nights) -> None:
    nights.run()
    nights.does("r1", "show cut")
    nights.does("r2", "show cut")
    nights.run(status=4)
    nights.matrix = 'exclude = ["*/r1/*"]\n'
    nights.write()
    nights.does("r2", 'lab "no image"')
    nights.run(status=3)
    newest = max(nights.reports.glob("*-night-*"), key=lambda path: int(path.name.split(".")[1].split("-")[0]))
    collected(nights, "1 nights")
    assert newest.exists()


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_gc_that_ended_early_is_gone_on_with(nights: Nights, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [nights.run() for _ in range(3)]
    real, calls = shutil.rmtree, 0

    def some(path: Any, *words: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            (Path(path) / "results.json").unlink()
            raise KeyboardInterrupt
        real(path, *words, **named)

    pid = 0
    if how == "interrupted":
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", some)
            with pytest.raises(KeyboardInterrupt):
                collected(nights, "1 nights")
    else:
        pid = os.fork()
        if not pid:
            shutil.rmtree = some  # type: ignore[assignment]
            try:
                collected(nights, "1 nights")
            finally:
                os._exit(9)
        os.waitpid(pid, 0)
    done = collected(nights, "1 nights")
    assert there(nights) == ["3"]
    assert [len(of(nights, night)) for night in made] == [0, 0, 2]
    assert not done.failed
    if how == "killed":
        assert nights.left() == []
    with History.open(nights.reports / FILE, print) as history:
        history.sync(nights.reports)
        assert [len(history.runs(KEY.format(name))) for name in ("r1", "r2")] == [3, 3]


def test_without_a_history_that_can_be_written_nothing_of_nights_goes(nights: Nights) -> None:
    for _ in range(2):
        nights.run()
    with closing(sqlite3.connect(nights.reports / FILE)) as db:
        db.execute("PRAGMA user_version = 99")
        db.commit()
    told = Told()
    done = collected(nights, "1 nights", told=told)
    assert not going(done)
    assert there(nights) == ["1", "2"]
    assert "all nights stay, as the history cannot be had" in told.warned[0]


def test_a_run_that_the_history_could_not_read_stays(nights: Nights) -> None:
    first = nights.run()
    nights.run()
    run = nights.reports / of(nights, first)[0]
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "schema": 99}))
    (nights.reports / FILE).unlink()
    done = collected(nights, "1 nights")
    assert going(done) == [first["id"]]
    assert of(nights, first) == [run.name]
    assert "the history does not have it" in str(done.to_json())


def test_while_a_night_runs_it_and_its_machines_stay_and_older_ones_go(nights: Nights) -> None:
    made = [nights.run() for _ in range(2)]
    machine = nights.home / "machines" / f"night-{made[1]['id']}-c1-a1"
    machine.mkdir(parents=True)
    lock = nights.home / "locks" / "nightly.lock"
    # from another process, as flock(2) tells those apart by their open file alone
    with attempted(lock, "the night") as who:
        assert who is None
        done = collected(nights, "1 nights")
    assert going(done) == [made[0]["id"]]
    assert not going(done, Kind.MACHINE)
    assert machine.is_dir()


def test_machines_and_outboxes_that_killed_nights_left_go_and_other_machines_stay(nights: Nights) -> None:
    made = [nights.run() for _ in range(2)]
    machines = nights.home / "machines"
    record = {"provider": "ssh", "host": "h", "port": 22, "user": "u", "key": "/k", "ready": True}
    for name in (f"night-{made[1]['id']}-c1-a1", f"night-{made[0]['id']}-c2-a1-2", "night-mine"):
        (machines / name).mkdir(parents=True)
        (machines / name / "record.json").write_text(json.dumps(record))
    for night in made:
        place = nights.home / "outbox" / night["id"]
        place.mkdir(parents=True)
        (place / "x.tar").write_bytes(b"x" * 9000)
    shown = collected(nights, None, dry_run=True)
    done = collected(nights, None)
    for one in (shown, done):
        assert going(one, Kind.OUTBOX) == [f"outbox/{made[0]['id']}"]
        assert len(going(one, Kind.MACHINE)) == 2
    assert [path.name for path in machines.iterdir()] == ["night-mine"]
    assert (nights.home / "outbox" / made[1]["id"] / "x.tar").exists()
    assert there(nights) == ["1", "2"]


def test_the_outbox_of_a_night_that_a_worker_serves_stays(nights: Nights) -> None:
    """On a host of a cluster, whose nights are at home elsewhere."""
    for ident in ("20261101.4", "20261101.5"):
        (nights.home / "outbox" / ident).mkdir(parents=True)
    with attempted(nights.home / "locks" / f"{served('20261101.4')}.lock", "the night") as who:
        assert who is None
        assert not going(collected(nights, None), Kind.OUTBOX)
    assert going(collected(nights, None), Kind.OUTBOX) == ["outbox/20261101.4"]


def test_images_that_the_newest_night_used_stay_where_nights_are_kept(nights: Nights) -> None:
    old, new = "0" * 16, "1" * 16
    nights.run()
    night = nights.run()
    for key in (old, new):
        image = nights.home / "images" / key
        image.mkdir(parents=True)
        (image / "image.json").write_text(json.dumps({"title": "Debian 13"}))
    os.utime(nights.home / "images" / old / "image.json", (1, 1))
    assert night["complete"]
    assert going(collected(nights, "1 nights", dry_run=True), Kind.IMAGE) == [f"images/{old}"]
    assert going(collected(nights, None, dry_run=True), Kind.IMAGE) == [f"images/{old}", f"images/{new}"]


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("14 nights", Keep(nights=14)),
        ("1 night", Keep(nights=1)),
        ("30 days, 20G", Keep(days=30, mib=20480)),
        (" 2 weeks ,500M", Keep(days=14, mib=500)),
        (["14 nights", "1 G"], Keep(nights=14, mib=1024)),
        ("3nights", Keep(nights=3)),
    ],
)
def test_what_keep_may_be(tmp_path: Path, text: object, keep: Keep) -> None:
    (tmp_path / "labkit.toml").write_text(f"[nights]\nkeep = {json.dumps(text)}\n")
    assert config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)}).nights.keep == keep


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0 nights",
        "14",
        14,
        True,
        "-1 nights",
        "14 moons",
        "1 night, 2 nights",
        "1 week, 3 days",
        [],
        [3],
        "1.5G",
        {},
    ],
)
def test_what_keep_may_not_be(tmp_path: Path, text: object) -> None:
    said = "{}" if text == {} else json.dumps(text)
    (tmp_path / "labkit.toml").write_text(f"[nights]\nkeep = {said}\n")
    with pytest.raises(UsageError, match=r"nights\.keep .*must be a number of nights") as error:
        config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    assert "labkit.toml" in error.value.message


@pytest.mark.timeout(300)
def test_many_nights_some_of_them_killed_leave_an_exact_history_and_a_bounded_disk(tmp_path: Path) -> None:
    """A hundred: benchmarks/nightly.py hundred."""
    figures = Script(tmp_path, seed=7, cells=2).run(20)
    assert figures.kills >= 1
    assert figures.failures
    assert figures.kept <= KEEP * 2 * 2 + 3
