"""Several machines share one suite: one run, one report, and whatever happens to one of them. In memory; at the end on
two real machines.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.cell import Cell, Selection
from labkit.core.config import Settings
from labkit.core.errors import (
    ConnectionFailed,
    HostError,
    Interrupted,
    MachineError,
    UsageError,
)
from labkit.core.platforms import Distro
from labkit.io.together import together
from labkit.machines.fake import FakeMachine, Reply, has_runtime, succeed
from labkit.reports.terminal import summary
from labkit.results.model import Result
from labkit.store import runs
from labkit.suites import shards
from labkit.suites.base import RunObserver, SilentRun
from labkit.usecases.judge import diff, judge
from labkit.usecases.run import Outcome, run_cell
from labkit.usecases.test import cell_of
from tests.conftest import Lab, make_lab
from tests.stock import Stock

IDS = ("QUERY-001", "QUERY-002", "STATE-001", "STATE-002", "KILL-003")
CELL = Cell("debian", "13", "auto", "m", "runc", "spec", Selection(IDS), 2)
FACTS = b"# kernel: 6.1\n# cgroup: v2\n# runtime-version: runc version 1.1\n"
Respond = Callable[[Sequence[str]], Reply]


def asked(argv: Sequence[str]) -> list[str]:
    """What a suite is called to run."""
    return argv[argv.index("--only") + 1].split(",") if "--only" in argv else []


def tap(names: Sequence[str], *, planned: int | None = None, facts: bytes = FACTS) -> bytes:
    lines = [f"ok {number} - {name} x\n".encode() for number, name in enumerate(names, 1)]
    return b"TAP version 14\n1..%d\n" % (planned or len(names)) + facts + b"".join(lines)


def of_suite(answer: Callable[[list[str]], Reply]) -> Respond:
    """Answers the suite's program alone; what else is asked for succeeds."""
    return lambda argv: answer(asked(argv)) if any(word.endswith(".pyz") for word in argv) else Reply()


plain = of_suite(lambda names: Reply(stdout=tap(names)))


class Machines:
    """The machines of one lab, made when they are asked for; with what settings, and the order of their locks."""

    def __init__(self, **responds: Respond) -> None:
        self.responds = {name.replace("_", "-"): respond for name, respond in responds.items()}
        self.made: dict[str, FakeMachine] = {}
        self.settings: dict[str, Settings] = {}
        self.locked: list[str] = []

    def __getitem__(self, name: str) -> FakeMachine:
        if name not in self.made:
            self.made[name] = Locked(name, self.responds.get(name, plain), order=self.locked)
        return self.made[name]

    def __call__(
        self, name: str, settings: Settings, observer: RunObserver, distro: Distro, needs: Sequence[str]
    ) -> FakeMachine:
        self.settings[name] = settings
        return self[name]

    def run(self, settings: Settings, cell: Cell = CELL, observer: SilentRun | None = None) -> Outcome:
        return run_cell(cell, settings, observer or SilentRun(), None, self)


@dataclasses.dataclass
class Locked(FakeMachine):
    order: list[str] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        self.order.append(self.name)
        try:
            yield
        finally:
            self.order.append(f"-{self.name}")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load(cwd=tmp_path, environ={"HOME": str(tmp_path)})


def suite_calls(machine: FakeMachine) -> list[list[str]]:
    return [asked(argv) for argv in machine.commands if any(word.endswith(".pyz") for word in argv)]


def kept(settings: Settings) -> Path:
    (ident,) = runs.ids(settings.reports)
    return settings.reports / ident


# ---- who does what


