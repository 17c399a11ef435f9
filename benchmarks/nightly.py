"""How a night deals with many cells: the floor is the time that the cells alone take.

dealt   1000 cells of a second on 20 slots: the ratio to the ideal, CPU time and memory a cell in all processes
killed  600 cells, with the night's process (with --hosts also a worker, or all of them) killed at random, until it ends
hundred 100 nights in a row with a scripted clock, mirror and verdicts, every third killed: whether the history is exact
        and the disk bounded by nights.keep
real    Debian 13 and 12, runc and crun, spec, on machines of User-Mode Linux, twice: what the second builds again
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from common import ROOT, lab, timed

from labkit.core import config
from labkit.core.cell import Cell
from labkit.core.observer import Silent
from labkit.matrix.job import Ended, Job
from labkit.matrix.local import LocalEngine
from labkit.matrix.plan import Planned
from labkit.matrix.table import NightTable, Row, State
from labkit.matrix.window import Engine, Room, Window
from tests.many_nights import KEEP, Script
from tests.namespaces import network
from tests.simulated import Nights, processes_of

assert ROOT
_CELL = ("sh", "-c", 'mkdir run; echo "$1" >run/result; exec sleep "$2"', "sh")


def planned(number: int) -> Planned:
    return Planned(Cell("debian", "13", "uml", "", f"/sim/r{number}", "spec"), 1, 0, 600.0)


def cpu() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def resident() -> int:
    """KiB of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1])


def dealt(cells: int, slots: int, seconds: float, hosts: int) -> None:
    """On this host, or over Dask on so many hosts in networks of their own."""
    spent = cpu()
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as name, contextlib.ExitStack() as stack:
        home = Path(name)
        table = stack.enter_context(
            NightTable.make(home / "nights/1.1/cells.sqlite", {"id": "1.1"}, [planned(n) for n in range(cells)])
        )
        if hosts:
            engine = stack.enter_context(over_dask(home, hosts))
        else:
            engine = stack.enter_context(LocalEngine(home, "1.1", Room(cells, slots)))
        carried(table, engine, home, cells, slots, seconds)
    print(f"  CPU {1000 * (cpu() - spent) / cells:.1f} ms a cell in all processes; reach: below 15")


@contextlib.contextmanager
def over_dask(home: Path, hosts: int) -> Iterator[Engine]:
    from labkit.matrix.cluster import ClusterEngine

    with network(home / "hosts", hosts) as net:
        net.enter()
        (home / "labkit.toml").write_text(net.settings)
        environ = {"LABKIT_HOME": str(home), "HOME": str(home), "LABKIT_CLUSTER_ON": net.names}
        with ClusterEngine(config.load(cwd=home, environ=environ), "1.1", Silent()) as engine:
            yield engine
        ticks = sum(
            int(word)
            for pid in net.servers
            for word in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        )
        print(
            f"  of the CPU time below, {ticks / os.sysconf('SC_CLK_TCK'):.1f} s are the SSH servers of this benchmark"
        )


def carried(table: NightTable, engine: Engine, home: Path, cells: int, slots: int, seconds: float) -> None:
    """Deal the cells of a table, and print the figures."""

    def job(row: Row, attempt: int) -> Job:
        return Job("1.1", row.number, attempt, 600.0, argv=(*_CELL, row.key, str(seconds)))

    def take(row: Row, ended: Ended, bundle: Path) -> str:
        bundle.replace(home / f"{ended.name}.tar")
        return ended.name

    window = Window(table, engine, Silent(), job, take, slots)
    before = resident()
    took = timed(window.run)
    grown = resident() - before
    done = table.count()[State.DONE]
    ideal = cells * seconds / slots
    print(f"{cells} cells of {seconds:g} s on {slots} slots: {done} done")
    print(f"  ideal {ideal:.1f} s, took {took:.1f} s: {ideal / took:.3f} of ideal; reach: 0.95")
    print(f"  memory {grown / cells:.1f} KiB a cell; reach: below 20")


