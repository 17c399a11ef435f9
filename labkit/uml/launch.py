"""Starting a User-Mode Linux in its sandbox, and finding out whether that works here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.core.deadline import Deadline
from labkit.core.errors import LabError, MachineError
from labkit.core.home import Home
from labkit.core.text import printable
from labkit.io import network, process
from labkit.io.console import CONSOLE, console, console_end, kept, tail
from labkit.io.files import make_directory, remembered, write_atomic
from labkit.io.network import Network
from labkit.uml import cow
from labkit.uml.kernel import SAID, Kernel

VOLUME = "volume"  # below a machine's directory, all of it that its kernel sees
COW = "cow.img"  # there: what the machine has written, on top of its image's disk
_START = "start.img"  # below a machine's directory: the script that its first process runs
_ROOT = "root"  # below a machine's directory: where the sandbox makes its root, which only it sees
_LOG = "sandbox.log"
_SANDBOX = Path(__file__).with_name("sandbox.py")
_UP = 20.0  # seconds for what takes a tenth of one
_TRIAL = 20.0  # seconds; it needs less than two
_TRIAL_MEMORY = 64
# The first process of a guest: the script comes on a disk of its own.
_INIT = '"mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run && cat /dev/ubdc >/run/labkit && exec sh /run/labkit"'
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Running:
    """A kernel that was started: port of 127.0.0.1 is forwarded to its guest's SSH."""

    child: process.Child
    port: int


def start(
    directory: Path,
    kernel: Kernel,
    base: Path,
    script: str,
    memory_mib: int,
    *,
    port: int = 0,
    reach: Network = Network.GUARDED,
    allowed: Sequence[str] = (),
    extra: Sequence[str] = (),
) -> Running:
    """Boot a machine's disk: what is in directory/volume/cow.img on top of base, a raw file system. script is what its
    first process does; extra: more words for the kernel.

    Raises PortTaken, or MachineError with what the sandbox has said; nothing runs then.
    """
    _volume(directory)
    text = script.encode()
    write_atomic(directory / _START, text + b"\n" * (-len(text) % _BLOCK))
    words = [
        f"ubd0=/disk/{COW},/files/base", "ubd1r=/kernel/modules.img", "ubd2r=/files/start", "root=/dev/ubda", "rw",
        *extra, "init=/bin/sh", "--", "-c", _INIT,
    ]  # fmt: skip
    return _started(directory, kernel, base, memory_mib, words, port, reach, allowed)


def _volume(directory: Path) -> Path:
    """The directory that the kernel sees, and writes to as its user."""
    volume = make_directory(directory / VOLUME, mode=0o700)
    make_directory(directory / _ROOT, mode=0o700)
    user = process.user_of(directory)
    if user is not None:
        os.chown(volume, user, user)
        cow.give(volume / COW, user)
    return volume


def _started(
    directory: Path,
    kernel: Kernel,
    base: Path,
    memory_mib: int,
    words: Sequence[str],
    port: int,
    reach: Network,
    allowed: Sequence[str],
) -> Running:
    argv = ["linux", f"mem={memory_mib}M", "umid=machine", "uml_dir=/dev/shm", "con=null", "con0=null,fd:1"]
    argv += [f"vec0:transport=fd,fd=TAP,vec=0,mac={_mac(directory)}", *(["seccomp=auto"] if kernel.seccomp else [])]
    # A kernel that goes on after an oops runs suites with who knows which of its locks held.
    argv += ["oops=panic", "quiet", *words]
    user = process.user_of(directory)
    (directory / _START).chmod(0o644)  # read by the kernel's own user, who has no way to it but through the sandbox
    with contextlib.ExitStack() as stack:
        cpu, hold = stack.enter_context(_cpu())
        plan = {
            "kernel": str(kernel.directory),
            "root": str(directory / _ROOT),
            "disk": str(directory / VOLUME),
            "files": {"base": str(base), "start": str(directory / _START)},
            "memory_mib": memory_mib,
            "user": user if user is not None else 0,
            "tap": network.GUEST_TAP,
            "cpu": cpu,
            "argv": argv,
        }
        to_console, to_log, to_network = stack.enter_context(kept(directory, (CONSOLE, _LOG, network.LOG)))
        alive, held = os.pipe()
        stack.callback(os.close, alive)
        stack.callback(os.close, held)
        command = [*network.routed(directory, allowed, reach), sys.executable, "-I", "-S", str(_SANDBOX)]
        owner = {process.OWNER: str(directory)}
        child = process.spawn(
            [*command, json.dumps(plan)],
            cwd=directory,
            output=to_console,
            errors=to_log,
            env=owner,
            files=[held, *([hold] if hold is not None else [])],
        )
        try:
            # The namespace's tap is there once the sandbox's own program runs.
            up = f"{_SANDBOX}".encode()
            Deadline.after(_UP).poll(lambda: child.poll() is not None or _runs(child.pid, up), every=0.005)
            if child.poll() is None:
                network.connect(directory, child.pid, alive, to_network)
                return Running(child, network.forward(directory, port, f"{network.GUEST}:22"))
        except BaseException:
            process.end_owned(directory)
            raise
    raise MachineError("User-Mode Linux did not start", hint=said(directory))


