"""Starting a QEMU, waiting for its guest, and writing its state to a file."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from labkit import process
from labkit.deadline import Deadline
from labkit.errors import MachineError
from labkit.machines.agent import Agent
from labkit.machines.hardware import AGENT, CONSOLE, MONITOR
from labkit.observer import Observer
from labkit.qmp import Monitor
from labkit.text import printable


class PortTaken(MachineError):
    pass


def launch(folder: Path, words: list[str]) -> Monitor:
    """Start QEMU in folder and connect to its monitor. Raises PortTaken, or MachineError with QEMU's own words."""
    for name in (AGENT, MONITOR):
        (folder / name).unlink(missing_ok=True)
    log = folder / "qemu.log"
    log.unlink(missing_ok=True)
    child = process.spawn(words, cwd=folder, log=log, env={process.OWNER: str(folder)})
    deadline = Deadline.after(60)
    while True:
        deadline.poll(lambda: (folder / MONITOR).exists() or child.poll() is not None, every=0.005)
        if child.poll() is None and not deadline.passed:
            with contextlib.suppress(MachineError):
                return Monitor(folder, MONITOR, Deadline.after(0.5))
        if child.poll() is not None or deadline.passed:
            process.end_owned(folder)
            said = printable(log.read_text(errors="replace").strip(), newlines=True)
            if "host forwarding rule" in said:
                raise PortTaken(said)
            raise MachineError("QEMU did not start", hint=said or None)


@contextlib.contextmanager
def ended(folder: Path) -> Iterator[None]:
    """Nothing that was started for folder outlives the block."""
    try:
        yield
    finally:
        process.end_owned(folder)


def boot_and_run(folder: Path, monitor: Monitor, script: str, deadline: Deadline, observer: Observer) -> None:
    """Let the guest boot until its agent has run script."""
    started = time.monotonic()
    with Agent(folder) as agent:
        monitor.execute("cont")
        agent.send(script)
        while (status := agent.answer(min(1.0, deadline.left))) is None:
            observer.progress("booting", int(time.monotonic() - started), None)
            status = monitor.execute("query-status")["status"]
            if status in ("guest-panicked", "shutdown") or deadline.passed:
                what = "did not come up in time" if deadline.passed else f"stopped ({status})"
                data = (folder / CONSOLE).read_bytes()[-1500:].decode("utf-8", "replace")
                keep = folder.parent / "failed-boot.log"
                shutil.copyfile(folder / CONSOLE, keep)
                raise MachineError(
                    f"the guest {what} at its first boot",
                    hint=f"its console is kept in {keep}; it ends with:\n{printable(data, newlines=True)}",
                )
        if status:
            raise MachineError(f"the guest's agent answered {status} at its first boot")


def overlay(base: Path, target: Path) -> None:
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, target], timeout=60)


def migrate(monitor: Monitor, target: Path, *, shared: bool, deadline: Deadline) -> None:
    """Write the guest's state to target; shared: without its memory, which is in a file of its own."""
    _ignore_shared(monitor, shared)
    # The default bound of 128 MiB/s is meant for networks; the guest stands still already.
    monitor.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    monitor.execute("migrate", uri=f"exec:cat >{shlex.quote(str(target))}")
    _wait_migration(monitor, deadline, f"save {target}")


def incoming(monitor: Monitor, source: Path, *, shared: bool, deadline: Deadline) -> None:
    """Load the state at source into a QEMU that waits for one; shared: without its memory, which is mapped."""
    _ignore_shared(monitor, shared)
    monitor.execute("migrate-incoming", uri=f"exec:cat {shlex.quote(str(source))}")
    _wait_migration(monitor, deadline, f"restore {source}")


def _ignore_shared(monitor: Monitor, state: bool) -> None:
    # It outlives a restore, and the reader of a state must have it as its writer had.
    monitor.execute("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": state}])


def _wait_migration(monitor: Monitor, deadline: Deadline, what: str) -> None:
    while (answer := monitor.execute("query-migrate")).get("status") != "completed":
        if answer.get("status") in ("failed", "cancelled") or deadline.passed:
            raise MachineError(f"QEMU could not {what}: {answer.get('error-desc', answer.get('status'))}")
        time.sleep(0.005)
