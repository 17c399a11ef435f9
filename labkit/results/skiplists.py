"""Lists of tests to be skipped, as others keep them, read as entries of a policy. Pure, but for reading the file.

A list is told by what is in it:

    crun          a script that takes names out of the list of programs with `grep -Ev "(a|b)"`, each named in a
                  comment (crun: tests/oci-validation/run-tests.sh)
    youki         a script with an array of programs, NAME/NAME.t, some of them commented out (youki:
                  scripts/oci_integration_tests.sh); what is neither is not run
    bats-names    names of bats' tests, one a line, `[skip]` before those that are skipped (youki:
                  tests/runc/runc_test_pattern)
    bats          tests of bats with `skip "why"` in them (runc: tests/integration/*.bats), or the `sed` that puts it
                  there (crun: tests/cri-o/run-tests.sh)
    array         an array called SKIP... of parts of names, with comments between them (crun:
                  tests/podman/run-tests.sh)
    list          names or patterns, one a line, # before comments

What depends on the machine (runc's `requires root`) is skipped by the test itself, and a skip needs no entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from labkit.core.errors import UsageError
from labkit.results.policytext import quoted, table

_LIMIT = 4 << 20  # bytes
_LINK = re.compile(r"https://[^\s'\"<>)\]]+[^\s'\"<>)\].,;:]")
_GREP = re.compile(
    r"""\bgrep\s+(?:-[A-Za-z]*v[A-Za-z]*|-[EF]\s+-v)\s+(?:-e\s+)?(?:"([^"\n]+)"|'([^'\n]+)'|([\w|.*-]+))"""
)
_ARRAY = re.compile(r"^\s*(?:declare -a |local |readonly |export )*(\w+)\+?=\(\s*(#.*)?$")
_PROGRAM = re.compile(r"""["']?([A-Za-z0-9_]+)/\1(?:\.t)?["']?(?=\s|$|[)#])""")
_ITEM = re.compile(r"""^\s*(?:"([^"]*)"|'([^']*)'|([^\s#"'()]+))\s*(.*)$""")
_TEST = re.compile(r"^\s*@test\s+(?:\"((?:[^\"\\]|\\.)*)\"|'([^']*)')\s*\{")
_SKIP = re.compile(r"""^\s+skip(?:\s+(?:"([^"]*)"|'([^']*)'|([^\s#;&|"'][^#;&|]*)))?\s*(?:#\s*(.*))?$""")
_OPENS = re.compile(r"^\s*(?:if|for|while|until|case|\{|\()|\b(?:then|do)\s*$|\(\)\s*\{\s*$")
_CLOSES = re.compile(r"^\s*(?:fi|done|esac|\}|\))\s*$")
_SED = re.compile(r"@test \"([^\"|]+)\" \{\|@test \"\1\" \{\\n\s*skip")
_MAKES_SKIPS = re.compile(r"^\[skip\]", re.MULTILINE)
_NAME = re.compile(r"[\w.*?/\[\]!:+-]+")
_SUITE = "validation"  # whose programs all of these name, those of bats by the names of its tests


@dataclass(frozen=True, slots=True)
class Skip:
    """What one entry leaves out: programs by pattern, or results by name whatever their program. line is where the list
    says so.
    """

    reason: str
    line: int
    programs: tuple[str, ...] = ("*",)
    assertions: tuple[str, ...] = ()
    runtime: str = ""

    @property
    def link(self) -> str:
        found = _LINK.search(self.reason)
        return found[0] if found else ""


@dataclass(frozen=True, slots=True)
class SkipList:
    """A list that was read: of which format, what it skips, and a line for each thing that could not be taken."""

    format: str
    skips: tuple[Skip, ...]
    untaken: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    skips: list[Skip] = field(default_factory=list)
    untaken: list[str] = field(default_factory=list)


def read_file(path: Path, wanted: str | None = None, programs: Sequence[str] = ()) -> SkipList | None:
    """The list that a file holds; None where it is none, as TOML is not. See read()."""
    if wanted is None and path.suffix == ".toml":
        return None
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    return read(data.decode("utf-8-sig", "replace"), path.name, wanted, programs)


def read(text: str, name: str, wanted: str | None = None, programs: Sequence[str] = ()) -> SkipList | None:
    """The list that a text is, of the wanted format or else of the one that it shows; None where it is none.

    name is what the file is called in reasons that the list does not give. programs are all that there are, for lists
    of those that do run.
    """
    lines = text.splitlines()
    kind = wanted or recognized(text)
    if kind is None:
        return None
    found = _Found()
    _FORMATS[kind](lines, name, found, programs)
    return SkipList(kind, tuple(_gathered(found.skips)), tuple(found.untaken))


