"""What tests share: a lab of their own, driven through the real command line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hypothesis
import pytest

from labkit.cli.selfcheck import missing_programs
from labkit.core.errors import LabError
from labkit.io import files, process
from labkit.qemu import accelerator
from tests import chroot, newest, recorded
from tests.stock import Stock, make

# Properties of tests, as they are told at the end.
_EMULATED = "all machines were emulated, for User-Mode Linux does not work here"
_CHANGED = "this host was changed"
_TMP = Path("/tmp")
ROOT = Path(__file__).parent.parent
DURATIONS = Path(__file__).parent / "durations.json"  # of a function's longest row or its fixtures, from 0.1 s on
MACHINE_NEEDS = ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "debian keyring", "mkfs.ext4", "ssh")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-in", type=int, default=1, metavar="N", help="run only every Nth of the tests")
    parser.addoption("--first-rows", action="store_true", help="of each function with parameters only the first row")
    parser.addoption("--within", type=float, metavar="SECONDS", help=f"leave out what took longer: {DURATIONS.name}")
    parser.addoption("--store-durations", action="store_true", help=f"write what was run into {DURATIONS.name}")
    parser.addoption("--stock", type=Path, metavar="DIR", help="where images for tests are, or are put")


hypothesis.settings.register_profile("labkit", deadline=None)  # hosts are loaded, and no test is timed
hypothesis.settings.load_profile("labkit")


def pytest_configure() -> None:
    """Undo what nohup and a shell's & do: what is ignored here would be ignored by what tests send it to."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)  # of what the marks have left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (most := config.getoption("within")) is not None:
        known = durations()
        items[:] = [item for item in items if known.get(function_of(item.nodeid), 0) <= most]
    if config.getoption("first_rows"):
        seen: dict[str, pytest.Item] = {}
        items[:] = [item for item in items if seen.setdefault(function_of(item.nodeid), item) is item]
    items[:] = items[:: config.getoption("one_in")]


def function_of(nodeid: str) -> str:
    return nodeid.partition("[")[0]


def durations() -> dict[str, float]:
    return json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a LabError that a test meets comes its hint: there a program's last words are."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, LabError) and error.hint:
        report.sections.append(("hint", error.hint))
    return report


_took: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "teardown":
        name = function_of(report.nodeid)
        _took[name] = max(_took.get(name, 0), report.duration)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("store_durations") and "PYTEST_XDIST_WORKER" not in os.environ:
        found = durations() | {name: round(seconds, 1) for name, seconds in _took.items()}
        kept = {name: found[name] for name in sorted(found) if found[name] >= 0.1}
        DURATIONS.write_text(json.dumps(kept, indent=0) + "\n")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Skip what this host cannot run; refuse a test that would build images among those that are quick."""
    slow = [mark for mark in ("host_runtime", "bootstrap", "machine") if item.get_closest_marker(mark)]
    if "stock" in getattr(item, "fixturenames", ()) and not slow:
        raise pytest.UsageError(f"{item.nodeid} is to have machines, and has no mark that says so")
    names = [name for mark in item.iter_markers("needs") for name in mark.args]
    names += MACHINE_NEEDS if "machine" in slow else ()
    if missing := missing_programs(tuple(dict.fromkeys(names))):
        item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))
    if slow and os.geteuid() != 0:
        item.add_marker(pytest.mark.skip(reason="takes root"))


@dataclass
class Lab:
    """A home directory, a current directory, and `labkit` as a person types it."""

    home: Path
    cwd: Path
    env: dict[str, str] = field(default_factory=dict)
    within: tuple[str, ...] = ()  # what a command begins with, to run in other namespaces
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LABKIT_", "_LABKIT_"))}
        return {**kept, "LABKIT_HOME": str(self.home), "PYTHONPATH": str(ROOT), **self.env, **more}

    def start(self, *words: str, env: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen[str]:
        argv = [*self.within, sys.executable, "-m", "labkit", *words]
        child = subprocess.Popen(
            argv,
            cwd=self.cwd,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def run(
        self,
        *words: str,
        status: int | None = 0,
        timeout: float = 600,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        """Run `labkit words`; status is what it must end with, None for anything."""
        done = self.end(self.start(*words, env=env), timeout)
        out, err = done.stdout, done.stderr
        assert "Traceback" not in err, err
        assert status is None or done.returncode == status, f"{words}: {done.returncode}\n{out}\n{err}"
        return done

    def end(self, child: subprocess.Popen[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Wait for what start() began."""
        out, err = child.communicate(timeout=timeout)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def kill(self, child: subprocess.Popen[str]) -> None:
        """End what start() began as nothing can be prepared for."""
        child.kill()
        self.end(child)

    def kill_all(self) -> None:
        """A command that a failed test left would hold its machine against the next test."""
        for child in self.children:
            if child.poll() is None:
                self.kill(child)
        self.children.clear()

    def kill_machine(self, name: str = "") -> None:
        """SIGKILL to everything that was started for the machine, or for this home: at least one process, and some of
        the others may end with it.
        """
        until(lambda: self.processes(name), 60, what=f"a process of {name or self.home}")
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def json(self, *words: str, status: int = 0, env: Mapping[str, str] = MappingProxyType({})) -> Any:
        return json.loads(self.run(*words, "--json", status=status, env=env).stdout)

    def guest(self, script: str, machine: str | None = None, status: int = 0) -> str:
        """What a shell script prints on the machine."""
        named = ["--machine", machine] if machine else []
        return self.run("ssh", *named, "--", script, status=status).stdout

    def results(self, run: str = "latest") -> Any:
        return json.loads((self.cwd / "reports" / run / "results.json").read_text())

    def qemu(self, machine: str = "debian-13") -> int:
        """The pid of the machine's QEMU, from its command line."""
        disk = str(self.home / "machines" / machine / "disk.qcow2")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_text()
                except OSError:
                    continue
                if (line.startswith("qemu-system") and disk in line) or (
                    "/qemu-system-x86_64\0" in line and disk in line
                ):
                    return int(entry.name)
        raise AssertionError(f"no QEMU runs {disk}")

    def uml(self, machine: str = "debian-13") -> int:
        """The pid of the machine's kernel of User-Mode Linux: the first that its sandbox has started."""
        volume = self.home / "machines" / machine / "volume"
        for pid in self.processes(machine):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"/sandbox.py") for word in words[:5]) and f'"{volume}"'.encode() in b"".join(words):
                return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        raise AssertionError(f"no User-Mode Linux runs {volume}")

    def processes(self, machine: str = "") -> list[int]:
        """Pids of everything that was started for this home, or for a machine of it."""
        mark = f"_LABKIT_OWNER={self.home}{f'/machines/{machine}' if machine else ''}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if mark in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found