def test_a_suite_is_dealt_out_round_or_by_the_time_that_it_takes() -> None:
    assert shards.split("abcde", {}, 2) == [("a", "c", "e"), ("b", "d")]
    assert shards.split("abcde", {"a": 1, "b": 1, "c": 4, "d": 1, "e": 1}, 2) == [("c",), ("a", "b", "d", "e")]
    assert shards.split("abcd", {"a": 1, "b": 2, "c": 4, "d": 3}, 2) == [("c", "a"), ("d", "b")]
    assert shards.split("abc", {"b": 9}, 3) == [("a",), ("b",), ("c",)]
    assert shards.split("aab", {}, 2) == [("a",), ("b",)]
    assert shards.split("ab", {"a": 0, "b": 0}, 3) == [("a",), ("b",)]  # a suite that is given nothing runs all
    for count in range(1, 9):
        shares = shards.split("hgfedcba", {"a": 3.0, "h": 0.1}, count)
        assert sorted("".join(map("".join, shares))) == list("abcdefgh")
        assert shards.split("hgfedcba", {"a": 3.0, "h": 0.1}, count) == shares


def test_two_machines_make_one_run(settings: Settings) -> None:
    class Seen(SilentRun):
        told: list[tuple[int, int | None]] = []  # noqa: RUF012

        def result(self, result: Result, done: int, planned: int | None) -> None:
            self.told.append((done, planned))

    machines, seen = Machines(), Seen()
    outcome = machines.run(settings, observer=seen)
    assert outcome.exit_status == 0
    assert sorted(seen.told) == [(number, 5) for number in range(1, 6)]
    assert suite_calls(machines["m"]) == [["QUERY-001", "STATE-001", "KILL-003"]]
    assert suite_calls(machines["m-2"]) == [["QUERY-002", "STATE-002"]]
    assert (machines["m-2"].platform, machines["m-2"].release) == ("debian", "13")
    assert {path.name for path in outcome.directory.iterdir()} == {
        "raw", "console.log", "console-2.log", "results.json", "results.tap", "junit.xml", "report.html",
    }  # fmt: skip
    raw = outcome.directory / "raw"
    assert (raw / "shard-1/spec.tap").read_bytes() == tap(["QUERY-001", "STATE-001", "KILL-003"])
    assert (raw / "shard-2/spec.tap").read_bytes() == tap(["QUERY-002", "STATE-002"])
    document = json.loads((outcome.directory / "results.json").read_text())
    assert document["machine"]["machines"] == ["m", "m-2"]
    assert document["machine"]["name"] == "m"
    assert [result["id"] for result in document["results"]] == [
        "KILL-003", "QUERY-001", "QUERY-002", "STATE-001", "STATE-002",
    ]  # fmt: skip
    assert "shared by 2 machines: m, m-2" in summary(outcome.run)
    alone = run_cell(dataclasses.replace(CELL, machines=1), settings, SilentRun(), None, Machines())
    assert alone.run.by_id() == outcome.run.by_id()
    assert not diff(settings, outcome.directory.name, alone.directory.name).newly_failing


def test_what_it_took_last_time_deals_it_out(settings: Settings) -> None:
    def slow(names: list[str]) -> Reply:
        lines = "".join(
            f"ok {number} - {name} x\n  ---\n  seconds: {9 if name == 'STATE-002' else 1}\n  ...\n"
            for number, name in enumerate(names, 1)
        )
        return Reply(stdout=f"TAP version 14\n1..{len(names)}\n{lines}".encode())

    Machines(m=of_suite(slow)).run(settings, dataclasses.replace(CELL, machines=1))
    machines = Machines()
    machines.run(settings)
    assert suite_calls(machines["m"]) == [["STATE-002"]]
    assert suite_calls(machines["m-2"]) == [["QUERY-001", "QUERY-002", "STATE-001", "KILL-003"]]
    other = Machines()
    other.run(settings, dataclasses.replace(CELL, runtime="crun"))  # nothing is known of that
    assert suite_calls(other["m-2"]) == [["QUERY-002", "STATE-002"]]


@pytest.mark.parametrize("name", ["", "raw"])
def test_the_run_is_judged_again_where_it_is_and_from_a_copy(settings: Settings, tmp_path: Path, name: str) -> None:
    outcome = Machines().run(settings)
    before = (outcome.directory / "results.json").read_bytes()
    again = judge(settings, str(outcome.directory / name), with_policy=False)
    assert again.directory == outcome.directory
    assert (outcome.directory / "results.json").read_bytes() == before
    copy = tmp_path / "copy"
    shutil.copytree(outcome.directory / "raw", copy)
    other = judge(settings, str(copy), with_policy=False)
    assert other.exit_status == 0
    assert other.run.by_id() == outcome.run.by_id()
    assert (other.directory / "raw/shard-2/spec.tap").read_bytes() == (copy / "shard-2/spec.tap").read_bytes()


