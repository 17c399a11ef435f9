"""From a published cloud image to a report: a Debian image made here, served over HTTP, through the command line.

Slow on purpose: a real first boot with cloud-init, in QEMU, and a second one that leaves the live state.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.core.deadline import Deadline
from labkit.core.endpoint import Endpoint
from labkit.io import process
from labkit.io.console import FAILED_BOOT
from labkit.io.network import Network
from labkit.io.ssh import SshRemote
from labkit.qemu import hardware
from labkit.qemu.hardware import Boot
from labkit.qemu.launch import connect, ended, start
from tests import cloud_image
from tests.chroot import Quiet
from tests.conftest import Lab, make_lab

pytestmark = [pytest.mark.machine, pytest.mark.emulated, pytest.mark.long]

LIMIT = 900  # seconds for a boot; a quiet machine needs a tenth of it


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of platforms whose image is being served: good, and broken, which wants a package that is nowhere."""
    directory = tmp_path_factory.mktemp("published")
    image = cloud_image.build(directory / "web")
    with image.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    handler = functools.partial(Quiet, directory=str(image.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        for name, package in (("good", "busybox-static"), ("broken", "no-such-package")):
            platform = directory / "platforms" / name / "platform.toml"
            platform.parent.mkdir(parents=True)
            platform.write_text(
                f'title = "Published"\nfamily = "debian"\ndefault = "13"\n'
                f'[packages]\nlab = ["{package}", "runc", "crun", "python3-minimal"]\n'
                f'[releases.13.cloud_image]\nurl = "http://127.0.0.1:{server.server_port}/{image.name}"\n'
                f'sha256 = "{sha256}"\nuser = "debian"\n'
            )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield directory / "platforms"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def lab(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for made in make_lab(tmp_path_factory.mktemp("cloud")):
        made.env.update(LABKIT_PLATFORMS=str(published), LABKIT_LIMITS_BOOT=str(LIMIT))
        yield made
        shutil.rmtree(made.home / "images", ignore_errors=True)


def test_a_cloud_image_becomes_a_lab(lab: Lab) -> None:
    lab.run("up", "--platform", "good", timeout=2 * LIMIT)
    # Where emulation made a first boot panic, that boot's console lies beside what it was to become.
    [image] = [path for path in (lab.home / "images").iterdir() if not path.name.startswith(FAILED_BOOT)]
    names = {path.name for path in image.iterdir() if not path.name.startswith(("live-", FAILED_BOOT))}
    assert names == {
        "disk.qcow2", "image.json", "sums.json", "console.log", "qemu.log", "network.log",
    }  # fmt: skip
    guest = lab.guest(
        "cloud-init status; hostname; dpkg-query -W -f '${db:Status-Status}\\n' busybox-static;"
        " tail -n 1 /var/log/labkit-bootstrap.log; stat -c '%a %U' /etc/ssh/ssh_host_* /root/.ssh/*",
        "good-13",
    )
    assert guest.splitlines() == [
        "status: disabled", "good-13", "installed", "labkit: bootstrap complete",
        "600 root", "644 root", "600 root",
    ]  # fmt: skip


def test_a_runtime_is_tested_on_it(lab: Lab) -> None:
    lab.run("test", "--platform", "good", "--runtime", "runc", "--only", "STATE-001", timeout=2 * LIMIT)
    result = lab.results()
    assert (result["machine"]["platform"], result["totals"]["pass"]) == ("good", 1)


def test_a_second_machine_is_a_restore(lab: Lab) -> None:
    assert "booting" not in lab.run("up", "--platform", "good", "--machine", "second").stderr
    keys = [lab.guest("cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id", name) for name in ("good-13", "second")]
    assert keys[0] != keys[1]
    lab.run("destroy", "--machine", "second")
    assert lab.json("destroy", "--platform", "good") == ["good-13"]
    assert lab.processes() == []


@pytest.mark.slow
def test_it_becomes_a_box_whose_machines_are_new(lab: Lab, tmp_path: Path) -> None:
    """Booted as Vagrant's providers boot it: without a seed, on other hardware, with the key that everybody has."""
    lab.run("package", "--platform", "good", "--out", str(tmp_path), timeout=2 * LIMIT)
    process.run(["tar", "-C", tmp_path, "-xf", tmp_path / "good-13.box"], timeout=300)
    about = json.loads((tmp_path / "metadata.json").read_text())
    assert (about["provider"], about["format"]) == ("libvirt", "qcow2")
    [key] = Path("/usr/share").glob("rubygems-integration/all/gems/vagrant-*/keys/vagrant")
    mine = tmp_path / "key"
    mine.write_bytes(key.read_bytes())
    mine.chmod(0o600)
    patience = Deadline.after(LIMIT)
    on = hardware.here("tcg", 2, 1024, Network.GUARDED)
    started = start(tmp_path, on, Boot(), tmp_path / "box.img")
    with ended(tmp_path):
        running = connect(started, 0)
        with running.monitor as monitor:
            monitor.execute("cont")
        port, known = running.port, tmp_path / "known_hosts"
        scan = ["ssh-keyscan", "-T", "20", "-t", "ed25519", "-p", str(port), "127.0.0.1"]
        assert patience.poll(lambda: known.write_text(process.run(scan, timeout=60, check=False).stdout) > 0, every=1)
        with SshRemote(Endpoint("127.0.0.1", port, "vagrant", mine, known), patience) as machine:
            machine.run(["cloud-init", "status", "--wait"], timeout=LIMIT)
            script = "id -un; test -s /etc/machine-id; echo $?; command -v runc; ls /usr/local/bin /var/lib/labkit"
            said = machine.run(["sh", "-c", script], timeout=60).stdout.split()
    started.child.wait(60)
    assert said[:3] == ["root", "0", "/usr/sbin/runc"]
    assert "labkit-agent" not in said
    assert "bootstrap.tsv" in said


def test_a_bootstrap_that_fails_is_told_at_once_and_leaves_no_image(lab: Lab) -> None:
    before = sorted((lab.home / "images").glob("*/image.json"))
    done = lab.run("up", "--platform", "broken", status=3, timeout=LIMIT)
    assert "the guest could not come up" in done.stderr
    assert "cannot install no-such-package" in done.stderr
    found = re.search(r"all of the console: (/\S+)\)", done.stderr)
    assert found
    assert "cannot install no-such-package" in Path(found[1]).read_text(errors="replace")
    assert sorted((lab.home / "images").glob("*/image.json")) == before
    assert lab.processes() == []
