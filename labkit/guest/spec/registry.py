"""The requirements table and the checks registered for its rows."""

from __future__ import annotations

import csv
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    from .context import SuiteRun, T


@dataclass(frozen=True)
class Requirement:
    """One row of requirements.tsv: a requirement of the runtime-spec.

    level: as RFC 2119 writes it. implied: where the text at reference has no such keyword, what implies it; else "".
    """

    id: str
    level: str
    reference: str
    summary: str
    implied: str


@dataclass(frozen=True)
class Check:
    """timeout: in seconds. exclusive: runs alone. group, maker, together: of a check that can share a container, which
    those of its group then do by together, see parts.py and stages.py.
    """

    requirement: Requirement
    function: Callable[[T], None]
    timeout: float
    exclusive: bool
    group: str = ""
    maker: Optional[Callable[..., Any]] = None
    together: Optional[Together] = None


Perform = Callable[[Check, "T", "Callable[[T], None]"], "dict[str, Any]"]
Together = Callable[["T", Sequence[Check], "SuiteRun", Perform], "dict[str, Any]"]


PACKAGE = __name__.rpartition(".")[0]  # in a zipapp Python 3.9 sets __package__ only after the import


def _table() -> dict[str, Requirement]:
    text = (pkgutil.get_data(PACKAGE, "requirements.tsv") or b"").decode()
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    found = (Requirement(*(row[key] for key in ("id", "level", "section", "summary", "implied"))) for row in rows)
    return {requirement.id: requirement for requirement in found}


REQUIREMENTS = _table()
_checks: dict[str, Check] = {}


def check(
    id: str, *, timeout: float = 60, exclusive: bool = False
) -> Callable[[Callable[[T], None]], Callable[[T], None]]:
    """Register the check of requirement `id`.

    timeout: seconds until it is killed (generous: guests are emulated). exclusive: nothing else runs beside it.
    """

    def register(function: Callable[[T], None]) -> Callable[[T], None]:
        add(Check(REQUIREMENTS[id], function, timeout, exclusive))
        return function

    return register


def add(one: Check) -> None:
    if one.requirement.id in _checks:
        raise ValueError(f"two checks for {one.requirement.id}")
    _checks[one.requirement.id] = one


def load() -> dict[str, Check]:
    """Import every module of checks/ and return the checks in the order of the table."""
    checks = importlib.import_module(".checks", PACKAGE)
    for module in pkgutil.iter_modules(checks.__path__):
        importlib.import_module(f"{checks.__name__}.{module.name}")
    return {id: _checks[id] for id in REQUIREMENTS if id in _checks}