@pytest.mark.parametrize("text", ["{", "[]", '{"shards": []}', '{"shards": [{"machine": 1, "names": []}]}', "\xff"])
def test_a_damaged_plan_is_named(settings: Settings, text: str) -> None:
    outcome = Machines().run(settings)
    (outcome.directory / "raw/shards.json").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"raw/shards\.json"):
        judge(settings, with_policy=False)


def test_raw_output_that_was_lost_is_missed(settings: Settings) -> None:
    outcome = Machines().run(settings)
    shutil.rmtree(outcome.directory / "raw/shard-2")
    again = judge(settings, with_policy=False)
    assert again.exit_status == 4
    assert again.run.run.reason == "m-2: no output arrived; m-2: missing: QUERY-002, STATE-002"


def test_no_more_machines_than_checks(settings: Settings) -> None:
    machines = Machines()
    assert machines.run(settings, dataclasses.replace(CELL, machines=9)).exit_status == 0
    assert list(machines.made) == ["m", "m-2", "m-3", "m-4", "m-5"]
    one = Machines()
    outcome = one.run(settings, dataclasses.replace(CELL, machines=3, selection=Selection(("KILL-003",))))
    assert list(one.made) == ["m"]
    assert (outcome.directory / "raw/spec.tap").exists()
    assert "machines" not in outcome.run.machine


def test_what_failed_before_is_shared_too(settings: Settings) -> None:
    bad = of_suite(lambda names: Reply(1, tap(names).replace(b"ok 1", b"not ok 1").replace(b"ok 2", b"not ok 2")))
    mine = config.load({"machine": "m"}, cwd=settings.home.path.parent, environ={"HOME": "/"})
    mine = mine.model_copy(update={"reports": settings.reports, "home": settings.home})
    Machines(m=bad).run(settings, dataclasses.replace(CELL, machines=1))
    cell = cell_of(mine, Selection(), failed=True, machines=3)
    machines = Machines()
    machines.run(settings, cell)
    assert cell.names == ("m", "m-2", "m-3")
    assert [suite_calls(machines[name]) for name in machines.made] == [[["QUERY-001"]], [["QUERY-002"]]]


def test_machines_after_the_first_are_made_as_it_was(settings: Settings) -> None:
    machines = Machines()
    machines["m"].provider = machines["m-2"].provider = "uml"
    machines["m"].state = machines["m"].state.RUNNING
    machines["m"].platform, machines["m"].release = "debian", "13"
    machines.run(settings)
    assert machines.settings["m"].provider == "auto"
    assert machines.settings["m-2"].provider == "uml"
    assert machines.settings["m-2"].machine.name == "m-2"
    assert machines.settings["m-2"].origin("provider") is None
    assert machines["m"].steps[0] == "start" and machines["m-2"].steps[0] == "create"


def test_locks_are_taken_in_one_order_and_all_let_go(settings: Settings) -> None:
    machines = Machines()
    machines.run(settings, dataclasses.replace(CELL, machine="m", machines=3))
    assert machines.locked == ["m", "m-2", "m-3", "-m-3", "-m-2", "-m"]
    crossed = Machines()  # those of m-10 and on come before m-2, whoever asks
    many = Selection(tuple(sorted((*IDS, "CREATE-001", "CREATE-003", "START-001", "START-002", "LIFE-003"))))
    crossed.run(settings, dataclasses.replace(CELL, machines=10, selection=many))
    assert crossed.locked[:10] == sorted(crossed.made)


# ---- what is refused


