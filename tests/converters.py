"""A small converter that does all of image-spec, and one for each fault that the image suite has to catch.

`python -m tests.converters` gives all of them the suite's images, in a mount namespace where the directory that hostile
images aim at is a tmpfs, and prints the events of each. The faults are in the one place where they differ from what is
right: `self.has("name")`. On names, not Paths, which are made plain.
"""
# ruff: noqa: PTH101, PTH102, PTH103, PTH106, PTH108, PTH112, PTH113, PTH114, PTH118, PTH120, PTH208, PTH211

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import struct
import sys
import tarfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

from labkit.guest.engines.base import Done, Place
from labkit.guest.engines.own import DATA
from labkit.guest.images import builders, cases, cli, tree
from labkit.guest.images.case import Case
from labkit.guest.images.converters.base import Conversion, Converter
from labkit.guest.images.outside import Outside

ANNOTATION = "org.opencontainers.image."
OPAQUE = ".wh..wh..opq"

# Each fault, and the checks that it must be caught by: these, and no others.
FAULTS = MappingProxyType(
    {
        "cwd is not set": ("CONV-001",),
        "env is sorted and split at spaces": ("CONV-002", "CONV-004"),
        "PATH is added": ("CONV-003",),
        "HOME is overridden": ("CONV-004",),
        "Entrypoint is dropped with Cmd": ("CONV-007",),
        "Cmd is dropped": ("CONV-006", "CONV-007"),
        "args are in a shell": ("CONV-005", "CONV-006", "CONV-007"),
        "os is not annotated": ("CONV-010",),
        "architecture is not annotated": ("CONV-011",),
        "variant is not annotated": ("CONV-012",),
        "os.version is not annotated": ("CONV-013",),
        "os.features are joined by spaces": ("CONV-014",),
        "author is not annotated": ("CONV-015",),
        "created is cut to seconds": ("CONV-016",),
        "no labels": ("CONV-017", "CONV-020", "CONV-044"),
        "stopSignal is a number": ("CONV-018",),
        "implicit annotations win": ("CONV-020",),
        "labels are stripped": ("CONV-021",),
        "uid is that of root": ("CONV-030", "CONV-039"),
        "gid is that of the user": ("CONV-031",),
        "names are root": ("CONV-032",),
        "groups are ignored": ("CONV-033",),
        "no additionalGids": ("CONV-034",),
        "additionalGids of numbers": ("CONV-035", "CONV-036"),
        "additionalGids with a group": ("CONV-036",),
        "unknown users are root": ("CONV-037", "CONV-041"),
        "unknown groups are root": ("CONV-038",),
        "numbers are looked up as names": ("CONV-039",),
        "passwd is followed to the host": ("CONV-041",),
        "no exposedPorts": ("CONV-040",),
        "no volumes": ("CONV-042",),
        "manifest is annotated": ("CONV-021", "CONV-043", "CONV-044"),
        "no zstd": ("LAYER-003",),
        "no nondistributable": ("LAYER-004",),
        "unknown properties are refused": ("LAYER-005",),
        "rootfs.type is not read": ("LAYER-006",),
        "digests are not read": ("LAYER-007",),
        "whiteouts are files": (
            "LAYER-010", "LAYER-011", "LAYER-012", "LAYER-014", "LAYER-016", "LAYER-017",
        ),
        "whiteouts of files alone": ("LAYER-011",),
        "whiteouts of their own layer": ("LAYER-013",),
        "opaque is nothing": ("LAYER-014", "LAYER-016"),
        "opaque is all": ("LAYER-016",),
        "empty whiteouts are nothing": ("LAYER-017",),
        "directories stay as they are": ("LAYER-020",),
        "links are written through": ("LAYER-022", "LAYER-055"),
        "files are written in place": ("LAYER-023",),
        "no times": ("LAYER-020", "LAYER-030"),
        "times of directories too soon": ("LAYER-030",),
        "no owners": ("LAYER-020", "LAYER-031", "LAYER-033"),
        "owners by name": ("LAYER-033",),
        "no special bits": ("LAYER-020", "LAYER-032"),
        "no xattrs": ("LAYER-034",),
        "links are made absolute": ("LAYER-021", "LAYER-035", "LAYER-036", "LAYER-041"),
        "hard links are copies": ("LAYER-036",),
        "no nodes": ("LAYER-037",),
        "names are text": ("LAYER-040",),
        "names of 100 bytes": ("LAYER-041",),
        "parents must be there": ("LAYER-043",),
        "dots are followed": ("LAYER-050", "LAYER-056", "LAYER-057"),
        "absolute names are the host's": ("LAYER-051",),
        "links are followed": (
            "LAYER-052", "LAYER-053", "LAYER-054", "LAYER-056", "LAYER-057", "LAYER-058", "LAYER-059", "LAYER-060",
        ),
        "links of lower layers are followed": ("LAYER-053", "LAYER-057", "LAYER-058", "LAYER-059"),
        "hard links are the host's": ("LAYER-056",),
        "the root may be a link": ("LAYER-061",),
        "whiteouts of dots": ("LAYER-057",),
        "history is short": ("BUILD-008",),
        "layout has no version": ("BUILD-001",),
        "index has schema 1": ("BUILD-002",),
        "a blob is another": ("BUILD-003",),
        "sizes are wrong": ("BUILD-004",),
        "a layer's type is wrong": ("BUILD-005",),
        "diff_ids are those of blobs": ("BUILD-006",),
        "created is no time": ("BUILD-007",),
        "StopSignal is lost": ("BUILD-009",),
        "an entry stands twice": ("BUILD-010",),
        "removals are lost": ("BUILD-011",),
        "whiteouts are last": ("BUILD-012",),
        "owners are lost": ("BUILD-013",),
        "everything is packed": ("BUILD-014",),
        "entries leave the root": ("BUILD-015",),
        "removals are opaque": ("BUILD-016",),
    }
)  # fmt: skip


