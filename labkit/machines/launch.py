"""Starting a QEMU, waiting for its guest, and writing its state to a file."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import late, process
from labkit.deadline import Deadline
from labkit.errors import MachineError
from labkit.machines.agent import Agent
from labkit.machines.hardware import AGENT, CONSOLE, LOG, MONITOR
from labkit.observer import Observer
from labkit.text import printable

if TYPE_CHECKING:
    from labkit.qmp import Monitor

PANIC = b"Kernel panic - not syncing"


class PortTaken(MachineError):
    pass


class GuestPanicked(MachineError):
    pass


def launch(folder: Path, words: list[str]) -> Monitor:
    """Start QEMU in folder and connect to its monitor. Raises as connect() does."""
    return connect(folder, start(folder, words))


def start(folder: Path, words: list[str], state: Path | None = None) -> process.Child:
    """Start QEMU in folder; it loads the state of a guest, if one is given, before it answers on its monitor."""
    for name in (AGENT, MONITOR, CONSOLE, LOG):
        (folder / name).unlink(missing_ok=True)
    owner = {process.OWNER: str(folder)}
    if state is None:
        return process.spawn(words, cwd=folder, log=folder / LOG, env=owner)
    with state.open("rb") as file:  # read from the file itself: a pipe takes twice as long
        incoming = ["-incoming", f"fd:{file.fileno()}"]
        return process.spawn([*words, *incoming], cwd=folder, log=folder / LOG, env=owner, files=[file.fileno()])


def connect(folder: Path, child: process.Child) -> Monitor:
    """The monitor of the QEMU that start() began. Raises PortTaken, or MachineError with QEMU's own words."""
    deadline = Deadline.after(60)
    while True:
        deadline.poll(lambda: (folder / MONITOR).exists() or child.poll() is not None, every=0.005)
        if child.poll() is None and not deadline.passed:
            with contextlib.suppress(MachineError):
                monitor: Monitor = late.module("qmp").Monitor(folder, MONITOR, Deadline.after(0.5))
                return monitor
        if child.poll() is not None or deadline.passed:
            process.end_owned(folder)
            said = printable((folder / LOG).read_text(errors="replace").strip(), newlines=True)
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


def boot_and_run(
    agent: Agent, folder: Path, monitor: Monitor, script: str, deadline: Deadline, observer: Observer
) -> None:
    """Let the guest boot until its agent has run script. Raises as ask() does; the console is kept then."""
    started = time.monotonic()
    try:
        monitor.execute("cont")
        ask(
            agent,
            folder,
            script,
            deadline,
            "come up",
            lambda: observer.progress("booting", int(time.monotonic() - started), None),
        )
    except MachineError:
        (folder.parent / "failed-boot.log").write_bytes((folder / CONSOLE).read_bytes())
        raise


def ask(
    agent: Agent, folder: Path, script: str, deadline: Deadline, what: str, waiting: Callable[[], None] = lambda: None
) -> None:
    """Have the guest run script, watching its console meanwhile; what names that in errors.

    Raises GuestPanicked as soon as its kernel has given up, MachineError where script fails or the deadline passes.
    """
    agent.send(script)
    answered(agent, folder, deadline, what, waiting)


def answered(
    agent: Agent, folder: Path, deadline: Deadline, what: str, waiting: Callable[[], None] = lambda: None
) -> None:
    """Wait for the answer to a script that was sent, as ask() does."""
    while (status := agent.answer(min(1.0, deadline.left))) is None:
        waiting()
        if PANIC in console(folder):
            raise GuestPanicked(f"the guest's kernel panicked, so it did not {what}", hint=console_end(folder))
        if deadline.passed:
            raise MachineError(f"the guest did not {what} in time (limits boot, build)", hint=console_end(folder))
    if status:
        raise MachineError(f"the guest could not {what}: its agent answered {status}", hint=console_end(folder))


def again_after_panic(boot: Callable[[], None], observer: Observer) -> None:
    """Call boot, and again where the guest's kernel panicked, three times in all.

    Under emulation with several CPUs a breakpoint that the kernel uses to patch itself can be hit after it was taken
    back (`Oops: int3`): seen in one boot of some fifty, on a loaded host. The next boot is another throw of the dice.
    """
    for _ in range(2):
        try:
            boot()
            return
        except GuestPanicked:
            observer.warn("the guest's kernel panicked while it booted; booting again")
    boot()


def console(folder: Path) -> bytes:
    """The last 64 KB of what the guest in folder wrote on its console."""
    try:
        with (folder / CONSOLE).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - (1 << 16)))
            return file.read()
    except OSError:
        return b""


def console_end(folder: Path) -> str:
    """The end of the console as a hint, fit to be shown."""
    text = console(folder)[-1500:].decode("utf-8", "replace").replace("\r\n", "\n")
    return f"its console ends with:\n{printable(text, newlines=True)}"


def overlay(base: Path, target: Path) -> None:
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, target], timeout=60)


def migrate(monitor: Monitor, target: Path, deadline: Deadline) -> None:
    """Write the guest's state, memory included, to target."""
    # The default bound of 128 MiB/s is meant for networks; the guest stands still already.
    monitor.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    monitor.execute("migrate", uri=f"exec:cat >{shlex.quote(str(target))}")
    _wait_migration(monitor, deadline, f"save {target}")


def loaded(monitor: Monitor, deadline: Deadline) -> None:
    """Wait until the state that start() was given is in memory."""
    _wait_migration(monitor, deadline, "restore the machine's state")


def _wait_migration(monitor: Monitor, deadline: Deadline, what: str) -> None:
    while (answer := monitor.execute("query-migrate")).get("status") != "completed":
        if answer.get("status") in ("failed", "cancelled") or deadline.passed:
            raise MachineError(f"QEMU could not {what}: {answer.get('error-desc', answer.get('status'))}")
        time.sleep(0.005)
