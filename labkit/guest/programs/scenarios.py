"""The older way to test: runtimetest in one bundle under a runtime, and in an image under Docker and podman.

Each scenario prints the TAP of its own steps, if it has any, and then what runtimetest prints, as it comes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..common.executables import find_program
from . import rkt
from .evidence import Evidence, place
from .host import Tree
from .steps import LISTING_LIMIT, Skip, Steps, Stop, Work, captured, make_bundle, required, skipped

ROOTFS, IMAGE = "labkit-rootfs", "labkit-runtimetest"  # in Docker's store, so an earlier one's is found again
DOCKERFILE = f"""FROM {ROOTFS}
COPY runtimetest /runtimetest
COPY config.json /config.json
CMD ["/runtimetest", "--path=/"]
"""


def run(name: str, tree: Tree, runtime: str, directory: Path) -> int:
    """Run a scenario in an empty directory; the exit status, 1 if it stopped early."""
    os.chdir(directory)
    try:
        SCENARIOS[name](Work(tree, runtime, Evidence(place(directory))))
    except Skip as reason:
        return skipped(str(reason))
    except Stop:
        return 1
    return 0


def end(names: Collection[str]) -> None:
    """End what scenarios that were cut short leave to a daemon of this host."""
    for name in names:
        if name in _ENDS:
            with suppress(OSError, subprocess.TimeoutExpired):
                _ENDS[name]()


def under_runtime(work: Work) -> None:
    runtime = work.runtime
    make_bundle(work.tree)
    name = f"labkit-{os.getpid()}-{os.urandom(8).hex()}"
    with open("out", "wb") as out:  # noqa: PTH123
        created = subprocess.run([runtime, "create", "--bundle", os.getcwd(), name], stdout=out)  # noqa: PTH109
    try:
        if created.returncode or subprocess.run([runtime, "start", name]).returncode:
            raise Stop
        while _state(runtime, name) != "stopped":
            time.sleep(0.05)
    finally:
        subprocess.run([runtime, "delete", "--force", name], stderr=subprocess.DEVNULL)
        sys.stdout.buffer.write(Path("out").read_bytes())
        sys.stdout.flush()


def under_docker(work: Work) -> None:
    docker = required("docker")
    name = _name_in_docker(docker, work.runtime)
    env = {**os.environ, "DOCKER_BUILDKIT": "0"}  # the classic builder is in the client; BuildKit is another package

    def clear() -> None:
        captured([docker, "rm", "--force", IMAGE])
        captured([docker, "rmi", "--force", IMAGE, ROOTFS])

    clear()  # an earlier one may have been killed
    try:
        image(work, [docker], ["--output", "image.tar", IMAGE], [f"--runtime={name}"], env)
    finally:
        clear()


def _end_in_docker() -> None:
    if docker := find_program("docker"):
        null = subprocess.DEVNULL
        subprocess.run([docker, "rm", "--force", IMAGE], stdin=null, stdout=null, stderr=null, timeout=30)


def _name_in_docker(docker: str, runtime: str) -> str:
    """The name of the runtime under test in the configuration of Docker's daemon, which runs no others."""
    done = subprocess.run([docker, "info", "--format", "{{json .}}"], stdout=subprocess.PIPE)
    said = json.loads(done.stdout) if done.stdout.strip() else {}
    if not said.get("ServerVersion"):
        raise Skip("no Docker daemon answers")
    known = {name: found.get("path") for name, found in (said.get("Runtimes") or {}).items()}
    real = os.path.realpath(runtime)
    same = [name for name, path in known.items() if path and os.path.realpath(find_program(path) or path) == real]
    if not same:
        raise Skip(f'Docker does not know {runtime}: add it to "runtimes" in /etc/docker/daemon.json and restart it')
    return str(said["DefaultRuntime"]) if said.get("DefaultRuntime") in same else same[0]


def under_podman(work: Work) -> None:
    """With a store of its own, and cgroups made by itself: systemd cannot know the processes of our PID namespace."""
    own = [f"--{name}={Path(name).absolute()}" for name in ("root", "runroot", "tmpdir")]
    settings = ["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none"]
    podman = [required("podman"), *own, *settings, f"--runtime={work.runtime}"]
    image(work, podman, ["--format", "oci-dir", "--output", "image", IMAGE], [], os.environ)


def image(work: Work, engine: Sequence[str], save: Sequence[str], run: Sequence[str], env: Mapping[str, str]) -> None:
    """Import, build, save, validate, run: save and run are words for the engine's commands of that name."""
    tree = work.tree
    make_bundle(tree)
    context = Path("context")
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    config = json.loads(Path("config.json").read_bytes())
    config["process"]["capabilities"].update(inheritable=[], ambient=[])  # no engine gives these, or can be told to
    (context / "config.json").write_text(json.dumps(config))
    (context / "runtimetest").write_bytes((tree.path / "runtimetest").read_bytes())
    (context / "runtimetest").chmod(0o755)
    steps = Steps()
    try:
        steps.run("the root file system is imported", [*engine, "import", str(tree.rootfs), ROOTFS], env)
        steps.run("an image is built on it", [*engine, "build", "--network=none", "-t", IMAGE, str(context)], env)
        steps.run("the image is saved", [*engine, "save", *save], env)
        keep_image(work.evidence)
        layout(steps)
        validate_image(work.evidence, steps, "the saved image is valid")
        if Path("image.tar").exists():
            rkt.convert(work.evidence, steps)
    finally:
        steps.plan()
    process = config["process"]
    wanted = [*run, f"--hostname={config['hostname']}", "--cap-drop=all"]
    wanted += [f"--cap-add={name}" for name in process["capabilities"]["bounding"]]
    wanted += [f"--env={variable}" for variable in process["env"]]
    for limit in process["rlimits"]:
        name = limit["type"].removeprefix("RLIMIT_").lower()
        wanted.append(f"--ulimit={name}={limit['soft']}:{limit['hard']}")
    if subprocess.run([*engine, "run", "--rm", "--name", IMAGE, "--network=none", *wanted, IMAGE], env=env).returncode:
        raise Stop


