"""What a machine's record can have suffered: nothing of the machine is lost, and the others are still there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.observer import Silent
from labkit.machines import providers
from labkit.machines.base import MachineState
from labkit.machines.qemu import QemuMachine, QemuRecord
from tests.conftest import spawned
from tests.test_cli import Done, labkit

GOOD = asdict(
    QemuRecord(
        platform="debian", release="13", image="0" * 16, accelerator="tcg", cpus=2, memory_mib=2048, ready=True,
        port=2222, hostname="mine", machine_id="0" * 32, host_private="private", host_public="public",
    )
)  # fmt: skip
Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def do(*words: str, status: int = 0) -> Done:
        done = labkit(*words, environ={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, cwd=tmp_path)
        assert done.returncode == status, done
        assert "Traceback" not in done.stderr
        return done

    return do


def machine(tmp_path: Path, name: str, record: bytes | None) -> Path:
    directory = tmp_path / ".local/share/labkit/machines" / name
    directory.mkdir(parents=True)
    (directory / "disk.qcow2").write_text("precious")
    if record is not None:
        (directory / "record.json").write_bytes(record)
    return directory


def without(key: str) -> bytes:
    return json.dumps({name: value for name, value in GOOD.items() if name != key}).encode()


def changed(**values: object) -> bytes:
    return json.dumps({**GOOD, **values}).encode()


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b"", "is not JSON"),
        (b"\0\xff\xfe binary", "is not JSON"),
        (json.dumps(GOOD).encode()[:50], "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "has no platform"),
        (None, "is missing"),
        (without("image"), "has no image"),
        (changed(cpus="2"), "has cpus = '2', which is no int"),
        (changed(ready=1), "has ready = 1, which is no bool"),
        (changed(provider="bhyve"), "names the provider 'bhyve', which this labkit does not know"),
        (changed(provider=["qemu"]), "names the provider"),
    ],
)
def test_a_damaged_record_is_named_and_nothing_is_lost(
    run: Run, tmp_path: Path, record: bytes | None, why: str
) -> None:
    directory = machine(tmp_path, "mine", record)
    machine(tmp_path, "other", json.dumps(GOOD).encode())
    states = {info["name"]: info["state"] for info in json.loads(run("status", "--json").stdout)}
    assert states == {"mine": "damaged", "other": "crashed"}
    for words in (["up"], ["test"], ["reset"], ["halt"], ["ssh"]):
        said = run(*words, "--machine", "mine", status=3).stderr
        assert f"{directory}/record.json {why}" in said, words
        assert "./lab destroy --machine mine removes it" in said
        assert (directory / "disk.qcow2").read_text() == "precious"
    assert run("destroy", "--machine", "mine").stdout == "destroyed mine\n"
    assert not directory.exists()
    assert json.loads(run("status", "--json").stdout)[0]["name"] == "other"


def test_keys_of_a_newer_labkit_are_kept(tmp_path: Path) -> None:
    directory = machine(tmp_path, "mine", changed(colour="blue", shape={"corners": 3}))
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    found = providers.existing("mine", settings, Silent())
    assert isinstance(found, QemuMachine)
    assert found.status().state is MachineState.CRASHED
    record = found.record()
    assert record is not None
    found._save(record)
    kept = json.loads((directory / "record.json").read_text())
    assert (kept["colour"], kept["shape"], kept["image"]) == ("blue", {"corners": 3}, "0" * 16)


def test_a_machine_that_was_never_ready_is_made_anew(run: Run, tmp_path: Path) -> None:
    machine(tmp_path, "mine", changed(ready=False))
    assert json.loads(run("status", "--json").stdout)[0]["state"] == "interrupted"


@pytest.mark.parametrize("asleep", [True, False])
def test_a_qemu_that_was_being_started_is_not_a_reason_to_begin_again(tmp_path: Path, asleep: bool) -> None:
    """labkit was killed while it brought a machine back: QEMU runs, and has not answered yet."""
    from labkit.io import process

    directory = machine(tmp_path, "mine", json.dumps(GOOD).encode())
    (directory / "starting").touch()
    if asleep:
        (directory / "state").touch()
    child = spawned(["sleep", "60"], cwd=directory, log=directory / "log", env={process.OWNER: str(directory)})
    try:
        settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
        state = providers.existing("mine", settings, Silent()).status().state
        assert state is (MachineState.HALTED if asleep else MachineState.CRASHED)
        (directory / "starting").unlink()
        assert providers.existing("mine", settings, Silent()).status().state is MachineState.RUNNING
    finally:
        child.kill()
        child.wait()
