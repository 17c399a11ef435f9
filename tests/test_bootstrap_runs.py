"""The whole bootstrap, for real, in a Debian 13 without systemd running: packages from Debian's archive, Go from a copy
of this host's, runc and the OCI tools from small repositories, an archive and a web server here.

One uninterrupted run, one in which every step is killed once, and the faults that a source can have.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labkit.core import config
from labkit.guest.programs import host
from labkit.provision import bootstrap
from labkit.provision.bootstrap import BootstrapPlan, Target
from tests import chroot
from tests.chroot import Chroot, Quiet, Run, says
from tests.test_bootstrap import git

pytestmark = [pytest.mark.bootstrap, pytest.mark.needs("mmdebstrap", "debian keyring", "go", "git", "xz")]

MAIN = 'package main\nimport ("fmt"; "os")\nfunc main() { fmt.Println("%s", len(os.Args)) }\n'
REPOSITORIES = {
    # As in runc 1.5: a build tag that needs a library which few have.
    "runc": {
        "go.mod": "module github.com/opencontainers/runc\ngo 1.18\n",
        "Makefile": (
            "BUILDTAGS := seccomp libpathrs\nrunc:\n\ttest '$(RUNC_BUILDTAGS)' = -libpathrs\n\tgo build -o runc .\n"
        ),
        "main.go": MAIN % "runc version 1.1.99",
    },
    "runtime-tools": {
        "go.mod": "module github.com/opencontainers/runtime-tools\ngo 1.18\n",
        "Makefile": (
            "tool:\n\tgo build -o oci-runtime-tool ./cmd/tool\n"
            "runtimetest:\n\tgo build -o runtimetest ./cmd/runtimetest\n"
            "validation-executables: validation/a/a.t validation/b/b.t\n%.t: %.go\n\tgo build -o $@ $<\n"
        ),
        "cmd/tool/main.go": MAIN % "oci-runtime-tool",
        "cmd/runtimetest/main.go": MAIN % "runtimetest",
        "validation/a/a.go": MAIN % "1..0",
        "validation/b/b.go": MAIN % "1..0",
    },
    # Older than modules, and with a package of its own that is found by its full name only.
    "image-tools": {
        "Makefile": "tool:\n\tgo build -o oci-image-tool ./cmd/oci-image-tool\n",
        "cmd/oci-image-tool/main.go": (
            'package main\nimport ("fmt"; "github.com/opencontainers/image-tools/version")\n'
            "func main() { fmt.Println(version.Version) }\n"
        ),
        "version/version.go": 'package version\nconst Version = "1.0.0"\n',
    },
}


@dataclass(frozen=True)
class Sources:
    """What the settings name: local sources, and an address for those that come over the web."""

    directory: Path
    url: str
    crun: str  # sha256

    def settings(self, **more: object) -> config.Settings:
        values: dict[str, object] = {
            "go": f"{self.directory}/go.tar.gz",
            "runc": f"{self.directory}/runc#v1.1.99",
            "crun": f"{self.url}/crun",
            "crun_sha256": self.crun,
            "runtime_tools": f"{self.url}/runtime-tools/.git#main",
            "image_tools": f"{self.directory}/image-tools.tar.xz",
            **more,
        }
        return config.load(values, cwd=self.directory, environ={"HOME": str(self.directory)})

    def plan(self, **more: object) -> BootstrapPlan:
        settings = self.settings(**more)
        return bootstrap.prepare(settings.distro(), Target.VAGRANT, settings)


@dataclass(frozen=True)
class Box:
    """A chroot with a script in it; its answer to running that is a Run."""

    system: Chroot

    def bootstrap(self, plan: BootstrapPlan, until: Callable[[], bool] | None = None) -> Run:
        directory = self.system.root / "root"
        (directory / "sources").mkdir(exist_ok=True)
        for upload in plan.uploads:
            shutil.copyfile(upload.local, directory / "sources" / Path(upload.remote).name)
        (directory / "bootstrap.sh").write_text(plan.script)
        # Pauses between attempts are for networks, not for tests.
        return self.system.run(["sh", "/root/bootstrap.sh"], {"_LABKIT_PAUSES": "", "SUDO_USER": "games"}, until)

    def sh(self, script: str) -> list[str]:
        done = self.system.run(["sh", "-lc", script])
        assert done.status == 0, done
        return done.lines


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    directory = tmp_path_factory.mktemp("sources")
    for name, files in REPOSITORIES.items():
        for file, text in files.items():
            path = directory / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git(directory / name, "init", "-q")
        git(directory / name, "add", ".")
        git(directory / name, "commit", "-qm", name)
    git(directory / "runc", "tag", "v1.1.99")
    git(directory / "runtime-tools", "tag", "-a", "-m", "", "v0.9.0")
    (directory / "runtime-tools" / "new").touch()
    git(directory / "runtime-tools", "add", ".")
    git(directory / "runtime-tools", "commit", "-qm", "after v0.9.0")
    git(directory / "runtime-tools", "update-server-info")
    archive: list[str | Path] = ["-cJf", directory / "image-tools.tar.xz", "--exclude=.git", "image-tools"]
    subprocess.run(["tar", "-C", directory, *archive], check=True)
    pack_go(directory / "go.tar.gz")
    (directory / "crun").write_text("#!/bin/sh\necho crun version 1.99\n")
    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        sha256 = hashlib.sha256((directory / "crun").read_bytes()).hexdigest()
        yield Sources(directory, f"http://127.0.0.1:{server.server_port}", sha256)
        server.shutdown()


def pack_go(target: Path) -> None:
    """The Go of this host as the official archive has it, with as much of its library as programs here use."""

    def go(*words: str) -> list[str]:
        return subprocess.run(["go", *words], check=True, capture_output=True, text=True, cwd="/").stdout.split()

    [root] = go("env", "GOROOT")
    used = go("list", "-deps", "fmt", "os")
    packed = target.parent / "go"
    for name in ("VERSION", "bin", "pkg/include", "pkg/tool", *(f"src/{name}" for name in used)):
        source = Path(root) / name
        (packed / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            nested = shutil.ignore_patterns("testdata", "*_test.go")
            shutil.copytree(source, packed / name, ignore=nested, dirs_exist_ok=True)
        elif source.exists():
            shutil.copyfile(source, packed / name)
    subprocess.run(["tar", "-C", packed.parent, "-I", "gzip -1", "-cf", target, "go"], check=True)
    shutil.rmtree(packed)


@pytest.fixture(scope="module")
def boxes(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Box]]:
    """Two systems, with one directory of downloaded packages."""
    directory = tmp_path_factory.mktemp("boxes")
    (directory / "archives" / "partial").mkdir(parents=True)
    mounts = {directory / "archives": "/var/cache/apt/archives"}
    yield [Box(Chroot(chroot.unpack(base, directory / name), mounts)) for name in ("plain", "cut")]
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def plain(boxes: list[Box], sources: Sources) -> Box:
    """The system after an uninterrupted run."""
    done = boxes[0].bootstrap(sources.plan())
    assert done.status == 0, done.errors
    assert set(done.outcomes().values()) == {"done"}
    assert done.lines[-1] == "labkit: bootstrap complete"
    return boxes[0]


def timings(box: Box) -> dict[str, float]:
    rows = (box.system.root / "var/lib/labkit/bootstrap.tsv").read_text().splitlines()
    found = [row.split("\t") for row in rows]
    assert all(len(row) == 4 and row[0].isdigit() for row in found)
    return {name: float(seconds) for _, name, outcome, seconds in found if outcome == "done"}


def test_the_machine_has_what_was_asked_for(plain: Box) -> None:
    assert plain.sh("runc --version; crun --version; oci-runtime-tool; oci-image-tool; which runc; which crun") == [
        "runc version 1.1.99 2", "crun version 1.99", "oci-runtime-tool 1", "1.0.0",
        "/usr/local/sbin/runc", "/usr/local/bin/crun",
    ]  # fmt: skip
    assert plain.sh("go version")[0].startswith("go version go1.")
    ran = plain.sh("cd /opt/labkit/src/runtime-tools && ./runtimetest && validation/a/a.t")
    assert ran == ["runtimetest 1", "1..0 1"]
    plain.sh("docker --version; dockerd --version; podman --version; containerd --version; umoci --version; chronyd -v")
    plain.sh('test "$GOPATH" = /opt/labkit/gopath && case :$PATH: in *:/opt/labkit/gopath/bin:*) ;; *) exit 1 ;; esac')
    assert plain.sh("find /opt/labkit/src /opt/labkit/gopath ! -user games") == []
    assert plain.sh("ls -A /opt/labkit/src") == ["image-tools", "runc", "runtime-tools"]
    plain.sh("! test -e /var/cache/labkit && ! test -e /usr/sbin/policy-rc.d")


def test_each_step_has_a_log_and_its_time(plain: Box, sources: Sources) -> None:
    steps = sources.plan().steps
    assert list(timings(plain)) == list(steps)
    logs = sorted(path.name for path in (plain.system.root / "var/log/labkit").iterdir())
    assert [re.sub(r"^\d+-(.*)\.log$", r"\1", name) for name in logs] == list(steps)


def test_a_second_run_does_nothing(plain: Box, sources: Sources) -> None:
    before = plain.system.manifest()
    done = plain.bootstrap(sources.plan())
    assert done.status == 0
    assert set(done.outcomes().values()) == {"already done"}
    assert plain.system.manifest() == before


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_step_ends_in_the_same_state(
    plain: Box, boxes: list[Box], sources: Sources
) -> None:
    plan, cut = sources.plan(), boxes[1]
    for step in plan.steps:
        [log] = (plain.system.root / "var/log/labkit").glob(f"*-{step}.log")
        work = [line for line in log.read_text().splitlines() if re.match("Unpacking|Setting up|go build", line)]
        script, moment = plan.script, work[(len(work) - 1) // 2] if work else "all is done but the mark"
        if not work:
            head, begin, rest = script.partition(f"if begin {log.name.partition('-')[0]} ")
            script = head + begin + rest.replace('\n) >"$log"', f'\necho "{moment}"; sleep 60\n) >"$log"', 1)
        log = cut.system.root / "var/log/labkit" / log.name
        log.unlink(missing_ok=True)
        done = cut.bootstrap(
            BootstrapPlan(script, plan.uploads, plan.steps),
            until=functools.partial(says, log, moment),
        )
        assert done.status is None, done.errors
        outcomes = done.outcomes()
        assert outcomes.pop(step) == "", f"{step} was not interrupted"
        earlier = plan.steps[: plan.steps.index(step)]
        assert list(outcomes) == list(earlier)
        # The one that was killed the last time has run now, and nothing before it again, unless it left packages in
        # halves, which updates notices.
        assert {name for name in earlier[:-1] if outcomes[name] != "already done"} <= {"updates"}
    done = cut.bootstrap(plan)
    assert done.status == 0, done.errors
    assert done.outcomes() == {name: "already done" for name in plan.steps[:-1]} | {plan.steps[-1]: "done"}
    one, other = plain.system.manifest(), cut.system.manifest()
    assert {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} == set()


def test_a_package_whose_dependencies_were_not_unpacked_yet_is_finished(
    base: Path, sources: Sources, tmp_path: Path
) -> None:
    half = Box(Chroot(chroot.unpack(base, tmp_path / "half")))
    half.sh("cd /root && apt-get -q update && apt-get -q download pkg-config && dpkg --unpack pkg-config_*.deb")
    done = half.bootstrap(sources.plan(tools=["jq"]))
    assert done.status == 0, done.errors
    assert half.sh("dpkg --audit; pkg-config --version && jq -n 1")[-1] == "1"


def test_what_a_suite_lacks_comes_alone(base: Path, sources: Sources, tmp_path: Path) -> None:
    """A host of somebody's own gets the missing programs and what those depend on, and nothing else."""
    bare = Box(Chroot(chroot.unpack(base, tmp_path / "bare")))
    before = set(bare.sh("dpkg-query -Wf '${Package}\\n'"))
    settings = sources.settings()
    plan = bootstrap.prepare(settings.distro(), Target.HOST, settings, ["python", "busybox"], alone=True)
    done = bare.bootstrap(plan)
    assert done.status == 0, done.errors
    assert done.outcomes() == {"python": "done", "busybox": "done"}
    assert bare.sh("python3 -c 'import json; print(1)'; busybox true && echo 2") == ["1", "2"]
    new = set(bare.sh("dpkg-query -Wf '${Package}\\n'")) - before
    assert {"python3-minimal", "busybox-static"} <= new
    assert not {name for name in new if not name.startswith(("python3", "libpython3", "busybox", "libexpat", "media"))}


