"""What a check did: recorded by the suite within bounds, and read as what comes from a machine that nobody trusts."""

from __future__ import annotations

import base64
import json
import os
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from labkit.guest.spec import transcript as guest
from labkit.guest.spec.process import Proc
from labkit.results import tap, transcript
from labkit.results.json import to_json
from labkit.results.model import Result, Verdict
from labkit.results.transcript import Called, Found, Made, Process, Transcript, Waited, unpack
from labkit.suites.spec import from_tap
from tests.conftest import ROOT

RECORDED = ROOT / "tests/recordings/explain/spec.tap"
FACTS: dict[str, Any] = {
    "work": "/tmp/labkit-1/work/X-1",
    "name": "1",
    "runtime": ["/usr/bin/runc"],
    "busybox": "/bin/busybox",
}


class Recorded:
    """A check that records, and what comes of it."""

    def __init__(self, directory: Path) -> None:
        self.work = directory / "work"
        self.work.mkdir()
        self.busybox = directory / "busybox"
        self.busybox.write_text("busybox")
        self.file = directory / "file"
        self.recorder = guest.Recorder(self.file, self.work, self.busybox)

    def bundle(self, name: str = "bundle1") -> Path:
        path = self.work / name
        for below, mode in guest.LAYOUT.items():
            (path / below).mkdir(parents=True, exist_ok=True)
            (path / below).chmod(mode)
        os.link(self.busybox, path / "rootfs/bin/busybox")
        (path / "rootfs/bin/sh").symlink_to("busybox")
        self.recorder.bundle(path)
        (path / "config.json").write_text("{}")
        return path

    def call(self, *argv: str, status: int | None = 0, out: str = "", **more: Any) -> None:
        self.recorder.before(argv, **more)
        self.recorder.after(Proc(argv, status, out, "", 0.1))

    def read(self) -> Transcript:
        packed = guest.packed(self.file, {**FACTS, "work": str(self.work)})
        assert len(packed) <= guest.PRINT_LIMIT
        found = unpack(packed)
        assert found
        return found


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def test_the_steps_come_back_in_their_order(recorded: Recorded) -> None:
    recorded.bundle()
    recorded.call("runc", "create", "x", cwd="/tmp", env={"A": "b"}, stdin="/x")
    recorded.recorder.pid(77, recorded.work / "x.pid")
    recorded.recorder.waited(0.2, recorded.work / "x.pid")
    recorded.recorder.waited(0.001)  # nothing to tell of
    recorded.recorder.found("a-finding")
    recorded.call("runc", "delete", "x", status=-9)
    assert recorded.read().steps == (
        Made("bundle1", "bundle"),
        Made("bundle1/config.json", "file", 0o644, b"{}"),
        Called(("runc", "create", "x"), 0, True, 0.1, cwd="/tmp", env={"A": "b"}, stdin="/x"),
        Process(77, "x.pid"),
        Waited(0.2, "x.pid"),
        Found("a-finding"),
        Called(("runc", "delete", "x"), -9, True, 0.1),
    )