def killed(cells: int, seed: int, hosts: int) -> None:
    """On this host, or over Dask on so many: then a worker, the night's process, or all of both are killed."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as name, contextlib.ExitStack() as stack:
        nights = Nights(Path(name) / "lab", cells)
        given: tuple[str, ...] = ()
        kinds, net = ["night"], None
        if hosts:
            net = stack.enter_context(network(Path(name) / "hosts", hosts))
            nights.matrix, given = net.settings, ("--on", net.names)
            kinds = ["night", "worker", "all"] * 2
            nights.write()
        for number in range(1, cells + 1):
            nights.does(f"r{number}", "sleep 0.05")
        began, kills = time.monotonic(), dict.fromkeys(kinds, 0)
        left = dice.sample(kinds, len(kinds)) if hosts else ["night"] * 5
        words: tuple[str, ...] = ()
        while True:
            pid = nights.start(*words, *given, first=net.enter if net else lambda: None)
            ended = False
            while not ended and left:
                ended = over(pid, dice.uniform(4, 14) if hosts else dice.uniform(2, 12))
                if ended:
                    break
                kind = left.pop()
                kills[kind] += 1
                if kind != "night":
                    workers = processes_of(Path(name) / "hosts", b"outbox")
                    for worker in workers if kind == "all" else dice.sample(workers, min(1, len(workers))):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(worker, signal.SIGKILL)
                if kind != "worker":
                    os.kill(pid, signal.SIGKILL)
                    break
            status = nights.wait(pid)
            if status >= 0:
                break
            words = ("--resume",) if any((nights.home / "nights").glob("*/cells.sqlite")) else ()
        night: Mapping[str, object] = nights.night()
        found = night["cells"]
        assert isinstance(found, list)
        lost = sum(cell["state"] != "done" for cell in found)
        most = max(nights.ran(f"r{number}") for number in range(1, cells + 1))
        runs = [path for path in nights.reports.iterdir() if path.name.startswith("2")]
        said = ", ".join(f"{kind} {count} times" for kind, count in kills.items())
        print(f"{cells} cells, killed: {said}; in {time.monotonic() - began:.0f} s:")
        print(f"  status {status}, {lost} lost, none run more than {most} times; reach: 0, 3")
        if hosts:
            time.sleep(15)  # seconds in which workers see that their scheduler is gone
        there = [f"process {one}" for one in processes_of(Path(name) / "hosts", b"outbox")]
        print(f"  {len(runs)} runs at home, left: {[*nights.left(), *there] or 'nothing'}")


def over(pid: int, seconds: float) -> bool:
    """Whether the process ends within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return True
        time.sleep(0.05)
    return False


def hundred(nights: int, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as name:
        script = Script(Path(name), seed)
        made = script.run(nights)
    mib = [size / (1 << 20) for size in made.sizes]
    full = mib[KEEP - 1 :] or mib
    most, least, last = max(full), full[0], full[-1]
    print(
        f"{made.nights} nights of {len(script.names)} cells in {made.seconds:.0f} s, {made.kills} kills of a night, "
        f"{made.gc_kills} of gc:"
    )
    print(f"  {made.failures} new failures; every night and every verdict of the history as scripted")
    print(
        f"  keep {KEEP} nights: at most {made.kept} runs; {least:.1f} MiB after {KEEP} nights, at most {most:.1f}, "
        f"{last:.1f} at the end, of which the history takes {made.history / 1024:.0f} KiB"
    )


def real() -> None:
    with lab(provider="uml") as made:
        (made.cwd / "labkit.toml").write_text("[machine]\nmemory = '1G'\n")
        for name in ("cold", "warm"):
            took = timed(lambda: print(made.run("nightly", "--only", "*/spec", ok=(0, 1)).stdout))
            images = sorted(path.name for path in (made.home / "images").iterdir())
            print(f"{name}: {took:.0f} s; images: {', '.join(images)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("dealt", "killed", "hundred", "real"))
    parser.add_argument("--cells", type=int)
    parser.add_argument("--nights", type=int, default=100)
    parser.add_argument("--slots", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--hosts", type=int, default=0, help="over Dask, on so many hosts in networks of their own")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    for what in asked.what:
        if what == "dealt":
            dealt(asked.cells or 1000, asked.slots, asked.seconds, asked.hosts)
        elif what == "killed":
            killed(asked.cells or 600, asked.seed, asked.hosts)
        elif what == "hundred":
            hundred(asked.nights, asked.seed)
        else:
            real()


if __name__ == "__main__":
    main()
