"""umoci: unpacks a layout to a bundle, and packs what was changed in it as a layer."""

from __future__ import annotations

from pathlib import Path

from ...common.files import remove_tree
from ...engines.base import Done
from .. import builders
from .base import Writer


class Umoci(Writer):
    name = program = step = "umoci"

    def version(self) -> str:
        return self.place.command([self.path, "--version"]).out.strip().rpartition(" ")[2]

    def argv(self, layout: Path, bundle: Path) -> list[str]:
        return [self.path, "unpack", "--image", f"{layout}:latest", str(bundle)]

    def build(self, context: Path, layout: Path) -> Done:
        """The changes are made to the tree by hand: umoci has no build files."""
        bundle = self.place.data / "build-bundle"
        remove_tree(bundle)
        builders.BASE.image(self.architecture).unpack(layout)
        image = ["--image", f"{layout}:latest"]
        done = self.place.command([self.path, "unpack", *image, str(bundle)])
        if done.ok:
            builders.change(bundle / "rootfs", context)
            done = self.place.command([self.path, "repack", *image, str(bundle)])
        if done.ok:
            done = self.place.command([self.path, "config", *image, *_words()])
        return self.place.command([self.path, "gc", "--layout", str(layout)]) if done.ok else done


def _words() -> list[str]:
    wanted = builders.CONFIG
    found = [f"--config.user={wanted['User']}", f"--config.workingdir={wanted['WorkingDir']}"]
    found += [f"--config.stopsignal={wanted['StopSignal']}"]
    found += [f"--config.env={one}" for one in wanted["Env"]]
    found += [f"--config.entrypoint={one}" for one in wanted["Entrypoint"]]
    found += [f"--config.cmd={one}" for one in wanted["Cmd"]]
    found += [f"--config.label={key}={value}" for key, value in wanted["Labels"].items()]
    found += [f"--config.exposedports={one}" for one in wanted["ExposedPorts"]]
    return found + [f"--config.volume={one}" for one in wanted["Volumes"]]


CONVERTER = Umoci
