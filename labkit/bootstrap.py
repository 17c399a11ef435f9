"""The bootstrap of one machine: which steps of bootstrap/ run there, with what, and which files they need.

    Settings -> prepare() -> Plan(script, uploads, key)     plan() is the pure half of it

A step is a shell fragment whose first comment lines say what it is:

    # purpose: what it is for
    # inputs: NAME NAME          variables that plan() fills in; "none"
    # check: COMMAND             true where the step's result is there
    # on: build vagrant          kinds of machines; without this line, all
    # needs: STEP STEP           steps that have to be there first; "none". A step with this line is a tool: it runs
                                 where it is asked for. One without it always runs.
    # builds: STEP STEP          what it needs besides, where it is built from source
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
import shutil
import urllib.parse
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from labkit import process, render, resources, tomlfile
from labkit.config import Settings
from labkit.errors import LabError, UsageError
from labkit.files import disk_errors, make_folder
from labkit.platforms import Platform, Release
from labkit.process import ProgramFailed
from labkit.sources import Source, Way, parse
from labkit.tomlfile import Table
from labkit.words import unknown

SOURCES = "/var/lib/labkit/sources"  # where uploads have to be on the machine before the script runs
FAILED = "failed with status"  # in the line that tells of a failed step
_DATA = Path(__file__).with_name("bootstrap.toml")
_PACK_BOUND = 600.0  # seconds to pack one local source


class Kind(enum.StrEnum):
    """What the script runs on."""

    BUILD = "build"  # the chroot of an image that labkit makes from packages
    CLOUD = "cloud"  # a cloud image at its first boot, to become an image of labkit's
    VAGRANT = "vagrant"  # a Vagrant box
    HOST = "host"  # any other machine: reached by SSH, or by hand


@dataclass(frozen=True, slots=True)
class Step:
    """A shell fragment of bootstrap/. number gives its place; needs is None for a step that always runs."""

    number: str
    name: str
    purpose: str
    inputs: tuple[str, ...]
    check: str
    on: frozenset[Kind]
    needs: tuple[str, ...] | None
    builds: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of this host that the script wants: local, to be put at remote, readable by root."""

    local: Path
    remote: str


@dataclass(frozen=True, slots=True)
class Plan:
    """script runs as root once the uploads are there; key names all that goes into it, uploads' content included."""

    script: str
    uploads: tuple[Upload, ...]
    steps: tuple[str, ...]

    @property
    def key(self) -> str:
        return hashlib.sha256(self.script.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Packed:
    """A local source as one file: name says tool and content, ref is a commit where it is git's, built whether it is
    source code (else the program itself).
    """

    local: Path
    name: str
    ref: str
    built: bool


class _Tool(Table):
    upstream: str
    url: str = ""
    sums: str = ""
    least_go: dict[str, str] = {}


class _Data(Table):
    tools: dict[Kind, tuple[str, ...]]
    sources: dict[str, _Tool]


def prepare(
    platform: Platform, release: Release, kind: Kind, settings: Settings, needs: Sequence[str] = ()
) -> Plan:
    """Return the plan for a machine of this release; needs names tools that a suite or runtime asks for.

    Packs the local sources of the settings into settings.home/sources, where they stay until they change.
    Raises UsageError where the settings ask for what does not exist.
    """
    packed = {
        tool: pack(tool, source, settings.home / "sources")
        for tool, source in settings.sources().items()
        if source.way is Way.LOCAL
    }
    return plan(platform, release, kind, settings, needs, packed)
