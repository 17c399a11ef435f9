"""The real runtime-tools, as Debian's archive has it: its source package without vendored libraries, which are packages
of their own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from labkit.io import process

_SOURCE = "golang-github-opencontainers-runtime-tools"
_LIBRARIES = (_SOURCE, "golang-github-google-uuid", "golang-github-mrunalp-fileutils", "golang-github-urfave-cli")
_SETUP = """sed 's/^deb /deb-src /' "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/source.list" """
_FETCH = f"""mkdir "$1/source" && cd "$1/source" &&
APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q -o Acquire::Retries=3 source --tar-only {_SOURCE}"""


def runtime_tools(directory: Path) -> Path:
    """Make a directory that the bootstrap can build: Debian 13's source, of May 2025 or later, in the old way for Go,
    without modules.
    """
    system, tree = directory / "system", directory / "runtime-tools"
    words = ["mmdebstrap", "--variant=extract", "--aptopt=Acquire::Languages none", "--aptopt=Acquire::Retries 3"]
    words += [f"--setup-hook={_SETUP}", f"--extract-hook={_FETCH}"]
    words += [f"--include={','.join(f'{name}-dev' for name in _LIBRARIES)}", "trixie", str(system)]
    process.run(words, timeout=300)
    [archive] = (system / "source").glob("*.orig.tar.*")
    tree.mkdir()
    process.run(["tar", "-C", tree, "--strip-components=1", "-xf", archive], timeout=60)
    (tree / "go.mod").unlink()
    here = shutil.ignore_patterns("runtime-tools", "*_test.go")
    shutil.copytree(system / "usr/share/gocode/src", tree / "vendor", ignore=here)
    tap = tree / "vendor/github.com/mndrix/tap-go/tap.go"
    tap.parent.mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("tap.go"), tap)
    shutil.rmtree(system)
    return tree
