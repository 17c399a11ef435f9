"""What the command lines have in common."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn, Optional

from .errors import UsageError
from .names import chosen, is_pattern, near, words_of


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


def selected(
    known: Collection[str], kind: str, only: Optional[Sequence[str]] = None, skip: Sequence[str] = ()
) -> list[str]:
    """The known names that the values of --only name (all where it is None) and the words to skip do not.

    kind: what they name, for the UsageError where nothing is left, or a word of --only means none of them.
    """
    found = list(known)
    if only is not None:
        words = words_of(only)
        found, none = chosen(words, known)
        for word in none:
            what = f"no {kind} matches" if is_pattern(word) else f"unknown {kind}"
            raise UsageError(f"{what} {word!r}; did you mean {', '.join(near(word, known))}? --list shows all")
        if not words:
            raise UsageError(f"--only names no {kind}")
    left_out = set(chosen(skip, known)[0])
    found = [name for name in found if name not in left_out]
    if not found:
        raise UsageError(f"what is left out leaves no {kind} to run")
    return found


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
