"""The bootstrap of Fedora, and of Enterprise Linux, with the real dnf and rpm, from a mirror of small signed packages
that have their names.

The system around them is Debian's, which lacks what steps look for; the packages bring it.
"""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labkit.core import config, platforms
from labkit.core.errors import UsageError
from labkit.core.platforms import Distro
from labkit.provision import bootstrap
from labkit.provision.bootstrap import BootstrapPlan, Target
from tests import chroot
from tests.chroot import Chroot, Quiet, says

pytestmark = [pytest.mark.bootstrap, pytest.mark.long, pytest.mark.needs("dnf", "rpm", "rpmbuild", "createrepo_c")]

FEDORA = platforms.load("fedora", platforms.directories())
RELEASE = FEDORA.release("44")
TOOLS = (
    "updates", "time", "toolchain", "jq", "libseccomp", "go", "runc", "crun", "umoci", "docker", "podman", "containerd",
)  # fmt: skip
PROGRAMS = {
    "chrony": "chronyd", "pkg-config": "pkg-config", "pkgconf-pkg-config": "pkg-config", "golang": "go",
    "moby-engine": "dockerd", "docker-cli": "docker",
    **{name: name for name in ("git", "make", "gcc", "jq", "runc", "crun", "umoci", "skopeo", "podman", "containerd")},
}  # fmt: skip
# What epel-release brings, of which a system's own repositories know nothing.
CRB = "sed -i s/enabled=0/enabled=1/ /etc/yum.repos.d/crb.repo"
# What Debian has under the same name must stay: dnf runs on it.
SPEC = """
Name: labkit-test
Version: {version}
Release: 1
Summary: small packages with the names of large ones
License: none
BuildArch: noarch
%description
%install
mkdir -p %{{buildroot}}/usr/bin %{{buildroot}}/usr/share/labkit-test
{install}
{packages}
"""
PACKAGE = """
%package -n {package}
Summary: {name}
Provides: {name}
AutoReqProv: no
%description -n {package}
%files -n {package}
/usr/share/labkit-test/{name}
{program}
"""


@dataclass(frozen=True)
class Mirror:
    directory: Path
    url: str
    key: str

    def plan(self, **values: object) -> BootstrapPlan:
        given = {"platform": "fedora", "mirror": self.url, "tools": list(TOOLS), **values}
        settings = config.load(given, cwd=self.directory, environ={"HOME": str(self.directory)})
        return bootstrap.prepare(Distro(FEDORA, RELEASE), Target.VAGRANT, settings)

    def publish(self, part: str, version: str, names: list[str], *, signed: bool = True) -> None:
        """Put packages of these names into releases/44/Everything/x86_64/os or updates/44/Everything/x86_64."""
        target = self.directory / part
        top = self.directory / "rpmbuild"
        install, packages = [], []
        for name in names:
            install.append(f"echo {version} >%{{buildroot}}/usr/share/labkit-test/{name}")
            if name == "epel-release":
                install.append(f"printf '#!/bin/sh\\n{CRB}\\n' >%{{buildroot}}/usr/bin/crb")
                install.append("chmod 755 %{buildroot}/usr/bin/crb")
            if program := PROGRAMS.get(name):
                says = "go version go1.26.0 linux/amd64" if program == "go" else f"{program} {version}"
                install.append(f"printf '#!/bin/sh\\necho {says}\\n' >%{{buildroot}}/usr/bin/{program}")
                install.append(f"chmod 755 %{{buildroot}}/usr/bin/{program}")
            package = "pkgconf-pkg-config" if name == "pkg-config" else name
            program = f"/usr/bin/{program}" if program else "/usr/bin/crb" if name == "epel-release" else ""
            packages.append(PACKAGE.format(package=package, name=name, program=program))
        spec = self.directory / "small.spec"
        spec.write_text(SPEC.format(version=version, install="\n".join(install), packages="\n".join(packages)))
        call("rpmbuild", "-bb", "--define", f"_topdir {top}", spec)
        built = sorted(top.glob("RPMS/noarch/*.rpm"))
        if signed:
            macros = ("_gpg_name labkit", f"_gpg_path {self.directory}/gnupg", "__gpg /usr/bin/gpg")
            call("rpmsign", *(f"--define={macro}" for macro in macros), "--addsign", *built)
        target.mkdir(parents=True, exist_ok=True)
        for rpm in built:
            shutil.move(rpm, target / rpm.name)
        call("createrepo_c", "-q", target)