def test_two_at_once_wait_for_each_other(plain: Box, sources: Sources) -> None:
    """The second finds all done, and not half a step."""
    plan = sources.plan()
    script = plan.script.replace("\ncd /\n", "\ncd /\nsleep 3\n", 1)
    (plain.system.root / "root" / "bootstrap.sh").write_text(script)
    both = "sh /root/bootstrap.sh >/tmp/one 2>&1 & sleep 1; timeout 20 sh /root/bootstrap.sh; wait"
    done = plain.system.run(["sh", "-c", both], {"SUDO_USER": "games"})
    assert done.lines[0] == "labkit: waiting for another bootstrap of this machine"
    assert done.lines[-1] == "labkit: bootstrap complete"


@pytest.mark.parametrize(
    ("changed", "step", "message"),
    [
        (
            {"runtime_tools": "{url}/runtime-tools/.git#v9"},
            "runtime-tools",
            "labkit: {url}/runtime-tools/.git has no ref v9",
        ),
        (
            {"runtime_tools": "{url}/runtime-tools/.git#" + "ab" * 20},
            "runtime-tools",
            "labkit: {url}/runtime-tools/.git has no ref " + "ab" * 20,
        ),
        (
            {"go": "{url}/go.tar.gz", "go_sha256": "0" * 64},
            "go",
            "labkit: {url}/go.tar.gz has the wrong sha256: {go}, expected " + "0" * 64,
        ),
        ({"go": "{directory}/image-tools.tar.xz"}, "go", "has no bin/go"),
        ({"image_tools": "{directory}/runc"}, "image-tools", "No rule to make target 'tool'"),
    ],
)  # fmt: skip
def test_a_source_that_fails_is_told_and_the_rest_goes_on_once_it_is_right(
    plain: Box, sources: Sources, changed: dict[str, str], step: str, message: str
) -> None:
    sha256 = hashlib.sha256((sources.directory / "go.tar.gz").read_bytes()).hexdigest()
    known = {"url": sources.url, "directory": str(sources.directory), "go": sha256}
    wrong = {key: value.format_map(known) for key, value in changed.items()}
    done = plain.bootstrap(sources.plan(**wrong))
    assert done.status not in (0, None)
    assert message.format_map(known) in done.errors
    last = done.errors.splitlines()[-1]
    told = rf"labkit: step {step} failed with status {done.status}, see /var/log/labkit/\d+-{step}\.log"
    assert re.fullmatch(told, last)
    assert list(done.outcomes())[-1] == step


