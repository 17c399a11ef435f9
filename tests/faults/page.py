"""docs/reference/faults.md, made of the table."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from tests.faults import table, table_nights, table_uml
from tests.faults.table import Row

ROWS = [*table.ROWS, *table_uml.ROWS, *table_nights.ROWS]

PATH = Path(__file__).parents[2] / "docs/reference/faults.md"
_HEAD = """# Faults

What is done to labkit, when, and what labkit does then: {number} rows, made of `tests/faults/table.py` by
`python -m tests.faults --write`. Each row is held by its test, in `tests/faults/` (of nights in `tests/`), under the
name in its first column.

After each fault and the next plain command there is no process, mount, lock or temporary file left that nobody needs; a
file that somebody put into the machine before is still there, but where the command was asked to remove it; and that
command works. After a signal that can be handled (SIGINT, SIGTERM, SIGHUP) nothing is left at once.

*simulated*: on a QEMU, a guest and builders that are simulated (`tests/faults/simulator/`): real processes with real
sockets, files and signals: every fourth in `./lab check`, half in `--long`, all in `--faults`.
*real*: on a real machine too, where a real
QEMU, guest or suite has a part in it, some of them in `./lab check`, a third in `--long`, all in
`./lab check --faults`. *long*: simulated, in `--long` and `--faults` only.
"""

_COLUMNS = """| row | when | fault | machine | what labkit does | tested |
| --- | --- | --- | --- | --- | --- |
"""


def page() -> str:
    parts = [_HEAD.format(number=len(ROWS))]
    for title, rows in groupby(ROWS, _title):
        parts.append(f"\n## {title}\n\n{_COLUMNS}")
        parts += map(_line, rows)
    pending = [row for row in ROWS if row.pending]
    if pending:
        parts.append("\n## Not so yet\n\n")
        parts += [f"- `{row.id}`: {row.pending}\n" for row in pending]
    return "".join(parts)


_TITLES = {
    "test_signals.py": "Signals",
    "test_files.py": "Damaged files",
    "test_caches.py": "Damaged caches",
    "test_uml.py": "User-Mode Linux",
}


def _title(row: Row) -> str:
    if row.test.startswith("../"):
        return "Nights"
    return _TITLES.get(row.test.partition("::")[0], "Others")


def _line(row: Row) -> str:
    tested = "long" if row.long else "simulated, real" if row.real else "simulated"
    tested = "real" if row.test.startswith("test_uml.py") else tested
    return f"| `{row.id}` | {row.stage} | {row.fault} | {row.before} | {row.outcome} | {tested} |\n"
