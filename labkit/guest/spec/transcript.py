"""What a check did, step by step: recorded while it runs, printed behind its result where that is bad.

The steps go to a file of the suite's, not of the check's, as they happen: so there they are of a check that is killed,
too, up to the command that hung. The suite prints them as one TAP comment, `# transcript ID DATA`, DATA being base64 of
zlib of a JSON object:

    work, busybox   the check's directory, the static busybox of its root file systems
    name            of the suite's run, labkit-NAME: in the ids and the cgroups of its containers
    runtime         the runtime's path, and the arguments that come before each command
    steps           objects, in order:
        {"bundle": PATH}                        a bundle as Bundle makes it, config.json apart
        {"file": PATH, "kind": KIND, ...}       what is beside that, as it was before the next call: a file (mode, text
                                                or base64, size), directory (mode), link (to), node (mode, device),
                                                busybox (a hard link to it), gone, or something else
        {"call": ARGV, "status": STATUS, ...}   a program that was run: seconds, stdout, stderr, and where they are not
                                                the usual ones cwd, env, stdin, umask; no status: it did not end; times:
                                                how often in a row, all with the same outcome; beside: not waited for
        {"pid": NUMBER, "pid_file": PATH}       the process of that container; without pid_file: of the last call beside
        {"waited": SECONDS, "pid_file": PATH}   for a container's process to end; without pid_file: for something else
        {"found": FINDING}                      a comparison that failed
    outputs         [PATH, TEXT] of what containers wrote to stdout, stderr and files in /out
    left_out        how many steps are not here, for their size

Paths below work are relative to it.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional, Union

from .process import Proc

Step = dict[str, Any]
RECORD_LIMIT = 400_000  # bytes that are recorded of a check
PRINT_LIMIT = 48_000  # characters that are printed of it
TEXT_LIMIT = 4000  # bytes of a file, or of one stream of a command's output
CONFIG_LIMIT = 32_000
FILES = 200  # that are looked at for one command
OUTPUTS = 40
LATER = frozenset(("start", "state", "kill", "delete"))  # commands that come after the files of a bundle were made
OUTCOME = ("status", "seconds", "stdout", "stderr", "times")
USUAL_UMASK = 0o022  # the suite's
SHORT = 0.05  # seconds: a shorter wait is nothing to tell of
LAYOUT = {"": 0o755, "out": 0o1777, "rootfs": 0o755, "rootfs/tmp": 0o1777} | {
    f"rootfs/{name}": 0o755 for name in ("bin", "proc", "dev", "sys", "out", "etc")
}


class Recorder:
    """Of one check. file: where its steps go, None: nowhere; work: the check's directory."""

    def __init__(self, file: Optional[Path], work: Path, busybox: Path) -> None:
        self._work = f"{work}/"
        self._busybox = busybox
        self._inode = 0
        self._left = RECORD_LIMIT
        self._known: dict[str, tuple[int, ...]] = {}
        self._fresh: dict[str, tuple[int, ...]] = {}
        self._last: tuple[Any, ...] = ()
        self._mounted: set[str] = set()
        self._bundles: list[str] = []
        self._fd = -1
        if file:
            self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def bundle(self, path: Path) -> None:
        """It was made, and nothing about it is changed yet."""
        if self._fd >= 0:
            self._fresh[self._relative(path)] = _signature((path / "rootfs/bin").stat())

    def put(self, path: Path) -> None:
        """The check has written a file that no call of `before` would look at."""
        if self._fd >= 0:
            with suppress(OSError):
                self._look(self._relative(path), os.lstat(path))

    def before(self, argv: Sequence[str], beside: bool = False, **more: Any) -> None:
        """A program is about to be run. more: what is not as usual."""
        if self._fd < 0:
            return
        umask = os.umask(USUAL_UMASK)
        if umask != USUAL_UMASK:
            os.umask(umask)
            more["umask"] = f"{umask:03o}"
        call = tuple(argv), more
        if self._last[:1] == (call,):
            self._write({"call": 0})
            return
        if self._fresh or LATER.isdisjoint(argv):
            self._snapshot()
        else:
            self._configs()
        if tuple(argv[1:4]) == ("mount", "-t", "tmpfs"):
            self._mounted.add(self._relative(argv[-1]))
        self._last = (call,)
        self._write({"call": list(argv), **more, **({"beside": True} if beside else {})})

    def after(self, done: Proc) -> None:
        if self._fd < 0:
            return
        outcome = done.status, done.stdout, done.stderr
        if self._last[1:] == (outcome,):
            self._write({"same": done.seconds})
            return
        self._last = (*self._last[:1], outcome)
        most = TEXT_LIMIT if self._left > 3 * TEXT_LIMIT else 100
        end = {"end": done.status, "seconds": round(done.seconds, 3)}
        self._write({**end, "stdout": cut(done.stdout, most), "stderr": cut(done.stderr, most)}, always=True)

    def waited(self, seconds: float, pid_file: Optional[Path] = None) -> None:
        if self._fd >= 0 and (pid_file or seconds >= SHORT):
            step = {"waited": round(seconds, 3)}
            self._write({**step, "pid_file": self._relative(pid_file)} if pid_file else step)

    def pid(self, number: int, pid_file: Optional[Path] = None) -> None:
        """Later steps may name this process."""
        if self._fd >= 0:
            self._write({"pid": number, **({"pid_file": self._relative(pid_file)} if pid_file else {})})

    def found(self, finding: str) -> None:
        if self._fd >= 0:
            self._last = ()
            self._write({"found": finding}, always=True)

    def _relative(self, path: Union[Path, str]) -> str:
        return str(path).removeprefix(self._work)

    def _write(self, step: Step, always: bool = False) -> None:
        data = json.dumps(step).encode() + b"\n"
        if len(data) > self._left and not always:
            data = b'{"left_out": 1}\n'
        self._left -= len(data)
        if self._left > -RECORD_LIMIT:
            os.write(self._fd, data)

    # What lies beside

    def _configs(self) -> None:
        """Those that were changed after the runtime had them: all that a later command could look at."""
        for path in self._bundles:
            with suppress(OSError):
                self._look(f"{path}/config.json", os.lstat(f"{self._work}{path}/config.json"))

    def _snapshot(self) -> None:
        with suppress(OSError):
            if not self._inode:
                self._inode = self._busybox.stat().st_ino
            fresh, self._fresh = self._fresh, {}
            self._bundles += fresh
            for path, bin in fresh.items():
                self._write({"bundle": path})
                for name, mode in LAYOUT.items():
                    self._known[f"{path}/{name}".rstrip("/")] = (stat.S_IFDIR | mode, 0)
                self._known[f"{path}/rootfs/bin"] += bin
            device = Path(self._work).stat().st_dev
            there = set()
            for path, found in self._walk(device, fresh):
                there.add(path)
                self._look(path, found)
            for bundle in fresh:
                for name in LAYOUT:
                    path = f"{bundle}/{name}".rstrip("/")
                    if path not in there and path.rpartition("/")[0] in {*there, ""}:
                        self._write({"file": path, "kind": "gone"})

    def _walk(self, device: int, fresh: Mapping[str, Any]) -> Iterator[tuple[str, os.stat_result]]:
        """What is in the check's directory and on the tmpfs that it has mounted there; of a bundle that a runtime had
        already, only config.json.
        """
        left = FILES
        waiting = [("", device)]
        while waiting and left > 0:
            directory, device = waiting.pop()
            known = self._known.get(directory, ())
            if len(known) > 2 and known[2:] == _signature(Path(self._work, directory).stat()):
                continue  # bin, with no program but busybox
            with suppress(OSError), os.scandir(self._work + directory) as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    found = entry.stat(follow_symlinks=False)
                    if path.endswith((".out", ".err", ".pid")) and not directory:
                        continue
                    is_link = len(known) > 2 and stat.S_ISLNK(found.st_mode)  # of an applet
                    if is_link or (len(known) > 2 and entry.name == "busybox"):
                        continue
                    left -= 1
                    yield path, found
                    if not stat.S_ISDIR(found.st_mode) or left < 0:
                        continue
                    if found.st_dev != device and path not in self._mounted:
                        continue
                    if path in self._known and path not in fresh and f"{path}/rootfs" in self._known:
                        with suppress(OSError):
                            yield f"{path}/config.json", os.lstat(f"{self._work}{path}/config.json")
                    else:
                        waiting.append((path, found.st_dev))

    def _look(self, path: str, found: os.stat_result) -> None:
        mode = found.st_mode
        seen = (mode, 0) if stat.S_ISDIR(mode) else (mode, *_signature(found), found.st_ino)
        if self._known.get(path, ())[: len(seen)] == seen:
            return
        self._known[path] = seen
        step: Step = {"file": path, "kind": "other", "mode": stat.S_IMODE(mode)}
        if found.st_uid or found.st_gid:
            step["owner"] = [found.st_uid, found.st_gid]
        name = self._work + path
        if stat.S_ISDIR(mode):
            step["kind"] = "directory"
        elif stat.S_ISLNK(mode):
            step.update(kind="link", to=os.readlink(name))  # noqa: PTH115
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            device = [os.major(found.st_rdev), os.minor(found.st_rdev)]
            step.update(kind="node", type="c" if stat.S_ISCHR(mode) else "b", device=device)
        elif stat.S_ISFIFO(mode):
            step.update(kind="node", type="p")
        elif stat.S_ISSOCK(mode):
            step["kind"] = "socket"
        elif stat.S_ISREG(mode) and found.st_ino == self._inode:
            step["kind"] = "busybox"
        elif stat.S_ISREG(mode):
            most = CONFIG_LIMIT if path.endswith("/config.json") else TEXT_LIMIT
            step.update(kind="file", size=found.st_size, **_content(name, most))
        self._write(step)


