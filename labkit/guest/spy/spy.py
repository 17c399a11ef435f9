#!/usr/bin/python3 -SI
"""Stands between an engine and its runtime; see labkit/guest/spy/__init__.py.

Started for every call, so it imports what takes no time: not os, signal or json, but what they stand on.
"""

import _signal  # type: ignore[import-not-found]
import posix
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

COMMANDS = {
    "create", "start", "state", "kill", "delete", "checkpoint", "events", "exec", "features", "help", "init", "list",
    "mounts", "pause", "ps", "restore", "resume", "run", "spec", "update",
}  # fmt: skip
# Options that are followed by their value, before the command and after it.
VALUED = {
    "--root", "--log", "--log-format", "--log-level", "--criu", "--rootless", "--cgroup-manager", "--platform",
    "--network", "--debug-log", "--debug-log-format",
}  # fmt: skip
VALUED_AFTER = {
    "--bundle", "-b", "--pid-file", "--console-socket", "--preserve-fds", "--signal", "-s", "--process", "-p", "--cwd",
    "--env", "-e", "--user", "-u", "--additional-gids", "-g", "--cap", "-c", "--format", "-f", "--resources", "-r",
    "--image-path", "--work-path", "--parent-path", "--page-server", "--manage-cgroups-mode", "--empty-ns",
    "--apparmor", "--process-label", "--cgroup", "--config", "--notify-socket", "--console", "--auto-dedup",
    "--lsm-profile", "--lsm-mount-context", "--status-fd", "--interval",
}  # fmt: skip
LOGS = ("--log", "--log-format", "--log-level")
STATE = ("create", "start", "kill", "delete")
LINE, FILE = 1 << 20, 16 << 20
CUT = b"!"  # in place of the first byte of a line that a full disk cut
ENDS = 1 << 20  # bytes beyond FILE for what ends calls that are in the record
ASK = 5.0  # seconds for the runtime to tell a state
OUTPUT = 1 << 16  # bytes of it that are kept
WORDS, WORD = 512, 8192  # of a list, and characters of one
KINDS = ("fail", "hang", "garbage", "lose-pid-file", "wrong-status")
RUNS = ("lose-pid-file", "wrong-status")  # the runtime runs as well, unless the configuration says otherwise
GARBAGE = '\x00\xff{"garbage": [\n'
WRONG = 125  # exit status where the spy itself cannot do its work, as of timeout(1) or env(1)
SETPRIV = ("/usr/bin/setpriv", "/bin/setpriv")


def split(argv: "list[str]") -> "tuple[list[str], str, list[str]]":
    """A command line as options before the command, the command ("" where there is none), and what follows it.

    An option that nobody knows may have a value: the word after it is the command only where that is known as one, or
    nothing after it is.
    """
    at, unknown = 0, 0
    while at < len(argv):
        word = argv[at]
        if not word.startswith("-"):
            if word in COMMANDS or not unknown or not any(other in COMMANDS for other in argv[at + 1 :]):
                return argv[:at], word, argv[at + 1 :]
            unknown = 0
        elif word in VALUED:
            at += 1
            unknown = 0
        else:
            unknown = "=" not in word
        at += 1
    return argv, "", []


def value(words: "list[str]", *names: str) -> "Optional[str]":
    """The value of an option among words, the last where it is repeated; None where it is not there."""
    found = None
    for at, word in enumerate(words):
        if word == "--":
            break
        for name in names:
            if word == name and at + 1 < len(words):
                found = words[at + 1]
            elif name.startswith("--") and word.startswith(name + "="):
                found = word[len(name) + 1 :]
    return found


def arguments(command: str, words: "list[str]") -> "list[str]":
    """What of the words after a command is neither an option nor its value."""
    found: "list[str]" = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return found + words[at + 1 :]
        if word.startswith("-") and word != "-":
            at += word in VALUED_AFTER and not (command == "delete" and word == "-f")  # --force
        else:
            found.append(word)
        at += 1
    return found


def ident(command: str, words: "list[str]") -> str:
    """The id of the container that a command is about; "" where it names none."""
    found = arguments(command, words)
    return found[0] if found and command not in ("list", "features", "help", "spec") else ""


# --- JSON

_ESCAPED = {n: "\\u%04x" % n for n in (*range(32), 127)}
_ESCAPED.update({34: '\\"', 92: "\\\\", 10: "\\n", 9: "\\t", 13: "\\r"})


