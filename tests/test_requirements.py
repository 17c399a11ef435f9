"""The table of requirements, and the checks of the spec suite that stand for its rows."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest

from labkit.guest.spec import registry, runner, tap
from labkit.reports.evidence import link
from labkit.results.model import Result
from labkit.results.tap import TestPoint, read
from labkit.suites.spec import result_of
from tests.conftest import ROOT

RFC_2119 = {"MUST", "MUST NOT", "REQUIRED", "SHALL", "SHALL NOT", "SHOULD", "SHOULD NOT", "RECOMMENDED", "MAY"}
TABLE = list(registry.REQUIREMENTS.values())


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_a_row_is_a_level_a_reference_and_a_sentence(row: registry.Requirement) -> None:
    assert re.fullmatch(r"[A-Z0-9]+-[0-9]{3}", row.id)
    assert row.level in RFC_2119
    assert not row.implied or row.level == "MUST"
    assert row.summary and row.summary == row.summary.strip()
    if ".md" in row.reference:
        assert link(row.reference, "1.2.0")


def printed(ident: str) -> Result:
    """The result that a report has of a check that passed."""
    check = registry.load()[ident]
    text = tap.point(1, runner.result(check, "pass", 0.1, ""), check.requirement.summary)
    (point,) = (event for event in read(text.encode()) if isinstance(event, TestPoint))
    return result_of(point)


def test_a_result_says_what_implies_its_level() -> None:
    assert (printed("STATE-001").level, printed("STATE-001").diagnostic) == ("MUST", {})
    assert printed("PROC-002").level == "MUST"
    assert printed("PROC-002").diagnostic == {"implied": registry.REQUIREMENTS["PROC-002"].implied}


# --- docs/reference/requirements.md: every sentence, and what holds it

PAGE = "docs/reference/requirements.md"
ID = r"[A-Z0-9]+-[0-9]{3}"
SAME = {"REQUIRED": "MUST", "SHALL": "MUST", "SHALL NOT": "MUST NOT", "MUST not": "MUST NOT", "RECOMMENDED": "SHOULD"}
SAME |= {"NOT RECOMMENDED": "SHOULD NOT", "OPTIONAL": "MAY", "MAY NOT": "MAY"}
SAME |= {"must": "MUST", "should not": "SHOULD NOT"}  # RFC 2119 wants them in capitals, the text means them
NO_KEYWORD = "\N{EN DASH}"


@dataclass(frozen=True)
class Sentence:
    """A row of the page. where: file.md#anchor; ids: that hold it; reason: why none does, "" where some do."""

    where: str
    levels: tuple[str, ...]
    text: str
    ids: tuple[str, ...]
    reason: str


@cache
def anchors() -> dict[str, int]:
    """The anchors of runtime-spec 1.3.0, in the files that are about Linux, and how many sentences have a keyword."""
    lines = (ROOT / "tests/recordings/runtime-spec-1.3.0.txt").read_text().splitlines()
    return {where: int(number) for where, _, number in (line.partition(" ") for line in lines)}


@cache
def reasons() -> frozenset[str]:
    introduction = (ROOT / PAGE).read_text().partition("\n## ")[0]
    return frozenset(re.findall(r"^\| ([a-z]+) \| .* \|$", introduction, re.MULTILINE)) - {"reason"}


@cache
def sentences() -> tuple[Sentence, ...]:
    return tuple(read_page((ROOT / PAGE).read_text()))


def read_page(text: str) -> list[Sentence]:
    where = ""
    found = []
    for line in text.splitlines():
        if heading := re.match(r"### \[([^]]+)\]\((.+)\)", line):
            (where,) = (
                name for name in (heading[1], f"runtime-tools:docs/{heading[1]}") if link(name, "1.3.0") == heading[2]
            )
        elif where and line.startswith("| ") and not line.startswith(("| level |", "| --- |")):
            level, sentence, held = re.split(r" (?<!\\)\| ", line.removeprefix("| ").removesuffix(" |"))
            ids = tuple(held.split(", ")) if re.match(ID, held) else ()
            found.append(Sentence(where, tuple(level.split(", ")), sentence, ids, "" if ids else held))
    return found


def wrong(row: registry.Requirement, sentences: tuple[Sentence, ...], anchors: dict[str, int]) -> str:
    """What is wrong with the reference or the level of an id; empty when nothing is."""
    held = [sentence for sentence in sentences if row.id in sentence.ids]
    if not row.reference.startswith("runtime-tools:") and row.reference not in anchors:
        return f"no such anchor: {row.reference}"
    if not any(sentence.where == row.reference for sentence in held):
        return f"holds no sentence at {row.reference}, only at {sorted({sentence.where for sentence in held})}"
    levels = {SAME.get(level, level) for one in held if one.where == row.reference for level in one.levels}
    if row.level not in levels and not row.implied:
        return f"{row.level}, but its sentences are {sorted(levels)}, and nothing implies it"
    return ""


def test_the_page_has_as_many_sentences_as_the_specification() -> None:
    spec = [sentence for sentence in sentences() if not sentence.where.startswith("runtime-tools:")]
    assert {sentence.where for sentence in spec} <= set(anchors())
    written = Counter(sentence.where for sentence in spec if sentence.levels != (NO_KEYWORD,))
    assert written == Counter(anchors())


def test_every_sentence_has_ids_with_a_check_or_a_reason() -> None:
    for sentence in sentences():
        assert set(sentence.ids) <= set(registry.load()), sentence
        assert sentence.ids or sentence.reason.partition(":")[0] in reasons(), sentence
        assert len(set(sentence.ids)) == len(sentence.ids), sentence
        assert set(sentence.levels) <= RFC_2119 | set(SAME) | {NO_KEYWORD}, sentence
        assert 0 < len(sentence.text) <= 170, sentence


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_an_id_holds_a_sentence_at_its_reference_and_has_its_level(row: registry.Requirement) -> None:
    assert wrong(row, sentences(), anchors()) == ""
    tools = r"runtime-tools:docs/[a-z-]+\.md#[a-z-]+"
    assert re.fullmatch(tools, row.reference) or row.reference in anchors()


def test_what_these_find() -> None:
    row = registry.Requirement("A-001", "MUST", "a.md#b", "says", "")
    there = {"a.md#b": 1}
    must = Sentence("a.md#b", ("MUST",), "It MUST.", ("A-001",), "")
    may = Sentence("a.md#b", ("OPTIONAL",), "`b` (OPTIONAL)", ("A-001",), "")
    elsewhere = Sentence("a.md#c", ("MUST",), "It MUST.", ("A-001",), "")
    assert wrong(row, (must,), there) == ""
    assert "no such anchor" in wrong(row, (must,), {})
    assert "holds no sentence" in wrong(row, (elsewhere,), there)
    assert "MUST, but its sentences are ['MAY']" in wrong(row, (may, elsewhere), there)
    implied = registry.Requirement("A-001", "MUST", "a.md#b", "says", "create MUST apply every property")
    assert wrong(implied, (may,), there) == ""
    heading = f"### [a.md#b]({link('a.md#b', '1.3.0')})"
    (one,) = read_page(heading + "\n| MAY | a \\| b | free |")
    assert one == Sentence("a.md#b", ("MAY",), "a \\| b", (), "free")
