"""An engine as a converter: its config.json is what it gives its runtime, what it unpacks is a container's root."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from ...engines.base import Done, Options, Place
from ...engines.session import Session, architecture, programs
from .. import builders, tree
from ..case import NAME, Case
from ..outside import Outside
from .base import Conversion, Converter

_SECONDS = 60.0  # for a container to have begun
_SHARED = "/mnt"
_WAIT = f"touch {_SHARED}/up; i=0; while [ ! -e {_SHARED}/go ] && [ $i -lt 600 ]; do sleep 0.05; i=$((i + 1)); done"


class OfEngine(Converter):
    def __init__(self, name: str, place: Place, runtime: str, arguments: Sequence[str]) -> None:
        super().__init__(place)
        self.name, self.architecture = name, architecture()
        self._session = Session(name, place, runtime, arguments)
        self._engine = self._session.engine
        self._count = 0
        self._seen = 0  # lines of the record that are older than this case
        self._programs = programs().entries()

    def version(self) -> str:
        return self._engine.version()

    def start(self) -> None:
        self._engine.start()

    def stop(self) -> None:
        self._engine.stop()

    def convert(self, case: Case, outside: Outside) -> Conversion:
        archive = self.place.data / "case.tar"
        archive.write_bytes(case.image(self.architecture, self._programs).archive())
        self._seen = len(list(self._session.calls()))
        name = NAME.format(case.name)
        done = self._engine.load(archive, name)
        if not done.ok or not case.looks:
            return Conversion(done)
        if case.runs:
            command = self._engine.own_command
            done = self._engine.run(self._named(), name, command)
            return Conversion(done, self._created(), command=command)
        return self._waiting(name)

    def _waiting(self, image: str) -> Conversion:
        """What a container has of the image while it waits."""
        shared = self.place.data / f"shared-{self._count}"
        shared.mkdir()
        shared.chmod(0o777)
        ended: list[Done] = []

        def run() -> None:
            options = Options(volumes={str(shared): _SHARED})
            ended.append(self._engine.run(self._named(), image, ["/bin/sh", "-c", _WAIT], options))

        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + _SECONDS
        while thread.is_alive() and not (shared / "up").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        root = _root_of(shared) if (shared / "up").exists() else ""
        seen = tree.walk(root, "t") if root else None
        (shared / "go").touch()
        thread.join()
        return Conversion(ended[0], self._created(), seen)

    def _created(self) -> Optional[dict[str, Any]]:
        """The config.json of the last container that was made for this case."""
        for line in reversed(list(self._session.calls())[self._seen :]):
            config = json.loads(line).get("config")
            if isinstance(config, dict):
                return config
        return None

    def _named(self) -> str:
        self._count += 1
        return f"lk{os.getpid():x}-{self._count}"

    def build(self, context: Path, layout: Path) -> Done:
        archive = self.place.data / "case.tar"
        archive.write_bytes(builders.BASE.image(self.architecture, self._programs).archive())
        done = self._engine.load(archive, NAME.format(builders.BASE.name))
        if not done.ok:
            return done
        done = self._engine.build(context, builders.BUILT)
        return self._engine.save(builders.BUILT, layout) if done.ok else done


def _root_of(shared: Path) -> str:
    """The root of the container that has this directory for its volume, by a process in it: engines may mount what they
    unpack in namespaces of their own.
    """
    about = (shared / "up").stat()
    for name in os.listdir("/proc"):  # noqa: PTH208
        root = f"/proc/{name}/root"
        if name.isdigit():
            with suppress(OSError):
                here = Path(f"{root}{_SHARED}/up").stat()
                if (here.st_dev, here.st_ino) == (about.st_dev, about.st_ino):
                    return root
    return ""
