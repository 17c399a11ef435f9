"""The table of faults: what is done to labkit, when, and what labkit does then.

Each row has its test, and docs/reference/faults.md is made of them (`python -m tests.faults --write`).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.faults.points import Event, Hold, Later, Point, Shown, Waiting

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
QUICK = ("--only", "QUERY-001,QUERY-002")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the page. before: the state of the machine; outcome: what labkit does; test: the function that holds it;
    real: tried on real machines too. pending: why it does not come out so yet, "" where it does.
    """

    id: str
    stage: str
    fault: str
    before: str
    outcome: str
    test: str
    real: bool = False
    pending: str = ""


# --- signals to labkit


@dataclass(frozen=True, slots=True)
class Stage:
    """A point of a command.

    asked: the state in which a signal that can be handled leaves the machine, by the state before; killed: the one after
    SIGKILL, where that differs. loses: the command is there to throw away what was put into the machine, and has begun to.
    real: the point on a real machine, where that is another one; None where there is none.
    """

    name: str
    does: str
    command: tuple[str, ...]
    point: Point
    asked: Mapping[str, str]
    killed: Mapping[str, str] = field(default_factory=dict)
    loses: bool = False
    real: Point | None = None

    @property
    def title(self) -> str:
        return f"`{self.command[0]}` {self.does}"


@dataclass(frozen=True, slots=True)
class SignalCase:
    stage: Stage
    number: signal.Signals
    before: str

    @property
    def id(self) -> str:
        return f"{self.stage.command[0]}-{self.before}-{self.stage.name}-{self.number.name}"

    @property
    def killed(self) -> bool:
        return self.number is signal.SIGKILL

    @property
    def after(self) -> str:
        states = {**self.stage.asked, **(self.stage.killed if self.killed else {})}
        return states[self.before]

    @property
    def status(self) -> int:
        return -self.number if self.killed else 128 + self.number


def _same(*states: str) -> dict[str, str]:
    return {state: state for state in states}


_QEMU = Event("subprocess.Popen", "*qemu-system-x86_64*qmp.sock*")
_MONITOR = Event("socket.connect", "*qmp.sock*")
_AGENT = Event("socket.connect", "*agent.sock*")
_RECORD = "*/machines/*/record.json"
_PIN = Event("os.rename", "*/known_hosts")
_LOGIN = Event("socket.connect", "127.0.0.1")
_MADE = Event("subprocess.Popen", "*qemu-img create*")
_UNMADE = {"new": "interrupted"}
_ANY = _same("new", "halted", "crashed") | {"new": "running", "halted": "running", "crashed": "running"}


def _up() -> Iterator[Stage]:
    up = ("up",)
    yield Stage("lock", "waits for the machine's lock", up, Waiting(), _same("halted", "crashed"), real=Waiting())
    record = Event("os.rename", _RECORD)
    yield Stage("record", "writes the record of a new machine", up, record, _UNMADE, real=record)
    yield Stage("disk", "makes the disk of a new machine", up, _MADE, _UNMADE, real=_MADE)
    before = _same("halted", "crashed") | _UNMADE
    yield Stage("start", "starts QEMU", up, _QEMU, before, real=_QEMU)
    yield Stage("monitor", "connects to QEMU's monitor", up, _MONITOR, before, real=_MONITOR)
    restoring = Later(_MONITOR, 0.3)
    yield Stage("restore", "waits until QEMU has loaded a state", up, Hold("incoming"), _same("halted") | _UNMADE, real=restoring)
    yield Stage("boot", "waits for a guest that boots", up, Hold("boot"), _same("crashed"), real=Later(_AGENT, 4))
    gone_on = {"new": "interrupted", "halted": "crashed", "crashed": "crashed"}
    yield Stage("identity", "waits for the guest's agent", up, Hold("agent"), gone_on, real=_AGENT)
    yield Stage("pin", "pins the host key", up, _PIN, gone_on, real=_PIN)
    seen = {"halted": "running", "crashed": "running"}
    yield Stage("login", "waits for SSH", up, Hold("login"), gone_on, seen, real=_LOGIN)
    for states, nth in ((_UNMADE, 2), ({"halted": "crashed", "crashed": "crashed"}, 1)):
        ready = Event("os.rename", _RECORD, nth)
        yield Stage("ready", "writes down that the machine is ready", up, ready, states, seen if nth == 1 else {}, real=ready)


def _first_boot() -> Iterator[Stage]:
    nothing = {"never booted": "absent"}
    up = ("up",)
    yield Stage("live-disk", "makes the disk of a live state", up, _MADE, nothing)
    yield Stage("live-start", "starts QEMU for the first boot", up, _QEMU, nothing)
    yield Stage("live-boot", "waits for the first boot", up, Hold("boot"), nothing)
    yield Stage("live-warm", "waits until the guest is idle", up, Hold("agent"), nothing)
    yield Stage("live-save", "keeps the live state", up, Hold("migrate"), nothing)
    yield Stage("live-keep", "gives the live state its name", up, Event("os.rename", "*/live-*"), nothing)