def _signature(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _content(name: str, most: int) -> dict[str, str]:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        data = os.read(fd, most)
    finally:
        os.close(fd)
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def cut(text: str, most: int = TEXT_LIMIT) -> str:
    """The beginning and the end of a long text."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n... {len(text) - most} more characters ...\n{text[-half:]}"


def aftermath(file: Path, work: Path) -> None:
    """Add what containers have written, before that goes with the check's directory."""
    found = []
    with suppress(OSError):
        names = sorted(os.listdir(work))  # noqa: PTH208
        outputs = [name for name in names if name.endswith((".out", ".err")) and not name[0].isdigit()]
        for name in names:
            with suppress(OSError):
                outputs += [f"{name}/out/{one}" for one in sorted(os.listdir(work / name / "out"))]  # noqa: PTH208
        for name in outputs[:OUTPUTS]:
            with suppress(OSError):
                data = _regular(work / name)
                found.append([name, cut(data.decode("utf-8", "backslashreplace"))])
    with suppress(OSError), file.open("ab") as out:
        out.write(b"\n" + json.dumps({"outputs": [one for one in found if one[1]]}).encode() + b"\n")


def _regular(path: Path) -> bytes:
    """What is in a plain file: a container may have put anything in its place, or below a link in its place."""
    if not stat.S_ISREG(os.lstat(path).st_mode) or path.parent.is_symlink():
        raise OSError
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, 4 * TEXT_LIMIT)
    finally:
        os.close(fd)


