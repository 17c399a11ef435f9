"""How people name checks and programs: one grammar for every --only and --skip, in the machine and outside."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from .errors import UsageError

_MOST = 1 << 20  # bytes of a list of names


def words_of(texts: Iterable[str]) -> list[str]:
    """The words of values that may hold several, separated by commas, without those that are empty."""
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def is_pattern(word: str) -> bool:
    return any(character in word for character in "*?[")


def chosen(words: Iterable[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """The known names that the words stand for, in the order of the words; and the words that stand for none.

    A word is a name in upper or lower case, a pattern with *, ? and [...] as a shell has them, or the path of a program
    as runtime-tools' tree has it: validation/delete/delete.t, delete/delete.t, validation/linux_*/*.t.
    """
    found: list[str] = []
    none: list[str] = []
    for word in words:
        names = [word] if word in known else [name for name in known if _means(word, name)]
        found += names
        none += [] if names else [word]
    return list(dict.fromkeys(found)), none


def _means(word: str, name: str) -> bool:
    folded, name = word.casefold(), name.casefold()
    if fnmatchcase(name, folded):
        return True
    path = re.sub(r"^(.*/)?validation/", "", re.sub(r"\.(t|go|tap)$", "", folded.rstrip("/")))
    *directory, last = [part for part in path.split("/") if part not in ("", ".")] or [""]
    if not directory or not is_pattern(last):
        return fnmatchcase(name, last)  # whatever directory a single program lies in
    return fnmatchcase(f"{name}/{name}", f"{directory[-1]}/{last}")


def near(word: str, known: Iterable[str]) -> list[str]:
    """The three known names that are most like the word, the nearest first."""
    bare = re.sub(r"[*?\[\]]", "", word.rstrip("/").rpartition("/")[2]).casefold()
    return sorted(known, key=lambda name: _distance(bare, name.casefold()))[:3]


def read_list(path: str) -> list[str]:
    """The names and patterns in a file: one a line, # begins a comment. Raises UsageError where it cannot be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read(_MOST + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    if len(data) > _MOST or "\0" in text:
        raise UsageError(f"{path}: is no list of names, one a line")
    words = words_of(re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    if not words:
        raise UsageError(f"{path}: names nothing")
    return words


def _distance(a: str, b: str) -> int:
    """Edit distance; python3-minimal has no difflib."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
