"""What is known of a run besides its results: what it was made with, so that somebody else can make it again.

One command in the machine tells its part, and how long the bootstrap took; its packages go beside the results, as
CycloneDX. What is not known says why.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.core.arch import Arch
from labkit.core.cell import Cell
from labkit.core.config import Settings
from labkit.core.errors import LabError
from labkit.core.text import printable
from labkit.io import archives, process, version
from labkit.io.files import digest_once, disk_errors, remembered, write_atomic
from labkit.io.remote import Remote
from labkit.machines import record
from labkit.machines.base import Machine, MachineInfo
from labkit.provision.remote import step_seconds
from labkit.results.model import Object
from labkit.results.tap import JSON
from labkit.subjects.runtimes import Runtime
from labkit.suites.base import OfRegistries, Suite

PACKAGES = "packages.cdx.json"  # beside the results: what is installed in the machine
RAW_ARCHIVE = "raw archive"
_ASK = 60.0  # seconds for what takes a tenth of one, also under emulation
_KEPT = 4 << 20  # bytes of what the machine says
_MOST = 20_000  # packages
_LINE = 300  # characters
_NO_CONFIG = "the machine has neither /proc/config.gz nor config-RELEASE in /boot or the modules"
# Prints sections: a line `= NAME`, then what it has to say. A machine may lack any of these files and programs.
_SCRIPT = r"""LC_ALL=C; export LC_ALL
exec 2>/dev/null
section() { echo; echo "= $1"; }
section bootstrap; tail -n 200 /var/lib/labkit/bootstrap.tsv
section kernel; uname -srvm
section config
release=$(uname -r)
if test -r /proc/config.gz; then echo "/proc/config.gz $(gzip -dc /proc/config.gz | sha256sum)"
else
  for file in "/boot/config-$release" "/lib/modules/$release/config"; do
    if test -r "$file"; then echo "$file $(sha256sum <"$file")"; break; fi
  done
fi
section lsm
if test -r /sys/kernel/security/lsm; then cat /sys/kernel/security/lsm
elif test -r /sys/fs/selinux/enforce; then echo selinux; fi
section cpu; sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | sort -u; echo "online $(nproc)"
section cgroup; awk '$3 ~ /^cgroup/ {print $3, $2, $4}' /proc/mounts
echo "controllers $(cat /sys/fs/cgroup/cgroup.controllers)"
section seccomp
for file in /usr/lib/*/libseccomp.so.2.* /usr/lib64/libseccomp.so.2.* /usr/lib/libseccomp.so.2.* \
    /lib/*/libseccomp.so.2.* /usr/local/lib*/libseccomp.so.2.*; do test -e "$file" && { basename "$file"; break; }; done
section os; grep -E '^(ID|VERSION_ID|PRETTY_NAME)=' /etc/os-release
section packages
if command -v dpkg-query >/dev/null; then echo deb
  dpkg-query -W -f '${db:Status-Status} ${Package} ${Version} ${Architecture}\n' | sed -n 's/^installed //p' | sort -u
