"""Values to text: the bootstrap script, cloud-init's files, the Vagrantfile. Pure: nothing here touches a machine.

Every value is quoted for the language of the file by a filter of that language's name: `sh`, `ruby`.
"""

from __future__ import annotations

import base64
import gzip
import re
import shlex
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from labkit.core import resources
from labkit.core.platforms import VagrantProvider


@dataclass(frozen=True, slots=True)
class VagrantBox:
    """A box for one provider, for any where that is None. name is what Vagrant keeps it under; url may be a path,
    relative to the Vagrantfile.

    algorithm and digest are what Vagrant checks the download against: sha256 or sha512; both None for a local file.
    """

    provider: VagrantProvider | None
    name: str
    url: str
    algorithm: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class VagrantValues:
    """One machine. `vagrant up` takes the first of boxes whose provider is there.

    script is the path of the bootstrap script, uploads are (path here, path on the machine); paths here may be relative
    to the Vagrantfile. memory is in MiB, boot_timeout in seconds. emulated: libvirt without KVM; movable: the file may
    be taken to another host, where a variable of the environment decides otherwise. console: where libvirt writes what
    the machine prints. package: the command that makes the box, where nobody publishes it.
    """

    machine: str
    hostname: str
    boxes: Sequence[VagrantBox]
    cpus: int
    memory: int
    script: str | None
    uploads: Sequence[tuple[str, str]] = ()
    emulated: bool = False
    movable: bool = False
    boot_timeout: int = 900
    console: str | None = None
    package: str | None = None


def vagrantfile(values: VagrantValues) -> str:
    """Return a Vagrantfile for one machine; without a script nothing is provisioned."""
    first = [box.provider for box in values.boxes if box.provider]
    return template("Vagrantfile.j2", values=values, providers=dict.fromkeys((*first, *VagrantProvider)))


@dataclass(frozen=True, slots=True)
class Fragment:
    """One step as the script has it: key changes with all that the step depends on. fetches: what it gets from
    elsewhere, as (file or git, address) and (packages, their names).
    """

    number: str
    name: str
    check: str
    text: str
    key: str
    fetches: tuple[tuple[str, str], ...] = ()


def bootstrap(title: str, functions: str, variables: Mapping[str, str], steps: Sequence[Fragment], proxy: str) -> str:
    """Return the shell script that makes a lab of a bare system."""
    return template("bootstrap.sh.j2", title=title, functions=functions, variables=variables, steps=steps, proxy=proxy)


def user_data(bootstrap_script: str, *, agent: bool, sources: bool) -> str:
    """Return cloud-init user-data that runs the bootstrap script once, at the first boot.

    agent: labkit waits at the virtio port for the outcome.
    sources: the script's uploads are in the directory sources of the disk that this is on (label cidata).
    """
    # Some clouds take 16 KiB of user-data at most.
    script = base64.b64encode(gzip.compress(bootstrap_script.encode(), mtime=0)).decode()
    return template("user-data.j2", bootstrap=script, agent=agent, sources=sources)


def meta_data(instance: str) -> str:
    return f"instance-id: {instance}\nlocal-hostname: labkit\n"


def ruby(text: str) -> str:
    """Return text as a Ruby string literal in which nothing is interpolated."""
    plain = string.ascii_letters + string.digits + " /.:_-=,+@%()"
    return '"' + "".join(c if c in plain else f"\\u{{{ord(c):x}}}" for c in text) + '"'


def unit(text: str) -> str:
    """Return text as a quoted word of a unit file of systemd, without its specifiers: systemd.syntax(7)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def hostname(name: str) -> str:
    """Return the name as Vagrant accepts it for a host: letters, digits and dashes, a dash at neither end."""
    return re.sub(r"[^a-z0-9-]+", "-", name).strip("-") or "labkit"


def template(name: str, **values: object) -> str:
    """A template filled in, as it is."""
    environment = Environment(
        loader=FileSystemLoader(resources.root() / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters.update(sh=shlex.quote, ruby=ruby, unit=unit, one_line=lambda text: " ".join(text.split()))
    return environment.get_template(name).render(**values)
