"""A libvirt of the tests' own, in namespaces: nothing that it does reaches this host's network, or its libvirt."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

# Every directory that libvirt writes to is the scratch's.
_DAEMONS = r"""
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
ip link set lo up
sysctl -q -w net.ipv4.ip_forward=1
for directory in /run /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
  mkdir -p "$directory"
done
mkdir "$scratch/run" "$scratch/lib" "$scratch/lib/images" "$scratch/log" "$scratch/cache"
mkdir "$scratch/run/lock"
chmod 755 "$scratch" "$scratch"/*
mount --bind "$scratch/run" /run
mount --bind "$scratch/lib" /var/lib/libvirt
mount --bind "$scratch/log" /var/log/libvirt
mount --bind "$scratch/cache" /var/cache/libvirt
cp -a /etc/libvirt "$scratch/etc"
mount --bind "$scratch/etc" /etc/libvirt
virtlogd -d
libvirtd -d
round=0
until virsh -q -c qemu:///system version >/dev/null 2>&1; do
  round=$((round + 1))
  test "$round" -lt 60 || exit 1 # a loaded host takes its time
  sleep 1
done
echo ready
exec sleep infinity
"""


@contextlib.contextmanager
def namespaces(scratch: Path) -> Iterator[tuple[str, ...]]:
    """What a command begins with to run beside a libvirtd that sees only itself; scratch is a directory for its files.

    It reaches out through slirp4netns, which this host's own addresses are closed to.
    """
    scratch.mkdir(mode=0o755)
    holder = subprocess.Popen(
        ["unshare", "--net", "--mount", "--propagation=private", "sh", "-c", _DAEMONS],
        env={**os.environ, "scratch": str(scratch)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    way_out = None
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n", "libvirtd does not start"
        words = ["slirp4netns", "--configure", "--mtu=1400", "--disable-host-loopback", str(holder.pid), "tap0"]
        way_out = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not Path(f"/proc/{holder.pid}/net/route").read_text().count("tap0"):
            assert way_out.poll() is None, "slirp4netns does not start"
            time.sleep(0.05)
        enter = f'exec nsenter --target {holder.pid} --net --mount --wdns="$PWD" -- "$@"'
        yield ("sh", "-c", enter, "sh")
    finally:
        for pid in _inside(holder.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for child in (way_out, holder):
            if child is not None:
                child.kill()
                child.wait()
        if holder.stdout is not None:
            holder.stdout.close()
        time.sleep(0.2)


def _inside(pid: int) -> list[int]:
    """Every process in the network namespace of pid, pid last."""
    try:
        space = Path(f"/proc/{pid}/ns/net").readlink()
    except OSError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != pid:
            with contextlib.suppress(OSError):
                if (entry / "ns/net").readlink() == space:
                    found.append(int(entry.name))
    return [*found, pid]