NOBODY = "http://127.0.0.1:9"


def test_addresses_that_do_not_answer_are_named_before_the_first_step(plain: Box, sources: Sources) -> None:
    """All in one error, and nothing is begun; a step that is done needs its address no more."""
    assert plain.bootstrap(sources.plan()).status == 0
    before = plain.system.manifest()
    wrong = {
        "runtime_tools": f"{NOBODY}/x.git", "go": f"{NOBODY}/go.tar.gz", "go_sha256": "0" * 64,
        "crun": f"{sources.url}/none", "image_tools": f"{sources.url}/none.git",
    }  # fmt: skip
    done = plain.bootstrap(sources.plan(**wrong))
    assert done.status == 69
    assert done.outcomes() == {}
    assert "labkit: trying 4 addresses" in done.lines
    first, *told = done.errors.splitlines()
    assert first == "labkit: nothing was begun, these addresses do not answer from here:"
    assert sorted(line.partition(": ")[0] for line in told) == ["crun", "go", "image-tools", "runtime-tools"]
    for line in told:
        assert ("the server answers 404" in line) == ("none" in line), line
        assert ("Failed to connect" in line or "Couldn't connect" in line) == (NOBODY in line), line
    assert plain.system.manifest() == before
    gone = sources.plan()  # all is done, so nothing is asked for
    script = gone.script.replace(sources.url, NOBODY)
    done = plain.bootstrap(BootstrapPlan(script, gone.uploads, gone.steps))
    assert done.status == 0, done.errors
    assert set(done.outcomes().values()) == {"already done"}


