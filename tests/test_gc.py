"""`gc` on real directories with real qcow2 overlays: what no machine needs goes, what one stands on stays."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Settings
from labkit.core.home import Home
from labkit.core.observer import Silent
from labkit.images.collect import Kind, chain
from labkit.io import libvirt, process
from labkit.io.files import locked, usage
from labkit.qemu.backing import backing
from labkit.usecases.gc import Collected, caches, gc
from tests.pool import BOX, pool

HARDWARE = "a" * 16
OLD, NEW, OTHER = "0" * 16, "1" * 16, "2" * 16
LIVE, LIVE_OLD = f"live-{'a' * 16}-01234567", f"live-{'b' * 16}"  # new and old names


def qemu_img(*words: str | Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    subprocess.run(["qemu-img", *words], check=True, capture_output=True)


def overlay(on: Path, at: Path) -> None:
    """Named from where it is itself, as labkit does it now; a live state as older ones did it."""
    at.parent.mkdir(parents=True, exist_ok=True)
    named = on if at.parent.name.startswith("live-") else os.path.relpath(on, at.parent)
    qemu_img("create", "-q", "-f", "qcow2", "-b", named, "-F", "qcow2", at)


@dataclass
class Made:
    """A home with images OLD and NEW, each with two live states, and what the tests put into it."""

    settings: Settings

    @property
    def home(self) -> Home:
        return self.settings.home

    def image(self, key: str) -> None:
        at = self.home.images / key
        at.mkdir(parents=True)
        qemu_img("create", "-q", "-f", "qcow2", at / "disk.qcow2", "1M")
        for name in ("kernel", "initrd"):
            (at / name).write_bytes(b"x" * 5000)
        for live in (LIVE, LIVE_OLD):
            overlay(at / "disk.qcow2", at / live / "disk.qcow2")
            (at / live / "state").write_bytes(b"x" * 100_000)
        (at / "image.json").write_text(json.dumps({"title": "Debian 13", "platform": "debian", "release": "13"}))

    def machine(self, name: str, key: str, live: str = LIVE, record: str | None = None) -> Path:
        at = self.home.machine(name)
        overlay(self.home.images / key / live / "disk.qcow2", at / "disk.qcow2")
        made = {"provider": "qemu", "image": key, "ready": True}
        (at / "record.json").write_text(json.dumps(made) if record is None else record)
        return at

    def uml_machine(self, name: str, key: str, kernel: str = OTHER) -> Path:
        """One that stands on its image's raw disk, which its copy-on-write file does not name."""
        at = self.home.machine(name)
        (at / "volume").mkdir(parents=True)
        (at / "volume/cow.img").write_bytes(b"OOOM")
        made = {"provider": "uml", "image": key, "ready": True, "kernel": kernel * 4}
        (at / "record.json").write_text(json.dumps(made))
        return at

    def raw(self, key: str) -> Path:
        at = self.home.images / key / "raw/disk.img"
        at.parent.mkdir()
        at.write_bytes(b"x" * 9000)
        return at

    def kernel(self, digest: str, used: float, origin: str = "user-mode-linux 7 of Debian sid") -> Path:
        at = self.home.kernels / digest
        (at / "tree").mkdir(parents=True)
        for name in ("tree/linux", "modules.img"):
            (at / name).write_bytes(b"x" * 9000)
        about = {"release": "7.1", "origin": origin, "sha256": digest * 4, "seccomp": True}
        (at / "kernel.json").write_text(json.dumps(about))
        os.utime(at, (used, used))
        return at

    def vagrant_machine(self, name: str, box: str) -> Path:
        at = self.home.machine(name)
        at.mkdir(parents=True)
        (at / "record.json").write_text(json.dumps({"provider": "vagrant", "ready": True}))
        (at / "Vagrantfile").write_text(f'    override.vm.box = "labkit/{box}"\n')
        return at

    def box(self, name: str) -> None:
        for path in (
            self.home.boxes / f"{name}.box",
            self.home.vagrant / f"boxes/labkit-VAGRANTSLASH-{name}/0/box.img",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 9000)

    def gc(self, keep: int = 0, *, dry_run: bool = False) -> Collected:
        return gc(self.settings, Silent(), keep_days=keep, dry_run=dry_run)

    def images(self) -> set[str]:
        """What is there of images: KEY, KEY/live-KEY."""
        return {
            str(path.relative_to(self.home.images))
            for path in [*self.home.images.glob("*"), *self.home.images.glob("*/live-*")]
        }


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(libvirt, "there", lambda: False)  # what this host's own libvirt has is none of the tests'
    made = Made(config.load({}, cwd=tmp_path, environ={"LABKIT_HOME": str(tmp_path / "home")}))
    for key in (OLD, NEW):
        made.image(key)
    return made