class Refused(Exception):
    """Why an image is not converted."""


class Small(Converter):
    """Everything right but for one fault."""

    name = "small"

    def __init__(self, place: Place, fault: str = "") -> None:
        super().__init__(place)
        self._fault = fault
        self._count = 0

    def has(self, fault: str) -> bool:
        assert fault in FAULTS
        return fault == self._fault

    def convert(self, case: Case, outside: Outside) -> Conversion:
        self._count += 1
        bundle = self.place.data / f"bundle-{self._count}"
        bundle.mkdir()
        outside.beside.append(bundle / "labkit-kept")
        outside.beside[0].write_bytes(b"")
        try:
            config = self._bundle(_files(case.name), bundle)
        except (Refused, OSError) as why:
            return Conversion(Done(["small"], 1, "", str(why), 0.0), None, tree.walk(bundle / "rootfs", "t"))
        return Conversion(Done(["small"], 0, "", "", 0.0), config, tree.walk(bundle / "rootfs", "t"))

    # --- documents

    def _bundle(self, files: dict[str, bytes], bundle: Path) -> dict[str, Any]:
        top = json.loads(files["index.json"])["manifests"][0]
        manifest = json.loads(self._blob(files, top))
        about = json.loads(self._blob(files, manifest["config"]))
        if self.has("unknown properties are refused") and "org.labkit.unknown" in manifest:
            raise Refused("org.labkit.unknown")
        if about["rootfs"]["type"] != "layers" and not self.has("rootfs.type is not read"):
            raise Refused("rootfs.type")
        root = bundle / "rootfs"
        root.mkdir()
        layers = Unpacking(self, root)
        for descriptor in manifest["layers"]:
            layers.layer(self._plain(descriptor["mediaType"], self._blob(files, descriptor)))
        return self._config(about, manifest.get("annotations", {}), root)

    def _blob(self, files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
        data = files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
        right = f"sha256:{hashlib.sha256(data).hexdigest()}" == descriptor["digest"]
        if not right and not self.has("digests are not read"):
            raise Refused("digest")
        return data

    def _plain(self, kind: str, data: bytes) -> bytes:
        if "nondistributable" in kind and self.has("no nondistributable"):
            raise Refused(kind)
        if kind.endswith("+gzip"):
            return zlib.decompress(data, 31)
        if kind.endswith("+zstd"):
            if self.has("no zstd"):
                raise Refused(kind)
            return raw_zstd(data)
        return data

    def _config(self, about: dict[str, Any], manifest: dict[str, str], root: Path) -> dict[str, Any]:
        image = about["config"]
        env = list(image.get("Env", []))
        if self.has("env is sorted and split at spaces"):
            env = sorted(" ".join(env).split())
        if self.has("PATH is added"):
            env.append("PATH=/sbin")
        if self.has("HOME is overridden"):
            env = ["HOME=/root" if one.startswith("HOME=") else one for one in env]
        args = [*image.get("Entrypoint", []), *image.get("Cmd", [])]
        if self.has("Entrypoint is dropped with Cmd"):
            args = list(image.get("Cmd") or image.get("Entrypoint", []))
        if self.has("Cmd is dropped"):
            args = list(image.get("Entrypoint", []))
        if self.has("args are in a shell"):
            args = ["sh", "-c", " ".join(args)]
        volumes = [] if self.has("no volumes") else image.get("Volumes", {})
        return {
            "process": {
                "cwd": "/" if self.has("cwd is not set") else image.get("WorkingDir", "/"),
                "env": env,
                "args": args,
                "user": self._user(image.get("User", ""), root),
            },
            "annotations": self._annotations(about, image, manifest),
            "mounts": [{"destination": path} for path in volumes],
        }

    def _annotations(self, about: dict[str, Any], image: dict[str, Any], manifest: dict[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for key in ("os", "architecture", "variant", "os.version", "author", "created"):
            if key in about:
                found[f"{ANNOTATION}{key}"] = about[key]
        for key in ("os", "architecture", "variant", "os.version", "author"):
            if key != "author" and self.has(f"{key} is not annotated"):
                found.pop(f"{ANNOTATION}{key}", None)
        if self.has("author is not annotated"):
            found.pop(f"{ANNOTATION}author", None)
        if self.has("created is cut to seconds") and "created" in about:
            found[f"{ANNOTATION}created"] = about["created"][:19] + "Z"
        if "os.features" in about:
            joint = " " if self.has("os.features are joined by spaces") else ","
            found[f"{ANNOTATION}os.features"] = joint.join(about["os.features"])
        if "StopSignal" in image:
            found[f"{ANNOTATION}stopSignal"] = "10" if self.has("stopSignal is a number") else image["StopSignal"]
        if "ExposedPorts" in image and not self.has("no exposedPorts"):
            found[f"{ANNOTATION}exposedPorts"] = ",".join(image["ExposedPorts"])
        labels = {} if self.has("no labels") else dict(image.get("Labels", {}))
        if self.has("labels are stripped"):
            labels = {key: value.strip() for key, value in labels.items()}
        if self.has("implicit annotations win"):
            return {**labels, **found}
        return {**found, **labels, **(manifest if self.has("manifest is annotated") else {})}

    def _user(self, word: str, root: Path) -> dict[str, Any]:
        user, _, group = word.partition(":")
        users = self._rows(root, "etc/passwd")
        groups = self._rows(root, "etc/group")
        wanted: dict[str, Any] = {"uid": 0, "gid": 0}
        row = users.get(user)
        numeric = user.isdigit() and not (self.has("numbers are looked up as names") and row)
        if numeric:
            wanted["uid"] = 0 if self.has("uid is that of root") else int(user)
            row = next((one for one in users.values() if one[2] == user), None)
        elif user and row is None:
            if not self.has("unknown users are root"):
                raise Refused(f"no user {user}")
        elif row and not self.has("names are root"):
            wanted["uid"] = int(row[2])
        if row and not group and not (self.has("names are root") and not numeric):
            wanted["gid"] = int(row[3])
        if group.isdigit() and not (self.has("gid is that of the user") and row):
            wanted["gid"] = int(group)
        elif self.has("gid is that of the user") and group.isdigit() and row:
            wanted["gid"] = int(row[3])
        elif group and group in groups and not self.has("groups are ignored"):
            wanted["gid"] = int(groups[group][2])
        elif group and group not in groups and not self.has("unknown groups are root"):
            raise Refused(f"no group {group}")
        with_groups = not numeric and not group
        with_groups |= self.has("additionalGids of numbers") and numeric
        with_groups |= self.has("additionalGids with a group") and bool(group) and not numeric
        if row and with_groups and not self.has("no additionalGids"):
            member = [int(one[2]) for one in groups.values() if row[0] in one[3].split(",")]
            wanted["additionalGids"] = sorted(member)
        return wanted

    def _rows(self, root: Path, name: str) -> dict[str, list[str]]:
        path = root / name
        if path.is_symlink() and not self.has("passwd is followed to the host"):
            return {}
        rows = (line.split(":") for line in path.read_text().splitlines()) if path.exists() else iter(())
        return {row[0]: row for row in rows}

    # --- a build

    def build(self, context: Path, layout: Path) -> Done:
        """By what is known of the build file: the layer is written, and not compared."""
        image = builders.BASE.image()
        files = image.files()
        entries = list(self._entries(context))
        data = _archive(entries)
        kind = "application/vnd.oci.image.layer.v1.tar"
        top = json.loads(files["index.json"])["manifests"][0]
        manifest = json.loads(files[f"blobs/{top['digest'].replace(':', '/')}"])
        about = json.loads(files[f"blobs/{manifest['config']['digest'].replace(':', '/')}"])
        digest = hashlib.sha256(data).hexdigest()
        told = manifest["layers"][0]["digest"] if self.has("diff_ids are those of blobs") else f"sha256:{digest}"
        about["rootfs"]["diff_ids"].append(told)
        about["history"] += [] if self.has("history is short") else [{"created_by": "small"}]
        about["created"] = "yesterday" if self.has("created is no time") else "2001-02-03T04:05:06.7+01:00"
        about["config"] = dict(builders.CONFIG)
        if self.has("StopSignal is lost"):
            del about["config"]["StopSignal"]
        size = 1 if self.has("sizes are wrong") else len(data)
        shown = f"{kind}+gzip" if self.has("a layer's type is wrong") else kind
        manifest["layers"].append({"mediaType": shown, "digest": f"sha256:{digest}", "size": size})
        files[f"blobs/sha256/{digest}"] = data
        for name, value in (("config", about), ("", manifest)):
            packed = json.dumps(value).encode()
            sum_ = hashlib.sha256(packed).hexdigest()
            files[f"blobs/sha256/{sum_}"] = packed
            if name:
                manifest[name].update({"digest": f"sha256:{sum_}", "size": len(packed)})
                continue
            index = json.loads(files["index.json"])
            index["manifests"][0].update({"digest": f"sha256:{sum_}", "size": len(packed)})
            index["schemaVersion"] = 1 if self.has("index has schema 1") else 2
            files["index.json"] = json.dumps(index).encode()
        if self.has("layout has no version"):
            files["oci-layout"] = b"{}"
        if self.has("a blob is another"):
            files[f"blobs/sha256/{'0' * 64}"] = b"not empty"
        for path, content in files.items():
            (layout / path).parent.mkdir(parents=True, exist_ok=True)
            (layout / path).write_bytes(content)
        return Done(["small", "build"], 0, "", "", 0.0)

    def _entries(self, context: Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
        removed: list[tuple[str, bytes, dict[str, Any]]] = [("t/.wh.old", b"", {}), ("t/.wh.old-dir", b"", {})]
        if self.has("removals are opaque"):
            removed = [(f"t/{OPAQUE}", b"", {})]
        if not (self.has("whiteouts are last") or self.has("removals are lost")):
            yield from removed
        owner = {} if self.has("owners are lost") else {"uid": 12, "gid": 34}
        yield "t/owned", (context / "owned").read_bytes(), owner
        yield "t/changed", b"new\n", {}
        if self.has("an entry stands twice"):
            yield "t/changed", b"new\n", {}
        yield "t/setuid", b"set\n", {"mode": 0o4755}
        yield "t/one", b"one\n", {}
        yield "t/two", b"", {"type": tarfile.LNKTYPE, "linkname": "t/one"}
        yield "t/new-link", b"", {"type": tarfile.SYMTYPE, "linkname": "kept"}
        yield "t/new", b"", {"type": tarfile.DIRTYPE, "mode": 0o755}
        yield "t/new/deep", b"", {"type": tarfile.DIRTYPE, "mode": 0o755}
        if self.has("everything is packed"):
            yield "t/kept", b"kept\n", {}
        if self.has("entries leave the root"):
            yield "../outside", b"", {}
        if self.has("whiteouts are last"):
            yield from removed


@functools.cache
def _files(name: str) -> dict[str, bytes]:
    return cases.named(name).image().files()


class Unpacking:
    """The layers of an image, one after another, into a root that nothing leaves."""

    def __init__(self, converter: Small, root: Path) -> None:
        self._has, self._root = converter.has, root
        self._times: list[tuple[str, int]] = []
        self._lower: set[str] = set()  # links that were there before this layer

    def layer(self, data: bytes) -> None:
        new: set[str] = set()
        self._lower = {str(path) for path in self._root.rglob("*") if path.is_symlink()}
        with tarfile.open(fileobj=BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
            members = list(archive)
            for member in members:
                name = member.name
                if self._has("names of 100 bytes"):
                    name = name[:100]
                path, leaf = self._place(name)
                if leaf.startswith(".wh.") and not self._has("whiteouts are files"):
                    self._remove(path, leaf, new)
                elif leaf:
                    target = os.path.join(path, leaf)
                    self._make(archive, member, target)
                    while len(target) > len(str(self._root)):
                        new.add(target)
                        target = os.path.dirname(target)
                elif member.issym():
                    if not self._has("the root may be a link"):
                        raise Refused("the root is a link")
                    self._root.rename(f"{self._root}.old")
                    self._root.symlink_to(member.linkname)
            if not self._has("times of directories too soon"):
                for path, time in self._times:
                    if os.path.lexists(path):
                        os.utime(path, (time, time), follow_symlinks=False)

    def _place(self, name: str) -> tuple[str, str]:
        """Where an entry goes: a directory that is in the root and is made where it is missing, and a name in it."""
        if self._has("absolute names are the host's") and name.startswith("/"):
            return os.path.split(name)
        words = [word for word in name.split("/") if word not in ("", ".")]
        if self._has("dots are followed") and ".." in words:
            directory = os.path.normpath(os.path.join(self._root, *words[:-1]))
            os.makedirs(directory, exist_ok=True)
            return directory, words[-1]
        inside: list[str] = []
        for word in words:
            if word == "..":
                inside = inside[:-1]
            else:
                inside.append(word)
        if not inside:
            return str(self._root), ""
        path = str(self._root)
        for word in inside[:-1]:
            path = os.path.join(path, word)
            if os.path.islink(path):
                follow = self._has("links are followed")
                follow |= self._has("links of lower layers are followed") and path in self._lower
                if not follow:
                    raise Refused(f"{path} is a link")
                path = os.path.realpath(path)
            elif not os.path.isdir(path):
                if self._has("parents must be there"):
                    raise Refused(f"{path} is missing")
                os.mkdir(path)
        return path, inside[-1]

    def _remove(self, path: str, leaf: str, new: set[str]) -> None:
        if leaf == OPAQUE:
            if self._has("opaque is nothing"):
                return
            for one in os.listdir(path):
                self._hide(os.path.join(path, one), set() if self._has("opaque is all") else new)
            return
        name = leaf.removeprefix(".wh.")
        if name in ("", ".", ".."):
            if self._has("whiteouts of dots") and name == "..":
                _remove(os.path.realpath(os.path.join(path, name)))
                return
            if self._has("empty whiteouts are nothing") and name == "":
                return
            raise Refused(leaf)
        target = os.path.join(path, name)
        if self._has("whiteouts of files alone") and os.path.isdir(target) and not os.path.islink(target):
            return
        if target not in new or self._has("whiteouts of their own layer"):
            _remove(target)

    def _hide(self, path: str, new: set[str]) -> None:
        """Remove what is not of this layer."""
        if path not in new:
            _remove(path)
        elif os.path.isdir(path) and not os.path.islink(path):
            for one in os.listdir(path):
                self._hide(os.path.join(path, one), new)

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if self._has("names are text"):
            path = os.fsencode(path).decode("utf-8", "replace")
        there = os.path.lexists(path)
        is_directory = there and stat.S_ISDIR(os.lstat(path).st_mode)
        kept = is_directory and member.isdir()
        if kept and self._has("directories stay as they are"):
            return
        in_place = self._has("files are written in place") and member.isreg() and not os.path.islink(path)
        through = self._has("links are written through") and member.isreg() and os.path.islink(path)
        if there and not kept and not (in_place and os.path.isfile(path)) and not through:
            _remove(path)
        if member.isdir():
            if not kept:
                os.mkdir(path)
        elif member.issym():
            target = member.linkname
            if self._has("links are made absolute") and not target.startswith("/"):
                target = f"/{target}"
            os.symlink(target, path)
        elif member.islnk():
            self._link(member.linkname, path)
            return
        elif member.isfifo() or member.ischr() or member.isblk():
            if self._has("no nodes"):
                return
            kind = stat.S_IFIFO if member.isfifo() else stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            device = 0 if member.isfifo() else os.makedev(member.devmajor, member.devminor)
            os.mknod(path, kind | 0o600, device)
        else:
            content = archive.extractfile(member)
            assert content
            Path(path).write_bytes(content.read())
        self._attributes(member, path)

    def _link(self, target: str, path: str) -> None:
        if self._has("hard links are the host's") and target.startswith("/"):
            os.link(target, path)
            return
        directory, leaf = self._place(target.lstrip("/"))
        source = os.path.join(directory, leaf)
        if self._has("hard links are copies") and not os.path.islink(source):
            Path(path).write_bytes(Path(source).read_bytes())
        else:
            os.link(source, path, follow_symlinks=False)

    def _attributes(self, member: tarfile.TarInfo, path: str) -> None:
        owner = (member.uid, member.gid)
        if self._has("owners by name") and member.uname == "root":
            owner = (0, 0)
        if not self._has("no owners"):
            os.chown(path, *owner, follow_symlinks=False)
        if not member.issym():
            os.chmod(path, member.mode & (0o777 if self._has("no special bits") else 0o7777))
        for key, value in member.pax_headers.items():
            if key.startswith("SCHILY.xattr.") and not self._has("no xattrs"):
                os.setxattr(path, key[len("SCHILY.xattr.") :], value.encode("utf-8", "surrogateescape"))
        if not self._has("no times"):
            os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)
            if member.isdir():
                self._times.append((path, int(member.mtime)))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        for one in os.listdir(path):
            _remove(os.path.join(path, one))
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


def raw_zstd(data: bytes) -> bytes:
    """A frame of one segment with raw blocks, as the suite writes them."""
    (size,) = struct.unpack("<I", data[5:9])
    at, out = 9, b""
    while len(out) < size:
        block = int.from_bytes(data[at : at + 3], "little") >> 3
        out += data[at + 3 : at + 3 + block]
        at += 3 + block
    return out


def _archive(entries: list[tuple[str, bytes, dict[str, Any]]]) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data, values in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in values.items():
                setattr(info, key, value)
            archive.addfile(info, BytesIO(data))
    return out.getvalue()


def family(ident: str) -> str:
    """Conversions, layers, hostile layers, builds."""
    return "ESCAPE" if "LAYER-050" <= ident < "LAYER-999" else ident.partition("-")[0]


def _events(fault: str, place: Path) -> Iterator[dict[str, Any]]:
    """What labkit-images would print of it; of a fault, only for the checks of those kinds that have to catch it."""
    converter = Small(Place(place / "data", place / "run", "runc"), fault)
    kinds = {family(ident) for ident in FAULTS[fault]} if fault else {"CONV", "LAYER", "ESCAPE", "BUILD"}
    some = [case for case in cases.CASES if kinds & {family(ident) for ident in case.checks}]
    builds = ["build"] if "BUILD" in kinds else []
    yield {"type": "plan", "facts": {"engine": "small"}, "cases": [one.name for one in some], "builds": builds}
    for case in some:
        yield {"type": "case", "case": case.name, **cli.noted(converter.place, cli.converted(converter, case))}
    for _ in builds:
        yield {"type": "build", **cli.noted(converter.place, cli.built(converter))}
    yield {"type": "finish"}


def main() -> None:
    """Print the events of every converter, with its fault in each."""
    top = DATA / "converters"  # on the same file system as what hostile images aim at: hard links reach no other
    for number, fault in enumerate(sys.argv[1:] or ["", *FAULTS]):
        place = top / str(number)
        place.mkdir(parents=True)
        for event in _events(fault, place):
            sys.stdout.write(json.dumps({"fault": fault, **event}) + "\n")


if __name__ == "__main__":
    main()
