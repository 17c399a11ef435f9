"""summary.tsv: how each program ended, as labkit writes it and as the harnesses of others do."""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
import signal as signals
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labkit.core.errors import UsageError
from labkit.core.text import count, some, truncate
from labkit.results import tap
from labkit.results.verdicts import End

FILE = "summary.tsv"
COLUMNS = ("program", "exit_status", "seconds", "signal", "timeout", "attempt", "left")
PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")  # what others ran: a fork has what names it likes


@dataclass(frozen=True, slots=True)
class Summary:
    """How each program and attempt ended. told: what was put right; lacks: columns that are not there."""

    ends: Mapping[tuple[str, int], End]
    told: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


_NEEDED = COLUMNS[:3]
_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def read(path: Path, data: bytes, *, own: bool) -> Summary:
    """What the data of the file at path says. own: labkit wrote it, and nothing in it stands for something else.

    UsageError names file and line.
    """
    notes = _Notes()
    for bom, encoding in _BOMS.items():
        if data.startswith(bom):
            notes.once.append(f"it begins with a byte order mark ({encoding.upper()}), which was left out")
            data = data[len(bom) :].decode(encoding, "replace").encode()
            break
    *lines, last = data.decode("utf-8", "replace").split("\n")
    if not own:
        lines.append(last)  # in a run, what has no line end was cut off while it was written
    header, separator, start = _header(path, (lines or [last])[0].rstrip("\r"), notes)
    ends: dict[tuple[str, int], End] = {}
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip():
            continue
        try:
            cells = _cells(line.rstrip("\r"), separator, header)
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} columns, must be {len(header)}")
            name, attempt, end = row(dict(zip(header, cells, strict=True)), None if own else notes)
            if (name, attempt) in ends:
                raise ValueError(f"a second line for {name}")
        except ValueError as error:
            raise UsageError(f"{path}:{number}: {error}") from error
        ends[name, attempt] = end
    return Summary(ends, notes.told(), tuple(column for column in _NEEDED if column not in header))


def row(cells: Mapping[str, str], notes: _Notes | None = None) -> tuple[str, int, End]:
    """One line of summary.tsv. ValueError says what is wrong with it. With notes it is not labkit's: they get what was
    taken for something else.
    """

    def number(key: str, most: int) -> int | None:
        return _number(key, cells.get(key, ""), most)

    name = cells["program"]
    if notes:
        name = re.sub(r"^.*/(?=[^/.])|\.t$", "", name)
    if not PROGRAM.fullmatch(name):
        raise ValueError(f"program is {truncate(name, 100)!r}, must consist of letters, digits, _ and -")
    left = tap.parse_json(cells["left"]) if cells.get("left") else []
    status, signal = cells.get("exit_status", ""), number("signal", 128)
    if notes:
        status = re.sub(r"(?<=[0-9])\.0$", "", status.strip())  # a table of numbers that went through pandas
    if notes and signal is None and (signal := _signal(status)):
        notes.signals.append(f"{name} {status}: {_signal_name(signal)}")
        status = ""
    end = End(
        status=_number("exit_status", status, 255),
        signal=signal,
        timeout=bool(number("timeout", 1)),
        seconds=_seconds(cells.get("seconds", ""), notes),
        left=tuple(str(text) for text in left) if isinstance(left, list) else (),
        unknown="exit_status" not in cells,
    )
    return name, number("attempt", 9999) or 1, end


def _number(key: str, text: str, most: int) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
        raise ValueError(f"{key} is {truncate(text, 100)!r}, must be a number up to {most}")
    return int(text)


@dataclass(slots=True)
class _Notes:
    """What is to be told of a summary: each line of once, and things of the same kind together."""

    once: list[str] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)
    commas: int = 0
    untimed: int = 0

    def told(self) -> tuple[str, ...]:
        lines = list(self.once)
        if self.signals:
            lines.append(f"exit statuses that stand for a signal: {some(self.signals)}")
        if self.commas:
            lines.append(f"the comma in {count(self.commas, 'duration')} was read as a decimal point")
        if self.untimed:
            lines.append(f"{count(self.untimed, 'program')} without a duration")
        return tuple(f"{FILE}: {line}" for line in lines)


def _header(path: Path, line: str, notes: _Notes) -> tuple[list[str], str, int]:
    """The columns, what separates them, and the number of lines before the first row."""
    for separator, word in _SEPARATORS.items():
        header = [cell.strip().strip('"').casefold() for cell in line.split(separator)]
        if {"program", "exit_status"} <= set(header) or {"program", "seconds"} <= set(header):
            if len(set(header)) != len(header):
                break
            if separator != "\t":
                notes.once.append(f"its columns are separated by {word}")
            return header, separator, 1
    for separator in _SEPARATORS:
        cells = line.split(separator)
        if 2 <= len(cells) <= 3 and PROGRAM.fullmatch(cells[0]) and re.fullmatch(r"-?[0-9]{1,3}", cells[1].strip()):
            columns = list(_NEEDED[: len(cells)])
            notes.once.append(f"it has no header; its columns were taken for {', '.join(columns)}")
            return columns, separator, 0
    raise UsageError(
        f"{path}:1: the columns must be program, exit_status and seconds, separated by tabs",
        hint="the file has one line per program: its name, its exit status, its duration in seconds",
    )


def _cells(line: str, separator: str, header: Sequence[str]) -> list[str]:
    if separator == "\t":
        return line.split(separator)
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
    if separator == "," and len(cells) == len(header) + 1 and header[-1] == "seconds":
        cells[-2:] = [",".join(cells[-2:])]  # a decimal comma
    return cells


def _signal(status: str) -> int | None:
    """The signal that an exit status stands for: -9 as Python has it, 137 as a shell has it, SIGKILL."""
    if re.fullmatch(r"SIG[A-Z0-9]{2,10}", status) and status in signals.Signals.__members__:
        return int(signals.Signals[status])
    if not re.fullmatch(r"-?[0-9]{1,3}", status):
        return None
    number = -int(status) if status.startswith("-") else int(status) - 128
    return number if 1 <= number <= 64 else None


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f"killed by {signals.Signals(number).name}"
    return f"killed by signal {number}"


def _seconds(text: str, notes: _Notes | None) -> float:
    if notes and not text.strip():
        notes.untimed += 1
        return 0.0
    pattern = r"[0-9]{1,9}([.,][0-9]{1,20})?([eE][-+]?[0-9]{1,2})?\s?s?" if notes else r"[0-9]{1,9}(\.[0-9]{1,9})?"
    if not re.fullmatch(pattern, text):
        raise ValueError(f"seconds is {truncate(text, 100)!r}, must be a number")
    if notes and "," in text:
        notes.commas += 1
    return min(float(text.replace(",", ".").rstrip("s ")), 1e9)