def spawned(
    words: Sequence[str | Path], *, cwd: Path, log: Path, env: Mapping[str, str], files: Sequence[int] = ()
) -> process.Child:
    """process.spawn() with both outputs in a file."""
    with log.open("ab") as file:
        return process.spawn(words, cwd=cwd, output=file.fileno(), errors=file.fileno(), env=env, files=files)


def until(condition: Callable[[], object], seconds: float = 120, what: str = "") -> None:
    """Wait for a condition that another process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in {seconds} s: {what or condition}"
        time.sleep(0.05)


def make_lab(
    directory: Path,
    within: tuple[str, ...] = (),
    provider: str | None = "qemu",
    stock: Stock | None = None,
    *,
    own: bool = False,
) -> Iterator[Lab]:
    """A lab below directory, which leaves no process behind; provider: of its machines, None for that of its files;
    stock: what it has from the start, own: as copies of its own.
    """
    lab = Lab(directory / "home", directory / "work", within=within)
    if provider:
        lab.env["LABKIT_PROVIDER"] = provider
    lab.home.mkdir()
    lab.cwd.mkdir()
    if stock:
        stock.give(lab.home, own=own)
    yield lab
    lab.kill_all()
    lab.run("destroy", "--all", status=None)
    if lab.processes():
        lab.kill_machine()


def of_all_workers(factory: pytest.TempPathFactory) -> Path:
    """The directory that the workers of this run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def stock(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Images, and the kernel of User-Mode Linux, for all labs of this run."""
    return make(pytestconfig.getoption("stock") or of_all_workers(tmp_path_factory) / "stock", os.environ)


@pytest.fixture(scope="session", autouse=True)
def kvm_was_tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One memory of whether KVM works here for all homes of tests: a guest that hangs on it takes ten seconds."""
    shared = of_all_workers(tmp_path_factory) / "host"

    def remembered(directory: Path, kind: str, subject: str, find: Callable[[], str | None]) -> str | None:
        files.make_directory(directory)
        return files.remembered(shared, kind, subject, find)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(accelerator, "remembered", remembered)
        yield


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may pass through, unlike pytest's, with a directory for temporary files in it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="lk-place-") as name:
        Path(name).chmod(0o755)
        (Path(name) / "tmp").mkdir()
        yield Path(name)


@pytest.fixture(scope="session")
def newest_runc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return newest.runc(tmp_path_factory.mktemp("newest-runc"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, stock: Stock) -> Iterator[Lab]:
    """A lab with a running Debian machine, shared by the tests that leave it as they found it: of User-Mode Linux where
    that can be had, else emulated.
    """
    for made in make_lab(tmp_path_factory.mktemp("lab"), provider=stock.provider, stock=stock):
        made.run("up")
        yield made


@pytest.fixture(scope="session")
def uml(tmp_path_factory: pytest.TempPathFactory, stock: Stock) -> Iterator[Lab]:
    """The same with a machine of User-Mode Linux, with 1 GiB for each machine."""
    if stock.why_not:
        pytest.skip(f"User-Mode Linux does not work here: {stock.why_not}")
    for made in make_lab(tmp_path_factory.mktemp("uml"), provider="uml", stock=stock):
        made.env["LABKIT_MACHINE_MEMORY"] = "1G"
        made.run("up")
        yield made


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory, stock: Stock) -> Iterator[Lab]:
    """The same with a machine of QEMU, for what is about that or about the distribution's kernel."""
    for made in make_lab(tmp_path_factory.mktemp("emulated"), stock=stock):
        made.run("up")
        yield made


@pytest.fixture(autouse=True)
def without_uml(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Where there is no User-Mode Linux, tests of machines run one at a time, and that is told at the end."""
    stock: Stock | None = request.getfixturevalue("stock") if "stock" in request.fixturenames else None
    if stock is None or not stock.why_not:
        yield
        return
    record_property(_EMULATED, stock.why_not)
    with (stock.home / "emulated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def host_as_it_was(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """A test that leaves /tmp with other permissions, which no other user could work with, is told at the end. With
    several workers it is that test or one beside it.
    """
    before = stat.S_IMODE(_TMP.stat().st_mode)
    yield
    after = stat.S_IMODE(_TMP.stat().st_mode)
    if after != before:
        _TMP.chmod(before)
        record_property(
            _CHANGED, f"{request.node.nodeid} left {_TMP} with {after:o}, which had {before:o} and has again"
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = {
        (name, value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name in (_EMULATED, _CHANGED)
    }
    for name, value in sorted(told):
        terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture
def recordings() -> dict[str, Path]:
    """The recorded runs, by ref."""
    return recorded.RECORDINGS


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Debian 13 as a tar archive."""
    return chroot.build(tmp_path_factory.mktemp("base"))
