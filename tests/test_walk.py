"""Every flag that a command takes, and every key of labkit.toml, has an effect or is refused.

Each (command, flag) and each key has a row here that says how that is seen; one without a row fails. A row runs the
command without and with the flag, and what it marks must be there with it and not without.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labkit.cli import selfcheck
from labkit.core import config, platforms
from labkit.core.config import Settings
from labkit.core.deadline import Deadline
from labkit.core.errors import ConnectionFailed, LabError, MachineError
from labkit.core.observer import Silent
from labkit.host import install
from labkit.images import boxes
from labkit.images.build import recipe
from labkit.io import process
from labkit.machines import providers
from labkit.machines.base import Difference, MachineState
from labkit.machines.choice import untrusted
from labkit.machines.fake import FakeMachine, FakeRemote
from labkit.machines.host import HostMachine
from labkit.machines.qemu import QemuMachine
from labkit.machines.uml import UmlMachine, UmlRecord
from labkit.machines.vagrant import VagrantMachine, vagrant_provider
from labkit.subjects import runtimes
from labkit.subjects.runtimes import Role
from labkit.suites.base import SilentRun
from labkit.uml import kernel
from labkit.usecases import export
from labkit.usecases.judge import policies
from labkit.usecases.machines import machine_name, settled
from labkit.usecases.run import run_cell
from labkit.usecases.test import cell_of
from tests import recorded
from tests.test_asked import Host, found, host, keep, qemu
from tests.test_cell import CELL, OUTPUT, suite_prints
from tests.test_cli import COMMANDS, Done, environ, labkit

__all__ = ["environ", "host"]  # fixtures

FAILING = OUTPUT.replace(b"ok 1 - QUERY-001", b"not ok 1 - DEV-002")
RECORDING = str(recorded.V2)
FEW = "v0.9.0-crun-1.8.1-cgroup-v2"  # a few of its programs, in the world's directory


@dataclass
class World:
    """Where a row runs its command."""

    directory: Path
    environ: dict[str, str]
    host: Host

    def run(self, *words: str) -> str:
        """All that can be seen of the command: its status, what it printed, what it did on the host."""
        before = len(self.host.server.commands)
        done: Done = labkit(*words, environ=self.environ, cwd=self.directory)
        assert "Traceback" not in done.stderr, done.stderr
        told = "\n".join(self.host.server.commands[before:])
        return f"status {done.returncode}\n{done.stdout}\n{done.stderr}\n{told}"


@dataclass(frozen=True)
class Row:
    """without are the words of the command without the flag, flag what is added, mark what is seen only with it."""

    without: tuple[str, ...]
    flag: tuple[str, ...]
    mark: str


def of_machines(command: str) -> Iterator[tuple[tuple[str, str], Row]]:
    """The flags that say which machine is meant. The machines here are records of crashed ones without an image."""
    mark = {
        "up": "image gone of machine {} is gone", "test": "image gone of machine {} is gone",
        "reset": "image gone of machine {} is gone", "halt": "machine {} does not exist",
        "destroy": "destroyed {}", "ssh": "machine {} is not running", "doctor": "{}: qemu",
    }[command]  # fmt: skip
    there = command != "halt"
    names = {"platform": ("fedora", "fedora-44"), "release": ("12", "debian-12")}
    names["arch"] = ("arm64", "debian-13-arm64")
    names["machine"] = ("mine", "mine") if there else ("another", "another")
    if not there:
        names |= {"platform": ("ubuntu", "ubuntu-24.04"), "release": ("7", "unknown release of Debian '7'")}
    for flag, (value, name) in names.items():
        yield (command, flag), Row((command,), (f"--{flag}", value), mark.format(name) if name[:2] != "un" else name)
    yield (command, "provider"), Row((command,), ("--provider", "vagrant"), "asked for: vagrant")
    yield (command, "host"), Row((command,), ("--host", "root@127.0.0.1:1"), {
        "up": "the ssh provider needs a private key", "test": "the ssh provider needs a private key",
        "reset": "127.0.0.1-1 is absent", "halt": "127.0.0.1-1 does not exist", "destroy": "nothing to destroy",
        "ssh": "machine 127.0.0.1-1 is not known", "doctor": "127.0.0.1-1: not there yet",
    }[command])  # fmt: skip


def verbose(command: str, *words: str) -> tuple[tuple[str, str], Row]:
    return (command, "verbose"), Row((command, *words), ("--verbose",), "configuration: ")


def as_json(command: str, *words: str, mark: str = '"') -> tuple[tuple[str, str], Row]:
    return (command, "json"), Row((command, *words), ("--json",), mark)


SSH = ("--provider", "ssh")
OF_UML = ("--machine", "of-uml")
ROWS: dict[tuple[str, str], Row] = dict(
    [
        *(
            row
            for command in ("up", "test", "reset", "halt", "destroy", "ssh", "doctor")
            for row in of_machines(command)
        ),
        *(verbose(command) for command in ("up", "test", "reset", "halt", "destroy", "package", "check")),
        (("up", "discard_state"), Row(("up", *SSH, "--yes"), ("--discard-state",), "--discard-state is for QEMU's")),
        (("up", "yes"), Row(("up", *SSH), ("--yes",), " sh /var/lib/labkit/bootstrap")),
        *(((c, "untrusted"), Row((c, *OF_UML), ("--untrusted",), "machine of-uml is of User")) for c in ("up", "test")),
        as_json("up", *SSH, "--yes", mark='"state": "running"'),
        (("test", "machines"), Row(("test", *SSH), ("--machines", "2"), "is a host of its own, and --machines")),
        (("test", "runtime"), Row(("test", *SSH), ("--runtime", "/opt/x"), "--runtime /opt/x")),
        (("test", "suite"), Row(("test", *SSH), ("--suite", "runtimetest"), "--set runtimetest")),
        (("test", "only"), Row(("test", *SSH), ("--only", "QUERY-002"), "--only QUERY-002")),
        (("test", "failed"), Row(("test", *SSH), ("--failed",), "--only DEV-002")),
        (("test", "jobs"), Row(("test", *SSH), ("--jobs", "3"), "--jobs 3")),
        (("test", "repeat"), Row(("test", *SSH, "--suite", "validation"), ("--repeat", "3"), "--repeat 3")),
        (("test", "limit"), Row(("test", *SSH, "--suite", "validation"), ("--limit", "7"), "--timeout 7")),
        (("test", "runtime_arg"), Row(("test", *SSH), ("--runtime-arg=--debug",), "--runtime-arg=--debug")),
        (("test", "spec"), Row(("test", *SSH), ("--spec", "1.1"), "--spec 1.1")),
        (("test", "no_confirm"), Row(("test", *SSH, "--no-policy"), ("--no-confirm",), "not run again")),
        (("test", "no_policy"), Row(("test", *SSH), ("--no-policy",), "status 1")),
        (("test", "yes"), Row(("test",), ("--yes",), "sudo -n")),
        as_json("test", *SSH, mark='"totals"'),
        as_json("reset", mark=""),
        (("destroy", "all"), Row(("destroy",), ("--all",), "destroyed mine")),
        as_json("destroy", mark='"debian-13"'),
        (("gc", "dry_run"), Row(("gc",), ("--dry-run",), "would free")),
        (("gc", "keep"), Row(("gc", "--dry-run"), ("--keep", "5"), "used 0 hours ago")),
        as_json("gc", mark='"things"'),
        verbose("gc"),
        as_json("status", mark='"state": "crashed"'),
        (("report", "run"), Row(("report",), ("--run", "first"), "folder: first")),
        (("report", "no_policy"), Row(("report",), ("--no-policy",), "status 1")),
        as_json("report", mark='"totals"'),
        (("judge", "dir"), Row(("report",), (), "")),
        (("judge", "no_policy"), Row(("judge", RECORDING), ("--no-policy",), "status 1")),
        (("judge", "runtime"), Row(("judge", "{elsewhere}"), ("--runtime", "crun"), "on crun")),
        (("judge", "runtime_version"), Row(("judge", "{elsewhere}"), ("--runtime-version", "9.9"), "9.9")),
        (("judge", "cgroup"), Row(("judge", "{elsewhere}"), ("--cgroup", "v1"), "cgroup v1")),
        (("judge", "ref"), Row(("judge", "{elsewhere}"), ("--ref", "v7"), "validation v7")),
        (("judge", "platform"), Row(("judge", "{elsewhere}"), ("--platform", "fedora"), "fedora")),
        (("judge", "runtime_name"), Row(("judge", "{elsewhere}"), ("--runtime-name", "youki"), "on youki")),
        (("judge", "only"), Row(("judge", RECORDING), ("--only", "kill"), "1 program: ")),
        (("judge", "skip"), Row(("judge", RECORDING), ("--skip", "skips"), "left out, as was said: 1 program, kill")),
        (
            ("judge", "programs"),
            Row(("judge", "{elsewhere}"), ("--programs", "skips"), "runtime-tools v0.9.0: pidfile, state"),
        ),
        *(
            ((command, "format"), Row((command, *more), ("--format", "github"), "::stop-commands::"))
            for command, more in (("judge", ("bad",)), ("report", ()), ("test", (*SSH, "--no-policy")))
        ),
        (("report", "markdown"), Row(("report",), ("--markdown",), "\n| ")),
        (("test", "runtime_name"), Row(("test", *SSH), ("--runtime-name", "youki"), "on youki")),
        (("test", "skip"), Row(("test", *SSH), ("--skip", "queries"), "--only ")),
        as_json("judge", FEW, mark='"totals"'),
        (("diff", "run_a"), Row(("diff", "nothing", RECORDING), (), "")),
        (("diff", "run_b"), Row(("diff", RECORDING, "nothing"), (), "")),
        (("diff", "html"), Row(("diff", RECORDING, RECORDING), ("--html", "diff.html"), "")),
        (("diff", "run_c"), Row(("diff", FEW, FEW), (FEW,), "the others are compared with it")),
        (("diff", "markdown"), Row(("diff", FEW, FEW, FEW), ("--markdown",), "## Side by side")),
        as_json("diff", FEW, FEW, mark='"newly_failing"'),
        (("policy", "action"), Row(("policy", "chekc"), (), "")),
        (("policy", "reason"), Row(("policy", "add", "bad", "STATE-001"), ("--reason", "so"), 'reason = "so"')),
        *(
            (("policy", flag), Row(("policy", "add", "bad", "STATE-001"), ("--reason", "so", f"--{flag}", value), mark))
            for flag, value, mark in (
                ("link", "https://example.org/9", 'link = "https://example.org/9"'),
                ("expires", "2999-01-01", "expires = 2999-01-01"),
                ("wide", "colour", "--wide is 'colour'"),
            )
        ),
        (("policy", "file"), Row(("policy", "import", "skips"), ("--file", "other.toml"), "other.toml")),
        (("policy", "syntax"), Row(("policy", "import", "prose"), ("--syntax", "list"), "read as list: 1 entry")),
        (("policy", "shipped"), Row(("policy", "check", FEW), ("--shipped",), " entries looked over")),
        as_json("policy", "check", FEW, mark='"wrong"'),
        (("render", "platform"), Row(("render",), ("--platform", "ubuntu"), "bootstrap-ubuntu.sh")),
        (("render", "release"), Row(("render",), ("--release", "99"), "unknown release of Debian '99'")),
        (("render", "timer"), Row(("render",), ("--timer",), "labkit-nightly.timer")),
        (("render", "ci"), Row(("render",), ("--ci", "gitlab"), ".gitlab/labkit-nightly.yml")),
        (("render", "out"), Row(("render",), ("--out", "there"), "there/bootstrap-debian.sh")),
        (("package", "platform"), Row(("package",), ("--platform", "fedora"), "fedora-44.box")),
        (("package", "release"), Row(("package",), ("--release", "12"), "debian-12.box")),
        (("package", "out"), Row(("package",), ("--out", "there"), "there/debian-13.box")),
        (("package", "yes"), Row(("package",), ("--yes",), "may install: True")),
        (("doctor", "yes"), Row(("doctor",), ("--yes",), "sudo -n")),
        as_json("doctor", mark='"needed_for"'),
        as_json("platforms", mark='"codename"'),
        as_json("runtimes", mark='"homepage"'),
        as_json("engines", mark='"program"'),
        as_json("suites", mark='"runtimetest"'),
        (("suites", "export"), Row(("suites",), ("--export", "there"), "there/labkit-spec.pyz")),
        (("check", "fast"), Row(("check",), ("--fast",), "Extent.FAST")),
        (("check", "faults"), Row(("check",), ("--faults",), "Extent.FAULTS")),
        (("check", "slow"), Row(("check",), ("--slow",), "Extent.SLOW")),
        (("check", "long"), Row(("check",), ("--long",), "Extent.LONG")),
        (("check", "yes"), Row(("check",), ("--yes",), "may install: True")),
    ]
)
# Those whose effect is another one than a mark in what is printed, each with a test of its own below.
APART = {
    ("judge", "dir"),
    ("diff", "run_a"),
    ("diff", "run_b"),
    ("policy", "action"),
    ("diff", "html"),
    ("reset", "json"),
    ("judge", "platform"),
}
# Those of nights and of the history of runs, by the module with their tests.
ELSEWHERE = {
    "test_nightly": [("nightly", flag) for flag in ("plan", "only", "checks", "matrix", "resume", "json", "verbose")],
    "test_night_cluster": [("nightly", "on"), ("nightly", "scheduler")],
    "test_nightly_tells": [("nightly", "format")],
    "test_bisect": [
        ("bisect", flag)
        for flag in (
            *("platform", "release", "arch", "provider", "machine", "host", "runtime", "runtime_arg", "untrusted"),
            *("suite", "spec", "no_confirm", "good", "bad", "only", "resume", "verbose", "json"),
        )
    ],
    "test_past": [
        *(("history", flag) for flag in ("what", "json", "verbose")),
        *((command, flag) for command in ("flaky", "nights", "site") for flag in ("json", "verbose")),
        ("site", "out"),
    ],
    "test_attribution": [("test", "reference")],
    "test_bats": [("test", "user")],
    "test_engines": [("test", "engine")],
    "test_explain": [("explain", word) for word in ("of_run", "check_id", "full", "json", "reproduce", "verbose")],
    "test_judge_calls": [("judge", "profile")],
    "test_cli": [("runtimes", word) for word in ("platform", "release", "verbose")],
    "test_watch": [("test", "watch")],
    "test_bundle": [
        ("bundle", flag)
        for flag in (
            *("rootfs", "out", "args", "env", "mount", "hostname", "terminal", "rootless", "network", "spec_version"),
            *("config", "json"),
        )
    ],
    "test_distribution": [("test", "registry")],
    "test_claim": [
        *(("claim", flag) for flag in ("out", "key", "product", "minimum", "own_policy", "verbose", "json")),
        *(("verify", flag) for flag in ("claim_dir", "key", "allowed_signers", "verbose", "json")),
    ],
}
LACKING = {("test", "yes"), ("doctor", "yes")}  # rows of a host that lacks programs, and of a user who is not root
USER = LACKING | {("package", "yes"), ("check", "yes")}


def test_every_flag_of_every_command_has_a_row() -> None:
    taken = {(name, flag) for name, command in COMMANDS.items() for flag in (*command.words, *command.flags)}
    rest = {(name, command.rest) for name, command in COMMANDS.items() if command.rest}
    elsewhere = {pair for pairs in ELSEWHERE.values() for pair in pairs}
    elsewhere |= {("nightly", "yes"), ("bisect", "yes")}  # these reach the machine's `up` as a setting
    assert not elsewhere & set(ROWS)
    assert taken == (set(ROWS) | elsewhere) - rest


@pytest.mark.parametrize("module", ELSEWHERE)
def test_the_flags_of_nights_are_used_by_their_tests(module: str) -> None:
    text = Path(__file__).with_name(f"{module}.py").read_text()
    words = [COMMANDS[command].words for command, _ in ELSEWHERE[module]]
    flags = [pair for pair, own in zip(ELSEWHERE[module], words, strict=True) if pair[1] not in own]
    assert [pair for pair in flags if f'"--{pair[1].replace("_", "-")}' not in text] == []


@pytest.fixture
def world(tmp_path: Path, environ: dict[str, str], host: Host, monkeypatch: pytest.MonkeyPatch) -> World:
    """Machines that are not there but in their records, a host that answers, and stand-ins for what takes minutes."""
    monkeypatch.setattr(boxes, "ensure", stand_in_box)
    monkeypatch.setattr(export, "ensure", lambda settings, *_: print("may install:", install.may_install(settings)))
    monkeypatch.setattr(selfcheck, "run", stand_in_check)
    host.answer = FAILING
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / FEW).mkdir()
    for file in recorded.V2.glob("[kps]*"):
        if file.stem in ("kill", "pidfile", "state", "summary"):
            shutil.copy(file, tmp_path / FEW)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/spec.tap").write_text("1..1\nnot ok 1 - STATE-001 x\n")
    (tmp_path / "skips").write_text("kill\n")
    (tmp_path / "queries").write_text("QUERY-*  # none of these\n")
    (tmp_path / "leave").write_text("linux_sysctl\n")
    (tmp_path / "prose").write_text("kill\nsome words\n")
    rows = (tmp_path / FEW / "summary.tsv").read_text().splitlines(keepends=True)
    kept = [row for row in rows if row.split("\t")[0] in ("program", "kill", "pidfile", "state")]
    (tmp_path / FEW / "summary.tsv").write_text("".join(kept))
    mine = {"LABKIT_LIMITS_CONNECT": "5", "LABKIT_POLICY": str(tmp_path / "policy.toml")}
    return World(tmp_path, {**environ, **mine}, host)


def uml(settings: Settings, name: str, **changed: object) -> Path:
    """A crashed machine of User-Mode Linux."""
    record = UmlRecord(
        platform="debian", release="13", image="cafe", memory_mib=2048, ready=True, port=4022, hostname=name,
        machine_id="id", host_private="private", host_public="public", init="small", kernel="1" * 64,
        kernel_origin="User-Mode Linux 7.2.7, a test's",
    )  # fmt: skip
    return keep(settings, name, dataclasses.replace(record, **changed))  # type: ignore[arg-type]


def stand_in_box(distro: platforms.Distro, settings: Settings, _: object) -> Path:
    (settings.home.path / "made").mkdir(parents=True, exist_ok=True)
    box = settings.home.path / "made" / "box"
    box.touch()
    return box


def stand_in_check(_: Path, settings: Settings, observer: Silent, extent: selfcheck.Extent) -> int:
    print(f"Extent.{extent.name} may install: {install.may_install(settings)}")
    return 0


def machines_of(world: World, command: str) -> None:
    """Records of machines, and no host in labkit.toml."""
    (world.directory / "labkit.toml").unlink()
    settings = config.load(cwd=world.directory, environ=world.environ)
    made = {"debian-13": "13", **({} if command == "halt" else {"debian-12": "12", "mine": "13"})}
    for name, release in made.items():
        qemu(settings, name, release=release, image="gone")
    if command != "halt":
        qemu(settings, "fedora-44", platform="fedora", release="44", image="gone")
        qemu(settings, "debian-13-arm64", release="13", image="gone", arch="arm64")
        uml(settings, "of-uml", image="gone")
    shutil.rmtree(settings.home.images)


@pytest.mark.parametrize(("command", "flag"), [pair for pair in sorted(ROWS) if pair not in APART])
def test_the_flag_has_an_effect(
    command: str, flag: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROWS[command, flag]
    if (command, flag) in USER:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
    if (command, flag) in LACKING:
        empty = tmp_path / "bin"
        empty.mkdir()
        for name in ("sudo", "apt-get", "dnf", "pacman", "zypper"):
            (empty / name).write_text("#!/bin/sh\n")
            (empty / name).chmod(0o755)
        monkeypatch.setattr(process, "_path", lambda: str(empty))
        (tmp_path / "labkit.toml").unlink()
    elif "--provider" not in row.without and command not in ("judge", "report", "diff", "policy"):
        machines_of(world, command)
    if command == "doctor" and (command, flag) not in LACKING:
        monkeypatch.setattr(process, "_path", lambda: "/nowhere")  # nothing is found, so nothing takes its time
    if command == "gc":
        downloads = config.load(cwd=tmp_path, environ=world.environ).home.downloads
        downloads.mkdir(parents=True)
        (downloads / f"sha256-{'a' * 64}").write_text("an image")
    elsewhere = tmp_path / "elsewhere"
    if "{elsewhere}" in row.without:
        shutil.copytree(tmp_path / FEW, elsewhere)
    if command == "report" or flag == "failed":
        first = world.run("test", *SSH, "--json")
        assert "status" in first
    if (command, flag) == ("report", "run"):
        [directory] = [path for path in (tmp_path / "reports").iterdir() if not path.is_symlink()]
        directory.rename(directory.with_name("20200101T000000Z-first"))
        world.run("test", *SSH, "--runtime", "crun")
        row = Row(row.without, ("--run", "20200101"), "reports/20200101T000000Z-first/report.html")
    without = tuple(word.format(elsewhere=elsewhere) for word in row.without)
    plain = world.run(*without)
    if command == "destroy" and (command, flag) != ("destroy", "all"):
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        (tmp_path / "labkit.toml").touch()
        machines_of(world, command)
    changed = world.run(*without, *row.flag)
    assert row.mark in changed, changed
    assert row.mark not in plain, plain


def test_words_that_stand_without_a_flag_say_what_is_read(world: World) -> None:
    assert "no run 'nothing'" in world.run("judge", "nothing") or "nothing" in world.run("judge", "nothing")
    for words in (("nothing", FEW), (FEW, "nothing")):
        assert "nothing" in world.run("diff", *words)
    assert "58 programs" in world.run("judge", RECORDING)
    assert "ACTION is 'chekc'" in world.run("policy", "chekc")
    assert "looked over" in world.run("policy", "check", FEW)
    for more in ([], ["--html", "diff.html"]):
        world.run("diff", FEW, FEW, *more)
        assert (world.directory / "diff.html").exists() == bool(more)


def test_json_of_a_machine_that_was_reset(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    fake = FakeMachine("debian-13", state=MachineState.RUNNING)
    monkeypatch.setattr(providers, "existing", lambda *_: fake)
    assert json.loads(world.run("reset", "--json").partition("\n")[2])["name"] == "debian-13"
    assert "debian-13" in world.run("reset") and "{" not in world.run("reset")


def test_the_platform_of_a_recording_reaches_its_run(world: World, tmp_path: Path) -> None:
    for words, platform in (((), ""), (("--platform", "fedora"), "fedora")):
        world.run("judge", FEW, *words)
        kept = json.loads((tmp_path / "reports/latest/results.json").read_text())
        assert kept["machine"]["platform"] == platform


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("test", "--failed", "--only", "QUERY-001"), "--failed and --only exclude each other"),
        (("test", "--machines", "0"), "--machines is '0', must be a whole number from 1 to 64"),
        (("test", "--machines", "two"), "--machines is 'two', must be a whole number from 1 to 64"),
        (("test", "--machines", "2", "--host", "h"), "--machines takes no --host"),
        (("test", "--spec", "1.9"), "--spec is '1.9', must be a version of the runtime-spec from 1.0.0 to 1.3"),
        (("test", "--suite", "validation", "--spec", "1.0"), "the validation suite does not take --spec"),
        (("test", "--suite", "spec", "--user", "lab"), "does not take --user"),
        (("test", "--suite", "engine"), "--suite engine needs --engine"),
        (("test", "--engine", "docker"), "the spec suite has no engine"),
        (("destroy", "--all", "--machine", "x"), "--all takes no --machine"),
        (("reset", "--yes"), "unknown flag '--yes'"),
        (("up", "--provider", "qemu", "--host", "x"), "--host is for the ssh provider"),
        (("check", "--fast", "--long"), "--fast and --long exclude each other"),
    ],
)
def test_what_cannot_have_an_effect_is_refused(words: tuple[str, ...], why: str, world: World) -> None:
    (world.directory / "said").mkdir()
    (world.directory / "said" / "spec.tap").write_bytes(OUTPUT)
    told = world.run(*words)
    assert told.startswith("status 2\n")
    assert why in told


def test_a_run_says_itself_what_it_was_about(world: World) -> None:
    world.run("test", *SSH)
    told = world.run("judge", "latest", "--runtime", "crun", "--cgroup", "v1")
    assert told.startswith("status 2\n")
    assert "is a run, which knows what it was about\nhint: leave out --runtime, --cgroup" in told


# --- keys

Seen = Callable[[Settings], object]


@dataclass(frozen=True)
class Key:
    """value is another one than the default, as labkit.toml has it; seen is what must change with it."""

    value: str
    seen: Seen
    beside: str = ""  # other keys, without which this one stands for nothing


def of_image(settings: Settings) -> object:
    return recipe(settings.distro(), settings).key


def of_box(settings: Settings) -> object:
    return boxes.listed(settings.distro(), settings)


def of_differences(settings: Settings) -> list[Difference]:
    """Asked of a machine that was made without it."""
    if not (settings.home.machine("mine") / "record.json").exists():
        qemu(settings)
    return found(settings)


def of_network(settings: Settings) -> object:
    from labkit.io.network import choose

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_path", lambda: "/nowhere")
        return choose(settings.machine.network)


def of_init(settings: Settings) -> str:
    return UmlMachine("mine", settings, Silent()).init_for(())


def of_kernel(settings: Settings) -> object:
    try:
        return kernel.kept(settings)
    except LabError as error:
        return error.message


def of_vagrantfile(settings: Settings) -> str:
    out = settings.home.path / "out"
    export.render(settings, Silent(), out)
    return (out / "Vagrantfile").read_text()


def of_suite(settings: Settings) -> object:
    """The command that the suite is started with."""
    fake = suite_prints(OUTPUT)
    wanted = settled(settings)
    run_cell(cell_of(wanted, CELL.selection.__class__((), wanted.jobs)), wanted, SilentRun(), None, lambda *_: fake)
    return [command for command in fake.commands if command[0] == "python3"]


def of_reports(settings: Settings) -> object:
    wanted = settled(settings)
    outcome = run_cell(CELL, wanted, SilentRun(), None, lambda *_: suite_prints(OUTPUT))
    return outcome.directory.parent


def of_leave(settings: Settings) -> object:
    """Whether a user who is not root lets labkit install what is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 65534)
        return install.may_install(settings)