def gone(done: Collected) -> set[str]:
    return {thing.name for thing in done.things if thing.remove}


def why(done: Collected, name: str) -> str:
    [found] = [thing.why for thing in done.things if thing.name == name]
    return found


def test_the_header_says_what_qemu_img_says(made: Made) -> None:
    disk = made.home.images / OLD / LIVE / "disk.qcow2"
    printed = subprocess.run(["qemu-img", "info", "--output=json", disk], check=True, capture_output=True).stdout
    assert backing(disk) == json.loads(printed)["backing-filename"] == str(made.home.images / OLD / "disk.qcow2")
    assert backing(made.home.images / OLD / "disk.qcow2") == ""
    assert list(chain(made.machine("m", OLD) / "disk.qcow2", made.home)) == [OLD, f"{OLD}/{LIVE}", OLD]


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"\0" * 512, b"QFI\xfb" + b"\xff" * 508])
def test_a_header_that_says_nothing_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "disk").write_bytes(content)
    with pytest.raises((ValueError, OSError, OverflowError)):
        backing(tmp_path / "disk")


def test_what_a_machine_stands_on_stays_and_its_chain_is_whole(made: Made) -> None:
    disk = made.machine("m", NEW) / "disk.qcow2"
    done = made.gc()
    assert made.images() == {NEW, f"{NEW}/{LIVE}"}
    qemu_img("info", "--backing-chain", disk)
    assert gone(done) >= {f"images/{OLD}", f"images/{NEW}/{LIVE_OLD}"}
    assert why(done, f"images/{NEW}") == why(done, f"images/{NEW}/{LIVE}") == "machine m stands on it"
    assert (made.home.images / NEW / "kernel").exists()
    assert gone(made.gc()) <= {name for name in gone(done) if name.startswith("locks/")}


def test_a_dry_run_shows_the_same_and_removes_nothing(made: Made) -> None:
    made.machine("m", NEW)
    made.box("debian-13-x")
    (made.home.downloads).mkdir()
    (made.home.downloads / f"sha256-{'0' * 64}").write_bytes(b"x" * 5000)
    before = sorted(str(path) for path in made.home.path.rglob("*") if "/locks" not in str(path))
    shown = made.gc(dry_run=True)
    assert sorted(str(path) for path in made.home.path.rglob("*") if "/locks" not in str(path)) == before
    size = usage(made.home.path)
    done = made.gc()
    assert gone(shown) == gone(done)
    assert shown.freed == done.freed > 200_000
    assert abs(size - usage(made.home.path) - done.freed) < 64 << 10  # directories shrink too
    assert shown.to_json()["dry_run"] is True


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "\0\xff",
        "[]",
        '{"provider": "newer"}',
        '{"provider": "qemu", "image": 3}',
        json.dumps({"image": OTHER}),
    ],
)
def test_the_disk_of_a_machine_whose_record_is_damaged_counts(made: Made, record: str) -> None:
    made.machine("m", NEW, record=record)
    made.gc()
    assert made.images() == {NEW, f"{NEW}/{LIVE}"}


def test_a_machine_without_a_record_counts_and_a_disk_that_does_not_say_keeps_everything(made: Made) -> None:
    at = made.machine("m", NEW)
    (at / "record.json").unlink()
    made.gc(dry_run=True)
    (at / "disk.qcow2").write_bytes(b"\0" * 4096)
    done = made.gc()
    assert made.images() >= {OLD, NEW}
    assert why(done, f"images/{OLD}") == "what machine m stands on cannot be read from its disk"


def test_the_record_counts_where_the_disk_is_gone(made: Made) -> None:
    (made.machine("m", NEW) / "disk.qcow2").unlink()
    made.gc()
    assert made.images() == {NEW}


