"""Every mutant of the runtime must be caught by the check of the requirement that it breaks."""

from __future__ import annotations

import functools
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from labkit.guest.spec import registry
from labkit.io import process
from labkit.results import tap
from labkit.results.model import Result, Verdict
from labkit.suites.spec import from_tap
from tests.mutants.engine import BROKEN, Mutant, refuse, run
from tests.mutants.every import MUTANTS

CHECKOUT = Path(__file__).parent.parent
PROGRAM = Path(__file__).parent / "mutants"
CASES = [(name, ident) for name, mutant in MUTANTS.items() for ident in mutant.ids]
SOME = 4  # of so many cases, one is part of every check
BAD = (Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT)
USER_NAMESPACES = {"NS-001", "USERNS-001"}  # these make one


@functools.cache
def has_user_namespaces() -> bool:
    return process.run(["unshare", "--user", "true"], timeout=10, check=False).status == 0


def launcher(directory: Path, name: str, runtime: Path) -> Path:
    """A program that is the runtime as the mutant has it; the calls it does not change do not wait for a Python."""
    path = directory / name
    words = [sys.executable, "-S", "-E", str(PROGRAM), name, str(runtime)]
    on = MUTANTS[name].on
    others = f'[ "$1" = {on} ] || exec {shlex.quote(str(runtime))} "$@"\n' if on else ""
    path.write_text(f'#!/bin/sh\n{others}exec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)
    return path


class Caught:
    """Results of checks on the mutants of one runtime. Those that the selected tests need run beside each other."""

    def __init__(self, directory: Path, runtime: Path, cases: Sequence[tuple[str, str]], pool: Executor) -> None:
        self._directory = directory
        self._runtime = runtime
        self._control = self._judge("control", sorted({ident for _, ident in cases}))
        todo: dict[str, list[str]] = {}
        for name, ident in cases:
            if self._control[ident].verdict is not Verdict.SKIP:
                todo.setdefault(name, []).append(ident)
        self._runs = {name: pool.submit(self._judge, name, idents) for name, idents in todo.items()}

    def control(self, ident: str) -> Result:
        return self._control[ident]

    def on(self, name: str, ident: str) -> Result:
        return self._runs[name].result()[ident]

    def _judge(self, name: str, idents: Sequence[str]) -> dict[str, Result]:
        runtime = launcher(self._directory, name, self._runtime)
        words = ["--runtime", str(runtime), "--only", ",".join(idents), "--no-confirm", "--no-shared"]
        done = process.run([sys.executable, "-m", "labkit.guest.spec", *words], cwd=CHECKOUT, timeout=300, check=False)
        results = {result.id: result for result in from_tap(tap.read(done.stdout.encode())).results}
        assert set(results) == set(idents), f"{name}: {done.stdout[-1000:]} {done.stderr[-1000:]}"
        return results


def caught(test: str, runtime: Path, request: pytest.FixtureRequest, directory: Path) -> Iterator[Caught]:
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    cases = [
        (item.callspec.params["name"], item.callspec.params["ident"]) for item in items if item.originalname == test
    ]
    with ThreadPoolExecutor(6) as pool:
        yield Caught(directory, runtime, [(str(name), str(ident)) for name, ident in cases], pool)
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def on_installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caught]:
    runc = process.which("runc")
    assert runc, "these tests need runc"
    yield from caught(
        test_the_check_sees_the_mutant.__name__, Path(runc), request, tmp_path_factory.mktemp("installed")
    )


@pytest.fixture(scope="module")
def on_newest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, newest_runc: Path
) -> Iterator[Caught]:
    yield from caught(
        test_the_check_sees_the_mutant_of_the_newest.__name__, newest_runc, request, tmp_path_factory.mktemp("newest")
    )


