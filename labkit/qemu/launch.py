"""Starting a QEMU, waiting for its guest, and writing its state to a file."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from labkit.core.arch import Arch
from labkit.core.deadline import Deadline
from labkit.core.errors import MachineError
from labkit.core.observer import Observer
from labkit.core.text import printable
from labkit.io import network, process
from labkit.io.console import CONSOLE, FAILED_BOOT, PANIC, GuestPanicked, console, console_end, kept, panics_named, tail
from labkit.io.network import Network, PortTaken, inside
from labkit.qemu.agent import Agent
from labkit.qemu.hardware import AGENT, LOG, MONITOR, Boot, Hardware, argv, firmware

if TYPE_CHECKING:
    from labkit.qemu.monitor import Monitor

_START = 60.0  # seconds that QEMU has to answer
# What a guest prints when its bootstrap has failed (templates/user-data.j2), after the end of its log. The port to its
# agent is faster than its console: seconds that this may take.
_FAILED, _PRINTED = b"labkit: bootstrap failed", 30.0


class StateRefused(MachineError):
    """QEMU cannot load the state of a guest; its disk may be good."""


@dataclass(frozen=True, slots=True)
class Started:
    """A QEMU that was started in directory: alive is the end to read of a pipe that it holds as long as it lives."""

    directory: Path
    child: process.Child
    network: Network
    alive: int
    messages: int  # where those of its network go
    has_state: bool


@dataclass(frozen=True, slots=True)
class Running:
    """The same, once it answers: port is forwarded to the guest's SSH."""

    monitor: Monitor
    port: int
    child: process.Child


def start(
    directory: Path,
    hardware: Hardware,
    boot: Boot,
    disk: Path,
    *,
    port: int = 0,
    state: Path | None = None,
    allowed: Sequence[str] = (),
) -> Started:
    """Start QEMU in directory; it loads the state of a guest, if one is given, before it answers on its monitor.

    allowed: addresses in the web that the guest is to reach though they are this host's.
    What a guest could do with a QEMU that it has taken over is little: it starts no program, sees no network of this
    host's but by way of slirp4netns, and is not root where this is root's.
    """
    for name in (AGENT, MONITOR):
        (directory / name).unlink(missing_ok=True)
    program = process.which(hardware.arch.emulator)
    words = argv(hardware, boot, disk, port=port, uuid=str(uuid.uuid4()))
    if program:
        words[0] = str(program)
    if hardware.arch is Arch.ARM64 and boot.kernel is None:
        words += ["-bios", str(firmware())]
    sandbox = "on,obsolete=deny,spawn=deny,resourcecontrol=deny"
    user = process.user_of(directory)
    if user:  # `-runas` takes what elevateprivileges denies; what it becomes has nothing to elevate with
        words += ["-sandbox", sandbox, "-runas", f"{user}:{user}"]
    else:
        words += ["-sandbox", f"{sandbox},elevateprivileges=deny"]
    within = inside(directory, allowed) if hardware.network is Network.GUARDED else []
    words = [*within, "setpriv", "--no-new-privs", *words]
    with contextlib.ExitStack() as stack:
        to_console, to_log, to_network = stack.enter_context(kept(directory, (CONSOLE, LOG, network.LOG)))
        alive, held = os.pipe()
        stack.callback(os.close, alive)
        stack.callback(os.close, held)
        files = [held]
        if state is not None:  # read from the file itself: a pipe takes twice as long
            files.append(stack.enter_context(state.open("rb")).fileno())
            words += ["-incoming", f"fd:{files[-1]}"]
        owner = {process.OWNER: str(directory)}
        child = process.spawn(words, cwd=directory, output=to_console, errors=to_log, env=owner, files=files)
        return Started(directory, child, hardware.network, os.dup(alive), os.dup(to_network), state is not None)


def connect_monitor(directory: Path, deadline: Deadline) -> Monitor:
    """The monitor of the QEMU that runs in directory. Raises MachineError where it does not answer in time."""
    from labkit.qemu.monitor import Monitor  # asyncio and the QMP library: 0.1 s

    return Monitor(directory, MONITOR, deadline)


def connect(started: Started, port: int) -> Running:
    """The QEMU that start() began, with that port, 0 for any free one, forwarded to its guest's SSH.

    Raises PortTaken, StateRefused, or MachineError with QEMU's own words; it has ended then.
    """
    directory, child = started.directory, started.child
    deadline = Deadline.after(_START)
    try:
        deadline.poll(lambda: (directory / MONITOR).exists() or child.poll() is not None, every=0.005)
        try:
            if started.network is Network.GUARDED and child.poll() is None:
                network.connect(directory, child.pid, started.alive, started.messages)
                port = network.forward(directory, port)
        finally:  # or the ring would wait for more
            os.close(started.alive)
            os.close(started.messages)
        monitor = None
        while monitor is None and child.poll() is None and not deadline.passed:
            with contextlib.suppress(MachineError):
                monitor = connect_monitor(directory, Deadline.after(0.5))
        if monitor is None:
            _refuse(started)
        if started.network is not Network.GUARDED:
            port = monitor.forwarded_port()
        return Running(monitor, port, child)
    except BaseException:
        process.end_owned(directory)
        raise