def of_login(settings: Settings) -> object:
    """How a host is reached; the files are those of a server that answers."""
    machine = HostMachine("x", settings, Silent())
    try:
        machine.create(settings.distro())
    except LabError as error:
        return error.message
    endpoint = machine.endpoint()
    machine.destroy()
    return endpoint


def of_vagrant(settings: Settings) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_path", lambda: str(programs(settings, "vagrant", "exit 0")))
        return VagrantMachine("x", settings, Silent())._vagrant()._environment


def programs(settings: Settings, name: str, script: str) -> Path:
    """A directory with that program, to be the PATH."""
    directory = settings.home.path / "bin"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    (directory / name).chmod(0o755)
    return directory


KEYS: dict[str, Key] = {
    "platform": Key('"fedora"', lambda settings: settings.distro().name),
    "release": Key('"12"', lambda settings: settings.distro().name),
    "provider": Key('"vagrant"', providers.chosen),
    "runtime": Key('"crun"', of_suite),
    "untrusted": Key("true", untrusted),
    "suite": Key('"validation"', of_suite),
    "image": Key('"cloud"', lambda settings: settled(settings) and bool(recipe_source(settings))),
    "platforms": Key('"mine"', lambda settings: platforms.directories(settings.platforms)),
    "policy": Key('"policy.toml"', lambda settings: len(policies(settings))),
    "mirror": Key('"http://m.example"', of_image),
    "proxy": Key('"http://p.example:1"', of_image),
    "tools": Key('["jq"]', of_image),
    **{
        key: Key(value, of_image)
        for key, value in {
            "go": '"package"', "runc": '"package"', "crun": '"package"', "runtime_tools": '"http://h.example/x.git"',
            "image_tools": '"package"', "bats": '"package"', "runc_tests": '"http://h.example/y.git"',
            **dict.fromkeys(("rkt", "acbuild", "actool", "docker2aci"), '"http://h.example/z.git"'),
        }.items()
    },
    **{
        f"{key}_sha256": Key(f'"{"1" * 64}"', of_image, f'{key} = "http://h.example/{key}"\n')
        for key in (
            "go", "runc", "crun", "runtime_tools", "image_tools", "bats", "runc_tests",
            "rkt", "acbuild", "actool", "docker2aci",
        )
    },
    "engine": Key('"docker"', lambda settings: cell_of(settings.with_values(None, suite="engine"), CELL.selection).key),
    "registry": Key(
        '"distribution"', lambda settings: cell_of(settings.with_values(None, suite="distribution"), CELL.selection).key
    ),
    "distribution_spec": Key(
        '"distribution-spec@v1.1.1"',
        lambda settings: runtimes.word(settings.distribution_spec or "distribution-spec@main", role=Role.PROGRAM),
    ),
    "box": Key('"/x.box"', of_box),
    "box_sha256": Key(f'"{"1" * 64}"', of_box, 'box = "/x.box"\n'),
    "home": Key('"elsewhere"', lambda settings: settings.home.machine("x")),
    "reports": Key('"elsewhere"', of_reports),
    "jobs": Key("3", of_suite),
    "yes": Key("true", of_leave),
    "machine.name": Key('"mine"', machine_name),
    "machine.arch": Key('"arm64"', of_image),
    "machine.cpus": Key("3", lambda settings: (of_vagrantfile(settings), of_differences(settings))),
    "machine.memory": Key('"3G"', lambda settings: (of_vagrantfile(settings), of_differences(settings))),
    "machine.disk": Key('"9G"', of_image),
    "machine.accelerator": Key('"tcg"', of_vagrantfile),
    "machine.network": Key('"closed"', of_network),
    "machine.init": Key('"systemd"', of_init),
    "uml_kernel": Key('"/x/linux"', of_kernel),
    "vagrant.provider": Key('"virtualbox"', lambda settings: str(vagrant_or_none(settings))),
    "vagrant.home": Key('"vhome"', of_vagrant),
    "ssh.host": Key('"lab7"', machine_name),
}  # fmt: skip
# Each with a test of its own: here, and in test_nightly, test_night_cluster and test_tell.
APART_KEYS = {
    "machine.ssh_port", "ssh.key", "ssh.known_hosts",
    *(f"limits.{name}" for name in ("boot", "build", "download", "connect", "suite")),
    "matrix", "nights.keep",
    *(f"cluster.{name}" for name in ("ca", "cert", "home", "key", "on", "python", "scheduler")),
    *(f"tell.{name}" for name in ("after", "apprise", "link", "stale", "webhook")),
    *(f"tell.mail.{name}" for name in ("from", "password", "server", "to", "user")),
}  # fmt: skip


