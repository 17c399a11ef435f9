"""Where a tool comes from, as a setting: `runc = "release:1.3.0"`. Pure: nothing here reads a file.

    auto               the default of the platform and of labkit/provision/bootstrap.toml
    package            the distribution's package
    release:VERSION    an upstream release
    URL.git, URL#REF   a git repository, at REF or else at its HEAD
    URL                a file on the web: an archive, or the program itself
    PATH, PATH#REF     the same on this host: git repository or bundle, directory, archive, program

The form of git addresses is that of docker's build contexts.
"""

from __future__ import annotations

import enum
import re
import urllib.parse
from dataclasses import dataclass


class SourceKind(enum.StrEnum):
    AUTO = "auto"
    PACKAGE = "package"
    RELEASE = "release"
    FILE = "file"
    GIT = "git"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Source:
    """where is a version, an address or a path; ref a git ref, empty for HEAD."""

    kind: SourceKind
    where: str = ""
    ref: str = ""

    def __str__(self) -> str:
        ref = f"#{self.ref}" if self.ref else ""
        return {
            SourceKind.AUTO: "auto",
            SourceKind.PACKAGE: "package",
            SourceKind.RELEASE: f"release:{self.where}",
        }.get(self.kind, f"{self.where}{ref}")


FORMS = "auto, package, release:VERSION, an http(s) address (URL#REF for git) or a path with a / in it (PATH#REF)"
# No leading dash, no space, nothing that a shell or git would treat as more than a name.
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/@+~^-]{0,199}")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~-]{0,39}")


# What is said of an address that has_user(); the address itself is shown nowhere.
NO_USER = "has a user or a password in its address, which reports and images would show"
NO_USER_HINT = "name it without: git takes them from its credential helper, or from ~/.netrc"


def has_user(text: str) -> bool:
    """Whether text is an address on the web that says who asks: a password, or a token in its place."""
    return re.match(r"https?://[^/?#]*@", text, re.IGNORECASE) is not None


def parse(text: str) -> Source:
    """Return the source that text names; ValueError, completing "KEY ...", where it has none of the forms."""
    if has_user(text):
        raise ValueError(f"{NO_USER}; {NO_USER_HINT}")
    if text in ("auto", "package"):
        return Source(SourceKind(text))
    kind, colon, version = text.partition(":")
    if kind == "release" and colon:
        if not _VERSION.fullmatch(version):
            raise ValueError(f"is {text!r}: {version!r} is not a version, such as 1.3.0")
        return Source(SourceKind.RELEASE, version)
    where, hash_, ref = text.rpartition("#") if "#" in text else (text, "", "")
    if ref and not _REF.fullmatch(ref):
        raise ValueError(f"is {text!r}: {ref!r} is not a git ref")
    if "://" in where:
        if not _is_web(where):
            raise ValueError(f"is {text!r}, must be {FORMS}")
        is_git = bool(hash_) or urllib.parse.urlsplit(where).path.endswith(".git")
        return Source(SourceKind.GIT if is_git else SourceKind.FILE, where, ref)
    if "/" in where and where.isprintable():
        return Source(SourceKind.LOCAL, where, ref)
    raise ValueError(f"is {text!r}, must be {FORMS}")


def _is_web(address: str) -> bool:
    parts = urllib.parse.urlsplit(address)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"[\s\"'\\]|[^!-~]", address)
