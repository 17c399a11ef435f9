"""runtimetest under rkt, in an image that acbuild makes line by line.

rkt runs no OCI runtime: what isolates is its stage1 image. `host` takes systemd-nspawn and systemd of this machine; it
needs systemd as PID 1 and cgroup v2. systemd starts rkt then, outside of the sandbox, for it cannot know the processes
of another PID namespace. Elsewhere it is `fly`, a chroot, which isolates nothing: what fails there is marked as TODO.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..common.cgroups import cgroup_version
from ..common.executables import find_program
from .evidence import Evidence
from .steps import LISTING_LIMIT, Skip, Steps, Stop, Work, captured, make_bundle, required

NAME = "labkit.example/runtimetest"
APP = "runtimetest"  # what rkt calls the application: the last part of its image's name
IMAGES = Path("/usr/local/lib/rkt/stage1-images")  # where the bootstrap step puts them
DATA = Path("/var/lib/labkit-rkt")  # rkt's store and pods outside of the sandbox: an earlier run's is found again
UNIT = "labkit-rkt"
SECONDS = 240.0  # for a pod; one takes 2 natively, 20 on User-Mode Linux
CONVERSION = 60.0  # seconds for docker2aci; one of runtimetest takes 1
CONSOLE_LIMIT = 4 << 20  # bytes of what the pod prints
ISOLATES_NOTHING = "stage1 fly isolates nothing: it is a chroot"
# Arguments: rkt, its store. What is left is said; the store goes where that is nothing, for what is still mounted in it
# may be this machine's own.
_LEFT = "left: "
_CLEAR = """rkt=$1 store=$2
test -d "$store" || exit 0
"$rkt" --dir="$store" gc --grace-period=0s --expire-prepared=0s
"$rkt" --dir="$store" image gc --grace-period=0s
left() { sed -n "/[^ ]/s/^/left: $1 /p"; }
{
  "$rkt" --dir="$store" list --no-legend --full | left pod
  "$rkt" --dir="$store" image list --no-legend | left image
  cut -d ' ' -f 5 /proc/self/mountinfo | grep -F "$store/" | left mount
} >"$store.left"
cat "$store.left"
test -s "$store.left" || rm -rf --one-file-system "$store"
rm -f "$store.left"
test ! -d "$store" || echo "left: directory $store"
"""
# What journald of the pod puts before each line on the console, without the time where the kernel prints none:
# `[ 3235.5] runtimetest[10]: `.
PREFIX = re.compile(rb"^(?:\x1b\[[0-9;]*[A-Za-z])*(?:\[ *[0-9]+\.[0-9]+\] )?%b\[[0-9]+\]: " % APP.encode())


@dataclass(frozen=True)
class Rkt:
    """rkt with a stage1 image and a store of its own; why_fly: why it is not the stage1 host, "" where it is."""

    program: str
    why_fly: str
    data: Path

    @property
    def stage1(self) -> Path:
        return IMAGES / f"stage1-{'fly' if self.why_fly else 'host'}.aci"

    @property
    def outside(self) -> list[str]:
        """What stands before a command that is to run outside of the sandbox, where systemd is to know it."""
        return [] if self.why_fly else _outside(os.getcwd())  # noqa: PTH109


def under_rkt(work: Work) -> None:
    program, acbuild = _built("rkt"), _built("acbuild")
    why_fly = _why_fly()
    rkt = Rkt(program, why_fly, Path("store").absolute() if why_fly else DATA)
    if not rkt.stage1.is_file():
        raise Skip(f"{rkt.stage1} is missing: the bootstrap step rkt puts it there")
    make_bundle(work.tree)
    config = json.loads(Path("config.json").read_bytes())
    steps = Steps()
    try:
        for what, words in image_lines(work.tree.rootfs, work.tree.path / APP, config):
            steps.run(what, [acbuild, *words])
        _keep_image(work.evidence, steps)
        if why_fly:
            steps.point(True, "the pod is isolated", {}, skip=f"{ISOLATES_NOTHING}; {why_fly}")
    finally:
        steps.plan()
    if not why_fly:
        _stop()  # an earlier one may have been killed
    clear(rkt)
    try:
        status = _run(rkt, config, work.evidence)
    finally:
        left, said = clear(rkt)
        work.evidence.text("removal.txt", f"{said}\n")
        removed = Steps()
        removed.point(not left, "the pod and its images are removed", {"left": left[:20]})
        removed.plan()
    if status:
        raise Stop


def image_lines(rootfs: Path, runtimetest: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """What each line does, and its words for acbuild. `acbuild script` of the last commit fails in any directory:
    .acbuild/buildMode: no such file.
    """
    yield "an image is begun with the root file system", ["begin", str(rootfs)]
    yield "it gets a name", ["set-name", NAME]
    yield "runtimetest is copied into it", ["copy", str(runtimetest), "/runtimetest"]
    yield "config.json is copied into it", ["copy", "config.json", "/config.json"]
    for variable in config["process"]["env"]:
        name, _, value = variable.partition("=")
        yield f"its environment has {name}", ["environment", "add", name, value]
    yield "it gets a command", ["set-exec", "--", "/runtimetest", "--path=/"]
    yield "the image is written", ["write", "--overwrite", "image.aci"]
    yield "the building ends", ["end"]


def _keep_image(evidence: Evidence, steps: Steps) -> None:
    evidence.file(Path("image.aci"))
    evidence.text("listing.txt", captured(["tar", "-tvf", "image.aci"], limit=LISTING_LIMIT)[1] + "\n")
    actool = find_program("actool")
    if not actool:
        steps.point(True, "the image is valid", {}, skip="actool is not installed")
        return
    evidence.text("manifest.json", captured([actool, "cat-manifest", "image.aci"])[1] + "\n")
    argv = [actool, "--debug", "validate", "image.aci"]
    status, said = captured(argv)
    evidence.text("validation.txt", f"{' '.join(argv)}\n{said}\nstatus {status}\n")
    steps.point(status == 0, "the image is valid", {"status": status, "error": said})


def convert(evidence: Evidence, steps: Steps) -> None:
    """Where docker2aci is installed, a point about what it makes of image.tar. It does not end on some archives, and
    says of others that all is well when it has made an image without files.
    """
    docker2aci = find_program("docker2aci")
    if not docker2aci:
        return
    status, said = captured([docker2aci, "image.tar"], seconds=CONVERSION)
    made = sorted(str(path) for path in Path().glob("*.aci"))
    listed = [captured(["tar", "-tf", path], limit=LISTING_LIMIT)[1] for path in made]
    evidence.text("docker2aci.txt", "\n".join([said, f"status {status}", *made, *listed, ""]))
    whole = any("rootfs/runtimetest" in files.splitlines() for files in listed)
    about = {"status": status, "error": said, "made": made}
    steps.point(status == 0 and whole, "docker2aci makes an image for rkt of it", about)


def _run(rkt: Rkt, config: Mapping[str, Any], evidence: Evidence) -> int:
    """Run the pod, and print what runtimetest prints; its exit status."""
    process = config["process"]
    words = [f"--stage1-path={rkt.stage1}", f"--hostname={config['hostname']}"]
    words += ["--net=host" if rkt.why_fly else "--net=none"]
    app = [f"--caps-retain={','.join(process['capabilities']['bounding'])}"]
    argv = [*rkt.outside, rkt.program, f"--dir={rkt.data}", "--insecure-options=image", "run", *words]
    argv += [str(Path("image.aci").absolute()), *app]
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert child.stdout is not None
    with Path("console.txt").open("wb") as console:
        relay(child.stdout, console, sys.stdout.buffer, ISOLATES_NOTHING if rkt.why_fly else "")
    status = child.wait()
    evidence.file(Path("console.txt"))
    return status


def relay(pod: IO[bytes], console: IO[bytes], out: IO[bytes], todo: str) -> None:
    """Pass on what a pod prints, without what its journald puts before each line; todo: why nothing that fails counts.

    console gets the beginning as it was.
    """
    for line in iter(lambda: pod.readline(1 << 16), b""):
        console.write(line[: max(CONSOLE_LIMIT - console.tell(), 0)])
        line = PREFIX.sub(b"", line).replace(b"\r\n", b"\n")
        if todo and line.startswith(b"not ok "):
            line = line.rstrip(b"\n") + f" # TODO {todo}\n".encode()
        out.write(line)
        out.flush()


def clear(rkt: Rkt) -> tuple[list[str], str]:
    """Remove all pods and images of the store, and the store: what is left of them, and all that was said."""
    argv = [*rkt.outside, "sh", "-c", _CLEAR, "clear", rkt.program, str(rkt.data)]
    status, said = captured(argv, limit=LISTING_LIMIT)
    left = [line[len(_LEFT) :] for line in said.splitlines() if line.startswith(_LEFT)]
    return (left or [f"nothing could be removed, status {status}"]) if status else left, said


def end() -> None:
    """End the pod of a scenario that was cut short, and remove it: systemd keeps it going."""
    if DATA.exists() and find_program("systemd-run"):
        _stop()
        _quietly([*_outside("/"), "sh", "-c", _CLEAR, "clear", find_program("rkt") or "rkt", str(DATA)])


def _stop() -> None:
    _quietly(["systemctl", "stop", f"{UNIT}-*.service"])


def _quietly(argv: list[str]) -> None:
    null = subprocess.DEVNULL
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(argv, stdin=null, stdout=null, stderr=null, timeout=60)


def _built(name: str) -> str:
    try:
        return required(name)
    except Skip as reason:
        raise Skip(f'{reason}: the bootstrap step rkt builds it (tools = [..., "rkt"] in labkit.toml)') from None


def _why_fly() -> str:
    if not Path("/run/systemd/system").is_dir():
        return "systemd is not PID 1 here, which the stage1 host needs"
    if cgroup_version() != "v2":
        return f"cgroups are {cgroup_version()} here, and the stage1 host needs v2"
    lacking = [name for name in ("systemd-nspawn", "systemd-run") if not find_program(name)]
    if lacking:
        return f"{' and '.join(lacking)}, which the stage1 host needs, is not installed"
    status, said = captured([*_outside(os.getcwd()), "true"], seconds=30)  # noqa: PTH109
    return f"systemd starts nothing here, as the stage1 host needs: {' '.join(said.split())[:200]}" if status else ""


def _outside(directory: str) -> list[str]:
    """What stands before a command that systemd is to start, with this output, and to end when its time is over."""
    unit = f"{UNIT}-{os.getpid()}-{os.urandom(4).hex()}"
    settings = [f"RuntimeMaxSec={SECONDS:g}", "Delegate=yes"]
    return [
        "systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}",
        f"--working-directory={directory}", f"--setenv=PATH={os.environ.get('PATH', os.defpath)}",
        *(f"--property={setting}" for setting in settings), "--",
    ]  # fmt: skip
