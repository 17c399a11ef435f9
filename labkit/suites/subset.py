"""Which checks or programs of a suite are meant, by the words of --only and --skip (labkit/guest/common/names.py)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.guest.common import errors, names


@dataclass(frozen=True, slots=True)
class Subset:
    """What of a recording was meant to be there: only these, but none of skip; programs: all that there are, where the
    suite does not know them. Empty: what the suite has.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()

    @property
    def is_subset(self) -> bool:
        return bool(self.only or self.skip)


ALL = Subset()


def read_list(file: Path) -> tuple[str, ...]:
    """The names and patterns in a file, one a line. UsageError where it cannot be read."""
    try:
        return tuple(names.read_list(str(file)))
    except errors.UsageError as error:
        raise UsageError(str(error), hint="one name or pattern a line; # begins a comment") from error


def of(
    suite: str, kind: str, meant: Subset | Selection, there: Collection[str], others: Collection[str] = ()
) -> list[str]:
    """The names that are meant, of those that are there; others are names that are none there, but could be: one that
    --only asks for by itself is meant, too.

    UsageError where a word means nothing of both, or nothing is left; kind: what they are names of.
    """
    every = [*there, *(name for name in others if name not in there)]
    for word in names.chosen((*meant.only, *meant.skip), every)[1]:
        what = f"no {kind} that matches" if names.is_pattern(word) else f"no {kind}"
        like = " or ".join(map(repr, names.near(word, every)))
        raise UsageError(
            f"the {suite} suite has {what} {word!r}" + (f"; did you mean {like}?" if like else ""),
            hint=f"known: {', '.join(_listed(every))}",
        )
    found: list[str] = list(there)
    if meant.only:
        found = []
        for word in meant.only:
            found += names.chosen([word], there)[0] or names.chosen([word], every)[0]
    left_out = set(names.chosen(meant.skip, every)[0])
    found = [name for name in dict.fromkeys(found) if name not in left_out]
    if not found and every:
        raise UsageError(f"what is left out leaves nothing of the {suite} suite")
    return found


def _listed(every: Collection[str]) -> list[str]:
    """The names; of very many the patterns that mean all that begin alike."""
    if len(every) > 100:
        every = {re.sub("(?<=[-:]).*", "*", name) for name in every}
    return sorted(every)[:100]


def settled(meant: Selection, known: Sequence[str]) -> tuple[str, ...]:
    """The words of --only with names in place of their other spellings; patterns stay, for who knows what is there."""
    words: Iterable[list[str]] = (
        [word] if names.is_pattern(word) else names.chosen([word], known)[0] or [word] for word in meant.only
    )
    return tuple(dict.fromkeys(name for some in words for name in some))


def is_open(selection: Selection) -> bool:
    """Whether what is meant depends on what is there."""
    return not selection.only or bool(selection.skip) or any(map(names.is_pattern, selection.only))
