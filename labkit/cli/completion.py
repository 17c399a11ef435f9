"""Completion of the command line in bash, zsh and fish: the scripts, and the words that they ask for.

A script runs `lab --complete -- WORDS`, WORDS being the line as far as the cursor, the program first and the word to
complete last, empty where a new one begins. The answer is a line for each candidate, with a tab and a description where
there is one. A last line `:files` or `:directories` stands for what the shell itself would complete.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from labkit.cli.flags import CORE_FLAGS, FLAGS, Command, Flag, either, spelt
from labkit.cli.values import DIRECTORIES, FILES, TASK
from labkit.core import resources
from labkit.core.errors import UsageError

_SAFE = re.compile(r"[\w.,:=@%/+~-]+(\t|$)")  # what no shell gives a meaning: some names come from machines
_SHELLS = CORE_FLAGS["print_completion_script"].choices


def script(shell: str) -> str:
    """The script for the shell, which calls what was typed or, where the shell knows no such program, this labkit."""
    if shell not in _SHELLS:
        raise UsageError(f"--print-completion-script is {shell!r}, must be {either(_SHELLS)}")
    launcher = resources.root() / "lab"
    argv = [str(launcher)] if launcher.is_file() else [sys.executable, "-I", "-m", "labkit"]
    text = (Path(__file__).parent / f"completion.{shell}").read_text()
    return text.replace("@LABKIT@", shlex.join(argv))


def answer(words: list[str], commands: Callable[[], Mapping[str, Command]]) -> None:
    """Print the candidates for the last of the words. Says nothing where anything goes wrong: somebody is typing."""
    with contextlib.suppress(Exception):
        known = commands()
        for line in complete(words[2:] if words[:1] == ["--"] else words[1:], known):
            if _SAFE.match(line):
                print(line)


def complete(words: list[str], commands: Mapping[str, Command]) -> Iterator[str]:
    """The candidates for the last of the words, which follow the name of the program."""
    *before, word = words or [""]
    if "--" in before:
        return
    line = _Line(commands)
    for earlier in before:
        line.take(earlier)
    name, equals, value = word.partition("=")
    if line.open is not None:
        yield from _values(line.open, word, line.given)
    elif word.startswith("--") and equals and (flag := line.flag(name)):
        yield from (f"{name}={found}" if found[:1] != ":" else found for found in _values(flag[1], value, line.given))
    elif line.missing and not word.startswith("-"):
        yield from _values(FLAGS[line.missing[0]], word, line.given)
    elif line.command and line.command.rest and not word.startswith("-"):
        yield from _values(FLAGS[line.command.rest], word, line.given)
    elif line.command is None and not word.startswith("-"):
        yield from _begun(word, ((name, row.summary) for name, row in commands.items()))
    else:
        rows = {spelt(flag): row for flag, row in line.flags.items() if row.repeats or flag not in line.given}
        yield from _begun(word, ((name, row.help) for name, row in rows.items()))


class _Line:
    """What stands before the word to complete: the last task and what it is given; open is a flag without its value."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self.command: Command | None = None
        self.missing: list[str] = []
        self.given: dict[str, str] = {}
        self.open: Flag | None = None
        self._open_name = ""

    @property
    def flags(self) -> dict[str, Flag]:
        if self.command is None:
            return dict(CORE_FLAGS)
        return {**{flag: FLAGS[flag] for flag in self.command.flags}, "help": CORE_FLAGS["help"]}

    def flag(self, typed: str) -> tuple[str, Flag] | None:
        return next(((name, row) for name, row in self.flags.items() if typed == spelt(name)), None)

    def take(self, word: str) -> None:
        name, equals, value = word.partition("=")
        if self.open:
            self.given[self._open_name], self.open = word, None
        elif word.startswith("-"):
            if found := self.flag(name):
                self._open_name, row = found
                self.given[self._open_name] = value
                if row.metavar and not row.optional_value and not equals:
                    self.open = row
        elif self.missing:
            self.given[self.missing.pop(0)] = word
        elif self.command and self.command.rest:
            self.given.setdefault(self.command.rest, word)
        elif word in self._commands:
            self.command = self._commands[word]
            self.missing, self.given = list(self.command.words), {TASK: word}


def _values(row: Flag, word: str, given: Mapping[str, str]) -> Iterator[str]:
    # In ID,ID the last one is completed, and the shell is given the whole word.
    head = word[: word.rfind(",") + 1] if row.repeats else ""
    found = row.values if isinstance(row.values, tuple) else row.values(given)
    plain: list[tuple[str, str]] = []
    for value in found:
        if value in (FILES, DIRECTORIES):
            yield from _begun(word, plain)
            yield value
            return
        if value not in head.split(","):
            plain.append((head + value, ""))
    yield from _begun(word, plain)


def _begun(word: str, candidates: Iterable[tuple[str, str]]) -> Iterator[str]:
    return (f"{name}\t{text}" if text else name for name, text in candidates if name.startswith(word))