def test_a_host_of_ones_own_shares_nothing(settings: Settings) -> None:
    @dataclasses.dataclass
    class Host(FakeMachine):
        def pending(self, distro: Distro) -> Sequence[str]:
            return []

        def bootstrap(self, distro: Distro) -> None: ...

        not_brought = pending

        def provide(self, distro: Distro, programs: object) -> None: ...

    machines = Machines()
    machines.made["m"] = Host("m")
    with pytest.raises(UsageError, match="machine m is a host of its own"):
        machines.run(settings)
    assert not settings.reports.exists()


def test_one_port_is_not_for_several(settings: Settings) -> None:
    fixed = settings.model_copy(update={"machine": settings.machine.model_copy(update={"ssh_port": 2222})})
    with pytest.raises(UsageError, match=r"machine\.ssh_port = 2222 is one"):
        Machines().run(fixed)


def test_a_name_has_to_have_room_for_a_number(settings: Settings) -> None:
    with pytest.raises(UsageError, match="longer than the 63 letters"):
        Machines().run(settings, dataclasses.replace(CELL, machine="m" * 62))


def digest(text: str) -> Respond:
    return lambda argv: Reply(stdout=re.sub(b"sha256 [0-9a-f]+", f"sha256 {text}".encode(), has_runtime(argv).stdout))


def test_another_runtime_on_one_machine_is_not_the_same_test(settings: Settings) -> None:
    machines = Machines()
    machines["m"].runtime, machines["m-2"].runtime = digest("a" * 64), digest("b" * 64)
    there = "runc is sha256 aaaaaaaaaaaaaaaa on m, sha256 bbbbbbbbbbbbbbbb on m-2"
    with pytest.raises(UsageError, match=there) as caught:
        machines.run(settings)
    assert "./lab destroy --machine m and ./lab destroy --machine m-2: " in (caught.value.hint or "")
    assert not settings.reports.exists()


def test_machines_of_two_kinds_are_not_mixed(settings: Settings) -> None:
    machines = Machines()
    machines["m-2"].provider = "qemu"
    with pytest.raises(UsageError, match="the provider is fake on m, qemu on m-2"):
        machines.run(settings)
    other = Machines()
    for name, image in (("m", "aaaa"), ("m-2", "bbbb")):
        directory = settings.home.machine(name)
        directory.mkdir(parents=True)
        (directory / "record.json").write_text(json.dumps({"image": image}))
    with pytest.raises(UsageError, match="the image is aaaa on m, bbbb on m-2"):
        other.run(settings)


def test_what_machines_say_of_themselves_has_to_agree(settings: Settings) -> None:
    newer = of_suite(lambda names: Reply(stdout=tap(names, facts=FACTS.replace(b"6.1", b"6.2"))))
    outcome = Machines(m_2=newer).run(settings)
    assert outcome.exit_status == 4
    assert outcome.run.run.reason == "the machines are not alike: kernel is 6.1 on m, 6.2 on m-2"


def test_a_suite_that_rejects_its_arguments_leaves_nothing(settings: Settings) -> None:
    rejects = of_suite(lambda _: Reply(2, b"", b"no such runtime\n"))
    with pytest.raises(UsageError, match="m-2: no such runtime"):
        Machines(m_2=rejects).run(settings)
    assert list(settings.reports.iterdir()) == []


# ---- what goes wrong


@pytest.mark.parametrize("lost", ["m", "m-2"])
@pytest.mark.parametrize("step", ["create", "connect"])
def test_a_machine_that_does_not_come_up_leaves_its_part_undone(settings: Settings, step: str, lost: str) -> None:
    machines = Machines()
    machines[lost].fails[step] = MachineError("it is broken")
    outcome = machines.run(settings)
    missing = "QUERY-001, STATE-001, KILL-003" if lost == "m" else "QUERY-002, STATE-002"
    reason = f"machine {lost} did not come up: it is broken; {lost}: no output arrived; {lost}: missing: {missing}"
    assert (outcome.exit_status, outcome.run.run.reason) == (4, reason)
    assert len(outcome.run.results) == (2 if lost == "m" else 3)
    again = judge(settings, with_policy=False)
    assert (again.exit_status, again.run.run.reason) == (4, reason)