def test_a_mirror_that_does_not_answer_is_named_where_no_curl_is_there_yet(
    base: Path, sources: Sources, tmp_path: Path
) -> None:
    bare = Box(Chroot(chroot.unpack(base, tmp_path / "bare")))
    bare.sh("! command -v curl")
    done = bare.bootstrap(
        sources.plan(mirror=f"{NOBODY}/debian", tools=["jq", "runtime-tools"], runtime_tools=f"{NOBODY}/x.git")
    )
    assert done.status == 69, done
    assert done.outcomes() == {}
    assert f"packages: {NOBODY}/debian/dists/trixie/InRelease: " in done.errors
    assert f"packages: {NOBODY}/debian/dists/trixie-updates/InRelease: " in done.errors
    assert f"runtime-tools: {NOBODY}/x.git: nobody answers at 127.0.0.1, port 9" in done.errors
    # The system's own lists: one that answers is enough.
    (bare.system.root / "etc/apt/sources.list.d/gone.list").write_text(f"deb [trusted=yes] {NOBODY}/gone ./\n")
    done = bare.bootstrap(sources.plan(tools=["jq"]))
    assert "labkit: step jq done" in "\n".join(done.lines)


@pytest.mark.slow
def test_an_older_runtime_has_the_suite_built_at_its_ref_too(plain: Box, sources: Sources) -> None:
    old = sources.directory / "old"

    def trees(version: str, ref: str) -> dict[str, str]:
        old.write_text(f"#!/bin/sh\necho crun version {version}\n")
        done = plain.bootstrap(
            sources.plan(crun=str(old), crun_sha256=None, runtime_tools=f"{sources.url}/runtime-tools/.git{ref}")
        )
        assert done.status == 0, done.errors
        found = plain.system.root.glob("opt/labkit/src/runtime-tools*")
        return {tree.name: host.ref(host.Tree(tree)).partition("-g")[0] for tree in found}

    newer = {"runtime-tools": "v0.9.0-1"}
    assert trees("1.14.3", "") == newer
    assert trees("1.14.2", "") == {**newer, "runtime-tools-v0.9.0": "v0.9.0"}
    assert trees("1.14.2", "#main") == newer  # a ref in the settings is meant