def recognized(text: str) -> str | None:
    """The format that the text shows, None where it shows none."""
    lines = text.splitlines()
    arrays = [found[1] for line in lines if (found := _ARRAY.match(line))]
    if any(map(_TEST.match, lines)) or _SED.search(text):
        return "bats"
    if _MAKES_SKIPS.search(text):
        return "bats-names"
    if any("skip" in name.casefold() for name in arrays):
        return "array"
    if arrays and any(_PROGRAM.search(line) for line in lines):
        return "youki"
    if any(_GREP.search(line) for line in lines if "VALIDATION_TESTS" in line or "validation-tests" in line):
        return "crun"
    words = [line.partition("#")[0].strip() for line in lines]
    words = [word for word in words if word]
    return "list" if words and all(map(_NAME.fullmatch, words)) else None


def entry_text(skip: Skip) -> str:
    """The entry of a policy file that leaves this out, as TOML."""
    pairs: list[tuple[str, str | Sequence[str]]] = [("suite", _SUITE), ("program", skip.programs)]
    pairs += [("assertion", skip.assertions)] if skip.assertions else []
    pairs += [("runtime", skip.runtime)] if skip.runtime else []
    pairs += [("expected", "any"), ("reason", skip.reason)]
    pairs += [("link", skip.link)] if skip.link else []
    return table(pairs)


def _gathered(skips: Iterable[Skip]) -> Iterator[Skip]:
    """Those with one reason as one, where the first of them stood."""
    by: dict[tuple[str, bool, str], Skip] = {}
    for skip in skips:
        key = (skip.reason, bool(skip.assertions), skip.runtime)
        if (known := by.get(key)) is None:
            by[key] = skip
        elif skip.assertions:
            by[key] = replace(known, assertions=tuple(dict.fromkeys((*known.assertions, *skip.assertions))))
        else:
            by[key] = replace(known, programs=tuple(dict.fromkeys((*known.programs, *skip.programs))))
    yield from by.values()


def _comment(line: str) -> str | None:
    """The words of a line that is nothing but a comment."""
    stripped = line.strip()
    if not stripped.startswith("#") or stripped.startswith("#!"):
        return None
    return re.sub(r"^[#\s]+", "", stripped)


def _plain(words: str) -> str:
    return re.sub(r"^skip\b[\s:,-]*", "", " ".join(words.split()), flags=re.IGNORECASE).strip(" -") or ""


def _runtime(lines: Sequence[str]) -> str:
    """The runtime that a script tests, as it says in RUNTIME=."""
    for line in lines:
        if found := re.search(r"""\bRUNTIME=["']?(?:\S*/)?([a-z][a-z0-9_-]*)["']?(?:\s|$)""", line):
            return found[1]
    return ""


# --- the formats


def _crun(lines: Sequence[str], name: str, found: _Found, _: Sequence[str]) -> None:
    runtime = _runtime(lines)
    for number, line in enumerate(lines, 1):
        match = _GREP.search(line)
        if not match or _comment(line) is not None:
            continue
        comments: list[str] = []
        for before in reversed(lines[: number - 1]):
            if (said := _comment(before)) is None:
                break
            comments.insert(0, said)
        words = next(group for group in match.groups() if group)
        whole = re.fullmatch(r"\^?\((.*)\)\$?", words)
        for word in _alternatives(whole[1] if whole else words):
            glob = _glob(word)
            if glob is None:
                found.untaken.append(f"line {number}: the expression {word!r} is more than names and .*")
                continue
            if whole:
                glob = glob.strip("*") if words.startswith("^") and words.endswith("$") else glob
            reason = _about(word, comments) or f"{name} leaves it out and does not say why"
            found.skips.append(Skip(reason, number, programs=(glob,), runtime=runtime))
    if not found.skips:
        found.untaken.append("no `grep -v` with names was found")


def _alternatives(expression: str) -> list[str]:
    """The parts of an expression between the | that are in no brackets."""
    parts, depth, begun = [], 0, ""
    for char in expression:
        depth += (char in "([") - (char in ")]")
        if char == "|" and depth <= 0:
            parts.append(begun)
            begun = ""
        else:
            begun += char
    return [part for part in (*parts, begun) if part]


def _glob(word: str) -> str | None:
    """The shell's pattern for a regular expression that is looked for anywhere; None where there is none."""
    inner = word.removeprefix("^").removesuffix("$").replace("\\.", "\0").replace("\\b", "")
    inner = inner.replace(".*", "*").replace("\0", ".")
    if not re.fullmatch(r"[\w*./ -]+", inner):
        return None
    text = ("" if word.startswith("^") else "*") + inner + ("" if word.endswith("$") else "*")
    return re.sub(r"\*+", "*", text)


def _about(word: str, comments: Sequence[str]) -> str:
    """The comment that is about the word: the one that comes to it soonest."""
    bare = word.strip("^$")
    places = [(at.start(), text) for text in comments if (at := re.search(rf"(?<!\w){re.escape(bare)}(?!\w)", text))]
    return _plain(min(places)[1]) if places else ""


