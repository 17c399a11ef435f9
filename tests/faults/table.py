"""The table of faults: what is done to labkit, when, and what labkit does then.

Each row has its test, and docs/reference/faults.md is made of them (`python -m tests.faults --write`).
"""

from __future__ import annotations

import enum
import fnmatch
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypedDict

from tests.faults.points import Event, Hold, Later, Point, Shown, Waiting

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
QUICK = ("--only", "QUERY-001,QUERY-002")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the page. before: the state of the machine; outcome: what labkit does; test: the function that holds
    it; real: tried on real machines too. pending: why it does not come out so yet, "" where it does. long: takes long.
    """

    id: str
    stage: str
    fault: str
    before: str
    outcome: str
    test: str
    real: bool = False
    pending: str = ""
    long: bool = False


# --- signals to labkit


@dataclass(frozen=True, slots=True)
class Stage:
    """A point of a command.

    asked: the state in which a signal that can be handled leaves the machine, by the state before; killed: the one
    after SIGKILL, where that differs. loses: the command is there to throw away what was put into the machine, and has
    begun to. real: the point on a real machine; None where there is none.
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

    _REAL_STATES: ClassVar = {"test": ("halted",), "destroy": ("running",)}

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

    @property
    def real(self) -> bool:
        """Whether it is tried on real machines: where a real QEMU or guest has a part in it, or a real suite.

        What is handled comes out there as it does on simulated ones, so that is a sample; and to bring a machine up for
        each stage of a test, or to boot it before each that a halted one has too, takes long.
        """
        if self.stage.real is None:
            return False
        killed = self.killed and self.before in self._REAL_STATES.get(self.stage.command[0], (self.before,))
        booted = self.before != "crashed" or self.stage.name in ("boot", "login")
        return (killed and booted) or self.id in {*SAMPLE, *REAL_TOO}

    @property
    def emulated(self) -> bool:
        """Whether it is about QEMU, where it is tried on real machines."""
        return self.stage.command[0] != "test"


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
    yield Stage("lock", "waits for the machine's lock", up, Waiting(), _same("halted", "crashed"))
    record = Event("os.rename", _RECORD)
    yield Stage("record", "writes the record of a new machine", up, record, _UNMADE)
    yield Stage("disk", "makes the disk of a new machine", up, _MADE, _UNMADE)
    before = _same("halted", "crashed") | _UNMADE
    mark = Event("os.rename", "*/starting")
    yield Stage("mark", "writes down that QEMU is being started", up, mark, before)
    yield Stage("start", "starts QEMU", up, _QEMU, before)
    yield Stage("monitor", "connects to QEMU's monitor", up, _MONITOR, before, real=_MONITOR)
    restoring = Later(_MONITOR, 0.3)
    loaded = _same("halted") | _UNMADE
    yield Stage("restore", "waits until QEMU has loaded a state", up, Hold("incoming"), loaded, real=restoring)
    kept = Hold("qmp-blockdev-snapshot-internal-sync")
    yield Stage("snapshot", "keeps the disk that fits a state", up, kept, _same("halted"))
    used = Event("os.rename", "*/state.used")
    yield Stage("use", "begins to use a state", up, used, _same("halted"), real=used)
    yield Stage("boot", "waits for a guest that boots", up, Hold("boot"), _same("crashed"), real=Later(_AGENT, 4))
    yield Stage("identity", "waits for the guest's agent", up, Hold("agent"), before, real=_AGENT)
    yield Stage("pin", "pins the host key", up, _PIN, _UNMADE)
    yield Stage("login", "waits for SSH", up, Hold("login"), before, real=_LOGIN)
    for states, nth in ((_UNMADE, 2), (_same("halted", "crashed"), 1)):
        ready = Event("os.rename", _RECORD, nth)
        yield Stage("ready", "writes down that the machine is ready", up, ready, states, real=ready)
    forgotten = Event("os.remove", "*/state.used")
    yield Stage("forget", "gives up the state that was used", up, forgotten, _same("halted"), real=forgotten)
    started = Event("os.remove", "*/starting")
    done = {"new": "crashed", "crashed": "crashed"}
    yield Stage("started", "writes down that QEMU is started", up, started, done, real=started)
    last = Hold("qmp-blockdev-snapshot-delete-internal-sync")
    yield Stage("last", "gives up the disk that fitted it", up, last, {"halted": "crashed"}, {"halted": "running"})


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
        (
            "results",
            "has the first of two results",
            Hold("results"),
            Shown("reports/[0-9]*Z*/raw/spec.tap", b"\nok 1 "),
        ),
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
    saving = Later(Event("open", "*/state.part"), 0.03)
    yield Stage("save", "has QEMU write the state", halt, Hold("migrate"), running, real=saving)
    kept = Event("os.rename", "*/state")
    yield Stage("keep", "gives the state its name", halt, kept, running, real=kept)
    sums = Event("os.rename", "*/sums.json")
    yield Stage("sums", "writes down the state's size and sum", halt, sums, running)
    yield Stage("quit", "ends QEMU", halt, Hold("qmp-quit"), running)
    end = Event("os.remove", "*/agent.sock")
    yield Stage("end", "clears up", halt, end, {"running": "halted"}, real=end)