def recipe_source(settings: Settings) -> bool:
    from labkit.images.ingredients import image_kind

    return image_kind(settings.distro(), settings) == "cloud"


def vagrant_or_none(settings: Settings) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_path", lambda: "/nowhere")
        try:
            return vagrant_provider(settings, settings.distro())
        except LabError as error:
            return error.message


def test_every_key_has_a_row() -> None:
    assert {".".join(map(str, key)) for key in config._keys(Settings)} == set(KEYS) | APART_KEYS


@pytest.mark.parametrize("key", KEYS)
def test_the_key_has_an_effect(key: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "policy.toml").write_text(POLICY)
    row = KEYS[key]
    table, _, name = key.rpartition(".")

    def load(text: str) -> Settings:
        (tmp_path / "labkit.toml").write_text(text)
        return config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})

    plain = row.beside
    if key.endswith("_sha256") and key != "box_sha256":
        plain += f'{name} = "{"0" * 64}"\n'
    changed = f"{row.beside}{f'[{table}]' if table else ''}\n{name} = {row.value}\n"
    assert row.seen(load(plain)) != row.seen(load(changed))


POLICY = """[[entry]]
suite = "spec"
id = "DEV-002"
expected = "fail"
reason = "a reason"
"""


def test_a_fixed_port_is_looked_for_on_a_machine_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path), "LABKIT_MACHINE_SSH_PORT": "2222"})
    qemu(settings)
    monkeypatch.setattr(QemuMachine, "_state", lambda _: MachineState.RUNNING)
    (tmp_path / "labkit.toml").unlink()
    assert [one.what for one in found(settings)] == ["the SSH port"]