def test_where_no_machine_comes_up_there_is_no_run(settings: Settings) -> None:
    machines = Machines()
    for name in ("m", "m-2"):
        machines[name].fails["create"] = MachineError(f"{name} is broken")
    with pytest.raises(MachineError, match="m-2 is broken"):
        machines.run(settings)
    assert not settings.reports.exists()


def test_what_is_wrong_with_the_host_is_not_tried_twice(settings: Settings) -> None:
    machines = Machines()
    machines["m"].fails["create"] = HostError("no mmdebstrap")
    with pytest.raises(HostError, match="no mmdebstrap"):
        machines.run(settings)
    assert machines["m-2"].steps == []


@pytest.mark.parametrize("planned", [2, 0], ids=["one result", "nothing"])
def test_a_machine_that_dies_in_the_middle_costs_only_its_part(settings: Settings, planned: int) -> None:
    cut = ConnectionFailed("the connection was cut")
    dies = of_suite(lambda names: Reply(stdout=tap(names[:1], planned=2) if planned else b"", error=cut))
    outcome = Machines(m_2=dies).run(settings)
    missing = "STATE-002" if planned else "QUERY-002, STATE-002"
    assert outcome.exit_status == 4
    assert (outcome.run.run.reason or "").startswith("m-2: the connection was cut; m-2: ")
    assert (outcome.run.run.reason or "").endswith(f"m-2: missing: {missing}")
    assert len(outcome.run.results) == (4 if planned else 3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: Reply(), "missing: QUERY-002, STATE-002"),
        (lambda names: Reply(stdout=tap(names[:1])), "missing: STATE-002"),
        (lambda names: Reply(stdout=tap([*names, names[0]])), "there several times: QUERY-002"),
        (lambda names: Reply(stdout=tap([*names, "KILL-003"])), "not asked for, and left out: KILL-003"),
    ],
)
def test_a_part_that_does_not_show_what_it_was_given_is_no_success(
    settings: Settings, answer: Callable[[list[str]], Reply], reason: str
) -> None:
    """Whatever status it ends with."""
    outcome = Machines(m_2=of_suite(answer)).run(settings)
    assert outcome.exit_status == 4
    assert f"m-2: {reason}" in (outcome.run.run.reason or "")
    assert [result.id for result in outcome.run.results].count("KILL-003") == 1


@pytest.mark.parametrize("error", [HostError("no space left on the disk"), ZeroDivisionError("a bug")])
def test_what_breaks_labkit_ends_all_and_is_told(settings: Settings, error: Exception) -> None:
    machines = Machines(m_2=of_suite(lambda names: Reply(stdout=tap(names), error=error)))
    machines.responds["m"] = of_suite(until_closed(machines, "m"))
    with pytest.raises(type(error)):
        machines.run(settings)
    run = runs.load(kept(settings))
    assert str(error) in (run.run.reason or "")
    assert {result.id for result in run.results} == {"QUERY-001", "QUERY-002", "STATE-002"}


def until_closed(machines: Machines, name: str) -> Callable[[list[str]], Reply]:
    """Shows one result; then the connection is cut, as soon as somebody closes it."""

    def answer(names: list[str]) -> Reply:
        closed = machines[name].closed.wait(20)
        return Reply(stdout=tap(names[:1], planned=len(names)), error=ConnectionFailed(f"cut: {closed}"))

    return answer


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all(settings: Settings, signum: signal.Signals) -> None:
    def handle(number: int, _: object) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else Interrupted(number)

    machines = Machines()
    waiting = threading.Barrier(3)  # both machines, and who sends the signal
    for name in ("m", "m-2"):
        show = until_closed(machines, name)

        def answer(names: list[str], show: Callable[[list[str]], Reply] = show) -> Reply:
            waiting.wait(20)
            return show(names)

        machines.responds[name] = of_suite(answer)

    def send() -> None:
        waiting.wait(20)
        time.sleep(0.3)
        os.kill(os.getpid(), signum)

    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    threads = threading.active_count()
    began = time.monotonic()
    try:
        timer = threading.Thread(target=send)
        timer.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            machines.run(settings)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    timer.join()
    assert time.monotonic() - began < 10
    assert threading.active_count() == threads
    directory = kept(settings)
    assert caught.value.__notes__ == [f"what the suite had shown is in {directory}, ./lab test begins anew"]
    run = runs.load(directory)
    by = " by SIGTERM" if signum == signal.SIGTERM else ""
    assert (run.run.reason or "").startswith(f"the run was interrupted{by}; m: ")
    assert {result.id for result in run.results} == {"QUERY-001", "QUERY-002"}
    assert machines.locked == ["m", "m-2", "-m-2", "-m"]