def _reset() -> Iterator[Stage]:
    reset = ("reset",)
    end = Event("os.remove", "*/agent.sock")
    yield Stage("end", "has ended QEMU", reset, end, {"running": "crashed"}, real=end)
    record = Event("os.rename", _RECORD)
    yield Stage("record", "writes down that the machine is to be made", reset, record, {"running": "crashed"})
    new = {"running": "interrupted"}
    yield Stage("disk", "makes a fresh disk", reset, _MADE, new, loses=True)
    yield Stage("start", "starts QEMU", reset, _QEMU, new, loses=True)
    yield Stage(
        "restore",
        "waits until QEMU has loaded the state",
        reset,
        Hold("incoming"),
        new,
        loses=True,
        real=Later(_MONITOR, 0.3),
    )
    yield Stage("identity", "waits for the guest's agent", reset, Hold("agent"), new, loses=True, real=_AGENT)
    ready = Event("os.rename", _RECORD, 2)
    yield Stage("ready", "writes down that the machine is ready", reset, ready, new, loses=True, real=ready)


def _destroy() -> Iterator[Stage]:
    destroy = ("destroy",)
    begin = Event("os.rename", "*/.*.removed")
    there, gone = {"halted": "halted", "running": "crashed"}, {"halted": "absent", "running": "absent"}
    yield Stage("begin", "is about to remove it", destroy, begin, there, real=begin)
    half = Event("os.remove", "record.json")
    yield Stage("half", "has removed some of the files", destroy, half, gone, loses=True, real=half)


STAGES = (*_build(), *_first_boot(), *_up(), *_test(), *_halt(), *_reset(), *_destroy())
SIGNAL_CASES = [SignalCase(stage, number, before) for stage in STAGES for before in stage.asked for number in SIGNALS]

# What does not come out so yet, by the ids of the rows, and why.
PENDING: dict[str, str] = {}


def pending(ident: str) -> str:
    """Why the row of that id does not come out as it should; empty where it does."""
    return next((why for pattern, why in PENDING.items() if fnmatch.fnmatchcase(ident, pattern)), "")


# The real ones of `./lab check`.
SAMPLE = {
    "up-new-restore-SIGINT",
    "up-halted-monitor-SIGKILL",
    "up-halted-use-SIGKILL",
    "up-halted-login-SIGINT",
    "test-halted-results-SIGINT",
    "halt-running-save-SIGKILL",
    "destroy-running-half-SIGKILL",
}
REAL_TOO = {
    "up-halted-restore-SIGINT",
    "up-halted-identity-SIGINT",
    "test-halted-html-SIGINT",
    "halt-running-save-SIGINT",
    "reset-running-identity-SIGINT",
    "destroy-running-half-SIGINT",
}

NEXT = {
    "absent": "`up` makes one",
    "interrupted": "`up` makes it anew: it was never ready",
    "halted": "`up` resumes it",
    "crashed": "`up` boots its disk",
    "running": "`up` finds it so",
}


def _signal_rows() -> Iterator[Row]:
    for case in SIGNAL_CASES:
        ends = "The next command clears up" if case.killed else f"Ends with status {case.status}, clears up"
        then = f"the machine is {case.after}; {NEXT[case.after]}"
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
            case.real,
            pending(case.id),
        )


# --- files


class Damage(enum.StrEnum):
    MISSING = "missing"
    EMPTY = "empty"
    CUT = "cut"
    BINARY = "binary"
    NEWER = "newer"  # JSON with keys of a newer labkit; anything else with something behind its end


