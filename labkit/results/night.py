"""A night as a value: the cells of a matrix, run once, and what changed since the night before.

night.json (schema 1) is the same as JSON; keys that this labkit does not know are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from labkit.core import tomlfile
from labkit.core.errors import UsageError
from labkit.core.tomlfile import Table
from labkit.results.model import WHOLE

SCHEMA = 1
Identity = tuple[str, str, str]  # program, name or id, reference: labkit.results.model.Result.identity


class _Part(Table):
    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class Attempt(_Part):
    """outcome "lost": the host or its worker went away."""

    number: int = 1
    host: str = "local"
    started: AwareDatetime | None = None
    seconds: float = 0.0
    outcome: Literal["done", "lab-error", "lost", "timeout"] = "done"
    error: str | None = None


class NightCell(_Part):
    """cell is its key: debian-13/uml/runc/spec. run is the id of its run, status that run's exit status; error is why
    there is none.
    """

    cell: str
    state: Literal["done", "lab-error", "quarantined", "not-run"]
    run: str | None = None
    status: int | None = None
    seconds: float = 0.0
    error: str | None = None
    attempts: tuple[Attempt, ...] = ()


class Changed(_Part):
    """A check in the cells that show the same of it. repeats: bad again when it was run alone; reference_fails: bad of
    other runtimes in the same place too; None where that was not tried. since is the night it began in, lab what was
    new in the lab then. alike: its words, without what differs from others of the same cause (results.causes).
    """

    identity: Identity
    what: str = ""
    cells: tuple[str, ...] = ()
    repeats: bool | None = None
    reference_fails: bool | None = None
    since: str | None = None
    lab: tuple[str, ...] = ()
    alike: str = ""

    @property
    def name(self) -> str:
        """What people call it: the id of a check, or the program and its assertion."""
        program, name, _ = self.identity
        return f"{program}: {name}" if program and name != WHOLE else program or name

    @property
    def selected(self) -> str:
        """The word for --only."""
        return self.identity[0] or self.identity[1]


class CellError(_Part):
    cell: str
    error: str = ""


class Slower(_Part):
    """Seconds, now and usually; bound is Q3 + 3 x IQR of its history."""

    cell: str
    seconds: float
    usual: float
    bound: float


class Changes(_Part):
    """still_failing is all that fails now and did in the night before; None where a night does not say."""

    new_failures: tuple[Changed, ...] = ()
    still_failing: tuple[Changed, ...] | None = None
    fixed: tuple[Changed, ...] = ()
    flaky: tuple[Changed, ...] = ()
    unexpected_passes: tuple[Changed, ...] = ()
    expired: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()
    lab_errors: tuple[CellError, ...] = ()
    slower: tuple[Slower, ...] = ()


class Mirror(_Part):
    """What the mirror of a release has: a digest of its lists of packages, and when they were signed."""

    digest: str
    date: str = ""


class Night(_Part):
    """lab: what is another thing in the machines than it was, by platform. mirrors: what images were made of, by
    release; refs: the commits that git refs stood for, `runc main` to one.
    """

    version: int = Field(alias="schema")
    id: str
    started: AwareDatetime
    finished: AwareDatetime | None = None
    complete: bool = True
    reason: str | None = None
    labkit: str = ""
    exit_status: int = 0
    cells: tuple[NightCell, ...] = ()
    changes: Changes = Changes()
    lab: dict[str, tuple[str, ...]] = Field(default={})
    mirrors: dict[str, Mirror] = Field(default={})
    refs: dict[str, str] = Field(default={})

    @property
    def ended(self) -> AwareDatetime:
        """When it ended, as far as is known."""
        return self.finished or self.started


def from_json(value: Mapping[str, Any], source: str = "night.json") -> Night:
    """The night that an object says. UsageError where it is none, or of a newer labkit."""
    version = value.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise UsageError(f"{source} has schema {version}, this labkit knows {SCHEMA}", hint="use the newer labkit")
    return tomlfile.check(Night, value, lambda _: source)


def command(cell: str, only: str | None = None) -> list[str] | None:
    """The words that run a cell again, or of it only a check: None where its key does not tell.

    A key is PLATFORM-RELEASE/PROVIDER/RUNTIME/SUITE; a runtime may be a path.
    """
    found = re.fullmatch(
        r"(?P<platform>[^/]+)-(?P<release>[^/-]+)/(?P<provider>[^/]+)/(?P<runtime>.+)/(?P<suite>[^/]+)", cell
    )
    if not found or any(not word.isprintable() for word in (cell, only or "")):
        return None
    words = ["./lab", "test"]
    for flag, value in (*found.groupdict().items(), *([("only", only)] if only else [])):
        words += [f"--{flag}={value}"] if value.startswith("-") else [f"--{flag}", value]
    return words
