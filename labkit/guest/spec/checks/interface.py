"""The command line callers use: runtime-tools docs/command-line-interface.md, and file descriptors."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from typing import Optional

from ..context import T
from ..registry import check
from ..stages import Stage, stage


@stage("PIDF-001")
def pid_file(t: T) -> Stage:
    c = yield "created"
    file = c.pid_file
    t.require(file.is_file(), "the pid file is there after create")
    t.equal(file.read_text().rstrip("\n"), str(c.read_state().get("pid")), "content of the pid file")


@check("CLI-001")
def default_bundle(t: T) -> None:
    bundle = t.bundle("cat /labkit-mark")
    (bundle.rootfs / "labkit-mark").write_text("this bundle")
    c = t.create(bundle, bundle_option="", cwd=bundle.path)
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the program ends")
    t.equal(c.stdout, "this bundle", "what the program finds in the bundle of the current directory")
    t.fails(t.cli("labkit-no-such-command"), "an unknown command")


@check("CLI-002")
def streams(t: T) -> None:
    given = bytes(range(256)) * 20
    source = t.work / "input"
    source.write_bytes(given)
    script = "(stat -Lc %i /proc/1/fd/0 /proc/1/fd/1 /proc/1/fd/2 >/out/inodes); tee /out/copy; cat /out/copy >&2"
    with source.open("rb") as stdin:
        c = t.create(script, stdin=stdin)
        hosts = t.sees_processes
        t.require(c.start().ok, "start exits 0")
        t.require(c.ended(), "the program ends")
    out, err = t.work / f"{c.id}.out", t.work / f"{c.id}.err"
    t.equal(out.read_bytes(), given, "bytes from stdin to stdout")
    t.equal(err.read_bytes(), given, "bytes from stdin to stderr")
    if hosts:  # another kernel has numbers of its own
        inodes = [str(path.stat().st_ino) for path in (source, out, err)]
        t.equal((c.bundle.read("inodes") or "").split(), inodes, "inodes of stdin, stdout, stderr")


@check("CLI-005")
def stdin_is_not_read(t: T) -> None:
    """By create before it is the program's, and by the others at all. The offset in a file shows who reads of it."""
    mine, others = t.work / "mine", t.work / "others"
    for path in (mine, others):
        path.write_text("first\nsecond\n")
    with mine.open("rb", buffering=0) as stdin, others.open("rb", buffering=0) as other:
        c = t.create("until [ -e /out/end ]; do sleep 0.02; done; cat", stdin=stdin)
        t.equal(stdin.tell(), 0, "bytes of its stdin that create read")
        for command in (("state",), ("start",), ("kill", "WINCH"), ("delete",)):
            if command[0] == "delete":
                c.bundle.put("end")
                t.require(c.wait_stopped(), "the container stops")
            done = t.cli(command[0], c.id, *command[1:], stdin=other)
            t.require(done.ok, f"{command[0]} exits 0", 0, done.describe())
            t.equal(other.tell(), 0, f"bytes of its stdin that {command[0]} read")
        t.equal(c.stdout, "first\nsecond\n", "what the program read from the stdin of create")


@check("CLI-003")
def console_socket(t: T) -> None:
    said = on_terminal(t, 'for fd in 0 1 2; do test -t $fd && echo "labkit-tty-$fd"; done')
    t.equal(said.split(), [f"labkit-tty-{fd}" for fd in range(3)], "what the program wrote to its terminal")


@check("PROC-009")
def console_size(t: T) -> None:
    size = {"height": 43, "width": 101}
    t.equal(on_terminal(t, "stty size", consoleSize=size).split(), ["43", "101"], "rows and columns of the terminal")


@check("PROC-010")
def terminal_on_streams(t: T) -> None:
    """All three are one pseudoterminal: what is typed comes in, what goes to each comes out."""
    script = (
        "stat -Lc %t:%T:%i /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; read word; echo got $word; echo err >&2"
    )
    words = on_terminal(t, script, typed=b"typed\n").split()
    nodes = [word for word in words if ":" in word]
    t.equal(len(nodes), 3, "streams that are a node")
    t.equal(len(set(nodes)), 1, "terminals that the three streams are")
    t.equal([word for word in words if word in ("got", "err")], ["got", "err"], "what comes out of stdout and stderr")
    t.equal(words.count("typed"), 2, "what is typed: echoed, and read by the program")


def on_terminal(t: T, script: str, typed: bytes = b"", **more: object) -> str:
    """What a program with a terminal wrote to it, after typing that; the check ends where there is no terminal."""
    config = t.config(script)
    config["process"].update(terminal=True, **more)
    path = t.work / "console"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)
        c = t.create(config, options=["--console-socket", str(path)])
        master = receive(listener)
    t.require(master is not None, "a file descriptor comes over the console socket")
    assert master is not None
    t.require(os.isatty(master), "it is a terminal")
    os.write(master, typed)
    t.require(c.start().ok, "start exits 0")
    t.require(c.ended(), "the program ends")
    said = b""
    with suppress(OSError):  # EIO: nothing has the terminal open any more
        while data := os.read(master, 4096):
            said += data
    os.close(master)
    return said.decode(errors="replace")


def receive(listener: socket.socket) -> Optional[int]:
    """The file descriptor the next client sends."""
    with suppress(socket.timeout):
        connection = listener.accept()[0]
        connection.settimeout(10)
        with connection:
            for level, kind, data in connection.recvmsg(4096, socket.CMSG_SPACE(4))[1]:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    return int.from_bytes(data[:4], sys.byteorder)
    return None


@check("CLI-004")
def listen_fds(t: T) -> None:
    for name in ("three", "four"):
        (t.work / name).write_text(f"content of {name}\n")
    # LISTEN_PID as sd_listen_fds(3) wants it; runc looks at it, crun does not.
    script = f"export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$@\" 3<'{t.work}/three' 4<'{t.work}/four'"
    c = t.run('cat <&3; cat <&4; echo "$LISTEN_FDS" >/out/count', launch=t.shell(script))
    t.equal(c.stdout, "content of three\ncontent of four\n", "what fds 3 and 4 are")
    t.note("LISTEN_FDS of the program", (c.bundle.read("count") or "").strip())


@check("FD-001")
def descriptors(t: T) -> None:
    script = "(ls /proc/1/fd >/out/fds); true"  # in a child: what it opens does not count
    c = t.run(script, launch=t.shell('exec "$@" 7</dev/null 9</dev/zero'))
    t.equal((c.bundle.read("fds") or "").split(), ["0", "1", "2"], "file descriptors of the program")
