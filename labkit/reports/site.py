"""The history as pages for a browser: index.html and one page a cell, from templates/site.html.j2, .css and .js.

A page holds all it shows, compressed, and asks nobody for anything: it opens from a web server or as a file. Text from
runs is in it as data alone, and is shown as text alone; the policy in its head lets nothing but the page's own script
run. Evidence stays in the reports of the runs, to which the pages link by relative paths.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from labkit.core import resources
from labkit.core.errors import HostError
from labkit.core.text import one_line, printable
from labkit.io.files import disk_errors, make_directory, write_atomic
from labkit.results.attribution import Blame
from labkit.store import nights as night_files
from labkit.store.history import History, natural
from labkit.store.past import Grid, Ran, flaky_in
from labkit.store.spans import FLAKY, UNEXPECTED, value_of

PLACE = "site"
INDEX = "index.html"
_CELLS = "cells"
_NEWEST = 730  # runs of a cell, and columns of the overview, that are shown: two years of nights
_NIGHTS = 60  # nights of which the overview tells what changed
_CHANGES = 60  # checks of a kind that it names for a night
_FLAKY = 30
_LONGEST = 200  # characters of a text; the reports have all of it
_CUT = 64  # beside a value: the run is incomplete
_STATES = {"lab-error": 128, "quarantined": 129, "not-run": 130}

# By value; see labkit.store.spans.
_IS_UNEXPECTED = bytes(value < len(UNEXPECTED) and UNEXPECTED[value] for value in range(256))
_IS_FLAKY = bytes(value < len(FLAKY) and FLAKY[value] for value in range(256))
_IS_THERE = bytes([0]) + bytes([255]) * 255


@dataclass
class _Changes:
    """What changed in a night: identity to the numbers of the cells that show it."""

    new: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    fixed: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    flaky: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))


class _Tests:
    """The checks that the overview names, each once, by number."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str, str], int] = {}
        self.rows: list[list[str]] = []

    def number(self, identity: tuple[str, str, str], title: str) -> int:
        if identity not in self._numbers:
            program, name, reference = map(_shown, identity)
            self._numbers[identity] = len(self.rows)
            self.rows.append([f"{program}: {name}" if program else name, _shown(title) or reference])
        return self._numbers[identity]

    def known(self, identity: tuple[str, str, str]) -> int | None:
        return self._numbers.get(identity)


def write(history: History, reports: Path, out: Path, made: datetime) -> Path:
    """Write the pages into the directory out, which is made where missing; return the first of them.

    reports is where the runs are, made the time that the pages name. HostError where out cannot be written.
    """
    with disk_errors(out):
        make_directory(out)
        if make_directory(out / _CELLS).is_symlink():  # whose directory that is somebody else may have chosen
            raise HostError(f"{out / _CELLS} is a link", hint="remove it: the pages of cells go there")
        nights = history.nights()
        columns = _columns(history, reports, out)
        places = {name: number for number, (name, _, _) in enumerate(columns)}
        told = {night.name: _Changes() for night in nights[-_NIGHTS:]}
        tests = _Tests()
        cells, flaky = [], []
        for number, key in enumerate(history.cells()):
            grid = history.grid(key)
            cells.append(_row(history, grid, places, nights, _href(key)))
            _note(grid, number, told, tests)
            flaky += [(number, one) for one in flaky_in(grid)]
            _write(out / _CELLS / _page(key), key, _cell(history, grid, _relative(reports, out / _CELLS), made))
        flaky.sort(key=lambda pair: -(pair[1].flips + pair[1].flaky) / pair[1].runs)
        overview = {
            "kind": "overview",
            "made": int(made.timestamp()),
            "reports": _relative(reports, out),
            "counts": {"nights": len(nights), "runs": len(history.runs())},
            "columns": columns,
            "cells": cells,
            "nights": {name: _night(reports, name, found, tests) for name, found in told.items()},
            "links": {
                night.name: f"{_relative(reports, out)}{night_files.DIRECTORY}/{quote(night.name, safe='')}/{INDEX}"
                for night in nights
                if (reports / night_files.DIRECTORY / night.name / INDEX).is_file()
            },
            "flaky": [
                [number, tests.number(one.identity, one.title), one.flips, one.flaky, one.runs]
                for number, one in flaky[:_FLAKY]
            ],
            "tests": tests.rows,
        }
        _write(out / INDEX, "History", overview)
    return out / INDEX


def _columns(history: History, reports: Path, out: Path) -> list[list[Any]]:
    """The columns of the overview: name, time and 1 for each night, and for each day with runs that no night made
    (0), in their order.
    """
    found: dict[str, tuple[float, int]] = {}
    for ran in history.runs():
        name = ran.night or f"{ran.started:%Y-%m-%d}"
        at = min(ran.started.timestamp(), found[name][0] if name in found else float("inf"))
        found[name] = (at, int(bool(ran.night)))
    latest = 0.0
    for night in history.nights():  # in their own order, whatever the clock said
        latest = max(latest, night.started.timestamp())
        found[night.name] = (latest, 1)
    rows = sorted(found.items(), key=lambda item: (item[1][0], natural(item[0])))
    return [[name, int(at), night] for name, (at, night) in rows[-_NEWEST:]]


