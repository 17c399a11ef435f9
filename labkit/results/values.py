"""Values of JSON and of YAML from outside, made safe to keep and to write again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from labkit.core.text import one_line

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(text: str, *, depth: int = 32, commas: int = 50_000) -> JSON:
    """Return the value of JSON text from outside, made safe to keep and to write again.

    NaN, infinities and integers of more than 40 digits become strings, lone surrogates U+FFFD. ValueError where text is
    no JSON, nests deeper than depth or has more commas, which bound its values: `[],[],...` takes 20 times its size.
    """
    if text.count(",") > commas:
        raise ValueError("too many values")
    try:
        value: JSON = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.isascii() and "\\u" not in text and text.count("[") + text.count("{") <= depth:
        return value  # can have no surrogate, and cannot nest deeper
    return safe(value, depth)


def parse_line(line: bytes | str, *, depth: int = 32, commas: int = 50_000) -> Mapping[str, JSON] | None:
    """Return the object that one line from outside is, as parse_json() has it, None where it is anything else."""
    try:
        value = parse_json(line if isinstance(line, str) else line.decode(), depth=depth, commas=commas)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def number(digits: str) -> JSON:
    return int(digits) if len(digits) <= 40 else digits


def fraction(digits: str) -> JSON:
    return value if math.isfinite(value := float(digits)) else digits


_DECODER = json.JSONDecoder(parse_constant=str, parse_int=number, parse_float=fraction)


def safe(value: JSON, depth: int) -> JSON:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | dict):
        if depth == 0:
            raise ValueError("nested too deeply")
        if isinstance(value, list):
            return [safe(item, depth - 1) for item in value]
        return {clean(key): safe(item, depth - 1) for key, item in value.items()}
    return value


def clean(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


# --- YAML

_YAML_SIZE, _YAML_VALUES = 64 << 10, 5_000  # characters, and values in them: nobody writes more into a block
_INT, _FLOAT = re.compile(r"[-+]?[0-9]{1,40}"), re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, JSON] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def parse_yaml(text: str, *, depth: int = 32) -> JSON:
    """Return the value of the first document of YAML text from outside.

    Scalars are those of YAML 1.2's core schema: `no` is a word, and 12:30 no number. ValueError where
    text is no YAML, nests deeper than depth, has too much in it, or has what a small file makes gigabytes with or that
    JSON has not: aliases, tags, keys that are no text or stand there twice.
    """
    # 20 ms that only output with YAML in it is to pay.
    import yaml

    if len(text) > _YAML_SIZE:
        raise ValueError("too long")
    try:
        events = yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
        bounded = _bounded(events)
        return _value(next(bounded, _OVER), bounded, depth)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {yaml_problem(error)}") from None


def yaml_problem(error: Exception) -> str:
    """What an error of PyYAML's says in several lines, in one."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark and problem else one_line(str(error), 300)


def _bounded(events: Iterator[object]) -> Iterator[_Event]:
    """Events by name, each with its text and whether that stands in quotes; those of streams and documents left out."""
    for count, event in enumerate(events):
        name = type(event).__name__
        if count > _YAML_VALUES:
            raise ValueError("too many values")
        if name == "AliasEvent" or getattr(event, "anchor", None) or getattr(event, "tag", None):
            raise ValueError("an alias, an anchor or a tag")
        if name == "ScalarEvent":
            yield name, clean(str(getattr(event, "value", ""))), bool(getattr(event, "style", None))
        elif name in ("MappingStartEvent", "MappingEndEvent", "SequenceStartEvent", "SequenceEndEvent"):
            yield name, "", False
        elif name == "DocumentEndEvent":
            return


_Event: TypeAlias = "tuple[str, str, bool]"
_OVER: _Event = ("", "", False)


def _value(event: _Event, events: Iterator[_Event], depth: int) -> JSON:
    """The value that begins with event; events has what follows it."""
    name, text, quoted = event
    if name == "ScalarEvent":
        return text if quoted else _scalar(text)
    if name not in ("SequenceStartEvent", "MappingStartEvent") or depth == 0:
        raise ValueError("nested too deeply" if name else "nothing in it")
    if name == "SequenceStartEvent":
        items: list[JSON] = []
        while (event := next(events, _OVER))[0] != "SequenceEndEvent":
            items.append(_value(event, events, depth - 1))
        return items
    found: dict[str, JSON] = {}
    while (event := next(events, _OVER))[0] != "MappingEndEvent":
        if event[0] != "ScalarEvent":
            raise ValueError("a key that is no text")
        if event[1] in found:
            raise ValueError("a key stands there twice")
        found[event[1]] = _value(next(events, _OVER), events, depth - 1)
    return found


def _scalar(text: str) -> JSON:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return fraction(text) if _FLOAT.fullmatch(text) else text