def test_what_lies_beside_is_recorded_as_it_was_before_the_call(recorded: Recorded) -> None:
    bundle = recorded.bundle()
    (bundle / "rootfs/opt").mkdir(mode=0o700)
    (bundle / "rootfs/opt/program").write_bytes(b"\xff\xfe")
    (bundle / "rootfs/bin/more").write_text("#!/bin/sh\n")
    (bundle / "rootfs/link").symlink_to("/nowhere")
    os.mkfifo(bundle / "rootfs/fifo")
    os.link(recorded.busybox, bundle / "hook")
    (bundle / "rootfs/tmp").rmdir()
    (recorded.work / "source").write_text("s" * 5000)
    recorded.call("runc", "create", "x")
    (bundle / "rootfs/later").write_text("by the container")
    (bundle / "config.json").write_text("[]")
    recorded.call("runc", "start", "x")
    made = {step.path: step for step in recorded.read().steps if isinstance(step, Made) and step.kind != "bundle"}
    assert made["bundle1/rootfs/opt"].mode == 0o700
    assert made["bundle1/rootfs/opt/program"].data == b"\xff\xfe"
    assert made["bundle1/rootfs/bin/more"].data == b"#!/bin/sh\n"
    assert made["bundle1/rootfs/link"].to == "/nowhere"
    assert made["bundle1/rootfs/fifo"].device == ("p",)
    assert made["bundle1/hook"].kind == "busybox"
    assert made["bundle1/rootfs/tmp"].kind == "gone"
    assert (len(made["source"].data), made["source"].whole) == (guest.TEXT_LIMIT, False)
    assert "bundle1/rootfs/later" not in made
    assert "bundle1/rootfs/bin/sh" not in made
    assert made["bundle1/config.json"].data == b"[]"  # the last; the first one is there, too
    assert [step.data for step in recorded.read().steps if isinstance(step, Made) and step.is_config] == [b"{}", b"[]"]


def test_polling_is_one_step(recorded: Recorded) -> None:
    for _ in range(500):
        recorded.call("runc", "state", "x", out="running")
    recorded.call("runc", "state", "x", out="stopped")
    calls = recorded.read().calls
    assert [(call.stdout, call.times) for call in calls] == [("running", 500), ("stopped", 1)]


def test_a_command_that_never_ended_is_there(recorded: Recorded) -> None:
    recorded.call("runc", "create", "x")
    recorded.recorder.before(["runc", "start", "x"])
    (recorded.work / "x.out").write_text("so far")
    guest.aftermath(recorded.file, recorded.work)
    found = recorded.read()
    assert [call.ended for call in found.calls] == [True, False]
    assert "did not end" in found.calls[1].how
    assert found.outputs == (("x.out", "so far"),)


def test_a_record_that_was_cut_off_is_read_as_far_as_it_goes(recorded: Recorded) -> None:
    recorded.call("runc", "create", "x")
    recorded.file.write_bytes(recorded.file.read_bytes() + b'{"call": ["runc", "sta')
    assert len(recorded.read().calls) == 1


def test_what_is_too_much_is_left_out_and_what_led_to_a_finding_stays(recorded: Recorded) -> None:
    noise = random.Random(1)
    for number in range(100):
        recorded.bundle(f"bundle{number}")
        text = "".join(noise.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=3000))
        recorded.call("runc", "create", f"x{number}", out=text)
        if number == 80:
            recorded.recorder.found("late")
    found = recorded.read()
    assert Found("late") in found.steps
    assert "x80" in {call.argv[-1] for call in found.calls}
    assert found.left_out > 0
    assert recorded.file.stat().st_size < 2 * guest.RECORD_LIMIT


def test_a_record_has_an_end_whatever_a_check_does(recorded: Recorded) -> None:
    for number in range(3000):
        recorded.call("runc", "state", str(number), out="x" * 10_000)
        recorded.recorder.found("f" * 100)
    assert recorded.file.stat().st_size < 3 * guest.RECORD_LIMIT
    assert recorded.read().left_out


def test_what_a_container_puts_in_the_place_of_its_output_is_not_followed(recorded: Recorded, tmp_path: Path) -> None:
    bundle = recorded.bundle()
    (tmp_path / "secret").write_text("secret")
    (bundle / "out/link").symlink_to(tmp_path / "secret")
    os.mkfifo(bundle / "out/fifo")
    (bundle / "out/plain").write_text("plain")
    (recorded.work / "bundle2").mkdir()
    (recorded.work / "bundle2/out").symlink_to(tmp_path)
    recorded.call("runc", "create", "x")
    guest.aftermath(recorded.file, recorded.work)
    assert recorded.read().outputs == (("bundle1/out/plain", "plain"),)


