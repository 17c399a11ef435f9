"""What is under test: found before a machine comes up, as far as this host can tell, and put into the machine.

    word --find--> Subject     what is wrong with a file is told now, and not after a machine was made
    Subject + Remote --send--> Runtime     whose command is there, with its digest

In the machine it is /var/lib/labkit/runtimes/DIGEST/NAME: runtimes and engines look at the name they are called by.
What is there and whole is not sent again; a few stay, so that going back to an older build is as quick.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from labkit.core.config import HOST, Settings
from labkit.core.errors import CommandTimeout, ConnectionFailed, MachineError, UsageError
from labkit.core.observer import Observer
from labkit.core.platforms import Distro
from labkit.core.sources import SourceKind
from labkit.core.text import amount, one_line, printable, some
from labkit.guest.common import versions
from labkit.io.remote import Answer, Remote
from labkit.machines.base import Machine, MachineState, Owned
from labkit.subjects import runtimes
from labkit.subjects.runtimes import Runtime
from labkit.subjects.runtimes.files import Kind, Parcel, architecture, packed, same_architecture, tar
from labkit.subjects.runtimes.words import HostFile, InMachine, Package, Release, Running, Source, Word

if TYPE_CHECKING:
    from labkit.images.runtimes import Obtained

PLACE = "/var/lib/labkit/runtimes"  # in the machine
_KEPT = 4  # builds that stay in a machine beside the one that is sent
_LOOK = 60.0  # seconds for a look at what is in the machine
_SEND = 300.0  # seconds in which a runtime has arrived
_VERSION = 5  # seconds that a runtime has to answer --version
_ANEW = (MachineState.ABSENT, MachineState.INTERRUPTED, MachineState.LOST)
_INSTALLED = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt")  # where images have programs


@dataclass(frozen=True, slots=True)
class Subject:
    """runtime is what is known of it without a machine; parcel: what is to be sent, None for what is there already."""

    word: Word
    runtime: Runtime
    parcel: Parcel | None = None


def find(word: Word, settings: Settings, distro: Distro, observer: Observer, name: str = "") -> Subject:
    """What the word means, got or built where that is needed, and looked at. name is what to call it. UsageError where
    it cannot run in a machine of this release.
    """
    runtime = dataclasses.replace(runtimes.of(word, name), source=_source(word, settings))
    if isinstance(word, InMachine | Running):
        return Subject(word, runtime)
    if isinstance(word, HostFile):
        path, called = word.path, word.path.name
    else:
        obtained = _obtained(word, distro, settings, observer)
        if obtained is None:
            return Subject(word, runtime)
        path = obtained.path
        called = runtimes.named(word.name).command if word.name else runtime.name
        runtime = dataclasses.replace(runtime, source=_from(obtained))
    parcel = packed(path, called)
    if (
        settings.provider != "ssh"
        and not settings.ssh.host
        and (why := same_architecture(parcel.kind, distro.arch.machine))
    ):
        raise UsageError(f"{path} {why}", hint="build it for the machine's architecture")
    return Subject(word, runtime, parcel)


def _obtained(
    word: Package | Release | Source, distro: Distro, settings: Settings, observer: Observer
) -> Obtained | None:
    """A release or a ref, or the package that images lack; None where the machine has it."""
    about = runtimes.about(word.name) if isinstance(word, Package) else None
    if about and not (about.beside or about.shim or about.none):
        return None
    from labkit.images.runtimes import obtain, supplied  # jinja2 and urllib3, which what is there needs not

    if isinstance(word, Package):
        elsewhere = settings.provider == "ssh" or settings.ssh.host  # what a host has is its owner's choice
        if elsewhere and not runtimes.about(word.name).shim:
            return None
        return supplied(word.name, distro, settings, observer)
    return obtain(word, distro, settings, observer)


def _from(obtained: Obtained) -> str:
    commit = obtained.commit[:12]
    return f"{obtained.source} at {commit}" if commit and commit not in obtained.source else obtained.source


def _source(word: Word, settings: Settings) -> str:
    if isinstance(word, Package):
        return str(settings.sources().get(word.name, "")).replace("auto", "") or "package"
    if isinstance(word, Running):
        return "running"
    return "machine" if isinstance(word, InMachine) else str(word)


def require_possible(subject: Subject, machine: Machine) -> None:
    """UsageError for a path in a machine that is yet to be made, where no image has programs."""
    word = subject.word
    if not isinstance(word, InMachine) or str(word).startswith(tuple(f"{place}/" for place in _INSTALLED)):
        return
    if not isinstance(machine, Owned) and machine.status().state in _ANEW:
        raise _absent(str(word), f"machine {machine.name}, which is yet to be made")


def require_committed(subject: Subject, settings: Settings, needs: Sequence[str]) -> None:
    """UsageError where what the machine has of a git tree of this host, a runtime or what the suite needs, is not all
    that is in that tree.
    """
    tools = [subject.word.name] if isinstance(subject.word, Package) else []
    local = {tool: source for tool, source in settings.sources().items() if source.kind is SourceKind.LOCAL}
    for tool, source in local.items():
        from labkit.provision.bootstrap import uncommitted  # jinja2

        if tool in (*tools, *needs) and (changed := uncommitted(source)):
            raise UsageError(
                f"{tool} = {source} is built of its last commit, and {source.where} has changes that no commit has: "
                f"{some(changed, 5)}",
                hint=f"commit them; or {tool} = {source}#HEAD says that the commit is meant; "
                "or test the program that you have built: --runtime ./FILE",
            )


# --- into the machine


# Arguments: a program's name or path, or the directory of what was sent; the seconds for --version, empty where that is
# not asked; "there", or else the path of what was sent below that directory; what the kernel starts for it, what that
# looks for where it is env, and "elf" where it is a loader; then the arguments before --version. stdin: the files that
# were sent, as sha256sum has them. Prints lines KEY VALUE; after `said` what it prints for --version, of which lines of
# stderr have a mark, and last its status.
_PROBE = r"""# what is under test
LC_ALL=C; export LC_ALL
echo "machine $(uname -m)"
if test "$3" = there; then
  case $1 in */*) p=$1 ;; *) p=$(command -v "$1") || { echo "state absent"; exit 0; } ;; esac
  if test -d "$p"; then echo "state directory"; exit 0; fi
  if ! test -e "$p"; then echo "state absent"; exit 0; fi
  if ! test -x "$p"; then echo "state unexecutable"; exit 0; fi
  echo "sha256 $(sha256sum <"$p" | cut -d' ' -f1)"
  echo "head $(head -c 20 "$p" | od -An -v -tx1 | tr -d ' \n')"
else
  cd "$1" 2>/dev/null && { test -n "$whole" || sha256sum -c >/dev/null 2>&1; } || { echo "state absent"; exit 0; }
  touch "$1"
  p=$1/$3
  if test -n "$4" && ! test -e "$4"; then echo "lacks $4"
  elif test -n "$5" && ! command -v "$5" >/dev/null; then echo "lacks $5"
  elif test -n "$6"; then
    # What glibc has in place of a --list that ends at the first; any other loader would run the program with it.
    case $4 in
      */ld-linux*|*/ld64.so*) LD_TRACE_LOADED_OBJECTS=1 "$4" "$p" 2>&1 ;;
      *) "$4" --list "$p" 2>&1 ;;
    esac | grep -E 'not found|^Error loading shared library' | head -20 | sed 's/^/lacks /'
  fi