def call(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


OS, UPDATES = "releases/44/Everything/x86_64/os", "updates/44/Everything/x86_64"


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    directory = tmp_path_factory.mktemp("mirror")
    (directory / "gnupg").mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(directory / "gnupg"), "--batch", "--quiet"]
    call(*gpg, "--passphrase", "", "--quick-gen-key", "labkit", "rsa3072", "sign", "never")
    key = call(*gpg, "--armor", "--export", "labkit")
    wanted = {name for names in FEDORA.packages.values() for name in names}
    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        made = Mirror(directory, f"http://127.0.0.1:{server.server_port}", key)
        made.publish(OS, "1", sorted(wanted))
        made.publish(UPDATES, "2", ["crun", "jq"])
        threading.Thread(target=server.serve_forever).start()
        yield made
        server.shutdown()
    subprocess.run(["gpgconf", "--homedir", str(directory / "gnupg"), "--kill", "all"], check=True)


@pytest.fixture(scope="module")
def systems(base: Path, mirror: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Chroot]]:
    directory = tmp_path_factory.mktemp("systems")
    first = Chroot(chroot.unpack(base, directory / "plain"))
    done = first.run(["sh", "-c", "apt-get -q update && apt-get -q -y --no-install-recommends install dnf rpm"])
    assert done.status == 0, done.errors
    keys = first.root / "etc/pki/rpm-gpg"
    keys.mkdir(parents=True)
    (keys / "RPM-GPG-KEY-fedora-44-x86_64").write_text(mirror.key)
    shutil.copytree(first.root, directory / "cut", symlinks=True, ignore=shutil.ignore_patterns("dev", "proc", "sys"))
    for name in ("dev", "proc", "sys"):
        (directory / "cut" / name).mkdir()
    yield [first, Chroot(directory / "cut")]
    shutil.rmtree(directory)


def installed(system: Chroot) -> list[str]:
    return sorted(system.run(["rpm", "-qa"]).lines)


def run(system: Chroot, plan: BootstrapPlan, until: Callable[[], bool] | None = None) -> chroot.Run:
    # As at a boot (tmpfiles.d/dnf.conf). Each run has PIDs of its own, and dnf waits for whoever has the lock's.
    for lock in system.root.glob("var/*/dnf/*_lock.pid"):
        lock.unlink()
    (system.root / "root/bootstrap.sh").write_text(plan.script)
    # rpm names its temporary files by the second: one that was killed and started again within it fails once.
    return system.run(["sh", "/root/bootstrap.sh"], {"_LABKIT_PAUSES": "1"}, until)


REPOSITORY = """[{name}]
name={name}
baseurl={url}/{name}/
enabled={enabled}
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-fedora-44-x86_64
"""


@pytest.mark.parametrize("release", ["10", "9"])
def test_enterprise_linux_has_its_repositories_before_what_is_in_them(
    systems: list[Chroot], mirror: Mirror, release: str
) -> None:
    alma = platforms.load("almalinux", platforms.directories())
    distro = Distro(alma, alma.release(release))
    extra = ["busybox", "libseccomp-devel"]
    wanted = {name for names in distro.packages.values() for name in names}
    mirror.publish(f"el{release}/base", release, sorted(wanted - {*extra}))
    mirror.publish(f"el{release}/crb", release, extra)
    system = systems[0]
    (system.root / "etc/yum.repos.d").mkdir(exist_ok=True)
    for name, enabled in (("base", 1), ("crb", 0)):
        text = REPOSITORY.format(name=name, url=f"{mirror.url}/el{release}", enabled=enabled)
        (system.root / f"etc/yum.repos.d/{name}.repo").write_text(text)
    tools = ["jq", "libseccomp", "crun", "podman", *(["runc"] if release == "9" else [])]
    environ = {"HOME": str(mirror.directory), "LABKIT_TOOLS": " ".join(tools)}
    settings = config.load({"platform": "almalinux", "release": release}, cwd=mirror.directory, environ=environ)
    try:
        done = run(system, bootstrap.prepare(distro, Target.VAGRANT, settings))
        assert done.status == 0, done.errors
        assert list(done.outcomes())[:2] == ["repositories", "packages"]
        assert set(done.outcomes().values()) == {"done"}
        assert {f"{name}-{release}-1.noarch" for name in (*extra, "epel-release")} <= set(installed(system))
        assert any(name.startswith("runc-") for name in installed(system)) == (release == "9")
        again = run(system, bootstrap.prepare(distro, Target.VAGRANT, settings))
        assert set(again.outcomes().values()) == {"already done"}
    finally:
        for file in (system.root / "etc/yum.repos.d").glob("*"):
            file.unlink()
        names = [name for name in installed(system) if name.endswith(f"-{release}-1.noarch")]
        system.run(["rpm", "-e", "--nodeps", *names])
        shutil.rmtree(system.root / "var/lib/labkit")