def judge(name: str, ident: str, found: Caught) -> None:
    control = found.control(ident)
    if control.verdict in BAD and ident in USER_NAMESPACES and not has_user_namespaces():
        pytest.skip("the kernel makes no user namespace here, as in a chroot")
    if control.verdict is Verdict.SKIP:
        pytest.skip(str(control.diagnostic.get("message")))
    assert control.verdict in (Verdict.PASS, Verdict.FAIL), control.diagnostic
    result = found.on(name, ident)
    if set(result.findings) == set(control.findings) and control.verdict is Verdict.FAIL:
        pytest.skip(f"this runtime does that itself: {control.diagnostic.get('message')}")
    assert result.verdict is Verdict.FAIL, result.diagnostic
    assert not set(result.findings) <= set(control.findings), result.diagnostic
    commands = result.diagnostic["commands"]
    assert isinstance(commands, list)
    assert BROKEN not in [command["status"] for command in commands], commands


def extent(number: int) -> list[pytest.MarkDecorator]:
    """Of four cases one is part of every check, the others of the slow one."""
    return [pytest.mark.slow] if number % SOME else []


@pytest.mark.host_runtime
@pytest.mark.needs("runc", "busybox")
@pytest.mark.parametrize(
    ("name", "ident"),
    [pytest.param(*case, marks=extent(number)) for number, case in enumerate(CASES)],
)
def test_the_check_sees_the_mutant(name: str, ident: str, on_installed: Caught) -> None:
    judge(name, ident, on_installed)


@pytest.mark.host_runtime
@pytest.mark.slow
@pytest.mark.needs("busybox")
@pytest.mark.parametrize(("name", "ident"), CASES[::SOME])
def test_the_check_sees_the_mutant_of_the_newest(name: str, ident: str, on_newest: Caught) -> None:
    judge(name, ident, on_newest)


@pytest.mark.host_runtime
@pytest.mark.needs("runc", "busybox")
def test_a_runtime_that_takes_no_relative_source_fails_the_check_of_those_only(tmp_path: Path) -> None:
    runc = process.which("runc")
    assert runc, "this test needs runc"
    runtime = launcher(tmp_path, "relative_sources_are_of_the_working_directory", Path(runc))
    idents = ["MOUNT-002", "STATE-001", "LIFE-004", "CONF-010"]
    words = ["--runtime", str(runtime), "--only", ",".join(idents), "--no-confirm", "--no-shared"]
    done = process.run([sys.executable, "-m", "labkit.guest.spec", *words], cwd=CHECKOUT, timeout=300, check=False)
    found = {result.id: result.verdict for result in from_tap(tap.read(done.stdout.encode())).results}
    assert found == {ident: Verdict.FAIL if ident == "MOUNT-002" else Verdict.PASS for ident in idents}


def test_the_mutants_are_many_and_of_all_kinds() -> None:
    assert {ident for _, ident in CASES} <= set(registry.load())
    assert len([mutant for mutant in MUTANTS.values() if mutant.ids]) >= 100
    assert len({ident.partition("-")[0] for _, ident in CASES}) >= 25


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("name", ["ignores-hostname", "hooks_without_state", "no_dev_full"])
def test_a_config_is_changed_for_create_only(name: str, status: int, tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    runtime.write_text(f"#!/bin/sh\ncp '{tmp_path}/config.json' '{tmp_path}/seen.json'; exit {status}\n")
    runtime.chmod(0o755)
    hook = {"path": "/bin/true", "args": ["true"]}
    config = {"hostname": "x", "root": {"path": "rootfs"}, "hooks": {"prestart": [hook]}}
    original = json.dumps(config, indent=1)
    (tmp_path / "config.json").write_text(original)
    mutant = launcher(tmp_path, name, runtime)
    done = subprocess.run([mutant, "create", "--bundle", tmp_path, "some-id"], check=False)
    assert done.returncode == status
    assert json.loads((tmp_path / "seen.json").read_text()) != config
    assert (tmp_path / "config.json").read_text() == original


def test_a_refusal_is_not_a_bug_of_the_mutant() -> None:
    assert run(Mutant((), "", lambda call: refuse("no")), "/bin/true", ["create", "some-id"]) == 1
    assert run(Mutant((), "", lambda call: int("no")), "/bin/true", ["create", "some-id"]) == BROKEN
