"""The one place that runs local programs.

Everything else builds an argv list and hands it here. A program runs in a session of its own, so that a time
limit or Ctrl-C ends it with all its children, and never through a shell.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from labkit.core.deadline import allowed
from labkit.core.errors import HostError, InfrastructureError, ProgramFailed
from labkit.core.text import printable, truncate

_TAIL = 4000  # characters of what a program said last, in errors
_COMMAND = 2000  # characters of a command, in errors
_KEPT = 16 << 20  # bytes of what a program printed on each stream, its end, that are read back
_LINE = 64 << 10  # bytes of a line; a longer one arrives in pieces
_GRACE = 10.0  # seconds that a program has to end when it is asked to
_POLL = 0.1  # seconds between two looks whether a program has ended that printed nothing
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
OWNER = "_LABKIT_OWNER"  # environment variable that marks a process as started for a directory of the lab

# Each command as it begins (`+ cmd`), and how and when it ended; under --verbose a person sees it.
_log = logging.getLogger("labkit.process")

Child = subprocess.Popen[bytes]

# What a program gets of this process's environment, and why; a name that ends in * stands for all that begin so.
# Anything else could steer programs behind labkit's back (GIT_DIR in a git hook, LD_PRELOAD, PYTHON*) or was meant
# for labkit alone (LABKIT_*, and systemd's NOTIFY_SOCKET and LISTEN_FDS).
_PASSED = {
    "who runs it, and where that person's files are": (
        "HOME", "USER", "LOGNAME", "SHELL",
        "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
    ),
    "who called sudo: apt's log tells it": ("SUDO_USER", "SUDO_UID", "SUDO_GID"),
    "where large files may lie for a while": ("TMPDIR",),
    "scripts of packages ask for it, though they have no terminal": ("TERM",),
    "the questions that packages may ask, and apt's own settings": ("DEBIAN_FRONTEND", "APT_CONFIG"),
    "the way out, for package managers and Vagrant": (
        "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
        "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
    ),
    "whom to trust on that way": ("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"),
}  # fmt: skip
_ALWAYS = tuple(itertools.chain.from_iterable(_PASSED.values()))
# What Vagrant and its providers' own tools are set up by.
VAGRANT = ("VAGRANT_*", "LIBVIRT_*", "VBOX_*", "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS")
ALL = ("*",)


@dataclass(frozen=True, slots=True)
class Completed:
    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def exit_status(self) -> int:
        """The status as a shell has it: a signal counts 128 more."""
        return self.status if self.status >= 0 else 128 - self.status

    @property
    def outcome(self) -> str:
        """How it ended, as the end of a sentence: `failed with status 1`, `failed, ended by SIGKILL`."""
        if self.status < 0:
            return f"failed, ended by {_signal_name(-self.status)}"
        return f"{'failed' if self.status else 'ended'} with status {self.status}"


def which(program: str) -> Path | None:
    """The program's path; the sbin directories count too, where distributions keep mkfs and runtimes."""
    found = shutil.which(program, path=_path())
    return Path(found) if found else None


def _found(program: str) -> Path:
    found = which(program)
    if found is None:
        raise HostError(f"{program} is not installed on this host", hint="run: ./lab doctor --yes")
    return found


def _path() -> str:
    return os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


def _environment(passing: Sequence[str], more: Mapping[str, str]) -> dict[str, str]:
    named = (*_ALWAYS, *passing)
    names = frozenset(named)
    begins = tuple(name[:-1] for name in named if name.endswith("*"))
    kept = {name: value for name, value in os.environ.items() if name in names or name.startswith(begins)}
    return {**kept, "PATH": _path(), "LC_ALL": "C.UTF-8", **more}


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    limit: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    passing: Sequence[str] = (),
    stdin: bytes | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
    on_wait: Callable[[], None] = lambda: None,
) -> Completed:
    """Run argv and wait for it, timeout seconds at most; limit is the key of labkit.toml that they come from.

    The program gets PATH with the sbin directories, the locale C.UTF-8, what _PASSED names of this process's
    environment, what passing names (as _PASSED does), and env. on_line is called with each line of stdout and
    stderr as it comes (both then arrive as stdout), and on_wait several times a second meanwhile; what either raises
    ends the program. Of much output the end is returned, the last 16 MiB.

    Raises HostError where the program does not exist, ProgramFailed where it cannot be started, fails (check)
    or takes too long: it is asked to end then, and killed where it does not.
    """
    words = [str(word) for word in argv]
    name, shown = Path(words[0]).name, _shown(words, cwd)
    words[0] = str(_found(words[0]))
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        given: IO[bytes] | int = subprocess.DEVNULL
        if stdin is not None:
            given = stack.enter_context(tempfile.TemporaryFile())
            given.write(stdin)
            given.seek(0)
        with _starting(name, shown):
            child = subprocess.Popen(
                words,
                cwd=cwd,
                env=_environment(passing, env or {}),
                stdin=given,
                stdout=subprocess.PIPE if on_line else out,
                stderr=subprocess.STDOUT if on_line else err,
                start_new_session=True,
            )
        try:
            pipe = child.stdout and stack.enter_context(child.stdout)
            with _Limit(child, timeout) as watch:
                heard = _relay(child, pipe, watch, on_line, on_wait) if on_line and pipe else b""
                if not watch.refused:
                    child.wait()
        except BaseException:
            _end(child)
            raise
        if watch.refused:
            raise ProgramFailed(
                f"{name} took longer than {allowed(timeout, limit)} and does not end: {shown}",
                hint="it runs as another user; end it by hand",
            )
        printed = (_text(heard), "") if on_line else (_read(out), _read(err))
        done = Completed(tuple(words), child.returncode, *printed)
        _log.debug("%s %s after %.2f s", name, done.outcome, time.monotonic() - began)
    if watch.expired:
        end_group(child.pid)  # its children that do not end when asked
        raise ProgramFailed(
            f"{name} took longer than {allowed(timeout, limit)} and was ended: {shown}", hint=_tail(done)
        )
    if check and done.status != 0:
        raise ProgramFailed(f"{name} {done.outcome}: {shown}", hint=_tail(done))
    return done