def _build() -> Iterator[Stage]:
    nothing = {"no image": "absent"}
    up = ("up",)
    yield Stage("build-packages", "builds an image: mmdebstrap", up, Hold("mmdebstrap"), nothing)
    yield Stage("build-unpack", "builds an image: tar", up, Event("subprocess.Popen", "*tar -C *"), nothing)
    yield Stage("build-format", "builds an image: mkfs.ext4", up, Hold("mkfs"), nothing)
    yield Stage("build-disk", "builds an image: qemu-img", up, Event("subprocess.Popen", "*qemu-img convert*"), nothing)
    yield Stage("build-describe", "describes an image", up, Event("os.rename", "*/image.json"), nothing)
    yield Stage("build-keep", "gives an image its name", up, Event("os.rename", "*/images/*.making"), nothing)


def _test() -> Iterator[Stage]:
    test = ("test", *QUICK)
    for name, does, point, real in (
        ("begin", "writes results.json, incomplete", Event("os.rename", "*/results.json"), None),
        ("upload", "uploads the suite", Hold("upload"), None),
        ("suite", "waits for the suite's first word", Hold("suite"), None),
        ("results", "has the first of two results", Hold("results"), Shown("reports/*Z-*/raw/spec.tap", b"\nok 1 ")),
        ("judge", "reads the raw output", Event("open", "*/raw/spec.tap", 2), None),
        ("written", "writes results.json, complete", Event("os.rename", "*/results.json", 2), None),
        ("tap", "writes results.tap", Event("os.rename", "*/results.tap"), None),
        ("html", "writes report.html", Event("os.rename", "*/report.html"), None),
        ("latest", "points reports/latest to the run", Event("os.rename", "*/latest"), None),
    ):
        yield Stage(name, does, test, point, _ANY, real=real or (point if isinstance(point, Event) else None))


def _halt() -> Iterator[Stage]:
    halt, running = ("halt",), _same("running")
    yield Stage("sync", "waits until the guest has written its disk", halt, Hold("agent"), running, real=_AGENT)
    yield Stage("stop", "stops the guest", halt, Hold("qmp-stop"), running)
    yield Stage("save", "has QEMU write the state", halt, Hold("migrate"), running, real=Later(_AGENT, 0.7))
    kept = Event("os.rename", "*/state")
    yield Stage("keep", "gives the state its name", halt, kept, running, real=kept)
    yield Stage("quit", "ends QEMU", halt, Hold("qmp-quit"), running)
    end = Event("os.remove", "*/known_hosts")
    yield Stage("end", "clears up", halt, end, {"running": "halted"}, real=end)


def _reset() -> Iterator[Stage]:
    reset = ("reset",)
    end = Event("os.remove", "*/known_hosts")
    yield Stage("end", "has ended QEMU", reset, end, {"running": "crashed"}, real=end)
    record = Event("os.rename", _RECORD)
    yield Stage("record", "writes down that the machine is to be made", reset, record, {"running": "crashed"}, real=record)
    new = {"running": "interrupted"}
    yield Stage("disk", "makes a fresh disk", reset, _MADE, new, loses=True, real=_MADE)
    yield Stage("start", "starts QEMU", reset, _QEMU, new, loses=True, real=_QEMU)
    yield Stage("restore", "waits until QEMU has loaded the state", reset, Hold("incoming"), new, loses=True, real=Later(_MONITOR, 0.3))
    yield Stage("identity", "waits for the guest's agent", reset, Hold("agent"), new, loses=True, real=_AGENT)
    ready = Event("os.rename", _RECORD, 2)
    yield Stage("ready", "writes down that the machine is ready", reset, ready, new, loses=True, real=ready)


def _destroy() -> Iterator[Stage]:
    destroy = ("destroy",)
    begin = Event("os.rename", "*/.*.removed")
    there, gone = {"halted": "absent", "running": "absent"}, {"halted": "halted", "running": "crashed"}
    yield Stage("begin", "takes the machine's name away", destroy, begin, there, gone, real=begin)
    half = Event("os.remove", "record.json")
    yield Stage("half", "has removed some of the files", destroy, half, there, loses=True, real=half)


STAGES = (*_build(), *_first_boot(), *_up(), *_test(), *_halt(), *_reset(), *_destroy())
SIGNAL_CASES = [
    SignalCase(stage, number, before) for stage in STAGES for before in stage.asked for number in SIGNALS
]

_NEXT = {
    "absent": "`up` makes one",
    "interrupted": "`up` makes it anew: it was never ready",
    "halted": "`up` resumes it",
    "crashed": "`up` boots its disk",
    "running": "`up` finds it so",
}


def _signal_rows() -> Iterator[Row]:
    for case in SIGNAL_CASES:
        ends = "The next command clears up" if case.killed else f"Ends with status {case.status}, clears up"
        then = f"the machine is {case.after}; {_NEXT[case.after]}"
        if case.stage.loses and case.after == "interrupted":
            then = "the machine is interrupted; `up` makes it anew, as was asked for"
        if case.stage.command[0] == "test":
            then = "the run is incomplete or whole, never half written; `report` reads it"
        yield Row(
            case.id,
            case.stage.title,
            f"{case.number.name} to labkit",
            case.before,
            f"{ends}; {then}",
            "test_signals.py::test_signal",
            case.stage.real is not None and case.before in ("new", "halted", "crashed", "running"),
        )


ROWS: list[Row] = [*_signal_rows()]
