"""What to try where a runtime cannot do the least, by its own words; the list is labkit/subjects/hints.toml."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, StrictStr

from labkit.core import tomlfile
from labkit.core.tomlfile import Table

_FILE = Path(__file__).with_suffix(".toml")
_LONGEST = 4000  # characters of a message that are looked at


class _Hint(Table):
    said: StrictStr
    advice: StrictStr = Field(alias="try")


class _File(Table):
    hint: tuple[_Hint, ...]


def find(message: str) -> str:
    """The advice of the first entry that the message matches, "" where none does."""
    known = tomlfile.check(_File, tomlfile.read(_FILE), lambda _: str(_FILE)).hint
    return next((one.advice for one in known if re.search(one.said, message[:_LONGEST])), "")