def test_the_usual_tools_are_those_that_a_platform_has(mirror: Mirror) -> None:
    alma = platforms.load("almalinux", platforms.directories())
    settings = config.load(cwd=mirror.directory, environ={"HOME": str(mirror.directory)})
    steps = bootstrap.prepare(Distro(alma, alma.release("10")), Target.HOST, settings).steps
    assert {"podman", "crun", "runc", "go", "toolchain"} <= {*steps}  # runc from its source
    assert not {"docker", "containerd", "umoci"} & {*steps}
    with pytest.raises(UsageError, match="names no packages for docker"):  # but who asks for it hears of it
        bootstrap.prepare(
            Distro(alma, alma.release("10")), Target.HOST, settings.with_values("--tools", tools=("docker",))
        )


def test_everything_is_installed_from_the_mirror_updates_first(systems: list[Chroot], mirror: Mirror) -> None:
    done = run(systems[0], mirror.plan())
    assert done.status == 0, done.errors
    assert list(done.outcomes()) == ["packages", *TOOLS]
    assert set(done.outcomes().values()) == {"done"}
    found = installed(systems[0])
    assert {"crun-2-1.noarch", "jq-2-1.noarch", "pkgconf-pkg-config-1-1.noarch", "moby-engine-1-1.noarch"} <= set(found)
    assert set(run(systems[0], mirror.plan()).outcomes().values()) == {"already done"}
    assert installed(systems[0]) == found
    assert not list((systems[0].root / "etc/yum.repos.d").glob("*"))


def test_killed_in_every_step_it_ends_with_the_same_packages(systems: list[Chroot], mirror: Mirror) -> None:
    plan, (plain, cut) = mirror.plan(), systems
    killed = 0
    for step in plan.steps:
        [log] = (plain.root / "var/log/labkit").glob(f"*-{step}.log")
        if not (work := re.findall(r"^ +Installing +: \S+", log.read_text(), re.MULTILINE)):
            continue
        moment, log = work[(len(work) - 1) // 2], cut.root / "var/log/labkit" / log.name
        log.unlink(missing_ok=True)
        done = run(cut, plan, until=functools.partial(says, log, moment))
        assert done.status is None, done.errors
        assert list(done.outcomes())[-1] == step
        killed += 1
    assert killed >= 9
    done = run(cut, plan)
    assert done.status == 0, done.errors
    assert installed(cut) == installed(plain)


def test_a_mirror_that_is_gone_is_told(systems: list[Chroot], mirror: Mirror) -> None:
    (systems[0].root / "var/lib/labkit/steps/jq").unlink()
    systems[0].run(["rpm", "-e", "jq"])
    done = run(systems[0], mirror.plan(mirror="http://127.0.0.1:9"))
    assert done.status == 69
    first, *told = done.errors.splitlines()
    assert first == "labkit: nothing was begun, these addresses do not answer from here:"
    assert [line.split(": ")[1] for line in told] == [
        f"http://127.0.0.1:9/{path}/repodata/repomd.xml"
        for path in ("releases/44/Everything/x86_64/os", "updates/44/Everything/x86_64")
    ]


def test_a_package_that_is_not_signed_is_refused(systems: list[Chroot], mirror: Mirror) -> None:
    mirror.publish(UPDATES, "3", ["jq"], signed=False)
    done = run(systems[0], mirror.plan())
    assert done.status == 1
    assert "labkit: step jq failed with status 1" in done.errors
    assert not any(name.startswith("jq-") for name in installed(systems[0]))