def test_how_a_host_is_reached(host: Host, tmp_path: Path) -> None:
    good = config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})
    assert "127.0.0.1" in str(of_login(good))
    import paramiko

    paramiko.ECDSAKey.generate().write_private_key_file(str(tmp_path / "other"))
    (tmp_path / "others").write_text((tmp_path / "known_hosts").read_text().replace("AAAA", "AAAB"))
    environ = {"HOME": str(tmp_path), "LABKIT_LIMITS_CONNECT": "5"}
    for variable, value in (("LABKIT_SSH_KEY", "other"), ("LABKIT_SSH_KNOWN_HOSTS", "others")):
        assert of_login(config.load(cwd=tmp_path, environ={**environ, variable: value})) != of_login(good)


def limited(tmp_path: Path, **limits: float) -> Settings:
    environ = {f"LABKIT_LIMITS_{name.upper()}": str(seconds) for name, seconds in limits.items()}
    return config.load(cwd=tmp_path, environ={"HOME": str(tmp_path), **environ})


def test_the_limits_hold(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, at what it bounds: half a second is at most a few."""

    def in_time(started: float) -> None:
        assert time.monotonic() - started < 15

    started = time.monotonic()
    settings = limited(tmp_path, connect=0.5)
    host.server.on_connect = lambda _: False
    with pytest.raises(ConnectionFailed):
        HostMachine("connect", settings, Silent()).create(settings.distro())
    host.server.on_connect = lambda _: True
    in_time(started)

    settings = limited(tmp_path, build=0.5)
    machine = HostMachine("build", settings, Silent())
    machine.create(settings.distro())
    host.slow, started = 4.0, time.monotonic()
    with pytest.raises(MachineError, match=r"0\.5 s \(limits\.build\)"):
        machine.bootstrap(settings.distro())
    in_time(started)

    monkeypatch.setattr(process, "_path", lambda: str(programs(settings, "vagrant", "sleep 30")))
    settings = limited(tmp_path, boot=0.5)
    started = time.monotonic()
    with pytest.raises(MachineError):
        VagrantMachine("boot", settings, Silent())._vagrant().stop(timeout=settings.limits.boot)

    in_time(started)

    started = time.monotonic()
    for name in ("apt-get", "dnf", "pacman", "zypper", "env"):
        programs(settings, name, "sleep 30")
    with pytest.raises(LabError):
        install.install_packages(limited(tmp_path, download=0.5), ["x"], Silent())
    in_time(started)


def test_the_limit_of_a_suite_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, limits, run = suite_prints(OUTPUT), list[float](), FakeRemote.run

    def noted(remote: FakeRemote, argv: list[str], **more: object) -> object:
        limits.append(float(str(more["timeout"])))
        return run(remote, argv, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeRemote, "run", noted)
    run_cell(CELL, limited(tmp_path, suite=77.0), SilentRun(), None, lambda *_: fake)
    assert any(70 < limit <= 77 for limit in limits)
    assert Deadline.after(77).left > 76


def test_status_names_a_kernel_that_is_not_the_platforms(world: World) -> None:
    machines_of(world, "status")
    told = world.run("status")
    assert "of-uml: its kernel is User-Mode Linux 7.2.7, a test's, not the platform's" in told
    assert told.count("its kernel is") == 1
    listed = json.loads(world.run("status", "--json").partition("\n")[2])
    assert {one["name"] for one in listed if one["kernel_origin"]} == {"of-uml"}
