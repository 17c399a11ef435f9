"""The Vagrantfile: read by Ruby with values that would break out if they could, and checked by the real Vagrant."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from labkit.core import config, platforms
from labkit.core.arch import Arch
from labkit.core.errors import ImageError, UsageError
from labkit.core.observer import Silent
from labkit.core.platforms import VagrantProvider
from labkit.provision import render
from labkit.provision.render import VagrantBox, VagrantValues
from labkit.qemu.accelerator import choose
from labkit.usecases import export as exports

FOLDERS = platforms.directories()
PLATFORMS = [platforms.load(name, FOLDERS) for name in platforms.names(FOLDERS)]
RELEASES = [(platform.name, release) for platform in PLATFORMS for release in platform.releases]
HOSTILE = "a b'c\"d`touch pwned`#{File.write('pwned', '')}\\\n\r\n__END__\n=begin\nend\u2028\u00e9\U0001f600"
SUM = "0" * 64

# Stands where Vagrant does, and writes down what the file says: [["machine.vm.box", value], ...].
RECORDER = """
require "json"
require "uri"
SAID = []
class Recorder < BasicObject
  def initialize(name) = @name = name
  def method_missing(word, *values, **named, &block)
    path = "#{@name}.#{word}".delete_suffix("=")
    ::Object::SAID << [path, *values, *([named] unless named.empty?)]
    inner = path.end_with?(".provider") ? ["#{values[0]}", "override"] : ["machine"]
    block.call(*inner.map { |name| ::Object::Recorder.new(name) }) if block
    ::Object::Recorder.new(path)
  end
end
module Vagrant
  def self.configure(_) = yield(Recorder.new("config"))
