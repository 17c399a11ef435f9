"""Values to text: the bootstrap script and cloud-init's files. Pure: nothing here touches a machine."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from labkit import resources


@dataclass(frozen=True, slots=True)
class Step:
    """A shell fragment of bootstrap/, in the order of its file name."""

    name: str
    text: str


def steps(folder: Path | None = None) -> tuple[Step, ...]:
    files = sorted((folder or resources.root() / "bootstrap").glob("*.sh"))
    return tuple(Step(file.stem, file.read_text().rstrip()) for file in files)


def bootstrap(platform: str, release: str, image: str, packages: Sequence[str]) -> str:
    """The shell script that makes a lab of a bare system; image is "build" or "cloud", packages what it must have."""
    return _template(
        "bootstrap.sh.j2", platform=platform, release=release, image=image, packages=packages, steps=steps()
    )


def user_data(bootstrap_script: str) -> str:
    """cloud-init user-data that runs the bootstrap script once, at the first boot."""
    return _template("user-data.j2", bootstrap_base64=base64.b64encode(bootstrap_script.encode()).decode())


def meta_data(instance: str) -> str:
    return f"instance-id: {instance}\nlocal-hostname: labkit\n"


def _template(name: str, **values: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(resources.root() / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,
    )
    environment.filters["quote"] = shlex.quote
    return environment.get_template(name).render(**values)
