"""oci-image-tool of image-tools: `create` makes a bundle of a layout."""

from __future__ import annotations

from pathlib import Path

from .base import Writer


class OciImageTool(Writer):
    name = program = "oci-image-tool"
    step = "image-tools"

    def version(self) -> str:
        return self.place.command([self.path, "--version"]).out.strip().rpartition(" ")[2]

    def argv(self, layout: Path, bundle: Path) -> list[str]:
        return [self.path, "create", "--type", "imageLayout", "--ref", "name=latest", str(layout), str(bundle)]


CONVERTER = OciImageTool