def _runs(pid: int, program: bytes) -> bool:
    """Whether the child of unshare, which is what the namespaces are made for, has come to that program."""
    with contextlib.suppress(OSError):
        for child in process.children(pid):
            if program in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[:5]:
                return True
    return False


def said(directory: Path) -> str:
    """What the sandbox and the kernel have said, fit to be shown."""
    text = tail(directory, _LOG).decode("utf-8", "replace").strip()
    return printable(text, newlines=True) or console_end(directory)


def _mac(directory: Path) -> str:
    digest = hashlib.sha256(str(directory).encode()).hexdigest()
    return "02:" + ":".join(digest[at : at + 2] for at in range(0, 10, 2))


@contextlib.contextmanager
def _cpu() -> Iterator[tuple[int | None, int | None]]:
    """A CPU that no other machine of this host's has, and a descriptor that holds it for whoever inherits that. None
    where all are taken: then the host's kernel chooses.

    A kernel of User-Mode Linux that is moved between CPUs takes half as long again for its work. The hold is a name of
    a socket, which all users of this host share and which no killed process leaves behind.
    """
    for cpu in sorted(os.sched_getaffinity(0)):
        with socket.socket(socket.AF_UNIX) as hold:
            try:
                hold.bind(f"\0labkit-cpu-{cpu}")
            except OSError:
                continue
            yield cpu, hold.fileno()
            return
    yield None, None


def probe(kernel: Kernel, home: Home) -> str | None:
    """None where a guest really runs in the sandbox, with its network, else why not. Tried once for each kernel of this
    host's, its boot and this labkit's sandbox, then remembered in home.
    """
    subject = f"{kernel.sha256} {os.geteuid()} {_SANDBOX.read_text()}"
    return remembered(home.host, "uml", subject, lambda: _try(kernel, home))


def _try(kernel: Kernel, home: Home) -> str | None:
    if why := network.choose("auto")[1]:
        return why
    directory = make_directory(home.host / f"trial-{os.getpid()}", mode=0o700)
    try:
        _volume(directory)
        words = ["ubd0r=/kernel/modules.img", "root=/dev/ubda", "ro", "init=/trial"]
        write_atomic(directory / _START, "")
        running = _started(directory, kernel, kernel.modules, _TRIAL_MEMORY, words, 0, Network.GUARDED, ())
        with contextlib.suppress(Exception):
            running.child.wait(_TRIAL)
        if running.child.poll() is None:
            return f"a test guest did not end within {_TRIAL:g} s"
        if SAID in console(directory):
            return None
        return (said(directory).splitlines() or ["it says nothing"])[-1]
    except LabError as error:
        return f"{error.message}: {(error.hint or '').splitlines()[-1]}" if error.hint else error.message
    finally:
        process.end_owned(directory)
        shutil.rmtree(directory, ignore_errors=True)