fi
echo "path $p"
echo "state there"
test -n "$2" || exit 0
limit=$2
shift 6
exec 4>&1
echo "said"
# What it leaves running may hold its pipes: they are read no longer than that.
status=$({ { { timeout -k 1 "$limit" "$p" "$@" --version </dev/null 2>&5 3>&- 4>&- 5>&-; echo $? >&3; } |
  timeout "$((limit + 2))" dd bs=4096 count=16 2>/dev/null >&4; } 5>&1 |
  timeout "$((limit + 2))" dd bs=1024 count=4 2>/dev/null 3>&- 4>&- | sed 's/^/labkit-stderr /' 3>&- >&4; } 3>&1)
echo
echo "status $status"
"""
# Arguments: the place, the digest, "file" or "tree", the name, how many older ones stay. stdin: the file, or the tree
# as tar. It is written aside and renamed once it is whole. Prints nothing, or what is wrong.
_SEND_SCRIPT = r"""LC_ALL=C; export LC_ALL
place=$1; key=$2; kind=$3; name=$4
part=$place/.$key.$$.part
trap 'rm -rf -- "$part"' EXIT
trap 'exit 1' HUP INT TERM
failed() {
  left=$(df -Pk "$place" 2>/dev/null | awk 'END {print $4}')
  case $1 in *"No space left"*|*"Disk quota"*|*"Wrote only"*) echo "space $left" ;; *) echo "failed $1" ;; esac
  exit 0
}
said=$(mkdir -p -- "$place" 2>&1) || failed "$said"
cd "$place" || exit 1
rm -rf -- ./.*.part
ls -1t | tail -n +"$(($5 + 1))" | while IFS= read -r old; do rm -rf -- "./$old"; done
said=$(mkdir -- "$part" 2>&1) || failed "$said"
if test "$kind" = tree; then
  said=$(tar -xf - -C "$part" 2>&1) || failed "$said"