_ALL = tuple(Damage)
_BROKEN = (Damage.MISSING, Damage.EMPTY, Damage.CUT, Damage.BINARY)
_CUT = (Damage.EMPTY, Damage.CUT, Damage.BINARY)


class Mend(enum.Enum):
    """What makes the next plain command work."""

    NOTHING = "it works"
    FILE = "once the file is back, `up` goes on"
    STATE = "`up --discard-state` boots the disk"
    KEY = "once the file is removed, `up` makes a new key"


@dataclass(frozen=True, slots=True)
class FileCase:
    """A file of labkit's, and what a command does once it is damaged. It is a pattern, below the home or the current
    directory; says: a part of what the command says.
    """

    file: str
    damage: Damage
    before: str
    command: tuple[str, ...]
    status: int
    after: str
    says: str
    outcome: str
    mend: Mend = Mend.NOTHING

    @property
    def id(self) -> str:
        return f"{self.file.replace('*', 'X').replace('/', '.')}-{self.before}-{self.command[0]}-{self.damage}"


class _Told(TypedDict, total=False):
    status: int
    after: str
    says: str
    mend: Mend


def _files() -> Iterator[FileCase]:
    def cases(
        file: str,
        before: str,
        command: str,
        damages: tuple[Damage, ...],
        outcome: str,
        *,
        status: int = 0,
        after: str = "running",
        says: str = "",
        mend: Mend = Mend.NOTHING,
    ) -> Iterator[FileCase]:
        for damage in damages:
            yield FileCase(file, damage, before, tuple(command.split()), status, after, says, outcome, mend)

    new, newer = "is made again, which is told", (Damage.NEWER,)
    record = "machines/*/record.json"
    for before in ("halted", "running"):
        named = "refused; the file is named, nothing is touched, other machines are there"
        yield from cases(
            record, before, "up", _BROKEN, named, status=3, after="damaged", says="record.json", mend=Mend.FILE
        )
        yield from cases(record, before, "up", newer, "the machine comes up; the keys are kept")
    for command in ("up", "test"):
        yield from cases("machines/*/known_hosts", "running", command, _ALL, "written again: the record has the key")
    state = "refused; the disk is said to be good, and --discard-state to boot it"
    refused: _Told = {"status": 3, "after": "halted", "says": "--discard-state", "mend": Mend.STATE}
    yield from cases("machines/*/state", "halted", "up", (Damage.MISSING,), "the disk is booted, which is told")
    yield from cases("machines/*/state", "halted", "up", (*_CUT, *newer), state, **refused)
    yield from cases("machines/*/sums.json", "halted", "up", (Damage.MISSING,), "the state is taken as it is")
    yield from cases("machines/*/sums.json", "halted", "up", (*_CUT, *newer), state, **refused)
    for before in ("halted", "crashed"):
        broken: _Told = {"status": 3, "after": before, "says": "QEMU did not start", "mend": Mend.FILE}
        yield from cases(
            "machines/*/disk.qcow2", before, "up", _BROKEN, "QEMU's own words; nothing is touched", **broken
        )
        yield from cases("machines/*/disk.qcow2", before, "up", newer, "the machine comes up")
    yield from cases("machines/*/console.log", "running", "test", _ALL, "nobody needs it")
    yield from cases("machines/*/qemu.log", "running", "up", _ALL, "nobody needs it")
    for name in ("image.json", "sums.json", "kernel", "initrd", "disk.qcow2"):
        file = f"images/*/{name}"
        if name == "sums.json":
            yield from cases(file, "new", "up", (Damage.MISSING,), "the image is taken as it is")
            yield from cases(file, "new", "up", (*_CUT, *newer), f"the image {new}", says="is damaged")
        elif name == "image.json":
            yield from cases(file, "new", "up", _BROKEN, "written again: the image's name says what it describes")
            yield from cases(file, "new", "up", newer, "the machine comes up")
        else:
            yield from cases(file, "new", "up", _ALL, f"the image {new}", says="is damaged")
    yield from cases("images/*/image.json", "halted", "up", _BROKEN, "the machine comes up: it does not need it")
    yield from cases("images/*/image.json", "halted", "up", newer, "the machine comes up")
    for name in ("disk.qcow2", "state", "sums.json"):
        file = f"images/*/live-*/{name}"
        if name == "sums.json":
            yield from cases(file, "new", "up", (Damage.MISSING,), "the live state is taken as it is")
            yield from cases(file, "new", "up", (*_CUT, *newer), f"the live state {new}", says="making it again")
        else:
            yield from cases(file, "new", "up", _ALL, f"the live state {new}", says="making it again")
    live: _Told = {"status": 3, "after": "halted", "says": "QEMU did not start", "mend": Mend.FILE}
    yield from cases(
        "images/*/live-*/disk.qcow2", "halted", "up", _BROKEN, "QEMU's own words; nothing is touched", **live
    )
    yield from cases("images/*/live-*/state", "halted", "up", _ALL, "the machine comes up: it does not need it")
    key = "keys/id_ed25519"
    yield from cases(key, "new", "up", (Damage.MISSING,), "a new one is made")
    says, named = "id_ed25519 cannot be read: it is no SSH key", "refused; the file is named"
    unread: _Told = {"status": 3, "after": "interrupted", "says": says, "mend": Mend.KEY}
    yield from cases(key, "new", "up", _CUT, named, **unread)
    for before, command in (("halted", "up"), ("running", "test")):
        unread = {"status": 3, "after": before, "says": says, "mend": Mend.FILE}
        yield from cases(key, before, command, _CUT, named, **unread)
        yield from cases(key, before, command, (Damage.MISSING,), "a new one is made, and let in by the guest's agent")
    for before, command in (("new", "up"), ("halted", "up"), ("running", "test")):
        yield from cases(key, before, command, newer, "the key is read")
        yield from cases("keys/id_ed25519.pub", before, command, _ALL, "written again: the private key has it")
    yield from cases("locks/machine-debian-13.lock", "halted", "up", _ALL, "a lock, whatever is in it")
    yield from cases("locks/machine-debian-13.holder", "halted", "up", _ALL, "a message is vaguer at most")
    results = "reports/latest/results.json"
    yield from cases(results, "tested", "report", (Damage.MISSING,), "judged from raw/, as a recording", status=4)
    unread = {"status": 3, "says": "results.json"}
    yield from cases(results, "tested", "report", _CUT, named, **unread)
    yield from cases(results, "tested", "report", newer, "refused: a newer labkit's", status=3, says="newer labkit")
    yield from cases(results, "tested", "test", _ALL, "a new run, whatever the last one is")
    raw = "reports/latest/raw/spec.tap"
    yield from cases(raw, "tested", "report", (Damage.MISSING,), "what results.json has")
    yield from cases(raw, "tested", "report", _CUT, "an incomplete run", status=4)
    yield from cases(raw, "tested", "report", newer, "judged, with what can be read")
    yield from cases("reports/latest", "tested", "report", _BROKEN, "the newest run is found without it")
    yield from cases("reports/latest", "tested", "test", _BROKEN, "points to the new run")