def test_together_waits_for_all_and_raises_the_first() -> None:
    assert together([lambda: 1, lambda: 2], lambda: None) == [1, 2]
    stopped = threading.Event()

    def late() -> int:
        assert stopped.wait(20)
        raise ValueError("the second")

    def early() -> int:
        raise KeyError("the first")

    with pytest.raises(KeyError):
        together([late, early], stopped.set)


# ---- suites of programs


def lines(*messages: Mapping[str, object]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def ran(names: Sequence[str]) -> bytes:
    facts = {"kernel": "6.1", "cgroup": "v2", "runtime-version": "1.1", "ref": "master"}
    each: list[Mapping[str, object]] = [
        message
        for name in names
        for message in (
            {"type": "start", "program": name, "attempt": 1},
            {"type": "data", "program": name, "stream": "out",
             "data": base64.b64encode(b"TAP version 13\nok 1 - " + name.encode() + b"\n1..1\n").decode()},
            {"type": "end", "program": name, "attempt": 1, "status": 0, "seconds": 1.5, "left": []},
        )
    ]  # fmt: skip
    return lines({"type": "plan", "programs": list(names), "facts": facts}, *each, {"type": "finish"})


def programs(argv: Sequence[str]) -> Reply:
    if "--list" in argv:
        return Reply(stdout=b"kill\nof_my_own\nlinux_ns_itype\nstate\n")
    return Reply(stdout=ran(asked(argv))) if any(word.endswith(".pyz") for word in argv) else Reply()


def test_programs_are_shared_as_the_machine_lists_them(settings: Settings) -> None:
    """A tree of one's own may have others than labkit knows of; each machine is reset, as one alone would be."""
    machines = Machines(m=programs, m_2=programs)
    cell = Cell("debian", "13", "auto", "m", "runc", "validation", machines=2)
    outcome = machines.run(settings, cell)
    assert outcome.run.run.reason is None
    assert sorted(program.name for program in outcome.run.programs) == ["kill", "linux_ns_itype", "of_my_own", "state"]
    assert suite_calls(machines["m"])[-1] == ["kill", "linux_ns_itype"]
    assert suite_calls(machines["m-2"]) == [["of_my_own", "state"]]
    assert machines["m"].steps[-1] == machines["m-2"].steps[-1] == "reset"
    assert (outcome.directory / "raw/shard-2/of_my_own.tap").is_file()
    judged = judge(settings, with_policy=False)
    assert judged.run.programs == outcome.run.programs
    assert judged.run.by_id() == outcome.run.by_id()


def test_a_program_that_did_not_run_is_missed_once(settings: Settings) -> None:
    def half(argv: Sequence[str]) -> Reply:
        return Reply(stdout=ran(asked(argv)[:1])) if any(word.endswith(".pyz") for word in argv) else Reply()

    cell = Cell("debian", "13", "auto", "m", "runc", "validation", machines=2)
    outcome = Machines(m=programs, m_2=half).run(settings, cell)
    assert outcome.exit_status == 4
    assert outcome.run.run.reason == "m-2: 1 program missing: state"


def test_few_programs_are_for_the_machines_that_are_up(settings: Settings) -> None:
    def single(argv: Sequence[str]) -> Reply:
        return Reply(stdout=b"state\n") if "--list" in argv else programs(argv)

    machines = Machines(m=single, m_2=single)
    machines["m"].fails["create"] = MachineError("it is broken")
    outcome = machines.run(settings, Cell("debian", "13", "auto", "m", "runc", "validation", machines=2))
    assert outcome.run.run.reason is None
    assert outcome.run.machine["machines"] == ["m-2"]
    assert [program.name for program in outcome.run.programs] == ["state"]


def test_a_machine_that_lists_nothing_runs_nothing(settings: Settings) -> None:
    cell = Cell("debian", "13", "auto", "m", "runc", "validation", machines=2)
    with pytest.raises(UsageError, match="lists nothing to run"):
        Machines(m=succeed, m_2=programs).run(settings, cell)
    no_tree: Respond = of_suite(lambda _: Reply(2, b"", b"labkit-programs: no tree\n"))
    with pytest.raises(UsageError, match="m: labkit-programs: no tree"):
        Machines(m=no_tree, m_2=programs).run(settings, cell)
    assert not settings.reports.exists()


# ---- two real machines


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, stock: Stock) -> Iterator[Lab]:
    yield from make_lab(tmp_path_factory.mktemp("shards"), provider=stock.provider, stock=stock)


