"""Everything from source against the same by hand: `builds.py --go ARCHIVE --runc REPO#REF --runtime-tools REPO#REF
--image-tools REPO#REF [--runs N]`. See README.md. Both take place in a fresh Debian 13 chroot, at native speed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import timed, told

from labkit.core import config, platforms
from labkit.provision import bootstrap
from labkit.provision.bootstrap import Target
from tests.chroot import Chroot, build, unpack

TOOLS = ["toolchain", "libseccomp", "go", "runc", "runtime-tools", "image-tools"]
BY_HAND = """set -e
export DEBIAN_FRONTEND=noninteractive HOME=/root
apt-get -q update
apt-get -q -y --no-install-recommends install {packages}
tar -C /opt -xf /sources/go
export PATH=/opt/go/bin:$PATH GOFLAGS=-mod=vendor GOTOOLCHAIN=local GOPATH=/opt/gopath GOCACHE=/opt/cache
get() {{
  git clone -q "/sources/$1" "/opt/$1"
  cd "/opt/$1"
  git -c advice.detachedHead=false checkout -q "$2"
}}
git config --global safe.directory '*'
get runc {runc}
make RUNC_BUILDTAGS=-libpathrs runc
cp runc /usr/local/sbin/
get runtime-tools {runtime_tools}
make tool
make -j "$(nproc)" runtimetest validation-executables
cp oci-runtime-tool /usr/local/bin/
get image-tools {image_tools}
# older than modules
mkdir -p $GOPATH/src/github.com/opencontainers
ln -s /opt/image-tools $GOPATH/src/github.com/opencontainers/image-tools
cd $GOPATH/src/github.com/opencontainers/image-tools
GO111MODULE=off GOFLAGS= make tool
cp oci-image-tool /usr/local/bin/
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("go", "runc", "runtime-tools", "image-tools"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--runs", type=int, default=1)
    words = parser.parse_args()
    floors: list[float] = []
    ours: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        base = build(directory)
        for number in range(words.runs):
            for name, run, times in (("hand", by_hand, floors), ("labkit", by_labkit, ours)):
                root = unpack(base, directory / f"{name}-{number}")
                work = run(words, root, directory)
                times.append(timed(work))
                shutil.rmtree(root)
    told("everything from source", floors, ours, "at most 1.15")


def by_hand(words: argparse.Namespace, root: Path, directory: Path) -> Callable[[], None]:
    platform = platforms.load("debian", platforms.directories())
    packages = [name for tool in ("toolchain", "libseccomp", "download") for name in platform.packages[tool]]
    mounts: dict[Path, str] = {}
    refs: dict[str, str] = {}
    for name in ("runc", "runtime_tools", "image_tools"):
        path, _, refs[name] = getattr(words, name).partition("#")
        mounts[Path(path)] = f"/sources/{name.replace('_', '-')}"
    (root / "sources").mkdir()
    shutil.copyfile(words.go, root / "sources/go")
    script = BY_HAND.format(packages=" ".join(packages), **refs)
    (root / "root/hand.sh").write_text(script)
    return lambda: checked(Chroot(root, mounts), "/root/hand.sh")


def by_labkit(words: argparse.Namespace, root: Path, directory: Path) -> Callable[[], None]:
    """Without the packing of the sources, which is done once for each commit."""
    values = {name: getattr(words, name) for name in ("go", "runc", "runtime_tools", "image_tools")}
    settings = config.load({**values, "tools": TOOLS}, cwd=directory, environ={"LABKIT_HOME": str(directory / "home")})
    plan = bootstrap.prepare(settings.distro(), Target.VAGRANT, settings)
    (root / "root/sources").mkdir()
    for upload in plan.uploads:
        shutil.copyfile(upload.local, root / "root/sources" / Path(upload.remote).name)
    (root / "root/bootstrap.sh").write_text(plan.script)
    return lambda: checked(Chroot(root), "/root/bootstrap.sh")


def checked(system: Chroot, script: str) -> None:
    done = system.run(["sh", script])
    if done.status:
        raise SystemExit("\n".join([*done.lines[-20:], done.errors[-2000:]]))


if __name__ == "__main__":
    main()