def test_a_damaged_image_that_was_set_aside_stays_as_long_as_a_machine_stands_on_it(made: Made) -> None:
    made.machine("m", NEW)
    aside = made.home.images / f"{NEW}.damaged-01234567"
    (made.home.images / NEW).rename(aside)
    (made.home.images / OLD).rename(made.home.images / f"{OLD}.damaged-01234567")
    made.image(NEW)
    shutil.rmtree(made.home.images / NEW / LIVE)  # it is made anew, under another name
    made.gc()
    assert {path.name for path in made.home.images.iterdir()} == {NEW, aside.name}
    assert (aside / LIVE / "disk.qcow2").exists()
    shutil.rmtree(made.home.machine("m"))
    made.gc()
    assert made.images() == set()


def test_a_home_that_was_moved_is_read_by_names(made: Made, tmp_path: Path) -> None:
    made.machine("m", NEW)
    made.home.path.rename(tmp_path / "moved")
    moved = Made(config.load({}, cwd=tmp_path, environ={"LABKIT_HOME": str(tmp_path / "moved")}))
    moved.gc()
    assert moved.images() == {NEW, f"{NEW}/{LIVE}"}


def test_keep_keeps_what_was_of_use_lately(made: Made) -> None:
    long_ago = time.time() - 20 * 86400
    for path in (made.home.images / OLD / "image.json", made.home.images / OLD / LIVE_OLD):
        os.utime(path, (long_ago, long_ago))
    os.utime(made.home.images / NEW / LIVE_OLD, (long_ago, long_ago))
    done = made.gc(keep=30)
    assert not gone(done) - {name for name in gone(done) if name.startswith("locks/")}
    assert why(done, f"images/{OLD}") == "used 20 days ago"
    made.gc(keep=7)
    assert made.images() == {NEW, f"{NEW}/{LIVE}"}


HOLD = """
import sys, time
from pathlib import Path
from labkit.io.files import locked
with locked(Path(sys.argv[1]), timeout=5, waiting=print, what="it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold() -> Iterator[list[subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []
    yield children
    for child in children:
        child.kill()
        child.communicate()


def held(children: list[subprocess.Popen[str]], path: Path) -> int:
    """Let another process hold a lock; its pid."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    children.append(child)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child.pid


def test_what_another_labkit_builds_stays(made: Made, hold: list[subprocess.Popen[str]]) -> None:
    for name in (OLD, OTHER):
        (made.home.images / f"{name}.making").mkdir()
    (made.home.images / NEW / f"live-{HARDWARE}.making").mkdir()
    pid = held(hold, made.home.lock(f"image-{OTHER}"))
    held(hold, made.home.lock(f"live-{NEW}-{HARDWARE}"))
    done = made.gc()
    assert made.images() == {
        f"{OTHER}.making",
        NEW,
        *(f"{NEW}/{live}" for live in (LIVE, LIVE_OLD, f"live-{HARDWARE}.making")),
    }
    assert f"process {pid} " in why(done, f"images/{OTHER}.making")
    hold[0].kill()
    hold.pop(0).communicate()
    made.gc()
    assert not (made.home.images / f"{OTHER}.making").exists()


@pytest.mark.parametrize("lock", ["machine-new", "debian-13-x.box", f"labkit-{OLD}"])
def test_while_something_is_made_of_what_is_not_known_yet_all_images_and_boxes_stay(
    made: Made, hold: list[subprocess.Popen[str]], lock: str
) -> None:
    made.box("debian-13-y")
    held(hold, made.home.lock(lock))
    done = made.gc()
    assert {thing.kind for thing in done.things if thing.remove} <= {Kind.LOCK}
    assert made.images() >= {OLD, NEW}


def test_a_machine_that_is_worked_on_keeps_its_image_with_all_live_states(
    made: Made, hold: list[subprocess.Popen[str]]
) -> None:
    made.machine("m", NEW)
    held(hold, made.home.lock("machine-m"))
    made.gc()
    assert made.images() == {NEW, f"{NEW}/{LIVE}", f"{NEW}/{LIVE_OLD}"}