def _refuse(started: Started) -> NoReturn:
    """Raise what a QEMU that does not come up has said."""
    said = printable(log(started.directory), newlines=True)
    if "host forwarding rule" in said:
        raise PortTaken(said)
    if 'Failed to get "write" lock' in said:
        raise MachineError(
            f"another QEMU uses the disk of {started.directory}",
            hint="was labkit's home moved or copied while the machine ran? end that QEMU, or move the home back",
        )
    why = [line for line in said.splitlines() if re.search(r"migration|savevm|vmstate|incoming", line, re.IGNORECASE)]
    if started.has_state and why:
        raise StateRefused(f"QEMU cannot load the state: {why[-1]}")
    raise MachineError("QEMU did not start", hint=said or None)


def launch(directory: Path, hardware: Hardware, boot: Boot, disk: Path, allowed: Sequence[str] = ()) -> Monitor:
    """The monitor of a QEMU that is started in directory, as by start(), and stands before its first instruction."""
    return connect(start(directory, hardware, boot, disk, allowed=allowed), 0).monitor


def log(directory: Path) -> str:
    """What QEMU has said in directory."""
    return tail(directory, LOG).decode("utf-8", "replace").strip()


@contextlib.contextmanager
def ended(directory: Path) -> Iterator[None]:
    """Nothing that was started for directory outlives the block, nor do its sockets; what it has said stays."""
    try:
        yield
    finally:
        process.end_owned(directory)
        for name in (AGENT, MONITOR, network.API, network.RESOLVER):
            (directory / name).unlink(missing_ok=True)


def boot_and_run(
    agent: Agent, directory: Path, monitor: Monitor, script: str, deadline: Deadline, observer: Observer
) -> None:
    """Let the guest boot until its agent has run script.

    Raises as ask() does; all that the console has printed is kept beside directory then, and the error names the file.
    """
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
    except MachineError as error:
        kept = directory.parent / f"{FAILED_BOOT}{directory.name.partition('.')[0]}.log"
        with contextlib.suppress(OSError):  # on a full disk what failed is the boot itself
            kept.write_bytes(console(directory))
            error.hint = f"{error.hint}\n(all of the console: {kept})" if error.hint else f"its console: {kept}"
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
                raise MachineError(f"the guest did not {what} within {deadline.allowed}", hint=console_end(directory))
    if status:
        if agent.bootstrap_failed:
            Deadline.after(_PRINTED).poll(lambda: _FAILED in console(directory), every=0.1)
        raise MachineError(f"the guest could not {what}: its agent answered {status}", hint=console_end(directory))


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


def overlay(base: Path, target: Path) -> None:
    """Make target an empty disk on top of base. It names base from where it is itself, so that both can be moved."""
    named = os.path.relpath(base, target.parent)
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", named, str(target)]
    process.run(words, timeout=60)
    target.chmod(0o600)  # it will hold the guest's keys


def migrate(monitor: Monitor, target: Path, deadline: Deadline) -> None:
    """Write the guest's state, memory included, to target, and see it on the disk."""
    # The default bound of 128 MiB/s is meant for networks; the guest stands still already.
    monitor.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    target.unlink(missing_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        monitor.give("state", file.fileno())
        monitor.execute("migrate", uri="fd:state")
        failed = _migration(monitor, deadline)
        if failed:
            raise MachineError(f"QEMU could not save {target}: {failed}")
        os.fsync(file.fileno())


def give_up_migration(monitor: Monitor, deadline: Deadline) -> None:
    """End the writing of a state that goes on though nobody waits for it: QEMU would stop the guest at its end."""
    ended = (None, "none", "completed", "failed", "cancelled")
    if monitor.execute("query-migrate").get("status") in ended:
        return
    monitor.execute("migrate_cancel")
    deadline.poll(lambda: monitor.execute("query-migrate").get("status") in ended, every=0.02)


def loaded(monitor: Monitor, deadline: Deadline) -> None:
    """Wait until the state that start() was given is in memory. Raises StateRefused where QEMU cannot load it."""
    if failed := _migration(monitor, deadline):
        raise StateRefused(f"QEMU cannot load the state: {failed}")


def _migration(monitor: Monitor, deadline: Deadline) -> str | None:
    """Wait for the end of a migration; what went wrong with it."""
    while (answer := monitor.execute("query-migrate")).get("status") != "completed":
        if answer.get("status") in ("failed", "cancelled") or deadline.passed:
            return str(answer.get("error-desc", answer.get("status")))
        time.sleep(0.005)
    return None