FILE_CASES = list(_files())


def _file_rows() -> Iterator[Row]:
    for case in FILE_CASES:
        then = "" if case.mend is Mend.NOTHING else f"; {case.mend.value}"
        command = f"`{' '.join(case.command)}`"
        yield Row(
            case.id,
            f"{command} finds a damaged file",
            f"`{case.file}` {case.damage}",
            case.before,
            f"{f'Status {case.status}: ' if case.status else ''}{case.outcome}{then}",
            "test_files.py::test_file",
            pending=pending(case.id),
        )


# --- others


def _other(function: str, stage: str, fault: str, before: str, outcome: str, *parameters: str) -> Iterator[Row]:
    for parameter in parameters or ("",):
        ident = f"{function}[{parameter}]" if parameter else function
        when, what, state, then = (text.replace("{}", parameter) for text in (stage, fault, before, outcome))
        test = f"test_others.py::test_{function}"
        long = ident == "a_qemu_that_is_stopped_while_it_comes_up[incoming]"  # QEMU has a minute to start
        yield Row(ident.replace("_", "-"), when, what, state, then, test, pending=pending(ident), long=long)


def _others() -> Iterator[Row]:
    stop, kill = "SIGSTOP to QEMU", "SIGKILL to QEMU"
    named = "Status 3 within seconds; the process is named, and `kill -CONT` for it; once it goes on, so does all"
    yield from _other("a_stopped_qemu_is_named", "`{}`", stop, "running", named, "up", "test", "halt")
    told = "The machine is unreachable, and why"
    yield from _other("status_tells_of_a_stopped_qemu", "`status`", stop, "running", told)
    yield from _other("a_stopped_qemu_is_ended_by_reset", "`reset`", stop, "running", "It is ended, the machine clean")
    yield from _other("a_stopped_qemu_is_ended_by_destroy", "`destroy`", stop, "running", "It is ended and removed")
    halted = "Status 3 within the limit; the machine is halted; `up` resumes it"
    coming = "a_qemu_that_is_stopped_while_it_comes_up"
    yield from _other(coming, "`up` waits: {}", stop, "halted", halted, "incoming", "agent", "login")
    for before, stages in (("halted", ("incoming", "agent", "login")), ("crashed", ("boot", "agent", "login"))):
        for stage in stages:
            then = f"Status 3; the machine is {before}; {NEXT[before]}"
            yield from _other(
                "qemu_is_killed_while_it_comes_up", f"`up` waits: {stage}", kill, before, then,
                f"{before}-{stage}-{before}",
            )  # fmt: skip
    cut = "Status 4, an incomplete run with the reason; `up` boots the disk"
    yield from _other(
        "qemu_is_killed_during_the_suite", "`test` waits: {}", kill, "running", cut, "upload", "suite", "results"
    )
    halting = "The machine is crashed; `up` boots its disk"
    yield from _other(
        "qemu_is_killed_while_it_is_halted",
        "`halt` waits: {}",
        kill,
        "running",
        halting,
        "agent",
        "qmp-stop",
        "migrate",
    )
    stays = "Status 3 with the reason; the machine stays halted; `up` resumes it"
    for stage, fault, parameter in (
        ("starts QEMU", "QEMU has no memory", "start-Could not allocate memory-Could not allocate memory"),
        ("waits for the agent", "the agent's script fails", "agent-1-take its identity"),
        ("waits for SSH", "the connection is closed", "login-closed-SSH"),
        ("lets the guest run", "QEMU refuses", "qmp-cont-Resetting the Virtual Machine is required-refused cont"),
        (
            "keeps the disk that fits a state",
            "the disk is full",
            "qmp-blockdev-snapshot-internal-sync-No space left on device-No space left",
        ),
    ):
        name = "a_halted_machine_that_does_not_come_up_stays_halted"
        yield from _other(name, f"`up` {stage}", fault, "halted", stays, parameter)
    refused = "QEMU cannot load the state"
    good = "Status 3: the disk is good; `up --discard-state` boots it"
    name = "a_state_that_does_not_load_leaves_the_disk_to_be_booted"
    yield from _other(name, "`up` loads a state", refused, "halted", good)
    again = "The state is kept: the next `up` that can load it resumes the machine"
    yield from _other("a_state_that_did_not_load_is_tried_again", "`up` loads a state", refused, "halted", again)
    for how in ("panic", "hang"):
        given_up = "Status 3, with what the console says; `up` boots it again"
        yield from _other(
            "a_guest_that_does_not_boot", "`up` boots a disk", f"the guest's kernel: {how}", "crashed", given_up, how
        )
    on = "Status 3 with the reason; the machine runs on"
    for stage, how in (
        ("migrate", "No space left on device"),
        ("qmp-stop", "refused"),
        ("qmp-migrate", "refused"),
        ("qmp-quit", "refused"),
    ):
        yield from _other(
            "a_machine_that_cannot_be_halted_runs_on", f"`halt`: {stage}", how, "running", on, f"{stage}-{how}"
        )
    odd = "Status 4, an incomplete run with the reason"
    yield from _other(
        "a_suite_that_ends_oddly_is_an_incomplete_run", "`test` waits for the suite", "it exits with 3", "running", odd
    )
    usage = "Status 2; there is no run"
    yield from _other(
        "a_suite_that_refuses_its_arguments_is_no_run",
        "`test` waits for the suite",
        "it exits with 2",
        "running",
        usage,
    )
    closed = "Status 3 within the limit"
    yield from _other(
        "ssh_that_ends_before_the_suite", "`test` connects", "the connection is closed", "running", closed
    )
    nothing = "Status 3, with mmdebstrap's words; nothing is left"
    yield from _other(
        "a_build_that_fails_leaves_nothing", "`up` builds an image", "a package is missing", "no image", nothing
    )
    next_up = "Status 3 within the limit; the next `up` makes it"
    yield from _other(
        "a_first_boot_that_fails_is_tried_by_the_next_up",
        "`up` waits for the first boot",
        "the guest hangs",
        "never booted",
        next_up,
    )
    taken = "Status 3, naming the port and the key; the machine stays halted"
    yield from _other("a_port_that_is_taken", "`up` starts QEMU", "machine.ssh_port is taken", "halted", taken)
    yield from _other("two_commands_at_once", "`up`", "another `up`", "halted", "One waits for the other; both succeed")
    waits = "It says which process it waits for, and goes on with what that has left"
    yield from _other(
        "a_command_that_waits_goes_on_when_the_holder_is_killed",
        "`up` waits for the lock",
        "SIGKILL to the holder",
        "halted",
        waits,
    )
    twice = "Ends; the machine is halted; `up` resumes it"
    yield from _other(
        "a_second_signal_while_labkit_clears_up", "`up` clears up after SIGINT", "SIGTERM to labkit", "halted", twice
    )
    yield from _other("a_home_that_was_moved", "`up`", "the lab's home was moved", "halted", "The machine is resumed")
    moved = "It goes on, or says what to do; the machine is not ended"
    yield from _other(
        "a_home_that_was_moved_while_its_machine_ran", "`up`", "the lab's home was moved", "running", moved
    )
    stands = "Another machine's `up` makes it again; what the halted one stands on stays, and `up` resumes it"
    yield from _other(
        "an_image_that_is_damaged_while_a_machine_stands_on_it",
        "`up --machine another`",
        "image.json is cut",
        "halted",
        stands,
    )
    yield from _other(
        "a_live_state_that_is_damaged_while_a_machine_stands_on_it",
        "`up --machine another`",
        "a live state is damaged",
        "halted",
        stands,
    )
    newer = "What was written after the resume is there: `up` boots the disk as it is"
    yield from _other(
        "what_was_written_after_a_resume_outlives_a_crash",
        "`up` gives up a state",
        "SIGKILL to labkit, later to QEMU",
        "halted",
        newer,
    )
    gone = "The machine is absent; `up` makes one; no QEMU is left"
    yield from _other(
        "a_machine_directory_that_is_gone_while_it_runs", "`up`", "the machine's directory is removed", "running", gone
    )
    full = "the host's disk is full"
    unreachable = "Unreachable, and why; once there is space, `up` lets it go on"
    yield from _other("a_guest_that_writes_to_a_full_disk", "a guest writes", full, "running", unreachable)
    free = "Status 3, saying what is full; once there is space, `up` succeeds"
    yield from _other("up_on_a_full_disk", "`up`", full, "{}", free, "new", "halted", "crashed")
    yield from _other(
        "halt_on_a_full_disk", "`halt`", full, "running", "Status 3, saying what is full; the machine runs on"
    )
    yield from _other("reports_on_a_full_disk", "`test`", full, "running", "Status 3, saying what is full")
    for command, before in SWEEPS:
        every = "After each: the next `up` works, nothing is lost, nothing is left"
        yield Row(
            f"every-{command}-{before}",
            f"`{command}` is about to change anything",
            "SIGKILL to labkit",
            before,
            every,
            "test_sweep.py::test_every_change",
            long=True,
        )


