"""An engine that has been started over a runtime, with the spy between, and an image loaded."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..common.executables import find_program
from ..spy import install
from . import image
from .base import PAUSE, Broken, Engine, Place
from .conversation import IMAGE

_APPLETS = """
sh cat chmod dd echo env false grep head hostname id kill ls mkdir mount ps pwd rm sleep stat stty tail test touch tr
true tty uname wc
"""
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nlabkit:x:1000:1000:labkit:/home/labkit:/bin/sh\n"
_GROUP = "root:x:0:\nlabkit:x:1000:\nextra:x:2000:labkit\n"
_OTHERS = {
    "alone", "base", "cli", "conversation", "faults", "image", "machine", "main", "own", "report", "session",
}  # fmt: skip
_LOG = 64 << 10


def names() -> list[str]:
    """The engines that have a module here."""
    package = importlib.import_module(__package__ or "")
    listed = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in listed if name not in _OTHERS and not name.startswith("_"))


class Session:
    """place.data and place.run are its own."""

    def __init__(
        self,
        engine: str,
        place: Place,
        runtime: str,
        arguments: Sequence[str] = (),
    ) -> None:
        self._record = place.data / "calls.jsonl"
        self.place = place
        self._runtime, self._arguments = runtime, list(arguments)
        self.spy = Path(place.runtime)
        self.spy.parent.mkdir(parents=True, exist_ok=True)
        self.spy.write_bytes(install.program(find_program("python3") or "/usr/bin/python3"))
        self.spy.chmod(0o755)
        self._configure(self._record, ())
        self.engine: Engine = importlib.import_module(f"{__package__}.{engine}").ENGINE(place)

    def meddle(self, faults: Iterable[Mapping[str, str]]) -> None:
        """From now on the spy answers like this, instead of the runtime or beside it; calls() has no more calls then,
        as those of an engine in trouble are not its usual ones.
        """
        self._configure(self.place.data / "calls-in-trouble.jsonl", faults)

    def _configure(self, record: Path, faults: Iterable[Mapping[str, str]]) -> None:
        text = install.configuration(self._runtime, str(record), arguments=self._arguments, faults=faults)
        part = self.spy.with_name(f"{self.spy.name}.part")
        part.write_text(text)
        part.replace(f"{self.spy}{install.ENDING}")

    def __enter__(self) -> Session:
        try:
            self.engine.start()
            self._load(IMAGE, ("sh",))
            if self.engine.wants_pause:
                self._load(PAUSE, ("sleep", "1000000"))
        except BaseException:
            self.engine.stop()
            raise
        return self

    def _load(self, name: str, command: Sequence[str]) -> None:
        archive = self.place.data / "image.tar"
        make_image(archive, name=name, command=command)
        done = self.engine.load(archive, name)
        if not done.ok:
            raise Broken(f"{self.engine.name} does not load an image: {(done.err or done.out).strip()[-1000:]}")

    def __exit__(self, *_: object) -> None:
        self.engine.stop()

    def log(self) -> str:
        return self.place.tail(_LOG)

    def calls(self) -> Iterable[str]:
        """The lines of the spy's record."""
        with suppress(OSError), self._record.open(encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                yield line.rstrip("\n")


def make_image(
    archive: Path, extra: Mapping[str, bytes] = {}, name: str = IMAGE, command: Sequence[str] = ("sh",)
) -> None:
    """An image with busybox, two users, and these programs in /bin."""
    tree = programs()
    for path in ("dev", "etc", "home", "home/labkit", "mnt", "proc", "root", "sys", "var"):
        tree.directory(path)
    tree.directory("tmp", 0o1777)
    for program, data in extra.items():
        tree.file(f"bin/{program}", data, 0o755)
    tree.file("etc/passwd", _PASSWD.encode())
    tree.file("etc/group", _GROUP.encode())
    image.write(archive, tree, {"Env": ["PATH=/bin"], "Cmd": [*command]}, architecture(), name)


def programs() -> image.Tree:
    """busybox and its names, in /bin. Broken."""
    busybox = find_program("busybox")
    if not busybox:
        raise Broken("busybox is not installed")
    tree = image.Tree()
    tree.directory("bin")
    tree.file("bin/busybox", Path(busybox).read_bytes(), 0o755)
    for name in _APPLETS.split():
        tree.link(f"bin/{name}", "busybox")
    return tree


def architecture() -> str:
    """This machine's, in the words of images."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
