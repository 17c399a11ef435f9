"""The container that gives a report: what it is, seen from inside, and its cgroup's limits, seen from the machine.

It is run with all that a person can ask of a container and this engine has words for. So the report can be held against
two things: the config.json that the engine gave the runtime (in the spy's record), and what was asked of the engine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..common.cgroups import CGROUP_ROOT
from .base import Asked, Done
from .conversation import IMAGE, Talk
from .session import Session

IDS = ("GIVEN-", "ASKED-")  # what ids begin with: by config.json, and by what a person asked
_WAIT = 30.0  # seconds for the container to have reported
_MARK = "-- "  # begins a line that names the section which follows
# What the machine shows of a cgroup, by the names of its files.
_LIMITS = ("memory.max", "pids.max", "cpu.max", "cpu.weight", "memory.swap.max", "memory.high")

# Each section of the report: its name, and the command that prints it.
_SECTIONS = (
    ("cmdline", "tr '\\000' '\\n' </proc/self/cmdline"),
    ("environ", "env"),
    ("cwd", "pwd"),
    ("status", "cat /proc/self/status"),
    ("limits", "cat /proc/self/limits"),
    ("mountinfo", "cat /proc/self/mountinfo"),
    ("hostname", "hostname"),
    ("oom", "cat /proc/self/oom_score_adj"),
    ("umask", "umask"),
    ("namespaces", "for n in /proc/self/ns/*; do echo ${n##*/} $(readlink $n); done"),
    ("devices", "for d in /dev/*; do stat -c '%n %F %t %T %a %u %g' $d; done"),
    ("sysctl", "for s in $SYSCTLS; do echo $s $(cat /proc/sys/$(echo $s | tr . /)); done"),
    (
        "masked",
        "for p in $MASKED; do if [ -d $p ]; then echo $p $(ls -A $p 2>/dev/null | wc -l); "
        "elif [ -e $p ]; then echo $p $(head -c 1 $p 2>/dev/null | wc -c); fi; done",
    ),
    ("readonly", "for p in $READONLY; do [ -e $p ] && { [ -w $p ] && echo $p writable || echo $p read-only; }; done"),
    ("volume", "cat /mnt/given"),
)
_MASKED = (
    "/proc/acpi /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/sched_debug /proc/scsi /sys/firmware "
    "/proc/interrupts /sys/devices/virtual/powercap"
)
_READONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /proc/asound"
_SYSCTLS = "net.ipv4.ip_unprivileged_port_start"


def asked(directory: Path) -> Asked:
    """What a person asks for, all at once."""
    return Asked(
        {
            "memory": "67108864",
            "pids": "50",
            "user": "1000:2000",
            "read-only": "yes",
            "tmpfs": "/scratch",
            "device": "/dev/zero:/dev/labkit-zero",
            "no-new-privileges": "yes",
            "ulimit": "nofile=100:200",
            "sysctl": f"{_SYSCTLS}=81",
            "hostname": "labkit-report",
            "env": "LABKIT=a b",
            "workdir": "/home/labkit",
            "cap-drop": "NET_RAW",
            "volume": f"{directory}:/mnt",
        }
    )


def script() -> str:
    """What the container runs: it reports into the volume, and waits there for the machine to look at it."""
    lines = [f"MASKED='{_MASKED}' READONLY='{_READONLY}' SYSCTLS='{_SYSCTLS}'"]
    lines += [f"{{ echo '{_MARK}{name}'; {command}; }} 2>/dev/null" for name, command in _SECTIONS]
    report = "; ".join(lines)
    wait = "i=0; while [ ! -e /mnt/go ] && [ $i -lt 200 ]; do sleep 0.1; i=$((i + 1)); done"
    return f"{{ {report}; }} >/mnt/report.part; mv /mnt/report.part /mnt/report; {wait}"


def hold(session: Session) -> Iterator[dict[str, object]]:
    """One report: text, asked (what this engine has words for), cannot (and what not), limits of new cgroups by their
    paths, and how the command ended.
    """
    shared = session.place.data / "report"
    shared.mkdir(exist_ok=True)
    shared.chmod(0o777)
    (shared / "given").write_text("from the host\n")
    wanted = asked(shared)
    able = {name: value for name, value in wanted.items() if name in session.engine.asks}
    before = _cgroups()
    limits: dict[str, dict[str, str]] = {}
    ended: list[Done] = []
    talk = Talk(session.engine)

    def run() -> None:
        ended.append(session.engine.asked(talk.name(), IMAGE, ["sh", "-c", script()], able))

    began = time.monotonic()
    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive() and time.monotonic() < began + _WAIT:
        if (shared / "report").exists():
            limits = {path: _limits(path) for path in _cgroups() - before}
            break
        time.sleep(0.05)
    (shared / "go").touch()
    thread.join()
    talk.clean()
    text = ""
    with suppress(OSError):
        text = (shared / "report").read_text(errors="backslashreplace")
    yield {
        "text": text[: 256 << 10],
        "asked": {name: value.replace(str(shared), "DIRECTORY") for name, value in able.items()},
        "cannot": sorted(set(wanted) - set(able)),
        "limits": limits,
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))},  # noqa: PTH115, PTH208
        "seconds": round(time.monotonic() - began, 3),
        "commands": [done.to_json() for done in ended],
    }


def _cgroups() -> set[str]:
    return {path for path, _, _ in os.walk(CGROUP_ROOT)}


def _limits(path: str) -> dict[str, str]:
    found = {}
    for name in _LIMITS:
        with suppress(OSError):
            found[name] = Path(path, name).read_text().strip()
    return found
