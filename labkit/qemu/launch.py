"""Starting a QEMU, waiting for its guest, and writing its state to a file."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.deadline import Deadline
from labkit.core.errors import ConnectionFailed, MachineError
from labkit.core.observer import Observer
from labkit.core.text import printable
from labkit.io import process
from labkit.qemu.agent import Agent
from labkit.qemu.hardware import AGENT, CONSOLE, LOG, MONITOR

if TYPE_CHECKING:
    from labkit.qemu.monitor import Monitor

PANIC = b"Kernel panic - not syncing"


class PortTaken(MachineError):
    pass


class GuestPanicked(MachineError):
    pass


def launch(directory: Path, words: list[str]) -> Monitor:
    """Start QEMU in directory and connect to its monitor. Raises as connect() does."""
    return connect(directory, start(directory, words))


def start(directory: Path, words: list[str], state: Path | None = None) -> process.Child:
    """Start QEMU in directory; it loads the state of a guest, if one is given, before it answers on its monitor."""
    for name in (AGENT, MONITOR, CONSOLE, LOG):
        (directory / name).unlink(missing_ok=True)
    owner = {process.OWNER: str(directory)}
    if state is None:
        return process.spawn(words, cwd=directory, log=directory / LOG, env=owner)
    with state.open("rb") as file:  # read from the file itself: a pipe takes twice as long
        incoming = ["-incoming", f"fd:{file.fileno()}"]
        return process.spawn([*words, *incoming], cwd=directory, log=directory / LOG, env=owner, files=[file.fileno()])


def connect_monitor(directory: Path, deadline: Deadline) -> Monitor:
    """The monitor of the QEMU that runs in directory. Raises MachineError where it does not answer in time."""
    from labkit.qemu.monitor import Monitor  # asyncio and the QMP library: 0.1 s

    return Monitor(directory, MONITOR, deadline)


def connect(directory: Path, child: process.Child) -> Monitor:
    """The monitor of the QEMU that start() began. Raises PortTaken, or MachineError with QEMU's own words."""
    deadline = Deadline.after(60)
    while True:
        deadline.poll(lambda: (directory / MONITOR).exists() or child.poll() is not None, every=0.005)
        if child.poll() is None and not deadline.passed:
            with contextlib.suppress(MachineError):
                return connect_monitor(directory, Deadline.after(0.5))
        if child.poll() is not None or deadline.passed:
            process.end_owned(directory)
            said = printable((directory / LOG).read_text(errors="replace").strip(), newlines=True)
            if "host forwarding rule" in said:
                raise PortTaken(said)
            raise MachineError("QEMU did not start", hint=said or None)


@contextlib.contextmanager
def ended(directory: Path) -> Iterator[None]:
    """Nothing that was started for directory outlives the block."""
    try:
        yield
    finally:
        process.end_owned(directory)


def boot_and_run(
    agent: Agent, directory: Path, monitor: Monitor, script: str, deadline: Deadline, observer: Observer
) -> None:
    """Let the guest boot until its agent has run script. Raises as ask() does; the console is kept then."""
    started = time.monotonic()
    try:
        monitor.execute("cont")
        ask(
            agent,
            directory,
            script,
            deadline,
            "come up",
            lambda: observer.progress("booting", int(time.monotonic() - started), None, "s"),
        )
    except MachineError:
        (directory.parent / "failed-boot.log").write_bytes((directory / CONSOLE).read_bytes())
        raise


def ask(
    agent: Agent,
    directory: Path,
    script: str,
    deadline: Deadline,
    what: str,
    waiting: Callable[[], None] = lambda: None,
) -> None:
    """Have the guest run script, watching its console meanwhile; what names that in errors.

    Raises GuestPanicked as soon as its kernel has given up, MachineError where script fails or the deadline passes.
    """
    agent.send(script)
    answered(agent, directory, deadline, what, waiting)


def answered(
    agent: Agent, directory: Path, deadline: Deadline, what: str, waiting: Callable[[], None] = lambda: None
) -> None:
    """Wait for the answer to a script that was sent, as ask() does."""
    with panics_named(directory, what):
        while (status := agent.answer(min(1.0, deadline.left))) is None:
            waiting()
            # A kernel that panics before it has the driver of the device that ends QEMU says so on its console only.
            if deadline.passed or PANIC in console(directory):
                raise MachineError(
                    f"the guest did not {what} in time (limits boot, build)", hint=console_end(directory)
                )
    if status:
        raise MachineError(f"the guest could not {what}: its agent answered {status}", hint=console_end(directory))


@contextlib.contextmanager
def panics_named(directory: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong with a guest in the block into GuestPanicked, where its kernel has panicked."""
    try:
        yield
    except (MachineError, ConnectionFailed) as error:
        if isinstance(error, GuestPanicked) or PANIC not in console(directory):
            raise
        said = f"the guest's kernel panicked, so it did not {what}"
        raise GuestPanicked(said, hint=console_end(directory)) from error


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


def console(directory: Path) -> bytes:
    """The last 64 KB of what the guest in directory wrote on its console."""
    try:
        with (directory / CONSOLE).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - (1 << 16)))
            return file.read()
    except OSError:
        return b""


def console_end(directory: Path) -> str:
    """The end of the console as a hint, fit to be shown."""
    text = console(directory)[-1500:].decode("utf-8", "replace").replace("\r\n", "\n")
    return f"its console ends with:\n{printable(text, newlines=True)}"


def panic_lines(data: bytes) -> str:
    """The line in which a console tells of a panic, with the two before it, as one line; "" where there is none."""
    at = data.find(PANIC)
    if at < 0:
        return ""
    before = data[max(at - 600, 0) : at].splitlines()[-3:]
    last = (before.pop() if before else b"") + data[at : at + 300].splitlines()[0]
    lines = [line.strip().decode("utf-8", "replace") for line in (*before, last)]
    return printable(" / ".join(filter(None, lines)))


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
