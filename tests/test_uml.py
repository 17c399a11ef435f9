"""Machines of User-Mode Linux through the command line: what they do as all machines do, and what holds them.

They share one lab, whose machine is left running and clean (fixture `uml` in conftest.py); faults/test_uml.py does them
harm.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.io import process
from tests.conftest import Lab, until
from tests.test_network import own_address, server

pytestmark = pytest.mark.machine

QUICK = "QUERY-001,QUERY-002"
IDENTITY = "cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub; hostname; head -c 16 /dev/urandom | od -An -tx1"


@pytest.fixture(autouse=True)
def nothing_goes_on(uml: Lab) -> Iterator[None]:
    yield
    uml.kill_all()


@pytest.fixture
def own(uml: Lab) -> Iterator[str]:
    """A machine of the test's own."""
    uml.run("up", "--machine", "own")
    yield "own"
    uml.run("destroy", "--machine", "own", status=None)


def state(lab: Lab, machine: str = "debian-13") -> str:
    return {info["name"]: str(info["state"]) for info in lab.json("status")}[machine]


# --- what every machine does


def test_status_says_what_it_is_and_a_suite_runs_there(uml: Lab) -> None:
    [info] = uml.json("status")
    assert (info["state"], info["provider"], info["accelerator"]) == ("running", "uml", "uml")
    uml.run("test", "--runtime", "runc", "--only", QUICK)
    result = uml.results()
    assert (result["run"]["complete"], result["totals"]["pass"]) == (True, 2)
    about = result["machine"]
    assert (about["provider"], about["accelerator"], about["cgroup"]) == ("uml", "uml", "v2")


def test_up_finds_what_runs(uml: Lab) -> None:
    before = uml.uml()
    uml.run("up")
    assert uml.uml() == before


def test_reset_forgets_and_keeps_who_it_is(uml: Lab) -> None:
    *before, dice = uml.guest(IDENTITY).splitlines()
    port = uml.json("status")[0]["port"]
    uml.guest("echo mine >/root/marker")
    uml.run("reset")
    assert uml.guest("test -e /root/marker && echo there || echo gone") == "gone\n"
    *after, other = uml.guest(IDENTITY).splitlines()
    assert after == before and other != dice
    assert uml.json("status")[0]["port"] == port
    assert abs(int(uml.guest("date +%s")) - time.time()) < 15


def test_halt_keeps_the_disk_and_up_boots_it(uml: Lab, own: str) -> None:
    uml.guest("echo kept >/root/marker", own)
    done = uml.run("halt", "--machine", own)
    assert "warning" not in done.stderr
    assert uml.processes(own) == []
    assert state(uml, own) == "halted"
    uml.run("ssh", "--machine", own, "--", "true", status=3)
    assert "warning" not in uml.run("up", "--machine", own).stderr
    assert uml.guest("cat /root/marker; dmesg | grep -c 'ubda.*recover' || true", own) == "kept\n0\n"


def test_a_kernel_that_was_killed_is_booted_again(uml: Lab, own: str) -> None:
    uml.guest("echo kept >/root/marker; sync", own)
    os.kill(uml.uml(own), signal.SIGKILL)
    until(lambda: not uml.processes(own), 10, "nothing of it is left")
    assert state(uml, own) == "crashed"
    assert "crashed or was killed; booting its disk again" in uml.run("up", "--machine", own).stderr
    assert uml.guest("cat /root/marker", own) == "kept\n"


