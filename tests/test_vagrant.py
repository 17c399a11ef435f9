"""The vagrant provider against the real Vagrant with libvirt, in namespaces of its own.

The box is labkit's own: the only one that is made of what a test may reach.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Lab, make_lab, until
from tests.libvirt import namespaces

pytestmark = [
    pytest.mark.machine,
    pytest.mark.emulated,
    pytest.mark.long,
    pytest.mark.needs("vagrant", "libvirtd", "slirp4netns"),
    pytest.mark.timeout(2400),  # the first one makes a box and two machines
]

CONFIG = """
provider = "vagrant"
tools = ["jq"]

[machine]
memory = "1G"

[limits]
boot = 1200
"""


def there_or_ended(path: Path, child: subprocess.Popen[str]) -> bool:
    return path.exists() or child.poll() is not None


@pytest.fixture(scope="module")
def vagrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose provider is Vagrant, with the machine `one`."""
    directory = tmp_path_factory.mktemp("vagrant")
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)  # libvirt's QEMU is another user
    with namespaces(directory / "libvirt") as within:
        for lab in make_lab(directory, within, provider=None):
            (lab.cwd / "labkit.toml").write_text(CONFIG)
            assert "vagrant up: Waiting for machine to boot" in lab.run("up", "--machine", "one", timeout=1500).stderr
            yield lab


@pytest.fixture(scope="module")
def two(vagrant: Lab) -> Lab:
    """The same with the machine `two` after an accident, made while `three` is and goes again."""
    other, child = (vagrant.start("up", "--machine", name) for name in ("three", "two"))
    # Vagrant dies when the machine is there; `up` again makes it anew.
    ident = vagrant.home / "machines/two/.vagrant/machines/two/libvirt/id"
    until(functools.partial(there_or_ended, ident, child), 1200)
    assert child.poll() is None, vagrant.end(child).stderr
    vagrant.kill_machine("two")
    done = vagrant.end(child)
    assert done.returncode == 3, done.stderr
    assert f"vagrant up in {vagrant.home}/machines/two failed" in done.stderr
    assert {info["name"]: info["state"] for info in vagrant.json("status")}["two"] == "interrupted"
    child = vagrant.start("up", "--machine", "two")
    for each in (other, child):
        done = vagrant.end(each, 1500)
        assert done.returncode == 0, done.stderr
    vagrant.run("destroy", "--machine", "three")
    return vagrant


