"""What the command lines have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from .errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def number(most: int) -> Callable[[str], int]:
    """An argument's type: a whole number from 1 to most."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
        return int(text)

    return parse


def selected(only: Sequence[str], known: Collection[str], kind: str) -> list[str]:
    """The names in the values of --only, each a comma-separated list, without duplicates.

    kind: what they name, for the UsageError when there are none or one is not known.
    """
    wanted = [name.strip() for names in only for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError(f"--only names no {kind}")
    for name in wanted:
        if name not in known:
            near = sorted(known, key=lambda other: _distance(name, other))[:3]
            raise UsageError(f"unknown {kind} {name!r}; did you mean {', '.join(near)}? --list shows all")
    return list(dict.fromkeys(wanted))


def split_words(text: str) -> list[str]:
    """The words of a command line as a shell splits it, with its quotes; python3-minimal has no shlex.

    Raises ValueError where a quote is not closed.
    """
    words = []
    end = 0
    for match in _WORD.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        pieces = (_unquoted(piece) for piece in _PIECE.findall(match[1]))
        words += ["".join(pieces)] if match[1] else []
    if end != len(text):
        raise ValueError("a quote that is not closed, or a backslash with nothing behind it")
    return words


_PIECE = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\]+""", re.DOTALL)
_WORD = re.compile(rf"\s*((?:{_PIECE.pattern})*)(?=\s|\Z)", re.DOTALL)


def _unquoted(piece: str) -> str:
    if piece[0] == "'":
        return piece[1:-1]
    if piece[0] == '"':
        return re.sub(r'\\([$`"\\])', r"\1", piece[1:-1])
    return piece[1:] if piece[0] == "\\" else piece


def quoted_words(words: Sequence[str]) -> str:
    """The command line that split_words splits into these."""
    return " ".join(
        word if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII) else "'" + word.replace("'", "'\"'\"'") + "'"
        for word in words
    )


def _distance(a: str, b: str) -> int:
    """Edit distance; python3-minimal has no difflib."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
