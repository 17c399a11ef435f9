"""Trees of runtime-tools made of shell scripts: a recorded run played again, and programs that misbehave.

Such a tree needs nothing but a POSIX shell and coreutils or busybox, so it runs in a machine too.
"""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path

from tests.recorded import V1, V2

__all__ = ["V1", "V2"]

# What each does; NAP is a sleep that a test can find and that outlives every test.
NAP = "sleep 3471"
HOSTILE = {
    "hangs": NAP,
    "ignores_sigterm": f"trap '' TERM INT HUP QUIT; echo before; {NAP}; {NAP}",
    "forks_twice": f"echo out; ({NAP} & ) & wait; exit 3",
    "keeps_the_pipe": f"({NAP} & echo daemon) & sleep 0.2; exit 0",
    "leaves_its_session": f"setsid {NAP} & sleep 0.2; exit 0",
    "kills_its_parent": "kill -9 $PPID; kill -9 1; kill -TERM 1; echo still here; exit 5",
    "kills_all": "trap '' TERM; kill -TERM -1; kill -9 -1; echo still here",
    "kills_itself": "echo dying; kill -9 $$",
    "floods": "head -c 100000000 /dev/zero; head -c 9000000 /dev/zero >&2",
    "closes_its_streams": "echo before; exec >&- 2>&-; sleep 0.3; exit 4",
    "rubbish": r"printf 'a\000\377\376\n\r\033[2J not utf-8: \303\050'; printf '\200' >&2",
    "leaks_mounts": 'mkdir "$TMPDIR/m"; mount -t tmpfs leak "$TMPDIR/m"; mount -t tmpfs leak /mnt; exit 0',
    "leaks_a_cgroup": "c=/sys/fs/cgroup; test -e $c/cgroup.controllers || c=$c/pids; c=$c/labkit-test; "
    f"mkdir $c $c/below; ({NAP} & echo $! >$c/cgroup.procs); exit 1",
    "leaves_files": 'mkdir -p "$TMPDIR/a/b"; ln -s / "$TMPDIR/a/root"; touch "$TMPDIR/a/b/c"; mkfifo "$TMPDIR/fifo"',
    "reads_stdin": "cat; echo end",
    "silent": "exit 0",
}


def make_tree(directory: Path) -> Path:
    """An empty tree."""
    (directory / "validation").mkdir(parents=True)
    (directory / ".labkit-ref").write_text("replayed\n")
    (directory / "runtimetest").write_text("#!/bin/sh\necho 1..0\n")
    (directory / "runtimetest").chmod(0o755)
    with tarfile.open(directory / "rootfs-amd64.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("etc/hostname"), io.BytesIO())
    return directory


def add(tree: Path, name: str, script: str) -> None:
    home = tree / "validation" / name
    home.mkdir()
    (home / f"{name}.t").write_text(f"#!/bin/sh\n{script}\n")
    (home / f"{name}.t").chmod(0o755)


def replayed(directory: Path, recording: Path, scale: float) -> Path:
    """A tree whose programs print what the recorded ones did and end as they did, after their time multiplied."""
    tree = make_tree(directory)
    for row in summary(recording):
        name = row["program"]
        pause = float(row["seconds"]) * scale
        add(tree, name, f"{_cat(recording, name)}sleep {pause:.3f}\nexit {row['exit_status']}")
        for stream in ("tap", "err"):
            (tree / f"validation/{name}/{name}.{stream}").write_bytes(recorded(recording, name, stream))
    return tree


def summary(recording: Path) -> list[dict[str, str]]:
    with (recording / "summary.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def recorded(recording: Path, name: str, stream: str) -> bytes:
    """stream: "tap" or "err"; a program that printed nothing there has no such file."""
    path = recording / f"{name}.{stream}"
    return path.read_bytes() if path.exists() else b""


def _cat(recording: Path, name: str) -> str:
    """Only what is there: a program is a few processes fewer."""
    streams = [("tap", ""), ("err", " >&2")]
    return "".join(
        f"cat validation/{name}/{name}.{stream}{to}\n" for stream, to in streams if recorded(recording, name, stream)
    )
