"""A run of the spec suite leaves the host as it was, whatever the runtime does."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from labkit.guest.common.cgroups import CGROUP_ROOT
from labkit.guest.pyz import pyz
from labkit.io import process
from labkit.results import tap
from labkit.suites.spec import from_tap

pytestmark = pytest.mark.host_runtime

# Those that have changed a host once, and those that make most: devices, streams, sysctls, mounts, cgroups, hooks.
TELLING = """USERNS-001 DELETE-004 DELETE-005 CLI-002 CLI-003 DEV-001 DEFDEV-001 DEFDEV-003 SYSCTL-001 PROP-001
MOUNT-005 HOST-001 NS-004 CG-001 CG-003 CREATE-004 CREATE-005 HOOK-001 HOOK-013 KILL-003 LIFE-004 LIFE-006 MASK-001
""".split()  # noqa: SIM905
WAITING = ["CREATE-005", "HOOK-013", "LIFE-004", "LIFE-006"]  # for processes to end, which the hostile ones do not

# A runtime that does to its surroundings what it can, with each command, and then what it is asked for.
HOSTILE = """#!/bin/sh
for fd in 0 1 2; do
    chown 4242:4243 /proc/self/fd/$fd
    chmod 0612 /proc/self/fd/$fd
done 2>/dev/null
for node in null zero full random urandom tty fuse net/tun kvm ptmx pts/ptmx console; do
    chown 4242:4243 /dev/$node
    chmod 0612 /dev/$node
done 2>/dev/null
chmod 0711 /dev /dev/shm /dev/pts 2>/dev/null
touch /dev/lk-left /dev/shm/lk-left
for sysctl in net/ipv4/ip_forward net/core/somaxconn kernel/msgmax kernel/sem kernel/hostname fs/mqueue/msg_max; do
    echo 17 >/proc/sys/$sysctl
done 2>/dev/null
hostname lk-hostile
ip link add lk-left type dummy 2>/dev/null
mktemp >/dev/null
test -d "$TMPDIR/mounted" || {
    mkdir -p "$TMPDIR/mounted"
    mount -t tmpfs lk-left "$TMPDIR/mounted"
    mount -t tmpfs lk-left /mnt
}
ulimit -n 64
case " $* " in
*" create "*)
    test -z "$LABKIT_CHECK" || for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*/; do
        test ! -e "$hierarchy/cgroup.procs" || mkdir -p "$hierarchy/labkit-${LABKIT_CHECK%%/*}/lk-left/below"
    done 2>/dev/null
    setsid sleep 98761 </dev/null >/dev/null 2>&1 &
    (setsid sleep 98761 </dev/null >/dev/null 2>&1 &)
esac
exec @RUNTIME@ "$@"
"""
VOLATILE = re.compile(
    r"/proc/sys/(kernel/(random/|ns_last_pid|pty/nr|perf_|sched_domain|keys/)|fs/(dentry|inode|file-nr|aio-nr|quota|dqstat)"
    r"|net/netfilter/nf_conntrack|net/ipv4/(tcp_mem|udp_mem)|debug/)"
)
MADE = re.compile(r"labkit-|lk-left|tmp\.|runc|crun")  # tmp.: mktemp
OTHERS = re.compile(r"/labkit-|/lk-(?!left)")  # what other tests make on this host at the same time


def devices() -> dict[str, object]:
    """Owner, mode, number of every node, and the time of its last change, but for terminals: their use changes it."""
    found: dict[str, object] = {}
    for directory, directories, files in os.walk("/dev"):
        directories[:] = [name for name in directories if f"{directory}/{name}" not in ("/dev/pts", "/dev/shm")]
        for name in [*files, *directories]:
            path = Path(directory, name)
            try:
                info = path.lstat()
            except OSError:
                continue
            times = () if "tty" in name or name in ("ptmx", "console") else (info.st_mtime_ns, info.st_ctime_ns)
            if stat.S_ISDIR(info.st_mode):
                times = ()
            found[str(path)] = (oct(info.st_mode), info.st_uid, info.st_gid, info.st_rdev, times)
    return found


def sysctls() -> dict[str, object]:
    found: dict[str, object] = {}
    for directory, _, files in os.walk("/proc/sys"):
        for name in files:
            path = Path(directory, name)
            if not VOLATILE.match(str(path)):
                try:
                    found[str(path)] = path.read_bytes()
                except OSError:
                    continue
    return found


def cgroups() -> set[str]:
    return {directory for directory, _, _ in os.walk(CGROUP_ROOT)}


def in_use(cgroup: Path) -> bool:
    """By processes, or gone again: it is of somebody else, for those of a run have ended."""
    try:
        return bool((cgroup / "cgroup.procs").read_text())
    except OSError:
        return True


def mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def network() -> set[str]:
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines} | set(Path("/proc/net/route").read_text().splitlines())


def processes(mark: str) -> dict[int, bytes]:
    """Those with this text in their command line or environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
                if mark.encode() in line + (entry / "environ").read_bytes():
                    found[int(entry.name)] = line
            except OSError:
                continue
    return found