@contextlib.contextmanager
def _starting(name: str, shown: str) -> Iterator[None]:
    _log.debug("+ %s", shown)
    try:
        yield
    except OSError as error:
        raise ProgramFailed(f"{name} cannot be started: {error.strerror}: {shown}") from error


def _relay(
    child: Child, pipe: IO[bytes], limit: _Limit, on_line: Callable[[str], None], on_wait: Callable[[], None]
) -> bytes:
    """Hand on what the child prints, until it ends: what it left running may hold the pipe for longer.

    Returns the end of it.
    """
    kept = bytearray()
    line = b""
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    while not limit.refused:
        on_wait()
        if ready.poll(_POLL * 1000):
            piece = os.read(pipe.fileno(), _LINE)
            if not piece:
                break
            kept += piece
            if len(kept) > 2 * _KEPT:
                del kept[:-_KEPT]
            *lines, line = (line + piece).split(b"\n")
            if len(line) > _LINE:
                lines, line = [*lines, line], b""
            for whole in lines:
                on_line(_text(whole).rstrip())
        if child.poll() is not None and (limit.expired or not ready.poll(0)):
            break
    if line:
        on_line(_text(line).rstrip())
    return bytes(kept[-_KEPT:])


class _Limit:
    """Ends the child's group once its time is up; the wait in run() then returns by itself."""

    def __init__(self, child: Child, after: float) -> None:
        self.expired = False
        self.refused = False  # it still runs: sudo, and what it started, take no signals of an ordinary user
        self._child = child
        self._after = after
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        if self._over.wait(self._after):
            return
        self.expired = True
        end_group(self._child.pid, signal.SIGTERM)
        if not self._over.wait(_GRACE):
            end_group(self._child.pid)
            self.refused = not self._over.wait(_GRACE)

    def __enter__(self) -> _Limit:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _end(child: Child) -> None:
    """End a child whose caller gave up. A second Ctrl-C does not wait for what the first one asked for."""
    # A package manager that is asked to end finishes the step it is in; killed, it would leave that broken.
    end_group(child.pid, signal.SIGTERM)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)
    finally:
        end_group(child.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)


def end_group(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Signal the process group that run() or spawn() made; nothing happens where it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, how)


def spawn(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    output: int,
    errors: int,
    env: Mapping[str, str],
    files: Sequence[int] = (),
) -> Child:
    """Start a program that outlives labkit, in its own session; output and errors are the descriptors of its stdout and
    stderr, and it inherits files.

    Its environment is as run() makes it. Raises HostError where there is no such program, ProgramFailed where it cannot
    be started.
    """
    words = [str(word) for word in argv]
    program = _found(words[0])
    with _starting(Path(words[0]).name, _shown(words, cwd)):
        child = subprocess.Popen(
            [str(program), *words[1:]],
            cwd=cwd,
            env=_environment((), env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            pass_fds=files,
            umask=0o077,  # its sockets and files are this user's alone
        )
    # Nobody need wait for it; a labkit that runs for long would gather zombies.
    threading.Thread(target=child.wait, daemon=True).start()
    return child


def end_with_parent(parent: int) -> None:
    """Have the kernel send this process SIGTERM when the process with that pid, which started it, ends in whatever way
    (PR_SET_PDEATHSIG of prctl(2)); ends it now where that has happened already.
    """
    import ctypes  # 10 ms, for the processes of nights alone

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM.value, 0, 0, 0)
    if os.getppid() != parent:
        raise InfrastructureError(f"process {parent}, which started this one, is gone")