def test_nothing_is_recorded_where_nobody_asked(tmp_path: Path) -> None:
    recorder = guest.Recorder(None, tmp_path, tmp_path / "busybox")
    recorder.before(["x"])
    recorder.after(Proc(("x",), 0, "", "", 0.1))
    recorder.found("x")
    recorder.bundle(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- read


def pack(value: object) -> str:
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


OTHERS: list[Any] = [None, 1, {}]
GOOD: dict[str, Any] = {**FACTS, "steps": [{"bundle": "bundle1"}, {"call": ["runc"], "status": 0}], "outputs": []}


@pytest.mark.parametrize(
    "packed",
    [
        "",
        "!",
        "AAAA",
        base64.b64encode(zlib.compress(b"\xff")).decode(),
        base64.b64encode(zlib.compress(b"[" * 100_000)).decode(),
        base64.b64encode(zlib.compress(b" " * (64 << 20))).decode(),  # a bomb
        base64.b64encode(zlib.compress(json.dumps(GOOD).encode())[:-5]).decode(),
        pack([]),
        pack({}),
        *(pack({**GOOD, key: value}) for key in ("work", "name", "runtime", "busybox", "steps") for value in OTHERS),
        pack({**GOOD, "work": "/tmp/../etc"}),
        pack({**GOOD, "work": "/tmp/$(id)"}),
        pack({**GOOD, "work": "/tmp/a b"}),
        pack({**GOOD, "name": "a/b"}),
        pack({**GOOD, "busybox": "/bin/`id`"}),
    ],
)
def test_what_is_damaged_is_none(packed: str) -> None:
    assert unpack(packed) is None


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "a//b", ".", "", "a\nb", "a\0b", "x" * 301, 1, None]
)
def test_no_path_leads_out(path: object) -> None:
    step = {"file": path, "kind": "file", "text": "x"}
    found = unpack(pack({**GOOD, "steps": [step, {"bundle": path}], "outputs": [[path, "x"]]}))
    assert found
    assert (found.steps, found.outputs) == ((), ())


def test_whatever_is_in_it_nothing_raises() -> None:
    """Every value of recorded transcripts in turn as something else."""
    values: list[Any] = [None, 1, -1, 1e99, True, "x\0\n", [], {}, [[1]], {"a": {"b": 1}}]
    chance = random.Random(7)
    for line in RECORDED.read_text().splitlines():
        if found := transcript.COMMENT.fullmatch(line.removeprefix("# ")):
            whole = json.loads(zlib.decompress(base64.b64decode(found[2])))
            for _ in range(300):
                changed = json.loads(json.dumps(whole))
                place: Any = changed
                key: Any = chance.choice(list(changed))
                while isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
                    place = place[key]
                    key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
                place[key] = chance.choice(values)
                if (read := unpack(pack(changed))) is not None:
                    assert read.needed is not None


def test_the_suites_output_gives_each_result_its_own() -> None:
    reading = from_tap(tap.read(RECORDED.read_bytes()))
    bad = {result.id for result in reading.results if result.verdict is Verdict.FAIL}
    found = {result.id: unpack(result.transcript) for result in reading.results if result.transcript}
    assert set(found) == bad == {"HOOK-010", "CONF-009", "DEV-002", "NS-007"}
    for ident, one in found.items():
        assert one
        assert one.work.endswith(f"/{ident}")
        assert all(ident.lower() in call.argv[-1] for call in one.calls)
    assert "transcript" not in "".join(reading.facts)
    assert reading.reason is None


def test_it_is_no_part_of_what_a_run_is_kept_as() -> None:
    from tests.test_explain import run_of

    run = run_of(RECORDED)
    assert any(result.transcript for result in run.results)
    assert "transcript" not in to_json(run)
    bare = Result("A-1", "", "", "", Verdict.FAIL, 0.0)
    assert bare == Result("A-1", "", "", "", Verdict.FAIL, 0.0, transcript="x")