@pytest.mark.machine
def test_two_machines_show_what_one_shows(small: Lab) -> None:
    words = ("test", "--runtime", "crun", "--only", "CG-*,DELETE-*,HOOK-*,KILL-*,LIFE-*,NS-*,PROC-*,STATE-*")
    one = small.run(*words, status=None)
    first = small.results()
    two = small.run(*words, "--machines", "2", status=None)
    second = small.results()
    assert (one.returncode, two.returncode) in {(0, 0), (1, 1)}, two.stderr
    assert {r["id"]: r["verdict"] for r in first["results"]} == {r["id"]: r["verdict"] for r in second["results"]}
    assert [r["id"] for r in first["results"]] == [r["id"] for r in second["results"]]
    assert second["machine"]["machines"] == ["debian-13", "debian-13-2"]
    assert second["run"]["complete"] is True
    assert [machine["name"] for machine in small.json("status")] == ["debian-13", "debian-13-2"]
    assert small.run("judge", "reports/latest", status=None).returncode == two.returncode
    small.guest("cp /usr/bin/crun /usr/local/bin/mine; echo >>/usr/local/bin/mine", "debian-13-2")
    small.guest("cp /usr/bin/crun /usr/local/bin/mine", "debian-13")
    done = small.run("test", "--runtime", "/usr/local/bin/mine", "--machines", "2", status=2)
    assert "/usr/local/bin/mine is sha256" in done.stderr


@pytest.mark.machine
@pytest.mark.parametrize("how", ["killed machine", pytest.param("SIGINT", marks=pytest.mark.slow), "SIGKILL"])
def test_what_ends_early_on_two_machines(small: Lab, how: str) -> None:
    small.run("up")
    child = small.start("test", "--runtime", "crun", "--machines", "2")
    begun = set((small.cwd / "reports").glob("2*"))
    end = time.monotonic() + 120

    def shown() -> bool:
        new = [path for path in (small.cwd / "reports").glob("2*") if path not in begun]
        files = [path / f"raw/shard-{number}/spec.tap" for path in new for number in (1, 2)]
        return bool(files) and all(path.exists() and b"\nok " in path.read_bytes() for path in files)

    while not shown():
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.1)
    if how == "killed machine":
        small.kill_machine("debian-13-2")
    else:
        child.send_signal(getattr(signal, how))
    done: subprocess.CompletedProcess[str] = small.end(child)
    run = small.results()
    assert run["run"]["complete"] is False
    if how == "killed machine":
        assert done.returncode == 4
        assert "debian-13-2: " in run["run"]["reason"] and "debian-13: " not in run["run"]["reason"]
        assert len(run["results"]) >= 50
    elif how == "SIGINT":
        assert done.returncode == 130
        assert run["run"]["reason"].startswith("the run was interrupted")
    else:
        assert run["run"]["reason"] == "the run did not finish"
        assert small.run("judge", "reports/latest", status=4)
    # Nothing of it goes on, and the next command works.
    assert small.guest("flock -w 60 /run/labkit-suite.lock true && echo free", "debian-13") == "free\n"
    small.run("test", "--runtime", "crun", "--only", "QUERY-001,QUERY-002", "--machines", "2")
