"""The sentences of the specification, and the checks that hold them: docs/reference/requirements.md, read."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SECTION = re.compile(r"### \[([^\]]+)\]\(")
_ROW = re.compile(r"\| ([^|]*) \| (.*) \| ([^|]*) \|")


@dataclass(frozen=True, slots=True)
class Sentence:
    """level as the text has it, a dash where it has no keyword; reference: file.md#anchor."""

    level: str
    text: str
    reference: str


def held_by(ident: str, page: str) -> list[Sentence]:
    """The sentences that a check holds, in the order of the text. page: that of the documentation."""
    found, reference = [], ""
    for line in page.splitlines():
        if section := _SECTION.match(line):
            reference = section[1]
        elif (row := _ROW.fullmatch(line)) and ident in re.findall(r"[A-Z][A-Z0-9]*-[0-9]+", row[3]):
            found.append(Sentence(row[1].strip(), row[2].strip().replace("\\|", "|"), reference))
    return found