def _row(history: History, grid: Grid, places: Mapping[str, int], nights: Sequence[Any], page: str) -> dict[str, Any]:
    """A cell in the overview."""
    width = len(places)
    values, bad = [0] * width, [0] * width
    runs: list[list[Any] | None] = [None] * width
    for night in nights:
        at = places.get(night.name)
        state = night.states.get(grid.cell)
        if at is not None and state in _STATES:
            values[at] = _STATES[state]
    for ran in grid.runs:
        at = places.get(ran.night or f"{ran.started:%Y-%m-%d}")
        if at is not None:
            values[at] = value_of(ran.worst) | (0 if ran.complete else _CUT)
            bad[at] = ran.unexpected
            runs[at] = [ran.name, int(not ran.gone)]
    durations = history.durations(grid.cell)
    newest = durations.runs[-1].seconds if durations.runs else None
    return {
        "key": _shown(grid.cell), "page": page, "values": values, "bad": bad, "runs": runs, "last": _round(newest),
        "usual": _round(durations.usual), "bound": _round(durations.bound), "slow": int(durations.slower),
    }  # fmt: skip


def _note(grid: Grid, number: int, told: Mapping[str, _Changes], tests: _Tests) -> None:
    """Note what changed in a cell in each of the nights that are told of, as History.newly_failing() and fixed() see
    it: against the nights before.
    """
    failed = 0  # a byte for each check: 1 where it failed against the policy when a night ran it last
    for ran, column in zip(grid.runs, grid.columns, strict=True):
        if not ran.night:
            continue
        now, there, flaky = (_number(column.translate(table)) for table in (_IS_UNEXPECTED, _IS_THERE, _IS_FLAKY))
        if changes := told.get(ran.night):
            kinds = (changes.new, now & ~failed), (changes.fixed, failed & there & ~now), (changes.flaky, flaky)
            for found, bits in kinds:
                for test in _set(bits, len(column)):
                    cells = found[tests.number(*grid.tests[test])]
                    if number not in cells:
                        cells.append(number)
        failed = (failed & ~there) | now


def _number(column: bytes) -> int:
    return int.from_bytes(column, "little")


def _set(bits: int, size: int) -> Iterator[int]:
    """Which bytes are not 0."""
    if bits:
        yield from (at for at, byte in enumerate(bits.to_bytes(size, "little")) if byte)


def _night(reports: Path, name: str, found: _Changes, tests: _Tests) -> dict[str, Any]:
    """What changed in a night: from the history, and from its own file what the history does not have."""
    document: Any = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        document = json.loads((reports / night_files.DIRECTORY / name / night_files.FILE).read_bytes())
    document = document if isinstance(document, dict) else {}
    changes = _dict(document.get("changes"))
    notes = {}
    for entry in map(_dict, _list(changes.get("new_failures"))):
        identity = tuple(word for word in _list(entry.get("identity")) if isinstance(word, str))
        known = tests.known(identity) if len(identity) == 3 else None
        if known is not None:
            notes[known] = _note_of(entry)
    kinds = {
        kind: [[test, cells, notes.get(test, "") if kind == "new" else ""] for test, cells in sorted(of.items())]
        for kind, of in (("new", found.new), ("fixed", found.fixed), ("flaky", found.flaky))
    }
    left = sum(max(len(rows) - _CHANGES, 0) for rows in kinds.values())
    lab_errors = [
        f"{_text(entry.get('cell'))}: {_text(entry.get('error'))}"
        for entry in map(_dict, _list(changes.get("lab_errors")))
    ]
    slower = [
        f"{_text(entry.get('cell'))}: {_seconds(entry.get('seconds'))}, usually {_seconds(entry.get('usual'))}"
        for entry in map(_dict, _list(changes.get("slower")))
    ]
    passes = [
        _text(entry)
        or " ".join(filter(None, map(_text, [*_list(_dict(entry).get("identity")), _dict(entry).get("what")])))
        for entry in _list(changes.get("unexpected_passes"))
    ]
    lab = [
        f"{_shown(place)}: {_text(line)}"
        for place, lines in _dict(document.get("lab")).items()
        for line in _list(lines)
    ]
    not_run = [_text(key) for key in _list(changes.get("not_run"))]
    more = {
        "lab errors": lab_errors,
        "not run": not_run,
        "unexpected passes": passes,
        "expired entries of the policy": [_text(line) for line in _list(changes.get("expired"))],
        "slower than usual": slower,
        "changed in the lab": lab,
    }
    return {
        **{kind: rows[:_CHANGES] for kind, rows in kinds.items()},
        "left": left,
        "reason": _text(document.get("reason")),
        "lab_errors": len(lab_errors),
        "not_run": len(not_run),
        "more": [[title, lines[:_CHANGES]] for title, lines in more.items() if lines],
    }