def packed(file: Path, facts: Mapping[str, Any]) -> str:
    """What was recorded in a file, as it is printed, "" where there is none. facts: the keys that are no steps."""
    try:
        with file.open("rb") as source:
            data = source.read(3 * RECORD_LIMIT)
    except OSError:
        return ""
    steps, outputs, left_out = _steps(data.splitlines())
    acts = list(_acts(steps))
    while True:
        transcript = {**facts, "steps": [step for act in acts for step in act], "outputs": outputs}
        if left_out:
            transcript["left_out"] = left_out
        text = json.dumps(transcript, separators=(",", ":"))
        printed = base64.b64encode(zlib.compress(text.encode())).decode()
        if len(printed) <= PRINT_LIMIT:
            return printed
        # First goes what led to no finding, the last of it first; then what containers wrote; then what led to one.
        idle = [act for act in acts if not any("found" in step for step in act)]
        if not idle and outputs:
            outputs = []
        elif acts:
            gone = (idle or acts)[len(idle or acts) // 2 :]
            acts = [act for act in acts if act not in gone]
            left_out += sum(map(len, gone))
        else:
            return ""


def _steps(lines: Sequence[bytes]) -> tuple[list[Step], list[Any], int]:
    """The steps with their outcomes, what containers wrote, and how many steps were over the limit."""
    steps: list[Step] = []
    outputs: list[Any] = []
    left_out = 0
    call: Step = {}
    before: Step = {}
    for line in lines:
        try:
            step = json.loads(line)
        except ValueError:  # cut off when the check was killed
            continue
        if "outputs" in step:
            outputs = step["outputs"]
        elif "left_out" in step:
            left_out += 1
            call = {}  # it may have been one
        elif step.get("call") == 0:
            if call:
                call, before = {key: call[key] for key in call if key not in OUTCOME}, call
                steps.append(call)
        elif "end" in step:
            call.update(status=step["end"], seconds=step["seconds"], stdout=step["stdout"], stderr=step["stderr"])
        elif "same" in step:
            if call and "status" not in call:
                steps = [one for one in steps if one is not call]
                call = before
                call["times"] = call.get("times", 1) + 1
        else:
            steps.append(step)
            call = step if "call" in step and not step.get("beside") else call
    return steps, outputs, left_out


def _acts(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps in groups, each beginning with a new bundle."""
    act: list[Step] = []
    for step in steps:
        if "bundle" in step and any("call" in one for one in act):
            yield act
            act = []
        act.append(step)
    if act:
        yield act