def files(*tops: Path) -> set[str]:
    """What suites and runtimes have in directories for temporary files and records."""
    return {str(path) for top in tops if top.is_dir() for path in top.iterdir() if MADE.match(path.name)}


def system() -> dict[str, object]:
    return {
        "devices": devices(),
        "sysctls": sysctls(),
        "mounts": mounts(),
        "cgroups": cgroups(),
        "network": network(),
        "files": files(Path("/tmp"), Path("/var/tmp")),
        "records": files(Path("/run/runc"), Path("/run/crun"), Path("/dev/shm"), Path("/dev/mqueue")),
        "names": (os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text()),
    }


def harmless(place: Path, runtime: str, only: list[str]) -> int:
    """Run the suite, look at the host before and after; how many results it had."""
    program = place / "labkit-spec.pyz"
    program.write_bytes(pyz("spec"))
    before = system()
    words = [sys.executable, str(program), "--runtime", runtime, "--no-confirm"]
    words += ["--only", ",".join(only)] if only else []
    if Path(runtime).name == "crun" or "crun" in Path(runtime).read_text(errors="ignore")[-100:]:
        words = ["unshare", "--mount", "sh", "-c", without_v2(), "sh", *words]
    around = {**os.environ, "TMPDIR": str(place / "tmp")}
    child = subprocess.Popen(
        words, env=around, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = child.communicate(timeout=900)
    assert child.returncode in (0, 1), err
    assert err == b""
    reading = from_tap(tap.read(out))
    assert reading.reason is None
    ours = f"labkit-{child.pid:x}"  # the name of this run begins so
    after = system()
    for kind, was in before.items():
        left = [item for item in changed(was, after[kind]) if ours in str(item) or not OTHERS.search(str(item))]
        left = [item for item in left if not (kind == "cgroups" and in_use(Path(str(item))))]
        assert left == [], kind
    assert files(place / "tmp") == set()
    assert processes(ours) == {}
    assert processes(str(place)) == {}
    return len(reading.results)


def changed(was: object, now: object) -> list[object]:
    if isinstance(was, dict) and isinstance(now, dict):
        return [(key, was.get(key), now.get(key)) for key in was.keys() | now.keys() if was.get(key) != now.get(key)]
    if isinstance(was, set) and isinstance(now, set):
        return sorted(was ^ now)
    return [] if was == now else [(was, now)]


def without_v2() -> str:
    """crun refuses a hybrid host; without the hierarchy of v2 it is one of v1."""
    unified = CGROUP_ROOT / "unified"
    return f'umount {unified} && exec "$@"' if unified.is_dir() else 'exec "$@"'


def found(name: str) -> str:
    path = process.which(name)
    if path is None:
        pytest.skip(f"not installed: {name}")
    return str(path)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_run_leaves_the_host_as_it_was(place: Path, runtime: str) -> None:
    assert harmless(place, found(runtime), TELLING) == len(TELLING)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_hostile_runtime_does_its_harm_to_the_suites_own(place: Path, runtime: str) -> None:
    wrapper = place / "hostile"
    wrapper.write_text(HOSTILE.replace("@RUNTIME@", found(runtime)))
    wrapper.chmod(0o755)
    only = [id for id in TELLING if id not in WAITING]
    assert harmless(place, str(wrapper), only) == len(only)


@pytest.mark.parametrize("top", [Path("/run"), Path("/tmp")], ids=str)
def test_no_record_stays_wherever_a_runtime_has_them(top: Path, place: Path) -> None:
    """Below /run they are hidden from the host, and nothing is asked to delete them; elsewhere each is deleted."""
    records, calls, runtime = top / f"{place.name}-records", place / "calls", place / "runtime"
    runtime.write_text(f'#!/bin/sh\necho "$1" >>{calls}\nexec {found("runc")} --root {records} "$@"\n')
    runtime.chmod(0o755)
    try:
        assert harmless(place, str(runtime), ["CONF-010", "STATE-007", "KILL-003"]) == 3
        assert list(records.iterdir()) == []
        deleted = Counter(calls.read_text().split())["delete"]
        assert deleted == (1 if top == Path("/run") else 4)  # one is the plain container
    finally:
        shutil.rmtree(records)


@pytest.mark.long
@pytest.mark.parametrize("runtime", ["runc", "crun", "hostile"])
def test_a_whole_run_leaves_the_host_as_it_was(place: Path, runtime: str) -> None:
    if runtime == "hostile":
        wrapper = place / "hostile"
        wrapper.write_text(HOSTILE.replace("@RUNTIME@", found("runc")))
        wrapper.chmod(0o755)
        runtime = str(wrapper)
    else:
        runtime = found(runtime)
    assert harmless(place, runtime, []) > 100