def _note_of(entry: Mapping[str, Any]) -> str:
    repeats = entry.get("repeats")
    said = ["again when run alone" if repeats is True else "not when run alone" if repeats is False else ""]
    fails = entry.get("reference_fails")
    said.append(Blame.TOO if fails is True else Blame.ONLY if fails is False else "")
    since = entry.get("since")
    said.append(f"since night {_text(since)}" if isinstance(since, str) and since else "")
    return ", ".join(filter(None, said))


def _cell(history: History, grid: Grid, reports: str, made: datetime) -> dict[str, Any]:
    """All of a cell's page."""
    durations = history.durations(grid.cell)
    whole = {ran.name for ran in durations.runs}
    runs, columns = grid.runs[-_NEWEST:], grid.columns[-_NEWEST:]
    width = len(grid.tests)
    joined = b"".join(columns)
    changed, same = [], []
    for test in range(width):
        row = joined[test::width]
        values = set(row) - {0}
        if len(values) > 1:
            changed.append((test, row))
        elif values:
            same.append((test, row))

    def order(pair: tuple[int, bytes]) -> tuple[int, Any]:
        """What changed last first, so that the news is above; then by name."""
        known = pair[1].replace(b"\0", b"")
        newest = known[-1:]
        since = len(known.rstrip(newest))
        program, name, reference = grid.tests[pair[0]][0]
        return (-since, (natural(program), natural(name), natural(reference)))

    changed.sort(key=order)
    same.sort(key=order)
    patterns: dict[bytes, int] = {}
    steady = []
    for _, row in same:
        value = max(row)
        pattern = row.translate(_IS_THERE)
        steady.append([value, patterns.setdefault(pattern, len(patterns))])
    facts: dict[str, int] = {}
    listed = [_run(ran, facts, ran.name in whole) for ran in runs]
    return {
        "kind": "cell",
        "key": _shown(grid.cell),
        "made": int(made.timestamp()),
        "reports": reports,
        "counts": {"runs": len(grid.runs)},
        "runs": listed,
        "facts": [json.loads(text) for text in facts],
        "tests": [[*map(_shown, grid.tests[test][0]), _shown(grid.tests[test][1])] for test, _ in (*changed, *same)],
        "rows": [_rolled(row) for _, row in changed],
        "same": steady,
        "patterns": [_rolled(bytes(value and 1 for value in pattern)) for pattern in patterns],
        "usual": _round(durations.usual),
        "bound": _round(durations.bound),
    }


def _run(ran: Ran, facts: dict[str, int], whole: bool) -> list[Any]:
    text = json.dumps({_shown(key): _shown(value) for key, value in ran.facts.items()})
    return [
        ran.name, _shown(ran.night), int(ran.started.timestamp()), _round(ran.seconds), ran.status,
        facts.setdefault(text, len(facts)), ran.unexpected, ran.results, int(not ran.gone), int(not ran.complete),
        int(whole),
    ]  # fmt: skip


def _rolled(row: Iterable[int]) -> list[int]:
    """Run lengths: how often, what, how often, what, ..."""
    return [number for value, group in groupby(row) for number in (sum(1 for _ in group), value)]


def _write(path: Path, title: str, data: Mapping[str, Any]) -> None:
    packed = zlib.compress(json.dumps(data, separators=(",", ":"), allow_nan=False).encode(), 9)
    write_atomic(path, _filled(printable(title), base64.b64encode(packed).decode()), durable=False)


def _filled(title: str, payload: str) -> str:
    templates = resources.root() / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates), autoescape=True, undefined=jinja2.StrictUndefined
    )
    style = "".join((templates / name).read_text("utf-8") for name in ("report.css", "site.css"))
    script = (templates / "site.js").read_text("utf-8")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return environment.get_template("site.html.j2").render(
        title=title, style=Markup(style), script=Markup(script), policy=policy, payload=payload
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _page(key: str) -> str:
    """The name of a cell's page: what of the key a file's name may have, and a digest, so that no two are one."""
    word = re.sub(r"[^A-Za-z0-9.-]+", "_", key).strip("._")[:80]
    return f"{word}-{hashlib.sha256(key.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}.html"


def _href(key: str) -> str:
    return f"{_CELLS}/{quote(_page(key))}"


def _relative(reports: Path, place: Path) -> str:
    """The way from the directory of a page to the reports, as a link has it."""
    return quote(os.path.relpath(reports.resolve(), place.resolve())) + "/"


def _shown(text: str) -> str:
    return one_line(text, _LONGEST)


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


# What others have written into night.json may be anything.


def _text(value: Any) -> str:
    return _shown(value) if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _seconds(value: Any) -> str:
    return f"{value:.1f} s" if isinstance(value, int | float) and not isinstance(value, bool) else "?"