def keep_image(evidence: Evidence) -> None:
    """Keep the saved archive with what is in it, or of a directory only that: its files bear their digests as names."""
    if Path("image.tar").exists():
        evidence.file(Path("image.tar"))
        listed = ["tar", "-tvf", "image.tar"]
    else:
        listed = ["ls", "-lR", "image"]
    evidence.text("listing.txt", captured(listed, limit=LISTING_LIMIT)[1] + "\n")


def layout(steps: Steps) -> None:
    """Make the directory image of image.tar, where there is one: of Docker 25 it is an OCI image layout."""
    if not Path("image.tar").exists():
        return
    Path("image").mkdir()
    steps.run("the saved image is unpacked", ["tar", "-xf", "image.tar", "-C", "image"])
    skopeo = find_program("skopeo")
    if skopeo and not Path("image/oci-layout").exists():
        subprocess.run(["rm", "-r", "image"])
        steps.run(
            "the saved image becomes an OCI layout", [skopeo, "copy", "docker-archive:image.tar", "oci:image:saved"]
        )


def validate_image(evidence: Evidence, steps: Steps, what: str) -> None:
    """A point about the image layout in the directory image; what the tool prints is kept."""
    tool = find_program("oci-image-tool")
    reason = "" if tool else "oci-image-tool is not installed"
    if not Path("image/oci-layout").exists():
        reason = reason or "it is no OCI image layout, and skopeo is not installed"
    if reason or not tool:
        steps.point(True, what, {}, skip=reason)
        return
    index = json.loads(Path("image/index.json").read_bytes())
    name = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
    argv = [tool, "validate", "--type", "image", "--ref", f"name={name}", "image"]
    status, said = captured(argv)
    evidence.text("validation.txt", f"{' '.join(argv)}\n{said}\nstatus {status}\n")
    steps.point(status == 0, what, {"status": status, "error": said})


def bundle_validate(work: Work) -> None:
    tool = make_bundle(work.tree)
    status, said = captured([tool, "validate", "--path", "."])
    errors = _errors(said) if status else []
    # The tool fetches the JSON schema of the version from the web; a machine without a way there is no bad bundle.
    unreachable = [error for error in errors if re.match(r'Get "?https://\S+config-schema', error)]
    others = [error for error in errors if error not in unreachable]
    steps = Steps()
    if unreachable:
        steps.point(True, "config.json meets the JSON schema", {}, skip="the schema cannot be fetched")
    steps.point(not others, "oci-runtime-tool finds the bundle valid", {"status": status, "error": "\n".join(others)})
    steps.plan()


def _errors(said: str) -> list[str]:
    """What oci-runtime-tool found, of a line of its log: `msg="2 errors occurred:\\n\\t* ONE\\n\\t* TWO"`."""
    logged = re.search(r'\bmsg="((?:[^"\\]|\\.)*)"', said)
    text = logged[1].replace(r"\n", "\n").replace(r"\t", "\t").replace(r"\"", '"') if logged else said
    return re.findall(r"^\s*\* (.*)$", text, re.MULTILINE) or [text]


def image_validate(work: Work) -> None:
    """An image that neither Docker nor podman made."""
    umoci = required("umoci")
    required("oci-image-tool")
    make_bundle(work.tree)
    steps = Steps()
    try:
        steps.run("umoci makes an image layout", [umoci, "init", "--layout", "image"])
        steps.run("umoci makes an empty image", [umoci, "new", "--image", "image:labkit"])
        steps.run("umoci unpacks it", [umoci, "unpack", "--image", "image:labkit", "unpacked"])
        steps.run("the root file system is put in", ["cp", "-a", "rootfs/.", "unpacked/rootfs/"])
        steps.run("umoci packs it", [umoci, "repack", "--image", "image:labkit", "unpacked"])
        keep_image(work.evidence)
        validate_image(work.evidence, steps, "the image is valid")
    finally:
        steps.plan()


SCENARIOS: dict[str, Callable[[Work], None]] = {
    "bundle_validate": bundle_validate,
    "docker": under_docker,
    "image_validate": image_validate,
    "podman": under_podman,
    "rkt": rkt.under_rkt,
    "runtimetest": under_runtime,
}
_ENDS: dict[str, Callable[[], None]] = {"docker": _end_in_docker, "rkt": rkt.end}


def _state(runtime: str, name: str) -> str:
    done = subprocess.run([runtime, "state", name], stdout=subprocess.PIPE)
    try:
        return str(json.loads(done.stdout)["status"]) if done.returncode == 0 else "stopped"
    except (ValueError, KeyError, TypeError):
        return "stopped"