def _youki(lines: Sequence[str], name: str, found: _Found, programs: Sequence[str]) -> None:
    runtime = _runtime(lines) or ("youki" if any("youki" in line for line in lines) else "")
    named: set[str] = set()
    fresh: list[str] = []  # what the comment since the last program says
    inside, heading, after_blank, first = False, "", False, 0
    for number, line in enumerate(lines, 1):
        if not inside:
            inside = bool(_ARRAY.match(line))
            first = first or (number if inside else 0)
            continue
        said = _comment(line)
        entry = _PROGRAM.search(line if said is None else said)
        if entry and said is not None and not said.strip().startswith(entry[0].strip()):
            entry = None  # a sentence that names a program
        if entry:
            named.add(entry[1])
            if said is not None:
                after = said.strip()[len(entry[0].strip()) :]
                reason = _plain(after) or " ".join(fresh) or heading or f"{name} has it commented out"
                found.skips.append(Skip(reason, number, programs=(entry[1],), runtime=runtime))
            else:
                heading = ""
            fresh, after_blank = [], False
        elif said is not None:
            if said and after_blank:
                heading = said
            elif said:
                fresh.append(said)
                continue
            after_blank = False
        elif not line.strip():
            after_blank, fresh = True, []
        elif line.strip().startswith(")"):
            inside = False
        else:
            found.untaken.append(f"line {number}: {line.strip()!r} is no program")
    if rest := [program for program in programs if program not in named]:
        reason = f"{name} does not run it"
        found.skips.append(Skip(reason, first or 1, programs=tuple(rest), runtime=runtime))
    if not named:
        found.untaken.append("no array of programs, NAME/NAME.t, was found")


def _bats_names(lines: Sequence[str], name: str, found: _Found, _: Sequence[str]) -> None:
    for number, line in enumerate(lines, 1):
        if not line.startswith("[skip]"):
            continue
        words, _hash, why = line.removeprefix("[skip]").partition(" # ")
        reason = _plain(why) or f"{name} skips it and does not say why"
        if words.strip():
            found.skips.append(Skip(reason, number, assertions=(quoted(words.strip()),)))


def _bats(lines: Sequence[str], name: str, found: _Found, _: Sequence[str]) -> None:
    test, depth, conditional = "", 0, 0
    for number, line in enumerate(lines, 1):
        for taken in _SED.finditer(line):
            found.skips.append(Skip(f"{name} skips it and does not say why", number, assertions=(quoted(taken[1]),)))
        if opened := _TEST.match(line):
            test, depth = re.sub(r"\\(.)", r"\1", opened[1]) if opened[1] is not None else opened[2], 0
            continue
        if line.startswith("}"):
            test = ""
        skipped = _SKIP.match(line)
        if skipped and test and not depth:
            why = next((group for group in skipped.groups() if group), "")
            reason = _plain(why) or f"{name} skips it and does not say why"
            found.skips.append(Skip(reason, number, assertions=(quoted(test),)))
        elif re.search(r"(?:^|[\s;&|])(?:skip(?:\s|$)|requires(?:_\w+)?\s|exclude_os\s)", line.partition("#")[0]):
            conditional += bool(test) or line.startswith((" ", "\t"))
        depth += bool(_OPENS.search(line)) - bool(_CLOSES.match(line)) if test else 0
    if conditional:
        found.untaken.append(
            f"{conditional} conditions on the machine (requires, skip in an if): bats itself skips such a test, and "
            "that needs no entry"
        )


def _array(lines: Sequence[str], name: str, found: _Found, _: Sequence[str]) -> None:
    inside, reason = False, ""
    for number, line in enumerate(lines, 1):
        if not inside:
            opened = _ARRAY.match(line)
            inside, reason = bool(opened and "skip" in opened[1].casefold()), ""
            continue
        said = _comment(line)
        if said is not None:
            reason = said
        elif line.strip().startswith(")"):
            inside = False
        elif not line.strip():
            reason = ""
        elif match := _ITEM.match(line):
            words = next(group for group in match.groups()[:3] if group is not None)
            why = _plain(_comment(match[4]) or reason) or f"{name} skips it and does not say why"
            found.skips.append(Skip(why, number, assertions=(f"*{quoted(words)}*",)))
        else:
            found.untaken.append(f"line {number}: {line.strip()!r} is no name")


def _list(lines: Sequence[str], name: str, found: _Found, _: Sequence[str]) -> None:
    reason = ""
    for number, line in enumerate(lines, 1):
        words, _hash, why = line.partition("#")
        if not line.strip():
            reason = ""
        elif not words.strip():
            reason = _plain(why)
        elif not _NAME.fullmatch(words.strip()):
            found.untaken.append(f"line {number}: {words.strip()!r} is no name")
        else:
            program = re.sub(r"^(\w+)/\1(\.t)?$|\.(t|tap)$", r"\1", words.strip()) or words.strip()
            why = _plain(why) or reason or f"{name} lists it and does not say why"
            found.skips.append(Skip(why, number, programs=(program,)))


_FORMATS: dict[str, Callable[[Sequence[str], str, _Found, Sequence[str]], None]] = {
    "crun": _crun,
    "youki": _youki,
    "bats-names": _bats_names,
    "bats": _bats,
    "array": _array,
    "list": _list,
}
FORMATS = tuple(_FORMATS)