@dataclass(frozen=True, slots=True)
class CacheCase:
    """A file below the lab's home that is damaged, and is made again."""

    file: str
    damage: Damage
    outcome: str
    test: str

    @property
    def id(self) -> str:
        return f"{self.file.replace('*', 'X').replace('/', '.')}-{self.damage}"

    @property
    def row(self) -> Row:
        what = f"`{self.file}` {self.damage}"
        return Row(self.id, "labkit needs it", what, "any", self.outcome, self.test, pending=pending(self.id))


_KVM, _AGAIN = "test_caches.py::test_what_is_remembered_of_kvm", "It is tried again whether KVM works"
REMEMBERED = [
    CacheCase("host/kvm-*.json", how, "What is known is read" if how is Damage.NEWER else _AGAIN, _KVM) for how in _ALL
]
_LOAD = "test_caches.py::test_a_download_that_was_damaged"
DOWNLOADED = [
    *(CacheCase("downloads/sha256-*", how, "It is downloaded again", _LOAD) for how in _ALL),
    *(CacheCase("downloads/sha256-*.part", how, "The whole is downloaded, whatever is there", _LOAD) for how in _ALL),
]
SWEEPS = [("up", "halted"), ("up", "crashed"), ("test", "halted"), ("halt", "running"), ("destroy", "halted")]
ROWS: list[Row] = [*_signal_rows(), *_file_rows(), *(case.row for case in (*REMEMBERED, *DOWNLOADED)), *_others()]
