"""The past of cells and checks as text for a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.cells import cell_len

from labkit.core.text import one_line
from labkit.results.tap import JSON
from labkit.store.past import Durations, Failing, Flaky, Identity, Night, Ran, Span
from labkit.store.spans import Seen

_RUNS = 20  # of a cell, in a terminal
_SPANS = 12  # of a check
_MOST = 40  # of anything else
_WORDS = {0: "as expected", 1: "findings", 4: "incomplete"}


def seen_json(seen: Seen) -> dict[str, JSON]:
    return {"verdict": seen.verdict.value, "expected": seen.expected, "violation": seen.violation}


def run_json(ran: Ran) -> dict[str, JSON]:
    return {
        "run": ran.name,
        "cell": ran.cell,
        "night": ran.night,
        "started": _iso(ran.started),
        "seconds": ran.seconds,
        "complete": ran.complete,
        "exit_status": ran.status,
        "worst": seen_json(ran.worst) if ran.worst else None,
        "results": ran.results,
        "unexpected": ran.unexpected,
        "kernel": ran.facts.get("kernel", ""),
        "runtime": ran.facts.get("runtime", ""),
        "suite": ran.facts.get("suite", ""),
        "gone": ran.gone,
    }


def _at(ran: Ran) -> dict[str, JSON]:
    return {"run": ran.name, "night": ran.night, "started": _iso(ran.started)}


def _check_json(cell: str, identity: Identity, title: str) -> dict[str, JSON]:
    return {"cell": cell, "identity": list(identity), "title": title}


def cell_json(cell: str, runs: Sequence[Ran], durations: Durations, failing: Sequence[Failing]) -> dict[str, JSON]:
    return {
        "cell": cell,
        "runs": [run_json(ran) for ran in runs],
        "usual": durations.usual,
        "bound": durations.bound,
        "slower": durations.slower,
        "failing": [
            {
                **_check_json(one.cell, one.identity, one.title),
                **seen_json(one.seen),
                "since": _at(one.since),
                "streak": one.streak,
            }
            for one in failing
        ],
    }


def check_json(cell: str, identity: Identity, title: str, spans: Sequence[Span], since: Ran) -> dict[str, JSON]:
    return {
        **_check_json(cell, identity, title),
        "since": _at(since),
        "spans": [
            {**seen_json(span.seen), "first": _at(span.first), "last": _at(span.last), "runs": span.runs}
            for span in spans
        ],
    }


def flaky_json(one: Flaky) -> dict[str, JSON]:
    return {
        **_check_json(one.cell, one.identity, one.title),
        "runs": one.runs,
        "flips": one.flips,
        "flaky": one.flaky,
        "last": seen_json(one.last),
        "changed": _at(one.changed),
    }


def night_json(night: Night, runs: Sequence[Ran]) -> dict[str, JSON]:
    return {
        "night": night.name,
        "started": _iso(night.started),
        "seconds": night.seconds,
        "complete": night.complete,
        "exit_status": night.status,
        "cells": dict(night.states),
        "runs": [ran.name for ran in runs],
        "unexpected": sum(ran.unexpected for ran in runs),
    }


def cell_text(cell: str, runs: Sequence[Ran], durations: Durations, failing: Sequence[Failing]) -> str:
    lines = [one_line(f"{cell}: {len(runs)} run{'s' * (len(runs) != 1)}", 300)]
    shown = runs[-_RUNS:]
    rows = [
        (
            f"{ran.started:%Y-%m-%d %H:%M}", ran.night or "-", _outcome(ran), str(ran.unexpected), str(ran.results),
            f"{ran.seconds:.1f} s", ran.facts.get("runtime", ""), ran.name + (" (gone)" if ran.gone else ""),
        )
        for ran in shown
    ]  # fmt: skip
    lines += [_table([("STARTED", "NIGHT", "OUTCOME", "BAD", "OF", "TOOK", "RUNTIME", "RUN"), *rows])]
    if len(runs) > len(shown):
        lines.append(f"the newest {len(shown)} of them; --json has all")
    if durations.usual is not None:
        bound = f", slower than usual above {durations.bound:.1f} s" if durations.bound is not None else ""
        lines.append(f"usually {durations.usual:.1f} s{bound}{': SLOWER THAN USUAL' if durations.slower else ''}")
    if failing:
        lines += ["", f"failing against the policy: {len(failing)}"]
        bad = [(_name(one.identity), one.seen.verdict.value, f"since {_when(one.since)}", one.title) for one in failing]
        lines += [_table(bad[:_MOST])]
        lines += [f"and {len(bad) - _MOST} more"] if len(bad) > _MOST else []
    return "\n".join(lines)


def check_text(cell: str, identity: Identity, title: str, spans: Sequence[Span], since: Ran) -> str:
    runs = sum(span.runs for span in spans)
    now = spans[-1].seen
    head = f"{cell}: {_name(identity)} {title}".rstrip()
    state = f"{_verdict(now)} in the newest of {runs} runs, {'bad' if now.bad else 'good'} since {_when(since)}"
    shown = spans[-_SPANS:]
    rows = [
        (_verdict(span.seen), f"{span.runs} run{'s' * (span.runs != 1)}", _when(span.first),
         f"to {_when(span.last)}" if span.runs > 1 else "")
        for span in shown
    ]  # fmt: skip
    more = [f"the newest {len(shown)} of {len(spans)} changes; --json has all"] if len(spans) > len(shown) else []
    return "\n".join([one_line(head, 300), one_line(state, 300), _table(rows), *more])


def flaky_text(found: Sequence[Flaky]) -> str:
    if not found:
        return "nothing is flaky in the newest runs"
    rows = [
        (_name(one.identity), one.cell, f"{one.flips} changes", f"{one.flaky} flaky", f"in {one.runs} runs",
         f"now {_verdict(one.last)}", f"last {_when(one.changed)}")
        for one in found
    ]  # fmt: skip
    more = [f"and {len(rows) - _MOST} more; --json has all"] if len(rows) > _MOST else []
    return "\n".join([_table(rows[:_MOST]), *more])


def nights_text(found: Sequence[tuple[Night, Sequence[Ran]]]) -> str:
    if not found:
        return "no night has run yet"
    rows = []
    for night, runs in found[:_MOST]:
        states = list(night.states.values())
        parts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
        rows.append(
            (night.name, f"{night.started:%Y-%m-%d %H:%M}", _outcome_of(night),
             f"{sum(ran.unexpected for ran in runs)} bad", ", ".join(parts), f"{night.seconds / 60:.0f} min")
        )  # fmt: skip
    more = [f"the newest {_MOST} of {len(found)}; --json has all"] if len(found) > _MOST else []
    return "\n".join([_table([("NIGHT", "STARTED", "OUTCOME", "AGAINST THE POLICY", "CELLS", "TOOK"), *rows]), *more])


def _outcome_of(night: Night) -> str:
    outcome = _WORDS.get(night.status, f"status {night.status}") if night.status is not None else "no status"
    return outcome if night.complete or outcome == "incomplete" else f"incomplete, {outcome}"


def _outcome(ran: Ran) -> str:
    return _WORDS.get(ran.status, str(ran.status)) if ran.complete else "incomplete"


def _verdict(seen: Seen) -> str:
    return seen.verdict.value + (", a violation" if seen.violation else "") + (" (expected)" if seen.expected else "")


def _when(ran: Ran) -> str:
    return f"night {ran.night}" if ran.night else f"{ran.started:%Y-%m-%d %H:%M} ({ran.name})"


def _name(identity: Identity) -> str:
    program, name, reference = identity
    return " ".join(filter(None, (program and f"{program}:", name, reference)))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns; text from runs is shown on one line."""
    safe = [[one_line(word, 120) for word in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*safe, strict=True)]
    lines = (
        "  ".join(word + " " * (width - cell_len(word)) for word, width in zip(row, widths, strict=True))
        for row in safe
    )
    return "\n".join(line.rstrip() for line in lines)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