def encode(value: "Any") -> str:
    if isinstance(value, str):
        text = value.translate(_ESCAPED)
        if not text.isascii():  # also what is no UTF-8, as the lone surrogates that it was decoded to
            text = "".join(char if ord(char) < 128 else _unicode(ord(char)) for char in text)
        return '"' + text + '"'
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join([encode(str(key)) + ": " + encode(one) for key, one in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join([encode(one) for one in value]) + "]"
    if isinstance(value, Raw):
        return value.text
    return repr(value)


def _unicode(code: int) -> str:
    if code < 0x10000:
        return "\\u%04x" % code
    code -= 0x10000
    return "\\u%04x\\u%04x" % (0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))


class Raw:
    """Text that is JSON, on one line."""

    def __init__(self, text: str) -> None:
        self.text = text


# --- the record


class Record:
    def __init__(self, path: str, line: int, file: int) -> None:
        self.path, self.line, self.file = path, line, file
        self.written = False

    def call(self, entry: "dict[str, Any]") -> None:
        self.written = self.write(entry, self.file)

    def write(self, entry: "dict[str, Any]", most: int) -> bool:
        """Whether it was written. What cannot be written never stops a call."""
        data = self.fitting(entry)
        try:
            fd = posix.open(self.path, posix.O_RDWR | posix.O_APPEND | posix.O_CREAT, 0o600)
        except OSError:
            return False
        try:
            size = posix.fstat(fd).st_size
            if size + len(data) > most:
                self.leave_out(fd, size)
                return False
            if size and posix.pread(fd, 1, size - 1) != b"\n":  # a write was cut, by a full disk or a kill
                data = b"\n" + data
            written = posix.write(fd, data)
            if written < len(data):
                self.spoil(posix.lseek(fd, 0, 1) - written + data.index(b"{"))
            return written == len(data)
        except OSError:
            return False
        finally:
            posix.close(fd)

    def spoil(self, start: int) -> None:
        """Mark the line that starts there: a full disk cut it, and its call goes on; what a kill cut has no call."""
        fd = posix.open(self.path, posix.O_WRONLY)
        posix.pwrite(fd, CUT, start)
        posix.close(fd)

    def leave_out(self, fd: int, size: int) -> None:
        """Count a line that is not written, and say so in the record, once."""
        flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT
        try:
            left = posix.open(self.path + ".left", flags | posix.O_EXCL, 0o600)
            text = encode({"event": "full", "t": time.time(), "limit": self.file})
            if size <= self.file + 2 * ENDS:
                posix.write(fd, text.encode() + b"\n")
        except FileExistsError:
            left = posix.open(self.path + ".left", flags)
        if posix.fstat(left).st_size < ENDS:
            posix.write(left, b".")
        posix.close(left)

    def fitting(self, entry: "dict[str, Any]") -> bytes:
        """The line, without what makes it longer than a line may be."""
        data = encode(entry).encode()
        for key in ("config", "config_text", "stdout", "env", "fds", "ppid_cmd", "cwd", "argv0", "argv"):
            if len(data) < self.line:
                break
            if key in entry:
                entry = dict(entry)
                entry["left_out"] = {**entry.get("left_out", {}), key: len(encode(entry.pop(key)))}
                data = encode(entry).encode()
        return data + b"\n"


def bounded(entry: "dict[str, Any]") -> "dict[str, Any]":
    """The entry with long lists and words cut, which left_out tells."""
    out: "dict[str, int]" = {}
    for key in ("argv", "env", "ppid_cmd", "fds", "cwd", "argv0"):
        found = entry[key]
        if isinstance(found, str):
            if len(found) > WORD:
                entry[key], out[key] = found[:WORD], len(found)
        elif isinstance(found, dict):
            if len(found) > WORDS:
                entry[key], out[key] = dict(list(found.items())[:WORDS]), len(found)
        elif len(found) > WORDS or any(len(word) > WORD for word in found):
            entry[key], out[key] = [word[:WORD] for word in found[:WORDS]], len(found)
    if out:
        entry["left_out"] = out
    return entry


# --- what the call is


def content(path: str, limit: int = 1 << 20) -> bytes:
    """The beginning of a file; OSError where it is none that can be read at once."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY)
    try:
        parts: "list[bytes]" = []
        left = limit
        while left > 0:
            part = posix.read(fd, left)
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        posix.close(fd)


def descriptors() -> "dict[str, str]":
    """What each descriptor of the call leads to. To be asked before anything is opened."""
    found: "dict[str, str]" = {}
    try:
        numbers = posix.listdir("/proc/self/fd")
    except OSError:
        return found
    for number in sorted(map(int, numbers)):
        try:  # the descriptor of the directory itself is gone by now
            found[str(number)] = text(posix.readlink(b"/proc/self/fd/%d" % number))
        except OSError:
            continue
    return found


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def raw(words: "list[str]") -> "list[bytes]":
    """Words of sys.argv as they were given."""
    return [word.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()) for word in words]


def environment() -> "dict[bytes, bytes]":
    """The environment of the call: what Python adds to its own (LC_CTYPE) is not in it."""
    try:
        data = content("/proc/self/environ", 8 << 20)
    except OSError:
        return dict(posix.environ)
    pairs = (entry.partition(b"=") for entry in data.split(b"\0") if b"=" in entry)
    return {name: value for name, _, value in pairs if name}


def caller() -> "dict[str, Any]":
    ppid = posix.getppid()
    found: "dict[str, Any]" = {"ppid": ppid, "ppid_comm": "", "ppid_cmd": []}
    try:
        found["ppid_comm"] = text(content("/proc/%d/comm" % ppid).rstrip(b"\n"))
        found["ppid_cmd"] = text(content("/proc/%d/cmdline" % ppid)).rstrip("\0").split("\0")
    except OSError:
        pass
    return found


def bundle(words: "list[str]", limit: int) -> "dict[str, Any]":
    """The bundle's config.json; as text where it is no JSON."""
    place = value(words, "--bundle", "-b") or "."
    try:
        kind = posix.stat(place + "/config.json")
        if kind.st_mode & 0o170000 != 0o100000:
            return {"config_error": "config.json is no regular file"}
        data = content(place + "/config.json", limit + 1)
    except (OSError, ValueError) as error:
        return {"config_error": str(error)}
    if len(data) > limit:
        return {"left_out": {"config": kind.st_size}}
    try:
        import json

        found = data.decode()
        json.loads(found)
    except ImportError:  # python3-minimal of Debian 12
        return {"config_text": data.decode("utf-8", "replace")}
    except (ValueError, RecursionError) as error:
        return {"config_text": data.decode("utf-8", "replace"), "config_error": "config.json is not JSON: %s" % error}
    return {"config": Raw(found.replace("\n", " ").replace("\r", " "))}  # in a string of JSON there is neither


def console(words: "list[str]") -> "dict[str, Any]":
    place = value(words, "--console-socket")
    if place is None:
        return {}
    try:
        kind = posix.fstat(int(place)) if place.isdigit() else posix.stat(place)
    except (OSError, ValueError) as error:
        return {"console": str(error)}
    return {"console": "socket" if kind.st_mode & 0o170000 == 0o140000 else "no socket"}


# --- the configuration


class Wrong(Exception):
    pass


def configured(argv0: str) -> "tuple[dict[str, Any], list[dict[str, str]]]":
    """The settings and faults beside the program as it was called, or else beside what that leads to."""
    path = argv0 + ".spy"
    try:
        data = content(path)
    except OSError:
        try:
            link = posix.readlink(argv0)
            path = (link if link.startswith("/") else argv0.rpartition("/")[0] + "/" + link) + ".spy"
            data = content(path)
        except OSError as error:
            raise Wrong("cannot read the configuration: " + str(error)) from None
    return parsed(data.decode("utf-8", "surrogateescape"), path)


TOP = ("runtime", "record", "arg", "state", "line", "file")
FAULT = ("do", "command", "id", "call", "status", "stdout", "stderr", "repeat", "log", "seconds", "run", "say")


def parsed(text: str, path: str) -> "tuple[dict[str, Any], list[dict[str, str]]]":
    settings: "dict[str, Any]" = {"arg": [], "state": list(STATE), "line": LINE, "file": FILE}
    faults: "list[dict[str, str]]" = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        where = "%s:%d: " % (path, number)
        if not line or line.startswith("#"):
            continue
        if line == "[fault]":
            faults.append({})
            continue
        key, equals, found = line.partition("=")
        key, found = key.strip(), found.strip()
        if not equals or key not in (FAULT if faults else TOP):
            raise Wrong(where + "unknown: " + line)
        if faults:
            faults[-1][key] = found
        elif key == "arg":
            settings["arg"].append(found)
        elif key == "state":
            settings["state"] = found.split()
        elif key in ("line", "file"):
            settings[key] = number_of(found, where + key)
        else:
            settings[key] = found
    for key in ("runtime", "record"):
        if not settings.get(key, "").startswith("/"):
            raise Wrong(path + ": " + key + " must be an absolute path")
    for fault in faults:
        check(fault, path)
    return settings, faults


def check(fault: "dict[str, str]", path: str) -> None:
    if fault.get("do") not in KINDS:
        raise Wrong("%s: do is %r, must be one of %s" % (path, fault.get("do"), ", ".join(KINDS)))
    for key in ("status", "repeat"):
        if key in fault:
            number_of(fault[key], path + ": " + key)
    for key in ("run", "log"):
        if fault.get(key, "no") not in ("yes", "no"):
            raise Wrong("%s: %s is %r, must be yes or no" % (path, key, fault[key]))
    number_of(fault.get("call", "1").rstrip("-"), path + ": call")
    try:
        float(fault.get("seconds", "0"))
    except ValueError:
        raise Wrong("%s: seconds is %r" % (path, fault["seconds"])) from None


def number_of(word: str, what: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise Wrong("%s is %r, must be a number" % (what, word))
    return int(word)


# --- faults


def matches(pattern: str, name: str) -> bool:
    """Whether name is the pattern, in which * stands for anything."""
    first, *rest = pattern.split("*")
    if not rest:
        return first == name
    if not name.startswith(first):
        return False
    at = len(first)
    for part in rest[:-1]:
        found = name.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(name) - at >= len(rest[-1]) and name.endswith(rest[-1])


def chosen(faults: "list[dict[str, str]]", command: str, name: str, record: str) -> "tuple[int, dict[str, str]]":
    """The number of the fault that this call gets and the fault; 0 where it gets none."""
    for number, fault in enumerate(faults, 1):
        if fault.get("command", command) != command or not matches(fault.get("id", "*"), name):
            continue
        call = fault.get("call", "")
        if call:
            ordinal = count("%s.fault-%d" % (record, number))
            first = int(call.rstrip("-"))
            if ordinal < first or (ordinal > first and not call.endswith("-")):
                continue
        return number, fault
    return 0, {}


def count(path: str) -> int:
    """How many times this was called with that path, this time included: each adds a byte, and sees where it went."""
    fd = posix.open(path, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT, 0o600)
    try:
        posix.write(fd, b".")
        return posix.lseek(fd, 0, 1)
    finally:
        posix.close(fd)


def say(fd: int, data: bytes, fds: "dict[str, str]") -> None:
    """Print, unless the call had no such descriptor: the number may be that of a file of ours then."""
    if str(fd) not in fds:
        return
    try:
        while data:
            data = data[posix.write(fd, data) :]
    except OSError:
        pass


def unescaped(word: str) -> bytes:
    """What a value of the configuration stands for, \\n and \\x00 included."""
    data = word.encode("utf-8", "surrogateescape")
    try:
        return data.decode("latin-1").encode("latin-1").decode("unicode_escape").encode("latin-1", "replace")
    except UnicodeDecodeError:
        return data


def answer(fault: "dict[str, str]", command: str, options: "list[str]", fds: "dict[str, str]") -> None:
    """Print what the fault has printed."""
    do = fault["do"]
    out, err = unescaped(fault.get("stdout", "")), unescaped(fault.get("stderr", ""))
    if do == "garbage" and not (out or err):
        out = GARBAGE.encode("latin-1")
    if do == "fail" and "stderr" not in fault and fault.get("status") != "0":
        err = b"%s failed, as the spy was told to\n" % command.encode()
    times = int(fault.get("repeat", "1"))
    for fd, data in ((1, out), (2, err)):
        for _ in range(times):
            say(fd, data, fds)
    log = value(options, "--log")
    if err and do == "fail" and fault.get("log", "yes") == "yes" and log:
        words = {"level": "error", "msg": text(err.rstrip(b"\n")), "time": "%sZ" % time.strftime("%Y-%m-%dT%H:%M:%S")}
        line = encode(words) if value(options, "--log-format") == "json" else " ".join(
            "%s=%s" % (key, encode(word)) for key, word in words.items()
        )  # fmt: skip
        try:
            fd = posix.open(log, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT, 0o644)
            posix.write(fd, line.encode() + b"\n")
            posix.close(fd)
        except OSError:
            pass


def hang(seconds: float) -> int:
    """Wait so long, or for ever where that is 0; the signal that ended it, 0 where none did."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic() if seconds else 3600.0
        if left <= 0:
            return 0
        info = _signal.sigtimedwait(_signal.valid_signals(), left)
        if info is not None and info.si_signo not in (
            _signal.SIGCHLD, _signal.SIGCONT, _signal.SIGURG, _signal.SIGWINCH,
        ):  # fmt: skip
            return int(info.si_signo)


def restated(data: bytes, word: str) -> bytes:
    """The state with another status."""
    import json

    state = json.loads(data)
    state["status"] = word or ("stopped" if state.get("status") == "running" else "running")
    return json.dumps(state, indent=2).encode() + b"\n"


# --- running the runtime


def run(
    argv: "list[bytes]", environ: "dict[bytes, bytes]", mask: "Any", stdout: "Optional[int]" = None
) -> "tuple[str, int]":
    """Run a program with the descriptors of this one and wait for it, passing on signals: ("status", 0)."""
    chld = _signal.getsignal(_signal.SIGCHLD)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored, its children would end without a status
    mine = posix.getpid()
    child = posix.fork()
    if not child:
        try:
            _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)  # Python ignores these two
            _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
            if chld == _signal.SIG_IGN:
                _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
            if environ.get(b"LISTEN_PID") == b"%d" % mine:
                environ = {**environ, b"LISTEN_PID": b"%d" % posix.getpid()}
            if stdout is not None:
                posix.dup2(stdout, 1)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
            for tool in SETPRIV:
                if posix.access(tool, posix.X_OK):
                    try:
                        posix.execve(tool, [b"setpriv", b"--pdeathsig", b"KILL", *argv], environ)
                    except OSError:
                        pass
            posix.execve(argv[0], argv, environ)
        finally:
            posix._exit(127)
    while True:
        info = _signal.sigwaitinfo(_signal.valid_signals())
        if info.si_signo != _signal.SIGCHLD:
            if info.si_code != 0x80:  # SI_KERNEL: from the terminal, which tells the runtime, too
                try:
                    posix.kill(child, info.si_signo)
                except OSError:
                    pass
            continue
        pid, status = posix.waitpid(child, posix.WNOHANG | posix.WUNTRACED)
        if pid and posix.WIFSTOPPED(status):
            posix.kill(mine, _signal.SIGSTOP)
        elif pid:
            break
    if posix.WIFSIGNALED(status):
        return "signal", posix.WTERMSIG(status)
    return "status", posix.WEXITSTATUS(status)


def captured(argv: "list[bytes]", environ: "dict[bytes, bytes]", mask: "Any", seconds: float) -> "tuple[Any, bytes]":
    """Run a program that has none of our descriptors; its exit status, None where it took too long, and output."""
    import select

    inner, outer = posix.pipe()
    child = posix.fork()
    if not child:
        try:
            null = posix.open("/dev/null", posix.O_RDWR)
            posix.dup2(outer, 1)
            for fd in (0, 2):
                posix.dup2(null, fd)
            numbers = [int(number) for number in posix.listdir("/proc/self/fd")]
            for number in numbers:
                if number > 2:
                    try:
                        posix.close(number)
                    except OSError:
                        pass
            _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
            _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
            posix.execve(argv[0], argv, environ)
        finally:
            posix._exit(127)
    posix.close(outer)
    data, end, ended = b"", time.monotonic() + seconds, False
    while not ended and len(data) < OUTPUT:
        left = end - time.monotonic()
        if left <= 0 or not select.select([inner], [], [], left)[0]:
            break
        part = posix.read(inner, OUTPUT)
        ended = not part
        data += part
    if not ended:
        posix.kill(child, _signal.SIGKILL)
    posix.close(inner)
    status = posix.waitpid(child, 0)[1]
    return (posix.WEXITSTATUS(status) if ended and posix.WIFEXITED(status) else None), data[:OUTPUT]


def without_logs(options: "list[str]") -> "list[str]":
    """Options before a command without those that say where its errors are written."""
    found: "list[str]" = []
    at = 0
    while at < len(options):
        word = options[at]
        if word in LOGS:
            at += 1
        elif word.partition("=")[0] not in LOGS:
            found.append(word)
        at += 1
    return found


def end_as(how: str, number: int) -> None:
    """End as the runtime did: with its status, or by its signal."""
    if how == "signal":
        try:
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        except (ImportError, OSError, ValueError):
            pass
        if number not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(number, _signal.SIG_DFL)
        posix.kill(posix.getpid(), number)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _signal.valid_signals())
        number = 128 + number  # a signal that ends nothing
    posix._exit(number)


def main() -> None:
    fds = descriptors()
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    argv = sys.argv[1:]
    try:
        settings, faults = configured(sys.argv[0])
        if not posix.access(settings["runtime"], posix.X_OK):
            raise Wrong("the runtime %s is not there, or no program" % settings["runtime"])
    except Wrong as error:
        say(2, ("labkit-spy: %s\n" % error).encode("utf-8", "backslashreplace"), fds)
        posix._exit(WRONG)
    options, command, words = split(argv)
    name = ident(command, words)
    environ = environment()
    record = Record(settings["record"], settings["line"], settings["file"])
    joined = "%x-%x-%s" % (int(time.time() * 1e6), posix.getpid(), posix.urandom(3).hex())
    begun = time.monotonic()
    try:
        cwd = text(posix.getcwdb())
    except OSError as error:
        cwd = "(%s)" % error.strerror
    entry: "dict[str, Any]" = {
        "event": "call",
        "id": joined,
        "t": time.time(),
        "argv0": text(raw(sys.argv[:1])[0]),
        "argv": [text(word) for word in raw(argv)],
        "cwd": cwd,
        "fds": fds,
        "env": sorted(map(text, environ)),
        **caller(),
        "runtime": settings["runtime"],
    }
    entry = bounded(entry)
    if b"LISTEN_FDS" in environ:
        entry["listen_fds"] = text(environ[b"LISTEN_FDS"])[:WORD]
    if command in ("create", "run", "restore"):
        entry.update(console(words))
        found = bundle(words, settings["line"])
        found["left_out"] = {**entry.get("left_out", {}), **found.get("left_out", {})}
        entry.update(found if found["left_out"] else {k: v for k, v in found.items() if k != "left_out"})
    record.call(entry)

    number, fault = chosen(faults, command, name, settings["record"]) if faults else (0, {})
    program = raw([settings["runtime"], *settings["arg"]])
    do = fault.get("do", "")
    runs = (
        not do or fault.get("run", "yes" if do in RUNS or (do == "garbage" and command != "state") else "no") == "yes"
    )
    how, status = "status", int(fault.get("status", "0" if do == "garbage" else "1"))
    if fault and not (do == "wrong-status" and command == "state"):
        answer(fault, command, options, fds)
    if runs and do == "wrong-status" and command == "state":
        code, data = captured(program + raw(argv), environ, mask, 60.0)
        status = WRONG if code is None else code
        try:
            data = restated(data, fault.get("say", ""))
        except (ValueError, TypeError):
            pass
        say(1, data, fds)
    elif runs:
        ended, code = run(program + raw(argv), environ, mask)
        if do == "wrong-status":
            how, status = "status", int(fault.get("status", "0" if (ended, code) != ("status", 0) else "1"))
        elif do != "fail" and "status" not in fault:
            how, status = ended, code
    if do == "lose-pid-file":
        try:
            posix.unlink(value(words, "--pid-file") or "")
        except OSError:
            pass
    if do == "hang":
        by = hang(float(fault.get("seconds", "0")))
        if by:
            how, status = "signal", by
    if record.written:
        done: "dict[str, Any]" = {"event": "end", "id": joined, "t": time.time()}
        done.update({"seconds": round(time.monotonic() - begun, 6), how: status})
        if fault:
            done["fault"] = {"number": number, "do": do, "run": runs}
        record.write(done, settings["file"] + ENDS)
        if name and command in settings["state"] and not (do == "hang" and how == "signal"):
            asked = program + raw([*without_logs(options), "state", name])
            code, data = captured(asked, environ, mask, ASK)
            state = {"event": "state", "id": joined, "t": time.time(), "status": code, "stdout": text(data)}
            record.write(state, settings["file"] + ENDS)
    end_as(how, status)


if __name__ == "__main__":
    main()
