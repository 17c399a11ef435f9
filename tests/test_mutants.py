"""Every mutant of the runtime must be caught by the check of the requirement that it breaks."""

from __future__ import annotations

import functools
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from labkit.guest.spec import registry
from labkit.io import process
from labkit.results import policy, tap
from labkit.results.model import Result, RuntimeInfo, Verdict
from labkit.suites.spec import from_tap
from tests.mutants.engine import BROKEN, Mutant, refuse, run
from tests.mutants.every import MUTANTS
from tests.test_results import a_run

CHECKOUT = Path(__file__).parent.parent
PROGRAM = Path(__file__).parent / "mutants"
CASES = [(name, ident) for name, mutant in MUTANTS.items() for ident in mutant.ids]
BAD = (Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT)
Found = Callable[[str, str], Result]
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


@pytest.fixture(scope="session")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    """The result of a check on a mutant. Those that the selected tests need run beside each other."""
    directory = tmp_path_factory.mktemp("mutants")
    runc = process.which("runc")
    assert runc, "these tests need runc"

    def judge(name: str, idents: Sequence[str]) -> dict[str, Result]:
        words = ["--runtime", str(launcher(directory, name, runc)), "--only", ",".join(idents)]
        done = process.run([sys.executable, "-m", "labkit.guest.spec", *words], cwd=CHECKOUT, timeout=300, check=False)
        reading = from_tap(tap.read(done.stdout.encode()))
        version = reading.facts.get("runtime-version", "").removeprefix("runc version ")
        run = replace(a_run(*reading.results), runtime=RuntimeInfo("runc", str(runc), version))
        results = {result.id: result for result in policy.apply(run, policy.load(), date.today()).results}
        assert set(results) == set(idents), f"{name}: {done.stdout[-1000:]} {done.stderr[-1000:]}"
        return results

    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    cases = [tuple(map(str, item.callspec.params.values())) for item in items if item.originalname == CAUGHT]
    control = judge("control", sorted({ident for _, ident in cases}))
    todo: dict[str, list[str]] = {}
    for name, ident in cases:
        if control[ident].verdict is not Verdict.SKIP and control[ident].expected is None:
            todo.setdefault(name, []).append(ident)
    with ThreadPoolExecutor(6) as pool:
        runs: dict[str, Future[dict[str, Result]]] = {
            name: pool.submit(judge, name, idents) for name, idents in todo.items()
        }
        yield lambda name, ident: control[ident] if name == "control" else runs[name].result()[ident]
        pool.shutdown(cancel_futures=True)


@pytest.mark.host_runtime
@pytest.mark.needs("runc", "busybox")
@pytest.mark.parametrize(("name", "ident"), CASES)
def test_the_check_fails_on_the_mutant_and_only_there(name: str, ident: str, found: Found) -> None:
    control = found("control", ident)
    if control.expected is not None:
        pytest.skip(f"this runtime does that itself: {control.expected.reason}")
    if control.verdict in BAD and ident in USER_NAMESPACES and not has_user_namespaces():
        pytest.skip("the kernel makes no user namespace here, as in a chroot")
    assert control.verdict not in BAD, control.diagnostic
    if control.verdict is Verdict.SKIP:
        pytest.skip(str(control.diagnostic.get("message")))
    result = found(name, ident)
    if control.verdict is result.verdict is Verdict.TODO:
        pytest.skip(f"this runtime does that itself: {control.diagnostic.get('message')}")
    assert result.verdict is Verdict.FAIL, result.diagnostic
    commands = result.diagnostic["commands"]
    assert isinstance(commands, list)
    assert BROKEN not in [command["status"] for command in commands], commands


CAUGHT = test_the_check_fails_on_the_mutant_and_only_there.__name__


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