def by_hand(lab: Lab, directory: Path, *words: str) -> str:
    """What the real vagrant prints in a directory with a Vagrantfile."""
    env = lab.environment({"VAGRANT_HOME": str(lab.home / "vagrant"), "VAGRANT_CWD": str(directory)})
    argv = [*lab.within, "vagrant", *words]
    done = subprocess.run(argv, cwd=directory, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_machines_are_two(two: Lab) -> None:
    states = {info["name"]: info for info in two.json("status")}
    assert {name: info["state"] for name, info in states.items()} == {"one": "running", "two": "running"}
    assert states["one"]["address"] != states["two"]["address"]
    keys = [two.guest("cat /etc/ssh/ssh_host_ed25519_key.pub", name) for name in ("one", "two")]
    assert keys[0] != keys[1]


def test_it_has_what_was_asked_for_and_no_key_of_vagrants(vagrant: Lab) -> None:
    [one] = [info for info in vagrant.json("status") if info["name"] == "one"]
    assert (one["state"], one["provider"]) == ("running", "vagrant (libvirt)")
    # The bootstrap was in the box already, and the key of Vagrant's that everybody has is not in the machine.
    assert vagrant.guest("jq -n 1; hostname", "one") == "1\none\n"
    assert "insecure" not in vagrant.guest("cat ~/.ssh/authorized_keys", "one")
    assert ",one,state,running" in by_hand(vagrant, vagrant.home / "machines/one", "status", "--machine-readable")


def test_its_console_accelerator_and_size_are_known(vagrant: Lab) -> None:
    one = next(info for info in vagrant.json("status") if info["name"] == "one")
    assert one["accelerator"] in ("kvm", "tcg")
    assert one["size"] > 10 << 20  # the overlay is libvirt's, not in the machine's directory
    vagrant.guest("echo a line for the console >/dev/ttyS0 || echo a line for the console | sudo tee /dev/ttyS0", "one")
    until(lambda: "a line for the console" in (vagrant.home / "machines/one/console.log").read_text(), 120)


class Killed:
    """A machine that is made bit by bit, its labkit killed again and again; id and key are to stay."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.directory = lab, lab.home / "machines/three"

    def ident(self) -> str:
        return (self.directory / ".vagrant/machines/three/libvirt/id").read_text()

    def record(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.directory / "record.json").read_text()))
        except OSError:
            return {}

    def vagrants(self, *words: str) -> list[int]:
        found = []
        for pid in self.lab.processes("three"):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if any(word.endswith("/vagrant") for word in line[:3]) and all(word in line for word in words):
                    found.append(pid)
        return found

    def up(self, moment: Callable[[], object], *, tools: str) -> None:
        """`up`, killed as soon as the moment has come."""
        child = self.lab.start("up", "--machine", "three", env={"LABKIT_TOOLS": tools})
        until(lambda: moment() or child.poll() is not None, 1200, "the moment to kill at")
        assert child.poll() is None, self.lab.end(child).stderr
        self.lab.kill(child)

    def state(self) -> str:
        [info] = [info for info in self.lab.json("status") if info["name"] == "three"]
        return str(info["state"])


@pytest.mark.slow
def test_a_machine_that_came_up_is_gone_on_with_wherever_labkit_was_killed(vagrant: Lab) -> None:
    """While Vagrant reads its key, in the bootstrap, in the snapshot; the settings change in between."""
    three = Killed(vagrant)
    three.up(lambda: three.record().get("up"), tools="jq")
    ident = three.ident()
    assert not (three.directory / "known_hosts").exists()
    assert three.state() == "unfinished"

    bootstrap = three.directory / "known_hosts"
    three.up(lambda: bootstrap.exists() and three.record().get("host"), tools="jq,profile")
    assert three.state() == "unfinished"
    key = bootstrap.read_text()
    done = vagrant.run("reset", "--machine", "three", status=2)
    assert "not finished" in done.stderr

    # A step that fails, and a source that does not answer, leave it as far as it is.
    wrong = {
        "LABKIT_TOOLS": "jq,profile,crun",
        "LABKIT_CRUN": "http://127.0.0.1:9/crun",
        "LABKIT_CRUN_SHA256": "0" * 64,
    }
    done = vagrant.run("up", "--machine", "three", status=3, env=wrong)
    assert "crun: http://127.0.0.1:9/crun" in done.stderr
    assert "bootstrap: jq" not in done.stderr
    assert three.state() == "unfinished"
    vagrant.guest("touch precious", "three")

    three.up(lambda: three.vagrants("snapshot", "save"), tools="jq,profile")
    assert three.state() == "unfinished"
    other = vagrant.run("up", "--machine", "three", "--platform", "ubuntu", status=2)
    assert "is debian 13, and its bootstrap is not finished" in other.stderr

    done = vagrant.run("up", "--machine", "three", env={"LABKIT_TOOLS": "jq,profile"})
    assert "going on with three, which is not finished" in done.stderr
    assert three.state() == "running"
    assert (three.ident(), bootstrap.read_text()) == (ident, key)
    assert vagrant.guest("ls precious", "three") == "precious\n"
    vagrant.run("reset", "--machine", "three")
    assert vagrant.guest("ls precious", "three") == "precious\n"

    # Once ready, it is never made anew unasked.
    bootstrap.rename(three.directory / "aside")
    done = vagrant.run("up", "--machine", "three", status=3)
    assert f"{bootstrap} is missing" in done.stderr
    (three.directory / "aside").rename(bootstrap)
    record = three.directory / "record.json"
    text = record.read_text()
    record.unlink()
    assert three.state() == "damaged"
    assert f"{record} is missing" in vagrant.run("up", "--machine", "three", status=3).stderr
    record.write_text(text)
    assert vagrant.guest("ls precious", "three") == "precious\n"
    record.unlink()
    vagrant.run("destroy", "--machine", "three")  # Vagrant's machine too, though labkit does not know it any more
    listed = [*vagrant.within, "virsh", "-c", "qemu:///system", "-q", "list", "--all", "--uuid"]
    assert ident not in subprocess.run(listed, check=True, capture_output=True, text=True).stdout


def test_gc_leaves_what_machines_stand_on(vagrant: Lab) -> None:
    answer = vagrant.json("gc", "--dry-run")
    kept = {(thing["kind"], thing["why"]) for thing in answer["things"] if not thing["remove"]}
    assert ("volume", "another volume is an overlay on it") in kept
    assert "box" in {kind for kind, _ in kept}


def test_a_suite_runs_there(vagrant: Lab) -> None:
    vagrant.run("test", "--machine", "one", "--runtime", "runc", "--only", "QUERY-001,QUERY-002")
    results = vagrant.results()
    assert results["machine"]["provider"] == "vagrant (libvirt)"
    assert results["machine"]["accelerator"] in ("kvm", "tcg")
    assert results["totals"]["pass"] == 2


def test_reset_goes_back_to_the_bootstrap(vagrant: Lab) -> None:
    key = vagrant.guest("cat /etc/ssh/ssh_host_ed25519_key.pub; cat /etc/machine-id", "one")
    vagrant.guest("touch mark", "one")
    vagrant.run("reset", "--machine", "one")
    assert vagrant.guest("test -e mark && echo there || echo gone", "one") == "gone\n"
    assert vagrant.guest("cat /etc/ssh/ssh_host_ed25519_key.pub; cat /etc/machine-id", "one") == key


@pytest.mark.slow
def test_a_halted_machine_goes_on(vagrant: Lab) -> None:
    vagrant.guest("touch kept && sync", "one")
    vagrant.run("halt", "--machine", "one")
    assert {info["name"]: info["state"] for info in vagrant.json("status")}["one"] == "halted"
    vagrant.run("up", "--machine", "one")
    assert vagrant.guest("ls kept", "one") == "kept\n"


def test_only_a_changed_bootstrap_runs_again(vagrant: Lab) -> None:
    assert "bootstrap:" not in vagrant.run("up", "--machine", "one").stderr
    done = vagrant.run("up", "--machine", "one", env={"LABKIT_TOOLS": "jq,profile"})
    assert "bootstrap: profile" in done.stderr
    assert vagrant.guest("ls /etc/profile.d/*labkit*", "one")


@pytest.mark.slow
def test_a_machine_destroyed_behind_labkits_back(two: Lab) -> None:
    by_hand(two, two.home / "machines/two", "destroy", "--force")
    assert {info["name"]: info["state"] for info in two.json("status")}["two"] == "lost"
    done = two.run("reset", "--machine", "two", status=2)
    assert "machine two is lost" in done.stderr
    assert two.run("destroy", "--machine", "two").stdout == "destroyed two\n"


SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(bytes(1000000 if self.path == "/whole.box" else 1000))
    do_HEAD = do_GET
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8011), Handler).serve_forever()
"""


@pytest.mark.parametrize(("name", "message"), [("whole.box", "checksum"), ("cut.box", "download")])
def test_a_box_that_does_not_come_as_it_should(vagrant: Lab, name: str, message: str) -> None:
    server = subprocess.Popen([*vagrant.within, sys.executable, "-c", SERVER])
    try:
        box = {"LABKIT_BOX": f"http://127.0.0.1:8011/{name}", "LABKIT_BOX_SHA256": 64 * "0"}
        done = vagrant.run("up", "--machine", "four", status=3, env=box)
    finally:
        server.kill()
        server.wait()
    assert message in done.stderr.lower()
    assert "its console is empty" in done.stderr
    assert vagrant.run("destroy", "--machine", "four").stdout == "destroyed four\n"


def test_destroy_leaves_nothing(vagrant: Lab) -> None:
    vagrant.run("destroy", "--machine", "one")
    assert vagrant.json("status") == []
    listed = [*vagrant.within, "virsh", "-c", "qemu:///system", "-q", "list", "--all"]
    assert subprocess.run(listed, check=True, capture_output=True, text=True).stdout.strip() == ""
    vagrant.run("gc")
    listed = [*vagrant.within, "virsh", "-c", "qemu:///system", "-q", "vol-list", "--pool", "default"]
    assert subprocess.run(listed, check=True, capture_output=True, text=True).stdout.strip() == ""
    assert [path for name in ("boxes", "images", "vagrant/boxes") for path in (vagrant.home / name).iterdir()] == []


@pytest.mark.slow
def test_a_rendered_directory_comes_up_by_plain_vagrant(vagrant: Lab) -> None:
    directory = vagrant.cwd / "a lab's directory"
    wishes = {"LABKIT_TOOLS": "jq,profile", "LABKIT_MACHINE_ACCELERATOR": "tcg"}  # a /dev/kvm may be there and not work
    vagrant.run("render", "--platform", "debian", "--out", str(directory), env=wishes)
    vagrant.run("package", "--platform", "debian", "--out", str(directory))
    try:
        said = by_hand(vagrant, directory, "up", "--no-color")
        assert "labkit: step jq already done" in said  # it is in the box
        assert "labkit: step profile done" in said
        assert by_hand(vagrant, directory, "ssh", "-c", "jq -n 1; ls /etc/profile.d/*labkit*").startswith("1")
    finally:
        by_hand(vagrant, directory, "destroy", "--force")
