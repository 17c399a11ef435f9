"""What was asked for, against what a machine is: the rows that every provider's machine compares.

Only what somebody gave (a flag, a variable, a key of labkit.toml, a cell) is asked for; a default is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from labkit.core.config import Settings
from labkit.core.platforms import Distro
from labkit.machines.base import Difference
from labkit.subjects.runtimes import split

_HAVE_FLAGS = {"provider", "platform", "release"}


@dataclass(frozen=True, slots=True)
class Row:
    """key is the setting that asks; has is None where the machine's record does not say. word: how a person would ask
    for what the machine is, where that is another word than has.
    """

    key: str
    what: str
    asked: str
    has: str | None
    word: str = ""


def compared(settings: Settings, machine: str, rows: Iterable[Row]) -> list[Difference]:
    """The rows that somebody asked for and the machine of that name is not."""
    found = []
    for row in rows:
        origin = settings.origin(row.key)
        if origin and row.has is not None and row.asked != row.has:
            remedy = f"{anew(machine)}; or {_given_up(row, origin)}"
            found.append(Difference(row.what, row.asked, row.has, by(row.key, origin), remedy))
    return found


def under_test(
    settings: Settings, machine: str, today: Mapping[str, str], made_of: Mapping[str, str], needs: Iterable[str]
) -> Iterator[Difference]:
    """A difference for the runtime and each tool of the suite that the machine has of another source, though nobody
    asks for one any more: what is named now is the default. needs: what the suite asks for.
    """
    for tool in dict.fromkeys((split(settings.runtime)[0], *needs)):
        key = tool.replace("-", "_")
        if key in today and not settings.origin(key) and made_of.get(key, today[key]) != today[key]:
            remedy = f"{anew(machine)}; or ask for it: {key} = ... in labkit.toml"
            yield Difference(key, today[key], made_of[key], "by default", remedy)


def lacking(settings: Settings, machine: str, lacks: Iterable[str], needs: Iterable[str]) -> Iterator[Difference]:
    """A difference for each tool that the machine lacks; needs are those that the suite asks for, not the settings."""
    needs = set(needs)
    for tool in lacks:
        key = tool.replace("-", "_")
        origin = settings.origin(key) or settings.origin("tools")
        who = f"the {settings.suite} suite needs it" if tool in needs or not origin else by(key, origin)
        yield Difference(tool, "installed", "missing", who, anew(machine))


def older(machine: str) -> Difference:
    """What a machine is that another labkit made, though nobody asked for anything else."""
    return Difference("the bootstrap", "this labkit's", "another labkit's", "by default", anew(machine), stops=False)


def system(settings: Settings, distro: Distro, platform: str, release: str) -> Iterator[Row]:
    """The rows of the platform and its release, which a record has."""
    if platform != distro.platform.name:
        key = "platform" if settings.origin("platform") else "release"
        wanted, found = f"{distro.platform.name} {distro.release.name}", f"{platform} {release}"
        yield Row(key, "the platform", wanted, found, f"--platform {platform} --release {release}")
    else:
        yield Row("release", "the release", distro.release.name, release)


def provider(settings: Settings, has: str) -> Iterator[Row]:
    """The row of the provider; a host that is named asks for ssh where the provider is left open."""
    if settings.provider != "auto":
        yield Row("provider", "the provider", settings.provider, has)
    elif settings.ssh.host:
        yield Row("ssh.host", "the provider", "ssh", has, f"--provider {has}")


def anew(machine: str) -> str:
    return f"./lab destroy --machine {machine}, and the same command again, makes it as asked"


def by(key: str, origin: str) -> str:
    """Who asked, as a person finds it: a flag, a variable, or a key in a file."""
    return f"{key} in {origin}" if origin.startswith("/") else origin


def _given_up(row: Row, origin: str) -> str:
    """How to ask for the machine as it is."""
    if row.word:
        return f"say {row.word}"
    if row.key in _HAVE_FLAGS and not origin.startswith("--"):
        return f"say --{row.key} {row.has}"
    if origin.startswith("/"):
        return f"take {row.key} out of {origin}"
    return f"leave {origin} out"