def replace_with(argv: Sequence[str]) -> NoReturn:
    """Become the program: for one that takes over the terminal. HostError where it does not exist.

    It has the whole environment, signals and terminal of the person, whose program it is from here on.
    """
    os.execv(_found(argv[0]), list(argv))


def owned(owner: Path, *, helpers: bool = False) -> list[int]:
    """Pids of the processes that were started for owner (env OWNER), and of their descendants; helpers: those that
    were started for something below it as well.

    The mark is in the environment, so that what a killed labkit left behind is found although its parent is
    gone and whether or not it had come to write a pid file. A directory that was moved is still where they work.
    Anybody can write the mark, and root reads everybody's: of other users' processes root believes those only that run
    as the user of that owner (user_of), or that one of its own has started.
    """
    mark = f"{OWNER}={owner}".encode()
    below = mark + b"/"
    ends = f"/{owner.name}".encode()
    here = _identity(owner)
    marked: dict[int, tuple[int, bool]] = {}  # pid: its parent, and whether its user is trusted
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                for word in (entry / "environ").read_bytes().split(b"\0"):
                    if word.startswith(OWNER.encode()) and (
                        word == mark
                        or (helpers and word.startswith(below))
                        or (word.endswith(ends) and here is not None and _identity(entry / "cwd") == here)
                    ):
                        marked[int(entry.name)] = _parent_and_trust(entry, owner)
    found = {pid for pid, (_, trusted) in marked.items() if trusted}
    while more := {pid for pid, (parent, _) in marked.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino


def user_of(owner: Path) -> int | None:
    """The number of a user that has nothing, for a program that is started for owner and needs no rights of root's.

    No account has such a number (systemd's UIDS-GIDS.md: what is above 2^31-2^28 is for containers, and free below).
    None where this process is not root's, or in a user namespace that has no such number.
    """
    number = 1_800_000_000 + zlib.crc32(str(owner).encode()) % 60_000_000
    if os.geteuid() != 0:
        return None
    ranges = (map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return number if any(first <= number < first + count for first, _, count in ranges) else None


def _parent_and_trust(entry: Path, owner: Path) -> tuple[int, bool]:
    """The parent of a process, by its directory in /proc, and whether its user is trusted with the mark of owner. A
    process can make itself unreadable, and its directory root's, but not the numbers in its status.
    """
    fields = dict(
        line.split(":", 1) for line in (entry / "status").read_text(errors="replace").splitlines() if ":" in line
    )
    parent, uids = int(fields["PPid"]), {int(uid) for uid in fields["Uid"].split()}
    # An ordinary user can read the environment of no process but its own and those in its user namespaces.
    return parent, os.geteuid() != 0 or uids in ({0}, {user_of(owner)})


def children(pid: int) -> list[int]:
    """Pids of a process's children, marked or not."""
    try:
        return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    except OSError:
        return []


def is_stopped(pid: int) -> bool:
    """Whether a process stands still because of a signal, such as SIGSTOP."""
    return _state(pid) in ("T", "t")


def ended(child: Child) -> str:
    """How a child ended, as the end of a sentence; empty where it still runs."""
    status = child.poll()
    return "" if status is None else Completed((), status, "", "").outcome


def end_owned(owner: Path, *, timeout: float = 10) -> int:
    """Kill whatever still runs for owner, its helpers too, and wait until it is gone; how many processes that were."""
    deadline = time.monotonic() + timeout
    ended: set[int] = set()
    while pids := {*owned(owner, helpers=True), *(pid for pid in ended if not _gone(pid))}:
        for pid in pids - ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended.update(pids)
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"processes {', '.join(map(str, sorted(pids)))} that belong to {owner} do not end",
                hint="end them by hand, then run the command again",
            )
        time.sleep(0.01)
    return len(ended)


def _gone(pid: int) -> bool:
    """Whether a process has let go of its files and sockets; its environment vanishes a moment before that.

    Its first thread may be a zombie while others, which share them, still end.
    """
    try:
        return _state(pid) in ("Z", "X", "") and len(list(Path(f"/proc/{pid}/task").iterdir())) < 2
    except OSError:
        return True


def _state(pid: int) -> str:
    """The letter of a process's state, as proc(5) has it; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _shown(words: Sequence[str], cwd: Path | None) -> str:
    """A command as a person would type it, on one line."""
    return printable(truncate(shlex.join(words), _COMMAND) + (f" (in {cwd})" if cwd else ""))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have none
        return f"signal {number}"


def _read(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _KEPT))
    return _text(file.read(_KEPT))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _tail(done: Completed) -> str | None:
    text = (done.stderr or done.stdout).strip()
    return printable(text[-_TAIL:], newlines=True) if text else None