def test_a_panic_is_told_at_once(uml: Lab, own: str) -> None:
    uml.guest("echo kept >/root/marker; sync", own)
    slow = "STATE-001,STATE-002,STATE-003,KILL-003,START-003,QUERY-001"
    child = uml.start("test", "--machine", own, "--only", slow, "--jobs", "1")
    until(lambda: list(uml.cwd.glob(f"reports/*-{own}-*/raw/spec.tap")), 180, "the suite has begun")
    uml.run("ssh", "--machine", own, "--", "(sleep 0.2; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
    began = time.monotonic()
    done = uml.end(child, 120)
    assert time.monotonic() - began < 40
    assert done.returncode == 4, done
    assert "kernel panicked" in uml.results()["run"]["reason"]
    assert "Kernel panic" in (uml.cwd / "reports/latest/console.log").read_text()
    assert state(uml, own) == "crashed"
    uml.run("up", "--machine", own)
    assert uml.guest("cat /root/marker", own) == "kept\n"


def test_destroy_leaves_nothing(uml: Lab, own: str) -> None:
    assert uml.run("destroy", "--machine", own).stdout == f"destroyed {own}\n"
    assert uml.processes(own) == []
    assert not (uml.home / "machines" / own).exists()
    assert str(uml.home) not in Path("/proc/self/mounts").read_text()


def test_machines_are_not_twins(uml: Lab, own: str) -> None:
    lines = [uml.guest(IDENTITY, name).splitlines() for name in ("debian-13", own)]
    assert all(one != two for one, two in zip(*lines, strict=True)), lines
    ports = {info["port"] for info in uml.json("status")}
    assert len(ports) == 2


def test_systemd_comes_up_whole(uml: Lab) -> None:
    began = time.monotonic()
    uml.run("up", "--machine", "systemd", env={"LABKIT_MACHINE_INIT": "systemd"})
    took = time.monotonic() - began
    try:
        wait = "systemctl is-system-running --wait; cat /proc/1/comm; systemctl --failed --plain --no-legend"
        assert uml.guest(wait, "systemd") == "running\nsystemd\n"
        assert took < 300
        done = uml.run("up", "--machine", "systemd", env={"LABKIT_MACHINE_INIT": "small"})
        assert "the init is systemd; asked for: small" in done.stderr
        uml.run("halt", "--machine", "systemd")
        assert "warning" not in uml.run("up", "--machine", "systemd", env={"LABKIT_MACHINE_INIT": "systemd"}).stderr
    finally:
        uml.run("destroy", "--machine", "systemd")


def test_ten_machines_at_once(uml: Lab) -> None:
    names = [f"n{number}" for number in range(10)]
    children = [uml.start("up", "--machine", name, env={"LABKIT_MACHINE_MEMORY": "256M"}) for name in names]
    ended = [uml.end(child, 200) for child in children]
    assert [done.returncode for done in ended] == [0] * 10, ended
    assert len({info["port"] for info in uml.json("status")}) == 11
    try:
        assert [uml.guest("hostname", name) for name in names] == [f"{name}\n" for name in names]
        affinity = [os.sched_getaffinity(uml.uml(name)) for name in ("debian-13", *names)]
        alone = [next(iter(cpus)) for cpus in affinity if len(cpus) == 1 and cpus != os.sched_getaffinity(0)]
        assert len(alone) == len(set(alone)), "no CPU is two machines'"
    finally:
        for name in names:
            uml.run("destroy", "--machine", name)


# --- what holds them


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for each in found:
        found += process.children(each)
    return found


KINDS = ("net", "pid", "mnt", "user", "ipc", "uts")


def test_a_kernel_is_nobody_and_sees_nothing_of_this_host(uml: Lab) -> None:
    uml.guest("sleep 60 >/dev/null 2>&1 &")
    pid = uml.uml()
    seen = []
    for each in tree(pid):
        try:
            status = status_of(each)
            namespaces = {kind: Path(f"/proc/{each}/ns/{kind}").readlink() for kind in KINDS}
        except (FileNotFoundError, ProcessLookupError):  # of the guest's processes, some end meanwhile
            continue
        seen.append(each)
        assert all(int(uid) > 1_000_000_000 for field in ("Uid", "Gid") for uid in status[field].split()), status
        assert status["Groups"] == ""
        assert status["NoNewPrivs"] == "1"
        for kind, its in namespaces.items():
            assert Path(f"/proc/self/ns/{kind}").readlink() != its, kind
    assert pid in seen
    assert len(seen) > 1, "the guest's sleep is a process of this host's too"
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    kernel = json.loads((uml.home / "machines/debian-13/record.json").read_text())["kernel"][:16]
    sources = {fields[3].rpartition(f"{uml.home}/")[2] if str(uml.home) in fields[3] else "" for fields in mounts}
    points = {fields[4] for fields in mounts}
    assert points == {
        "/", "/kernel", "/disk", "/files/base", "/files/start", "/dev/null", "/dev/zero", "/dev/urandom", "/proc",
    }  # fmt: skip
    assert sources - {""} <= {
        f"kernels/{kernel}", "machines/debian-13/volume", "machines/debian-13/start.img",
        next(f"images/{path.parents[1].name}/raw/disk.img" for path in uml.home.glob("images/*/raw/disk.img")),
    }  # fmt: skip
    root = {path.name for path in Path(f"/proc/{pid}/root").iterdir()}
    assert root == {"dev", "disk", "files", "kernel", "lib64", "linux", "proc"}
    assert [path.name for path in Path(f"/proc/{pid}/root/disk").iterdir()] == ["cow.img"]


NS_GET_USERNS = 0xB701  # ioctl_ns(2): a descriptor of the user namespace that owns this one


def test_a_kernel_owns_no_namespace_that_matters(uml: Lab) -> None:
    """Its rights end with its user namespace; its network, processes and names are another's."""
    pid = uml.uml()
    mine = Path(f"/proc/{pid}/ns/user").readlink()
    for kind in ("net", "pid", "ipc", "uts"):
        with Path(f"/proc/{pid}/ns/{kind}").open() as namespace:
            owner = fcntl.ioctl(namespace, NS_GET_USERNS)
            assert Path(f"/proc/self/fd/{owner}").readlink() != mine, kind
            os.close(owner)


def test_it_is_held_on_one_cpu(uml: Lab) -> None:
    held = set()
    for pid in tree(uml.uml()):
        with contextlib.suppress(ProcessLookupError):  # of the guest's processes, some end meanwhile
            held.add(frozenset(os.sched_getaffinity(pid)))
    assert len(held) == 1
    if len(os.sched_getaffinity(0)) > 1:
        uml.run("reset")  # no other machine of this lab runs: it has a CPU of its own, if no other lab has it
        assert len(os.sched_getaffinity(uml.uml())) in (1, len(os.sched_getaffinity(0)))


def test_its_memory_is_what_it_uses(uml: Lab) -> None:
    """A machine with 1 GiB, after its boot."""
    uml.run("reset")
    assert int(uml.guest("free -m | awk '/^Mem/ {print $2}'")) > 900
    used = 0
    for pid in uml.processes("debian-13") + tree(uml.uml()):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # a process of the guest's that has ended
            continue
        used += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    assert used < 150 << 10, f"{used >> 10} MiB"


REACH = """
import socket, sys
for host in sys.argv[2:]:
    with socket.socket() as here:
        here.settimeout(2)
        try:
            here.connect((host, int(sys.argv[1])))
            print("reached", host)
        except OSError:
            pass
"""


def reached(lab: Lab, port: int, *hosts: str, first: str = "true") -> str:
    lab.guest(f"cat >/tmp/reach.py <<'EOF'\n{REACH}\nEOF")
    return lab.guest(f"{first}; python3 /tmp/reach.py {port} {' '.join(hosts)}")


def test_a_guest_reaches_no_server_of_this_host(uml: Lab) -> None:
    """Not at any address that is this host's, nor with packets to 127.0.0.1 that it sends out by its network."""
    craft = "sysctl -qw net.ipv4.conf.all.route_localnet=1; ip addr del 127.0.0.1/8 dev lo; "
    craft += "ip route del local 127.0.0.1 table local; ip route add 127.0.0.1/32 via 198.51.100.201 dev vec0"
    with socket.create_server(("127.0.0.1", 0)) as here:
        port = here.getsockname()[1]
        hosts = ("198.51.100.2", "198.51.100.201", "10.0.2.2", "127.0.0.1")
        assert reached(uml, port, *hosts, first=craft) == ""
    uml.run("reset")
    with server(own_address()) as here:
        assert reached(uml, here.server_address[1], own_address()) == ""
        here.shutdown()


def test_it_reaches_what_the_settings_name_on_this_host(uml: Lab) -> None:
    """A mirror there, and nothing else there. This shows that the network works at all."""
    host = own_address()
    with server(host) as mirror, server(host) as other:
        port = mirror.server_address[1]
        uml.run("halt")
        uml.run("up", env={"LABKIT_PROXY": f"http://{host}:{port}"})
        try:
            assert reached(uml, port, host) == f"reached {host}\n"
            assert reached(uml, other.server_address[1], host) == ""
        finally:
            mirror.shutdown()
            other.shutdown()
            uml.run("reset")


def test_a_guest_that_floods_its_console_fills_no_disk(uml: Lab, own: str) -> None:
    uml.guest("(timeout 6 cat /dev/zero | tr '\\0' 'A' >/dev/console) >/dev/null 2>&1 &", own)
    until(lambda: (uml.home / "machines" / own / "console.log").stat().st_size > 1 << 20, 20, "the flood")
    assert uml.guest("echo usable", own) == "usable\n"
    time.sleep(3)
    sizes = {path.name: path.stat().st_blocks * 512 for path in (uml.home / "machines" / own).glob("*.log*")}
    assert sum(sizes.values()) < 20 << 20, sizes
    assert state(uml, own) == "running"


def test_a_kernel_that_was_stopped_is_named_at_once(uml: Lab, own: str) -> None:
    pid = uml.uml(own)
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = uml.run("up", "--machine", own, status=3)
        assert re.search(r"the User-Mode Linux of machine own, process \d+, was stopped by a signal", done.stderr)
        assert time.monotonic() - began < 60
    finally:
        os.kill(pid, signal.SIGCONT)
    uml.run("up", "--machine", own)


# --- an ordinary user

AS_USER = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /dev/net
mknod -m 666 /dev/net/tun c 10 200
for place in $1; do
  mkdir -p "$2/shown"
  mount --rbind "$place" "$2/shown"
  closed=/$(echo "$place" | cut -d/ -f2)
  mount -t tmpfs -o mode=755 none "$closed"
  mkdir -p "$place"
  mount --move "$2/shown" "$place"
done
shift 2
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"""


def closed(path: Path) -> bool:
    return any(not parent.stat().st_mode & 0o001 for parent in path.parents)


def test_an_ordinary_user_has_machines_too(uml: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a /dev/net/tun that everybody may open, as udev makes it, in a mount namespace of the test's own."""
    top = Path(subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    try:
        top.chmod(0o755)
        home, work = top / "home", top / "work"
        work.mkdir()
        home.mkdir()
        for name in ("images", "kernels"):
            subprocess.run(["cp", "-r", "--sparse=always", uml.home / name, home / name], check=True)
        subprocess.run(["chown", "-R", "65534:65534", home, work], check=True)
        places = " ".join(str(place) for place in (Path(sys.base_prefix),) if closed(place))
        within = ("unshare", "--mount", "sh", "-c", AS_USER, "sh", places, str(top))
        lab = Lab(home, work, {**uml.env, "HOME": str(work)}, within=within)
        for path in (Path(sys.executable), Path(sysconfig.get_path("purelib"))):
            if closed(path):
                pytest.skip(f"nobody but root gets to {path}")
        try:
            done = lab.run("up", status=None)
            if done.returncode and "no network can be made in a namespace" in done.stderr:
                pytest.skip(done.stderr.splitlines()[0])
            assert done.returncode == 0, done
            assert status_of(lab.uml())["Uid"].split() == ["65534"] * 4
            lab.guest("echo kept >/root/marker")
            lab.run("halt")
            lab.run("up")
            assert lab.guest("cat /root/marker") == "kept\n"
            lab.run("reset")
        finally:
            lab.run("destroy", "--all", status=None)
            assert lab.processes() == []
    finally:
        subprocess.run(["rm", "-rf", top], check=True)