def test_a_command_that_begins_meanwhile_gets_its_image_back(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its machine's lock before it looks for an image."""
    rename = Path.rename

    def begins(path: Path, target: Path) -> Path:
        (made.home.path / "locks").mkdir(exist_ok=True)
        made.home.lock("machine-new").touch()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", begins)
    done = made.gc()
    assert made.images() >= {OLD, NEW}
    assert done.failed == 2
    assert "another labkit has begun to work" in why(done, f"images/{OLD}")


def test_what_killed_commands_have_left_goes(made: Made) -> None:
    home = made.home
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [
        home.images / f"{OTHER}.making/rootfs/file", home.images / f"removing-{OTHER}/disk.qcow2",
        home.images / f"failed-boot-{OTHER}.log", home.images / NEW / "failed-boot-live-0.log",
        home.boxes / "debian-13-x.box.making/box.img", home.downloads / f"sha256-{'0' * 64}.part",
        home.sources / f".runc-x.bundle.{dead.pid}-{'0' * 16}.part", home.vagrant / "tmp/box123",
    ]  # fmt: skip
    kept = [
        home.sources / f".runc-y.bundle.{os.getpid()}-{'0' * 16}.part",
        home.images / "mine",
        home.keys / "id_ed25519",
    ]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    child = subprocess.Popen(["sleep", "60"], env={process.OWNER: str(home.images / f"{OTHER}.making")})
    try:
        made.gc()
        assert child.wait(5) < 0  # what a killed labkit had left building
    finally:
        child.kill()
    assert [path for path in left if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []


def test_a_machine_of_user_mode_linux_keeps_its_image_and_its_raw_disk(made: Made) -> None:
    raws = {key: made.raw(key) for key in (OLD, NEW)}
    made.uml_machine("u", OLD)
    made.machine("q", NEW)
    done = made.gc()
    assert made.images() == {OLD, NEW, f"{NEW}/{LIVE}"}, "no machine stands on the live states"
    assert [raws[key].exists() for key in (OLD, NEW)] == [True, False]
    assert why(done, f"images/{OLD}") == "machine u stands on it"
    shutil.rmtree(made.home.machine("u"))
    raws[NEW].parent.mkdir(exist_ok=True)
    done = made.gc()
    assert made.images() == {NEW, f"{NEW}/{LIVE}"}
    assert not raws[NEW].exists()
    assert why(done, f"images/{NEW}/raw") == "no machine of User-Mode Linux stands on it"


def test_a_machine_of_user_mode_linux_whose_record_is_damaged_keeps_everything(made: Made) -> None:
    (made.uml_machine("u", NEW) / "record.json").write_text("{")
    raw, kernel = made.raw(OLD), made.kernel(OLD, 1.0)
    made.kernel(NEW, 2.0)
    made.gc()
    assert made.images() >= {OLD, NEW}
    assert raw.exists() and kernel.exists()


def test_kernels_that_no_machine_boots_go_but_the_newest(made: Made) -> None:
    used = {digest: made.kernel(digest, time) for time, digest in enumerate((OLD, OTHER, NEW, "3" * 16))}
    used["4" * 16] = made.kernel("4" * 16, 9.0, "/src/linux/linux")  # it can be taken from there again
    used["5" * 16] = made.kernel("5" * 16, 10.0)
    (used["5" * 16] / "kernel.json").write_text("{")  # nobody boots what is not whole
    made.uml_machine("u", NEW, kernel=OTHER)
    done = made.gc()
    assert {path.name for path in used.values() if path.exists()} == {OTHER, "3" * 16}
    assert why(done, f"kernels/{OTHER}") == "machine u boots it"
    assert why(done, f"kernels/{'3' * 16}") == "it is the newest"


def test_unfinished_kernels_and_raw_disks_go_but_those_that_are_made(
    made: Made, hold: list[subprocess.Popen[str]]
) -> None:
    made.uml_machine("u", NEW)
    raw = made.home.images / NEW / "raw.making"
    parts = [made.home.kernels / "fetching/tree", made.home.kernels / f"{OLD}.making", raw]
    dead = subprocess.Popen(["true"])
    dead.wait()
    trials = [made.home.host / f"trial-{pid}" for pid in (dead.pid, os.getpid())]
    for path in (*parts, *trials):
        path.mkdir(parents=True)
    held(hold, made.home.lock("kernel"))
    held(hold, made.home.lock(f"raw-{NEW}"))
    made.gc()
    assert all(path.exists() for path in parts)
    assert [path.exists() for path in trials] == [False, True]
    while hold:
        child = hold.pop()
        child.kill()
        child.communicate()
    made.gc()
    assert not any(path.exists() for path in (made.home.kernels / "fetching", *parts))


def test_boxes_of_machines_stay(made: Made) -> None:
    for name in ("debian-13-x", "debian-13-y", "debian-13-z"):
        made.box(name)
    (made.home.vagrant / "boxes/others-VAGRANTSLASH-own").mkdir()
    made.vagrant_machine("v", "debian-13-x")
    index = made.home.vagrant / "data/machine-index/index"
    index.parent.mkdir(parents=True)
    entry = {"local_data_path": str(made.home.path), "vagrantfile_path": "/rendered"}
    lost = {"local_data_path": str(made.home.path / "none"), "vagrantfile_path": "/none"}
    boxes = [{"box": {"name": f"labkit/debian-13-{name}"}} for name in "yz"]
    machines = {"a": {**entry, "extra_data": boxes[0]}, "b": {**lost, "extra_data": boxes[1]}}
    index.write_text(json.dumps({"version": 1, "machines": machines}))
    (made.home.vagrant / f"labkit-{OLD}").touch()
    done = made.gc()
    names = {path.name for path in made.home.boxes.iterdir()}
    assert names == {"debian-13-x.box", "debian-13-y.box"}
    added = sorted(path.name.rpartition("-")[2] for path in (made.home.vagrant / "boxes").iterdir())
    assert added == ["own", "x", "y"]
    assert not (made.home.vagrant / f"labkit-{OLD}").exists()  # the mark that the box is whole
    assert why(done, "boxes/debian-13-y.box") == "the Vagrant machine in /rendered is made of it"


def test_a_machine_of_vagrants_that_names_no_box_keeps_them_all(made: Made) -> None:
    made.box("debian-13-x")
    at = made.vagrant_machine("v", "debian-13-x")
    (at / "Vagrantfile").write_text("")
    made.gc()
    assert (made.home.boxes / "debian-13-x.box").exists()
    meta = at / ".vagrant/machines/v/libvirt/box_meta"
    meta.parent.mkdir(parents=True)
    meta.write_text('{"name": "labkit/debian-13-x"}')
    made.gc()
    assert (made.home.boxes / "debian-13-x.box").exists()
    shutil.rmtree(at)
    made.gc()
    assert not (made.home.boxes / "debian-13-x.box").exists()


def test_volumes_of_labkits_boxes_go_where_no_disk_is_an_overlay_on_them(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    other, third = BOX.replace("-x_", "-y_"), BOX.replace("-x_", "-z_")
    pool(tmp_path, {BOX: "", "one_one.img": BOX, other: "", third: "", "mine.img": ""}, monkeypatch)
    made.home.vagrant.mkdir()
    made.vagrant_machine("v", "debian-13-z")
    done = made.gc()
    assert done.failed == 0
    assert {name for name in gone(done) if name.startswith("default:")} == {f"default:{other}"}
    assert why(done, f"default:{BOX}") == "another volume is an overlay on it"
    assert why(done, f"default:{third}") == "machine v is made of it"


def test_without_an_answer_from_libvirt_the_rest_is_done(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if not libvirt.there():
        pytest.skip("virsh is not installed")
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///none.xml")
    made.home.vagrant.mkdir()
    made.gc()
    assert made.images() == set()


def test_locks_of_what_is_gone_go_and_none_is_torn_from_a_machine(made: Made) -> None:
    made.machine("m", NEW)
    for name in ("machine-m", "machine-gone", f"image-{OLD}"):
        with locked(made.home.lock(name), timeout=1, waiting=print, what="it"):
            pass
    made.gc()
    assert [path.name for path in made.home.lock("x").parent.iterdir()] == ["machine-m.lock"]


def test_the_caches_are_measured_and_the_command_line_prints_it(made: Made, tmp_path: Path) -> None:
    made.machine("m", NEW)
    assert caches(made.home)["images"] == usage(made.home.images) > 400_000
    env = {**os.environ, "LABKIT_HOME": str(made.home.path)}

    def lab(*words: str) -> str:
        argv = [sys.executable, "-m", "labkit", *words]
        return subprocess.run(argv, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout

    [info] = json.loads(lab("status", "--json"))
    assert info["size"] == usage(made.home.machine("m"))
    assert "SIZE" in lab("status") and "caches: " in lab("status")
    shown = re.sub("  +", "  ", lab("gc", "--dry-run"))
    assert f"images/{OLD}  no machine stands on it (Debian 13)" in shown
    assert shown.splitlines()[-1].startswith("would free ")
    answer = json.loads(lab("gc", "--json"))
    assert answer["freed"] > 200_000
    assert made.images() == {NEW, f"{NEW}/{LIVE}"}