else
  said=$(cat 2>&1 >"$part/$name") || failed "$said"
  said=$(chmod 755 "$part/$name" 2>&1) || failed "$said"
  test "$(sha256sum <"$part/$name" | cut -d' ' -f1)" = "$key" || { echo "changed"; exit 0; }
fi
rm -rf -- "./$key"
mv -- "$part" "./$key" || failed "it cannot be renamed"
trap - EXIT
test "$kind" = tree || whole=yes  # it was just compared
shift 5
"""
# Arguments: the directory, the name, the program, its arguments.
_WRAP = r"""set -e
mkdir -p -- "$1"
cat >"$1/.part"
chmod 755 "$1/.part"
mv -f -- "$1/.part" "$1/$2"
"""


def send(subject: Subject, remote: Remote, observer: Observer, machine: str, arguments: Sequence[str] = ()) -> Runtime:
    """The runtime as it is in the machine, sent there unless it is; its command is its path, and arguments come after
    its own. UsageError where it is not there or cannot be run there, as far as that can be told without a container.
    """
    if isinstance(subject.word, Running):
        return subject.runtime
    parcel = subject.parcel
    found = _put(subject, remote, observer, machine)
    name, version = versions.told(found.said)
    digest = parcel.sha256 if parcel else found.sha256
    runtime = dataclasses.replace(subject.runtime, command=found.path, sha256=digest)
    if not runtime.arguments and name in runtimes.names():
        runtime = dataclasses.replace(runtime, arguments=runtimes.named(name).arguments)
        if runtime.arguments:
            observer.step(f"{runtime.name} is {name} {version}, which gets {shlex.join(runtime.arguments)}")
    runtime = dataclasses.replace(runtime, arguments=(*runtime.arguments, *arguments))
    if lacks := runtimes.lacks(runtime.name):
        whys = "; ".join(dict.fromkeys(lacks.values()))
        observer.warn(f"{runtime.name} has no {', '.join(lacks)} ({whys}): what needs that is skipped")
    if found.status is None:
        observer.warn(f"{runtime.name} does not answer --version within {_VERSION} s: its version is not known")
    elif not version:
        said = one_line(printable((found.said or found.stderr).strip()), 200) or f"nothing (status {found.status})"
        observer.warn(f"{runtime.name} does not tell its version; for --version it prints: {said}")
    return runtime


def put(subject: Subject, remote: Remote, observer: Observer, machine: str) -> Runtime:
    """The same of a program that a suite runs, which is asked nothing: not all know --version."""
    found = _put(subject, remote, observer, machine, ask=False)
    digest = subject.parcel.sha256 if subject.parcel else found.sha256
    return dataclasses.replace(subject.runtime, command=found.path, sha256=digest)


def _put(subject: Subject, remote: Remote, observer: Observer, machine: str, *, ask: bool = True) -> _Found:
    parcel = subject.parcel
    found = _looked(subject, remote, ask)
    if parcel is not None and found.state == "absent":
        if why := same_architecture(parcel.kind, found.machine):
            raise UsageError(f"{parcel.path} {why}", hint=f"build it for {found.machine}")
        found = _sent(subject, parcel, remote, observer, machine, ask)
    _require_there(subject, found, machine)
    return found


def called_alone(runtime: Runtime, remote: Remote) -> Runtime:
    """The runtime for what gives it no arguments: its command is then a script in the machine that does."""
    if not runtime.arguments:
        return runtime
    text = f'#!/bin/sh\nexec {shlex.join([runtime.command, *runtime.arguments])} "$@"\n'.encode()
    name = PurePosixPath(runtime.command).name
    place = f"{PLACE}-with-arguments/{hashlib.sha256(text).hexdigest()[:16]}"
    answer = remote.run(["sh", "-c", _WRAP, "sh", place, name], timeout=_LOOK, stdin=text, keep=4096)
    if answer.status:
        raise MachineError(f"{runtime.name} cannot be given its arguments: {printable(answer.stderr.strip())}")
    return dataclasses.replace(runtime, command=f"{place}/{name}")


@dataclass(frozen=True, slots=True)
class _Found:
    """What is in a machine; status is that of --version, None where it did not answer."""

    state: str
    machine: str
    path: str
    sha256: str
    kind: Kind
    lacks: tuple[str, ...]
    said: str
    stderr: str
    status: int | None


def _looked(subject: Subject, remote: Remote, ask: bool) -> _Found:
    """What is there of it; ask: with what it says that it is."""
    sums = subject.parcel.sums if subject.parcel else ""
    return _found(subject, remote, _asked(subject, remote, _PROBE, (), sums.encode(), _LOOK, ask))


def _asked(
    subject: Subject, remote: Remote, script: str, first: Sequence[str], stdin: bytes | Path, timeout: float, ask: bool
) -> Answer:
    """The answer to a script that ends with _PROBE; first: its own arguments."""
    parcel = subject.parcel
    seconds = str(_VERSION) if ask else ""
    if parcel is None:
        words = [subject.runtime.command, seconds, "there", "", "", ""]
    else:
        kind = parcel.kind
        is_elf = "elf" if kind.architecture and kind.loader else ""
        words = [f"{PLACE}/{parcel.sha256}", seconds, parcel.program, kind.loader, kind.env, is_elf]
    argv = ["sh", "-c", script, "sh", *first, *words, *subject.runtime.arguments]
    try:
        return remote.run(argv, timeout=timeout, stdin=stdin)
    except CommandTimeout as error:
        raise MachineError(
            f"{subject.runtime.name} could not be looked at within {timeout:g} s: {error.message}",
            hint="./lab reset makes the machine clean",
        ) from error


def _found(subject: Subject, remote: Remote, answer: Answer) -> _Found:
    parcel = subject.parcel
    head, _, rest = answer.stdout.partition("\nsaid\n")
    lines = [line.partition(" ")[::2] for line in head.splitlines()]
    facts = dict(reversed(lines))  # the first of each
    if "state" not in facts:
        told = printable(answer.stderr.strip()[-300:]) or f"status {answer.status}"
        raise ConnectionFailed(f"what is in {remote.endpoint} cannot be told: {told}")
    body, _, last = rest.rstrip("\n").rpartition("\nstatus ")
    marked = [line.partition("labkit-stderr ") for line in body.splitlines()]
    return _Found(
        facts["state"],
        facts.get("machine", ""),
        facts.get("path", ""),
        facts.get("sha256", ""),
        Kind(architecture(bytes.fromhex(facts.get("head", "")))) if parcel is None else parcel.kind,
        tuple(value for key, value in lines if key == "lacks"),
        "\n".join(before for before, _, _ in marked),
        "\n".join(after for _, mark, after in marked if mark),
        int(last) if last.isdigit() and last not in ("124", "137") else None,
    )


def _sent(subject: Subject, parcel: Parcel, remote: Remote, observer: Observer, machine: str, ask: bool) -> _Found:
    """What is there of it once it was sent. A file is compared as it arrives, a tree afterwards."""
    observer.step(f"sending {parcel.path} ({amount(parcel.size)}) to {machine}")
    kind, name = ("tree" if parcel.is_tree else "file"), parcel.program.partition("/")[0]
    words = [PLACE, parcel.sha256, kind, name, str(_KEPT)]
    script = _SEND_SCRIPT + ("exit 0\n" if parcel.is_tree else _PROBE)
    with tempfile.NamedTemporaryFile(prefix="labkit-") as archive:
        data = parcel.path
        if parcel.is_tree:
            tar(parcel, archive)
            archive.flush()
            data = Path(archive.name)
        try:
            answer = _asked(subject, remote, script, words, data, _SEND, ask)
        except OSError as error:
            raise _changed(parcel) from error
    what, _, more = answer.stdout.partition("\n")[0].partition(" ")
    if what == "changed":
        raise _changed(parcel)
    if what == "space":
        left = f"{amount(int(more) << 10)} left, " if more.isdigit() else ""
        raise MachineError(
            f"machine {machine} has no room for {parcel.path}: {left}{amount(parcel.size)} to be sent",
            hint="./lab reset makes the machine clean; disk in [machine] of labkit.toml makes a new one larger",
        )
    if what == "failed" or answer.status:
        told = printable((more or answer.stderr).strip()) or f"status {answer.status}"
        raise MachineError(f"{parcel.path} could not be put into machine {machine}: {told}")
    found = _looked(subject, remote, ask) if parcel.is_tree else _found(subject, remote, answer)
    if found.state == "absent":
        raise _changed(parcel)
    return found


def _changed(parcel: Parcel) -> UsageError:
    return UsageError(
        f"{parcel.path} changed since it was read: what arrived is another thing",
        hint="wait for its build to end, and run the command again",
    )


def _require_there(subject: Subject, found: _Found, machine: str) -> None:
    runtime, parcel = subject.runtime, subject.parcel
    called = str(parcel.path) if parcel else runtime.command
    if found.state == "absent":
        if isinstance(subject.word, Package):
            raise UsageError(
                f"machine {machine} has no {runtime.command}",
                hint=f"install it there; or name a file of this host: --runtime ./{runtime.command}",
            )
        raise _absent(called, f"machine {machine}")
    if found.state == "directory":
        raise UsageError(f"{called} is a directory in machine {machine}", hint="name the program in it")
    if found.state == "unexecutable":
        raise UsageError(
            f"{called} is not executable in machine {machine}", hint=f"./lab ssh -- chmod +x {shlex.quote(called)}"
        )
    said = one_line(printable((found.stderr or found.said).strip()), 300)
    if found.lacks:
        raise UsageError(
            f"{called} cannot run in machine {machine}, which lacks {some(dict.fromkeys(map(_lacking, found.lacks)))}",
            hint="link it statically; build it on the machine's distribution; or send a directory with what it needs",
        )
    if why := same_architecture(found.kind, found.machine):
        raise UsageError(f"{called} {why}: it cannot be executed in machine {machine}")
    if found.status in (126, 127):
        raise UsageError(f"{called} cannot be executed in machine {machine}: {said}")


def _lacking(line: str) -> str:
    """What a loader misses: `libyajl.so.2 => not found`, or `...: version `GLIBC_2.38' not found (required by ...)`, or
    musl's `Error loading shared library libyajl.so.2: No such file or directory (needed by ...)`.
    """
    if match := re.match(r"Error loading shared library ([^ :]+)", line):
        return match[1]
    if match := re.search(r"version [`']([^']+)' not found", line):
        library = re.search(r"([^/ ]+): version", line)
        return f"{match[1]} of {library[1]}" if library else match[1]
    return printable(line.partition(" => ")[0].strip())


def _absent(path: str, where: str) -> UsageError:
    if Path(path).exists():
        return UsageError(
            f"{path} is not in {where}; it is a file of this host",
            hint=f"--runtime {HOST}{path} sends it into the machine",
        )
    return UsageError(
        f"{path} is neither in {where} nor on this host", hint="./lab ssh opens a shell in the machine to look around"
    )