elif command -v rpm >/dev/null; then echo rpm; rpm -qa --qf '%{NAME} %{VERSION}-%{RELEASE} %{ARCH}\n' | sort -u
elif command -v pacman >/dev/null; then echo alpm; pacman -Q | sort -u
elif command -v apk >/dev/null; then echo apk; apk info -v | sed 's/-\([0-9][^-]*-r[0-9]*\)$/ \1/' | sort -u; fi
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a machine says of itself: facts by name, its packages as CycloneDX ("" where it has none to tell), and how
    many seconds each step of its bootstrap took.
    """

    facts: Mapping[str, JSON]
    packages: str
    bootstrap: Mapping[str, float]


def ask(remote: Remote) -> Asked:
    """What the machine says of itself, in one command."""
    answer = remote.run(["sh", "-c", _SCRIPT], timeout=_ASK, keep=_KEPT)
    return read(answer.stdout)


def read(text: str) -> Asked:
    """The answer of a machine, which may say anything."""
    written: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("= ") and line[2:] not in written:
            lines = written.setdefault(line[2:], [])
        elif line.strip():
            lines.append(line[:_LINE])
    steps = "\n".join(written.pop("bootstrap", ()))  # with tabs
    sections = {name: [printable(line) for line in lines] for name, lines in written.items()}

    def said(name: str) -> str:
        return " ".join(sections.get(name, ()))[:1000]

    packages = _cyclonedx(sections.get("packages", ()), sections.get("os", ()))
    config = re.fullmatch(r"(\S+) ([0-9a-f]{64}) +-", said("config"))
    seccomp = re.fullmatch(r"libseccomp\.so\.([0-9.]{1,20})", said("seccomp"))
    facts: dict[str, JSON] = {
        "kernel": said("kernel"),
        "kernel configuration": {"file": config[1], "sha256": config[2]} if config else {"why not": _NO_CONFIG},
        "lsm": said("lsm"),
        "libseccomp": seccomp[1] if seccomp else "",
        "cpu": ", ".join(sections.get("cpu", ()))[:1000],
        "cgroup": ", ".join(sections.get("cgroup", ()))[:1000],
    }
    if packages:
        about = hashlib.sha256(packages.encode()).hexdigest()
        facts["packages"] = {"file": PACKAGES, "sha256": about, "count": len(json.loads(packages)["components"])}
    return Asked(facts, packages, step_seconds(steps))


def _cyclonedx(lines: Sequence[str], system: Sequence[str]) -> str:
    """The packages as CycloneDX 1.5, one a line, sorted; "" where there are none."""
    kind, *listed = lines or ("",)
    release = dict(line.replace('"', "").partition("=")[::2] for line in system)
    words = [line.split(" ") for line in listed[:_MOST]]
    components = []
    for name, number, architecture in ((*row, "", "")[:3] for row in words if 2 <= len(row) <= 3):
        where = "/".join(map(_quoted, filter(None, (release.get("ID", ""), name))))
        purl = f"pkg:{kind}/{where}@{_quoted(number)}" + (f"?arch={_quoted(architecture)}" if architecture else "")
        components.append({"type": "library", "name": name, "version": number, "purl": purl})
    if not components:
        return ""
    about = {"type": "operating-system", "name": release.get("ID", ""), "version": release.get("VERSION_ID", "")}
    head = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": about}}
    body = ",\n  ".join(json.dumps(component) for component in components)
    return json.dumps(head).removesuffix("}") + f', "components": [\n  {body}\n]}}\n'


def _quoted(word: str) -> str:
    return urllib.parse.quote(word, safe=".-_~:")


def packages_of(directory: Path) -> dict[str, str]:
    """The packages kept beside a run, name to version; of runs of an older labkit, packages.txt."""
    try:
        value = json.loads((directory / PACKAGES).read_bytes())
        return {str(one["name"]): str(one["version"]) for one in value["components"]}
    except (OSError, ValueError, TypeError, KeyError):
        pass
    try:
        lines = (directory / "packages.txt").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return dict(line.split(" ", 1) for line in lines if " " in line)


def keep_packages(asked: Asked, directory: Path) -> None:
    if asked.packages:
        with disk_errors(directory):
            write_atomic(directory / PACKAGES, asked.packages, durable=False)


def gathered(
    cell: Cell,
    settings: Settings,
    suite: Suite,
    machine: Machine,
    info: MachineInfo,
    asked: Asked,
    upstream: Sequence[Runtime] = (),
) -> Object:
    """The evidence of a run that begins; upstream: the programs that the suite runs besides its own."""
    selection = cell.selection
    told = {key: "; ".join(getattr(one, key) for one in upstream) for key in ("source", "sha256")}
    chosen: dict[str, JSON] = {key: list(names) for key in ("only", "skip") if (names := getattr(selection, key))}
    return {
        "command": typed(),
        "again": again(cell, info, isinstance(suite, OfRegistries)),
        "labkit": version.full(),
        "selection": chosen,
        "provider": _provider(info, settings, Arch(cell.arch).emulator),
        "image": _image(settings, machine.name),
        **asked.facts,
        "suite": {"file": suite.file_name(), "sha256": hashlib.sha256(suite.program()).hexdigest()},
        **({"upstream": told} if upstream else {}),
    }


def with_raw(evidence: Object, raw: Path) -> Object:
    """The evidence with the digest of raw/ as one archive."""
    try:
        return {**evidence, RAW_ARCHIVE: {"sha256": hashlib.sha256(archives.tarball(archives.files(raw))).hexdigest()}}
    except LabError:  # the run is there all the same
        return evidence


def typed() -> str:
    """The command line as it was typed."""
    words = sys.argv[1:]
    return printable(shlex.join(["./lab", *words]))[:4000]


def again(cell: Cell, info: MachineInfo, registry: bool = False) -> str:
    """The command that does the same, whatever labkit.toml and the environment say; registry: one is under test."""
    chosen = cell.selection
    flags = {
        "--platform": [cell.platform],
        "--release": [cell.release],
        "--arch": [cell.arch] if info.kind != "ssh" else [],
        "--provider": [info.kind],
        "--registry" if registry else "--runtime": [cell.under_test],
        "--runtime-name": [cell.runtime_name],
        "--suite": [cell.suite],
        "--engine": [cell.engine],
        "--spec": [chosen.spec],
        "--only": chosen.only,
        "--user": [chosen.user],
        "--repeat": [str(chosen.repeat or "")],
        "--limit": [f"{chosen.timeout:g}" if chosen.timeout else ""],
    }
    words = [word for flag, values in flags.items() for value in values if value for word in (flag, value)]
    return printable(shlex.join(["./lab", "test", *words]))[:4000]


def _provider(info: MachineInfo, settings: Settings, emulator: str) -> dict[str, JSON]:
    """What made the machine, with its version."""
    about: dict[str, JSON] = {"name": info.provider, "accelerator": info.accelerator or ""}
    words = {"qemu": [emulator, "--version"], "vagrant": ["vagrant", "--version"]}.get(info.kind)
    if words:
        about["version"] = _version(words, settings)
    elif info.kernel_origin:
        about["version"] = info.kernel_origin
        kernel = record.kernel_of(settings.home, info.name)
        about["sha256"] = kernel or ""
    return about


def _version(words: Sequence[str], settings: Settings) -> str:
    """What a program of this host prints for its version, asked once: Vagrant takes a second to say it."""
    program = process.which(words[0])
    if program is None:
        return ""

    def asked() -> str:
        try:
            said = process.run(words, timeout=20).stdout.splitlines()
        except LabError:
            return ""
        return printable(said[0])[:200] if said else ""

    subject = f"{program} {program.stat().st_mtime_ns}"
    return remembered(settings.home.host, f"version-{program.name}", subject, asked) or ""


def _image(settings: Settings, machine: str) -> JSON:
    """The recipe's key and the disk's digest, of the image that the machine was made of; None where there is none."""
    key = record.image_of(settings.home, machine)
    if key is None:
        return None
    disk = settings.home.images / key / "disk.qcow2"
    return {"recipe": key, "sha256": digest_once(settings.home.host, disk) if disk.is_file() else ""}
