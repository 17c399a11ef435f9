"""The bootstrap as text: the form of its steps, what a plan takes in, and that no value breaks out of the script.

tests/test_bootstrap_runs.py runs it.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from labkit.core import config, platforms
from labkit.core.config import Settings
from labkit.core.errors import UsageError
from labkit.core.platforms import Distro
from labkit.provision import bootstrap, render
from labkit.provision.bootstrap import BootstrapPlan, Packed, Target

STEPS = bootstrap.steps()
TOOLS = [step.name for step in STEPS if step.needs is not None]
ENTERPRISE = ("almalinux", "centos")
LACKS = {
    **dict.fromkeys(ENTERPRISE, ("docker", "containerd", "umoci")),
    **dict.fromkeys(("debian", "fedora", "ubuntu"), ("repositories",)),
}
FOLDERS = platforms.directories()
PLATFORMS = [platforms.load(name, FOLDERS) for name in platforms.names(FOLDERS)]
RELEASES = [(platform.name, release) for platform in PLATFORMS for release in platform.releases]
SUM = "0" * 64
SHARED = "# Functions shared by the steps"  # in a script, after the variables
# Each tool by each way that it has.
WAYS: list[dict[str, object]] = [
    {},
    {"go": "release:1.27.3", "runc": "release:1.3.0", "crun": "release:1.20", "crun_sha256": SUM},
    {
        "go": "https://example.org/go.tar.gz", "go_sha256": SUM, "runc": "https://example.org/runc.git#v1.5.1",
        "crun": "https://example.org/crun", "crun_sha256": SUM, "runtime_tools": "https://example.org/a.tar.gz",
        "runtime_tools_sha256": SUM, "image_tools": "https://example.org/a.git", "mirror": "http://example.org/mirror",
        "proxy": "http://proxy:3128",
    },
]  # fmt: skip


def settings(tmp_path: Path, **values: object) -> Settings:
    return config.load(values, cwd=tmp_path, environ={"HOME": str(tmp_path)})


def plan(
    wanted: Settings, target: Target = Target.BUILD, name: str = "debian", release: str | None = None, **more: Any
) -> BootstrapPlan:
    platform = platforms.load(name, FOLDERS)
    return bootstrap.plan(Distro(platform, platform.release(release)), target, wanted, **more)


def shellcheck(script: str, *words: str) -> str:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    return subprocess.run(["shellcheck", "-s", "sh", *words, "-"], input=script, text=True, capture_output=True).stdout


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_declares_what_it_uses(step: bootstrap.Step) -> None:
    code = "\n".join(line for line in step.text.splitlines() if not line.startswith("#"))
    used = set(re.findall(r"\$\{?((?:PACKAGES|[A-Z_]+_(?:FROM|URL|REF|SHA256|SUMS|LEAST))\w*)", code))
    assert used - {"PACKAGES_DOWNLOAD"} <= set(step.inputs)
    assert step.check != "true"


def test_steps_come_after_what_they_need() -> None:
    order = [step.name for step in STEPS]
    assert len(set(order)) == len(order)
    for step in STEPS:
        for needed in (*(step.needs or ()), *step.builds):
            assert order.index(needed) < order.index(step.name)


def test_a_step_without_a_proper_head_is_a_bug(tmp_path: Path) -> None:
    (tmp_path / "10-x.sh").write_text("# purpose: none\n# check: true\n")
    with pytest.raises(ValueError, match="does not say its inputs"):
        bootstrap.steps(tmp_path)


@pytest.mark.parametrize("name", platforms.names(FOLDERS))
def test_every_platform_has_what_every_tool_needs(tmp_path: Path, name: str) -> None:
    there = [tool for tool in TOOLS if tool not in LACKS.get(name, ())]
    chosen = plan(settings(tmp_path, tools=there), Target.HOST, name).steps
    assert set(there) <= set(chosen)
    needed = " ".join(platforms.load(name, FOLDERS).packages["lab"])
    runtimes = ("crun",) if name in ENTERPRISE else ("runc", "crun")  # no runc in Enterprise Linux 10
    assert all(word in needed for word in ("busybox", "python3", *runtimes))


@pytest.mark.parametrize("name", LACKS)
def test_what_a_platform_lacks_is_told(tmp_path: Path, name: str) -> None:
    for tool in LACKS[name]:
        with pytest.raises(UsageError, match=f"names no packages for {tool}"):
            plan(settings(tmp_path, tools=[tool]), Target.HOST, name)


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_no_platform_lists_packages_that_no_step_installs(platform: platforms.Platform) -> None:
    inputs = {name for step in STEPS for name in step.inputs} | {"PACKAGES_DOWNLOAD"}  # functions.sh takes that one
    inputs |= {"PACKAGES_AUTOTOOLS", "PACKAGES_RUST"}  # labkit.images.runtimes builds with these
    listed = [platform.packages, *(release.packages for release in platform.releases.values())]
    needs = {f"PACKAGES_{need.replace('-', '_').upper()}" for packages in listed for need in packages}
    assert needs <= inputs


def test_an_image_has_nothing_that_is_not_asked_for(tmp_path: Path) -> None:
    always = ("packages", "agent", "sshd", "quiet", "own-image", "labels")
    assert plan(settings(tmp_path), Target.BUILD).steps == always
    assert plan(settings(tmp_path), Target.CLOUD).steps == tuple(name for name in always if name != "own-image")
    assert plan(settings(tmp_path), Target.BOX).steps == ("packages", "quiet", "own-image", "box", "loader")
    boxed = ("packages", "agent", "quiet", "box", "cloud-init", "labels")
    assert plan(settings(tmp_path), Target.CLOUD_BOX).steps == boxed
    assert plan(settings(tmp_path, tools=["jq"])).steps == ("packages", "jq", *always[1:])
    assert plan(settings(tmp_path, runc="package")).steps == ("packages", "runc", *always[1:])


@pytest.mark.parametrize("kind", [Target.VAGRANT, Target.HOST])
def test_what_is_not_labkits_own_keeps_its_sshd_and_timers(tmp_path: Path, kind: Target) -> None:
    found = plan(settings(tmp_path), kind)
    assert not {"agent", "sshd", "quiet", "own-image", "labels"} & set(found.steps)
    assert not re.search(r"sshd_config|authorized_keys|systemctl.* mask|machine-id", found.script)
    assert ("updates" in found.steps) == (kind is Target.VAGRANT)


def test_what_is_built_brings_what_it_is_built_with(tmp_path: Path) -> None:
    built = plan(settings(tmp_path, runc="https://example.org/runc.git")).steps
    assert built[:5] == ("packages", "toolchain", "libseccomp", "go", "runc")
    released = plan(settings(tmp_path, runc="release:1.3.0")).steps
    assert released[:2] == ("packages", "runc")
    assert {"toolchain", "go", "runtime-tools"} <= set(plan(settings(tmp_path), needs=["runtime-tools"]).steps)


@pytest.mark.parametrize(
    ("release", "runc", "go", "least"),
    [
        ("13", "https://example.org/runc.git#v1.3.2", "package", "1.23"),
        ("13", "https://example.org/runc.git#release-1.4", "package", "1.24"),
        ("13", "https://example.org/runc.git#v1.5.0", "download", "1.25"),
        ("13", "https://example.org/runc.git#main", "download", "1.25"),
        ("12", "https://example.org/runc.git#v1.1.15", "package", "1.18"),
        ("12", "https://example.org/runc.git#v1.2.0", "download", "1.22"),
    ],
)
def test_the_distributions_go_is_taken_where_it_is_new_enough(
    tmp_path: Path, release: str, runc: str, go: str, least: str
) -> None:
    script = plan(settings(tmp_path, runc=runc), release=release).script
    assert f"\nGO_FROM={go}\n" in script
    assert f"\nGO_LEAST={least}\n" in script
    assert ("\nGO_URL='https://go.dev/dl/go1." in script) == (go == "download")
    given = plan(settings(tmp_path, runc=runc, go="package"), release=release).script
    assert "\nGO_FROM=package\n" in given
    assert "\nGO_LEAST=''\n" in given


def test_a_step_runs_anew_where_it_or_what_it_needs_has_changed(tmp_path: Path) -> None:
    def keys(**values: object) -> dict[str, str]:
        script = plan(settings(tmp_path, **values), Target.HOST).script
        return dict(re.findall(r"^if begin \d+ (\S+) (\w+);", script, re.MULTILINE))

    before = keys(runc="https://example.org/runc.git#v1.3.0")
    assert keys(runc="https://example.org/runc.git#v1.3.0", proxy="http://proxy") == before
    after = keys(runc="https://example.org/runc.git#v1.3.1")
    assert {name for name, key in after.items() if before[name] != key} == {"runc"}
    after = keys(runc="https://example.org/runc.git#v1.3.0", go="release:1.26.0")
    assert {name for name, key in after.items() if before[name] != key} == {"go", "runc", "runtime-tools"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tools": ["dokcer"]}, "unknown tool 'dokcer'; did you mean 'docker'"),
        ({"tools": ["sshd"]}, "unknown tool 'sshd'"),
        ({"go": "https://example.org/go.tar.gz"}, "digest of the download is missing"),
        ({"go": "https://example.org/go.git"}, "Go is not built from source here"),
        ({"crun": "release:1.20"}, "digest of the download is missing"),
        ({"crun": "https://example.org/crun.git"}, "crun is not built from source here"),
        ({"image_tools": "release:1.0"}, "no releases of image-tools are known"),
        ({"runtime_tools": "package"}, "Debian names no packages for runtime-tools"),
    ],
)
def test_what_cannot_be_had_is_told(tmp_path: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(settings(tmp_path, **values))
    assert message in caught.value.message
    assert caught.value.hint


def git(directory: Path, *words: str) -> str:
    named = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    argv = ["git", *named, *words]
    return subprocess.run(argv, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    directory = tmp_path / "it's a #repository"
    directory.mkdir()
    git(directory, "init", "-q")
    (directory / "Makefile").write_text("all:\n")
    git(directory, "add", ".")
    git(directory, "commit", "-qm", "one")
    git(directory, "tag", "v1.3.0")
    return directory


def pack(tmp_path: Path, text: str) -> Packed:
    found = settings(tmp_path, runc=text)
    return bootstrap.pack("runc", found.runc, tmp_path / "sources")


def test_a_local_repository_becomes_a_bundle_named_by_its_commit(tmp_path: Path, repository: Path) -> None:
    packed = pack(tmp_path, f"{repository}#v1.3.0")
    commit = git(repository, "rev-parse", "HEAD")
    assert (packed.name, packed.ref, packed.built) == (f"runc-{commit[:16]}.bundle", commit, True)
    git(tmp_path, "clone", "-q", str(packed.local), "clone")
    assert git(tmp_path / "clone", "rev-parse", "v1.3.0") == commit
    git(repository, "branch", "other")
    assert pack(tmp_path, f"{repository}#") == packed
    with pytest.raises(UsageError, match=r"has no v9"):
        pack(tmp_path, f"{repository}#v9")


def test_a_shallow_clone_is_sent_as_the_files_of_its_commit(tmp_path: Path, repository: Path) -> None:
    (repository / "runc.go").write_text("package main\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "two")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", repository.as_uri(), str(shallow))
    packed = pack(tmp_path, str(shallow))
    assert (packed.ref, packed.built, packed.local.suffix) == (git(repository, "rev-parse", "HEAD"), True, ".tar")
    with tarfile.open(packed.local) as archive:
        assert "runc.go" in archive.getnames()
    assert pack(tmp_path, str(shallow)) == packed


def test_a_repository_without_some_old_file_is_sent_as_the_files_of_its_commit(
    tmp_path: Path, repository: Path
) -> None:
    for text in ("old", "new"):
        (repository / "large").write_text(text)
        git(repository, "add", ".")
        git(repository, "commit", "-qm", text)
    old = git(repository, "rev-parse", "HEAD~1:large")
    (repository / ".git/objects" / old[:2] / old[2:]).unlink()
    packed = pack(tmp_path, f"{repository}#")
    assert (packed.ref, packed.built, packed.local.suffix) == (git(repository, "rev-parse", "HEAD"), True, ".tar")
    assert pack(tmp_path, f"{repository}#") == packed


def test_a_repository_that_lacks_something_is_told(tmp_path: Path, repository: Path) -> None:
    blob = git(repository, "rev-parse", "v1.3.0^{tree}")
    (repository / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(UsageError, match=f"git cannot bundle {repository}") as caught:
        pack(tmp_path, f"{repository}#v1.3.0")
    assert blob in str(caught.value.hint)
    assert list((tmp_path / "sources").iterdir()) == []


def test_a_directory_becomes_an_archive_named_by_its_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text("x")
    first, second = pack(tmp_path, f"{tmp_path}/a"), pack(tmp_path, f"{tmp_path}/b")
    assert first == second
    (tmp_path / "b" / "sub" / "file").write_text("y")
    assert pack(tmp_path, f"{tmp_path}/b").name != first.name
    with pytest.raises(UsageError, match="is not a git repository"):
        pack(tmp_path, f"{tmp_path}/a#main")
    with pytest.raises(UsageError, match="none does not exist"):
        pack(tmp_path, f"{tmp_path}/none")


def test_a_program_is_not_built_and_its_path_does_not_matter(tmp_path: Path) -> None:
    keys = set()
    for name in ("one", "two"):
        path = tmp_path / name
        path.write_bytes(b"\x7fELF...")
        wanted = settings(tmp_path, runc=str(path))
        made = bootstrap.prepare(wanted.distro(), Target.BUILD, wanted)
        [upload] = made.uploads
        assert upload.local == path
        assert re.fullmatch(r"/var/lib/labkit/sources/runc-[0-9a-f]{16}", upload.remote)
        assert "go" not in made.steps
        keys.add(made.key)
    assert len(keys) == 1


HOSTILE = "a b'c\"d`touch pwned`$(touch pwned)#{1}\\\n\r\ntouch pwned\n;touch pwned&"


def test_no_value_breaks_out_of_the_script(tmp_path: Path) -> None:
    """The variables of a script whose platform is hostile, as sh reads them."""
    sneaky = "$(touch${IFS}pwned);`touch${IFS}pwned`"
    hostile = {"title": HOSTILE, "mirror": (HOSTILE, "{mirror}/x")}
    platform = platforms.load("debian", FOLDERS).model_copy(update=hostile)
    runc = f"https://example.org/{sneaky}.git"
    wanted = settings(tmp_path, proxy=f"http://example.org/{sneaky}", mirror=f"http://example.org/{sneaky}", runc=runc)
    script = bootstrap.plan(Distro(platform, platform.release(None)), Target.HOST, wanted).script
    assert shellcheck(script) == ""
    head, mark, _ = script.partition(SHARED)
    assert mark  # else the whole bootstrap would run here, as root perhaps
    names = ("LAB_MIRROR", "http_proxy", "RUNC_URL")
    shown = "".join(f"printf '%s\\0' \"${name}\"\n" for name in names)
    done = subprocess.run(["sh"], input=(head + shown).encode(), cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == [f"{HOSTILE}\n{wanted.mirror}/x", wanted.proxy, wanted.runc.where]
    assert not (tmp_path / "pwned").exists()


def test_user_data_carries_the_script(tmp_path: Path) -> None:
    script = plan(settings(tmp_path), Target.VAGRANT).script
    for agent, sources in itertools.product((True, False), repeat=2):
        text = render.user_data(script, agent=agent, sources=sources)
        [packed] = re.findall(r"content: (\S+)", text)
        assert gzip.decompress(base64.b64decode(packed)).decode() == script
        assert len(text) < 16384
        assert ("labkit-agent" in text, "cidata" in text) == (agent, sources)
        command = text.partition("    - |\n")[2]
        assert shellcheck(command) == ""