end
load ARGV[0]
puts JSON.generate(SAID)
"""


def said(directory: Path, values: VagrantValues) -> list[list[Any]]:
    if shutil.which("ruby") is None:
        pytest.skip("ruby is not installed")
    file = directory / "Vagrantfile"
    file.write_text(render.vagrantfile(values), newline="")
    argv = ["ruby", "-W:no-experimental", "-e", RECORDER, str(file)]
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: list[list[Any]] = json.loads(done.stdout)
    return found


def value(recorded: list[list[Any]], key: str) -> Any:
    [found] = [rest for name, *rest in recorded if name == key]
    return found[0] if len(found) == 1 else found


def test_no_value_breaks_out_of_the_file(tmp_path: Path) -> None:
    url = f"https://example.org/{HOSTILE}"
    recorded = said(
        tmp_path,
        VagrantValues(
            machine=HOSTILE,
            hostname=HOSTILE,
            boxes=[VagrantBox(VagrantProvider.LIBVIRT, HOSTILE, url, "sha256", HOSTILE)],
            cpus=3,
            memory=1024,
            script=HOSTILE,
            uploads=[(HOSTILE, f"/x/{HOSTILE.replace('/', '')}")],
            emulated=True,
        ),
    )
    assert value(recorded, "config.vm.define") == HOSTILE
    for key in ("machine.vm.hostname", "override.vm.box"):
        assert value(recorded, key) == HOSTILE
    assert value(recorded, "override.vm.box_url") == url
    assert value(recorded, "override.vm.box_download_checksum") == HOSTILE
    files, _, script = [rest for name, *rest in recorded if name == "machine.vm.provision"]
    assert files[1]["source"] == os.path.normpath(tmp_path / HOSTILE)
    assert files[1]["destination"] == f"/tmp/labkit-sources/{HOSTILE.replace('/', '')}"
    assert script[1]["path"] == os.path.normpath(tmp_path / HOSTILE)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("provider", VagrantProvider)
def test_every_provider_gets_its_box_and_its_size(tmp_path: Path, provider: VagrantProvider) -> None:
    box = VagrantBox(provider, "mine", "https://example.org/mine.box", "sha512", "ab")
    recorded = said(tmp_path, VagrantValues("m", "m", [box], 3, 1536, None))
    providers = [rest[0] for name, *rest in recorded if name == "machine.vm.provider"]
    assert providers[0] == provider
    assert sorted(providers) == sorted(VagrantProvider)
    assert value(recorded, "override.vm.box_url") == box.url
    assert value(recorded, "override.vm.box_download_checksum_type") == "sha512"
    if provider is VagrantProvider.VMWARE:
        assert ["vmware_desktop.vmx.[]", "memsize", "1536"] in recorded
    else:
        assert (value(recorded, f"{provider}.cpus"), value(recorded, f"{provider}.memory")) == (3, 1536)
    assert not [name for name, *_ in recorded if name == "machine.vm.provision"]


def test_a_box_of_this_host_is_found_beside_the_file(tmp_path: Path) -> None:
    directory = tmp_path / "100% mine"
    directory.mkdir()
    recorded = said(
        directory, VagrantValues("m", "m", [VagrantBox(None, "x", "x.box")], 1, 512, "s.sh", emulated=False)
    )
    assert value(recorded, "machine.vm.box_url") == f"file://{tmp_path}/100%25%20mine/x.box"
    assert not [name for name, *_ in recorded if name in ("libvirt.driver", "machine.vm.box_download_checksum")]


def test_a_box_from_the_web_has_a_digest(tmp_path: Path) -> None:
    wanted = config.load({"box": "https://example.org/x.box"}, cwd=tmp_path, environ={"HOME": str(tmp_path)})
    with pytest.raises(UsageError, match="digest of the download is missing"):
        exports.render(wanted, Silent(), tmp_path / "out")


class Warnings(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def rendering(tmp_path: Path, **more: object) -> config.Settings:
    return config.load(more, cwd=tmp_path, environ={"HOME": str(tmp_path)})


def test_all_files_are_written_or_none(tmp_path: Path) -> None:
    """A list of digests that cannot be read; what was there before stays."""
    source = (FOLDERS[-1] / "fedora" / "platform.toml").read_text()
    (tmp_path / "platforms/fedora").mkdir(parents=True)
    file = tmp_path / "platforms/fedora/platform.toml"
    file.write_text(re.sub(r'(checksums = )".*"', r'\1"http://127.0.0.1:9/CHECKSUM"', source))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    settings = rendering(tmp_path, platform="fedora", platforms=str(tmp_path / "platforms"))
    with pytest.raises(ImageError) as caught:
        exports.render(settings, Silent(), tmp_path / "out")
    assert caught.value.message.startswith(
        "nothing was written: the Vagrantfile of Fedora 44 must name its box's digest"
    )
    assert caught.value.message.endswith(
        "/CHECKSUM cannot be read: Failed to establish a new connection: [Errno 111] Connection refused"
    )
    assert "box_sha256" in (caught.value.hint or "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_box_that_nobody_publishes_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    heard, out = Warnings(), tmp_path / "a lab"
    paths = exports.render(rendering(tmp_path), heard, out)
    assert sorted(out.iterdir()) == sorted(paths)
    command = f"./lab package --platform debian --release 13 --out '{out}'"
    [said_] = heard.said
    assert said_.endswith(f"make it with {command}")
    text = (out / "Vagrantfile").read_text()
    assert f"in a checkout of labkit, this makes it: {command}" in text
    if shutil.which("ruby"):
        argv = ["ruby", "-W:no-experimental", "-e", RECORDER, str(out / "Vagrantfile")]
        assert f"this makes it: {command}" in subprocess.run(argv, check=True, capture_output=True, text=True).stderr
        (out / "debian-13.box").touch()
        assert subprocess.run(argv, check=True, capture_output=True, text=True).stderr == ""
    heard.said.clear()
    (out / "debian-13.box").touch()
    exports.render(rendering(tmp_path), heard, out)
    assert heard.said == []


@pytest.mark.parametrize(
    ("judged", "forced", "driver"),
    [
        (True, None, True),
        (True, "kvm", False),
        (False, "tcg", True),
        (False, "nonsense", not Path("/dev/kvm").exists()),
        (False, None, not Path("/dev/kvm").exists()),
    ],
)
def test_kvm_is_taken_where_it_was_tried_or_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judged: bool, forced: str | None, driver: bool
) -> None:
    monkeypatch.delenv("LABKIT_MACHINE_ACCELERATOR", raising=False)
    if forced:
        monkeypatch.setenv("LABKIT_MACHINE_ACCELERATOR", forced)
    box = VagrantBox(VagrantProvider.LIBVIRT, "x", "https://example.org/x.box", "sha256", SUM)
    recorded = said(tmp_path, VagrantValues("m", "m", [box], 1, 512, None, emulated=judged, movable=True))
    assert bool([name for name, *_ in recorded if name == "libvirt.driver"]) == driver


def test_render_judges_kvm_as_labkit_does(tmp_path: Path) -> None:
    settings = rendering(tmp_path)
    exports.render(settings, Silent(), tmp_path / "out")
    chosen = choose("auto", settings.home, Arch.AMD64)
    assert f'accelerator = "{chosen}"\n' in (tmp_path / "out/Vagrantfile").read_text()


@pytest.mark.bootstrap
@pytest.mark.long
@pytest.mark.needs("vagrant")
def test_vagrant_takes_the_file_of_every_platform_with_every_provider(tmp_path: Path) -> None:
    """Whatever Vagrant may check here: all for libvirt, whose plugin is there, for the others what is not their own."""
    for name, release in dict(RELEASES).items():  # one of each
        directory = tmp_path / f"{name}-{release}"
        settings = config.load(
            {"platform": name, "release": release, "box": "https://example.org/x.box", "box_sha256": SUM},
            cwd=tmp_path,
            environ={"HOME": str(tmp_path)},
        )
        exports.render(settings, Silent(), directory)
        vagrant(directory, "validate")
        url = "https://example.org/x.box"
        boxes = [VagrantBox(provider, "mine", url, "sha256", SUM) for provider in VagrantProvider]
        values = VagrantValues(directory.name, "mine", boxes, 2, 1024, f"bootstrap-{name}.sh")
        (directory / "Vagrantfile").write_text(render.vagrantfile(values))
        vagrant(directory, "validate", "--ignore-provider")


@pytest.mark.bootstrap
@pytest.mark.long
@pytest.mark.needs("vagrant")
def test_vagrant_refuses_what_is_wrong(tmp_path: Path) -> None:
    box = VagrantBox(None, "mine", "https://example.org/x.box")
    (tmp_path / "Vagrantfile").write_text(render.vagrantfile(VagrantValues("m", "m", [box], 2, 1024, "none.sh")))
    assert "none.sh" in vagrant(tmp_path, "validate", status=1).stderr


def vagrant(directory: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "VAGRANT_HOME": str(directory / "home"), "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
    }  # fmt: skip
    done = subprocess.run(["vagrant", *words], cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done
