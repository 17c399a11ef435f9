"""What a golden image was made of, in the words of the settings: for a machine's record, to be compared later.

A recipe's key says that something differs, this says what. Loads no templates: every `test` on a machine asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from labkit.core import resources
from labkit.core.config import Settings
from labkit.core.platforms import Distro
from labkit.core.sources import SourceKind


def image_kind(distro: Distro, settings: Settings) -> str:
    """How the release's image is made under these settings: build or cloud."""
    return settings.image if settings.image != "auto" else ("build" if distro.build else "cloud")


def ingredients(distro: Distro, settings: Settings) -> dict[str, str]:
    """The key of each setting that goes into an image, and what it comes to.

    A local source has the name that it is packed under, which changes with its content.
    """
    found = {
        "image": image_kind(distro, settings),
        "machine.disk": f"{settings.machine.disk}M",
        "mirror": settings.mirror or "none",
        "tools": "auto" if settings.tools is None else " ".join(sorted(settings.tools)) or "none",
    }
    for tool, source in settings.sources().items():
        key = tool.replace("-", "_")
        found[key] = str(source)
        if source.kind is SourceKind.AUTO and distro.packages.get(tool):
            found[key] = str(SourceKind.PACKAGE)
        elif source.kind is SourceKind.LOCAL:
            from labkit.provision.bootstrap import pack  # jinja2

            found[key] = f"{source} ({pack(tool, source, settings.home.sources).name})"
        found[f"{key}_sha256"] = settings.sha256(tool) or "none"
    return found


def required(settings: Settings, needs: Iterable[str]) -> list[str]:
    """The steps of the bootstrap that somebody asks for: the settings, or a suite by needs."""
    asked = [tool for tool, source in settings.sources().items() if source.kind is not SourceKind.AUTO]
    return list(dict.fromkeys((*(asked if settings.tools is None else settings.tools), *needs)))


def maker(distro: Distro, steps: Iterable[str]) -> str:
    """A digest of all of labkit's own, and of the platform's file, that goes into an image with these steps."""
    root, wanted = resources.root(), set(steps)
    digest = hashlib.sha256((root / "bootstrap" / "functions.sh").read_bytes())
    for file in sorted((root / "bootstrap").glob("[0-9]*-*.sh")):
        if file.stem.partition("-")[2] in wanted:
            digest.update(file.read_bytes())
    packages: Mapping[str, object] = distro.packages
    digest.update(repr([sorted(packages.items()), distro.build, distro.cloud_image]).encode())
    return digest.hexdigest()[:16]