def test_back_to_the_distributions_own(plain: Box, sources: Sources) -> None:
    """The last one: what labkit has put in /usr/local gives way, what it has not stays."""
    mine = plain.system.root / "usr/local/bin/mine"
    mine.touch(0o755)
    names = ("runc", "crun", "image_tools")
    tools = [name.replace("_", "-") for name in names]
    done = plain.bootstrap(sources.plan(**dict.fromkeys(names, "package"), crun_sha256=None, tools=tools))
    assert done.status == 0, done.errors
    found = plain.sh("for name in runc crun oci-image-tool mine; do command -v $name; done")
    assert found == ["/usr/sbin/runc", "/usr/bin/crun", "/usr/bin/oci-image-tool", "/usr/local/bin/mine"]


def test_uploads_are_not_taken_from_where_anybody_can_write(plain: Box, sources: Sources) -> None:
    plan = sources.plan(tools=["image-tools"])
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(plain.system.root / "root/sources")
    for mode, missing in ((0o755, False), (0o777, True)):
        (plain.system.root / "var/lib/labkit/steps/image-tools").unlink(missing_ok=True)
        directory = plain.system.root / "srv/lab"
        (directory / "sources").mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)
        for upload in plan.uploads:
            shutil.copyfile(upload.local, directory / "sources" / Path(upload.remote).name)
        (directory / "bootstrap.sh").write_text(plan.script)
        done = plain.system.run(["sh", "/srv/lab/bootstrap.sh"], {"_LABKIT_PAUSES": ""})
        assert ("is missing: put it into /var/lib/labkit/sources" in done.errors) == missing, done.errors
        assert (done.status == 0) != missing
