"""TOML files read into checked values; every error names the file, the key, the bad value and what is allowed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from labkit.core.errors import UsageError
from labkit.core.suggest import did_you_mean

Key = tuple[str | int, ...]
_Model = TypeVar("_Model", bound="Table")


class Table(BaseModel):
    """A table of a TOML file: unknown keys are errors, values cannot be changed afterwards.

    A field's description completes "must be ..." in the message about a bad value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def read(path: Path) -> dict[str, Any]:
    """Return what the file holds. UsageError where it cannot be read, or is not TOML (as file:line:column)."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors of Windows write a byte order mark
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> dict[str, Any]:
    """Return what the text holds. UsageError where it is not TOML, as where:line:column."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Python 3.14 has lineno and colno attributes; the message says the same since 3.11.
        found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
        what, line, column = found.groups() if found else (str(error), None, None)
        last = text.rpartition("\n")[2]
        raise UsageError(
            f"{where}:{line or text.count(chr(10)) + 1}:{column or len(last) + 1}: is not TOML: {what}"
        ) from error


def check(model: type[_Model], data: Mapping[str, Any], source: Callable[[Key], str]) -> _Model:
    """Return data as a model. UsageError with one line per bad value; source(key) names where that value came from."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_line(model, dict(entry), source) for entry in error.errors()]
        raise UsageError("\n".join(lines)) from error


def dotted(key: Sequence[str | int]) -> str:
    """Return the key as TOML writes it: `releases."24.04".url`."""
    return ".".join(str(p) if re.fullmatch(r"[A-Za-z0-9_-]+", str(p)) else f'"{p}"' for p in key)


def _line(model: type[Table], entry: dict[str, Any], source: Callable[[Key], str]) -> str:
    key: Key = entry["loc"]
    where = source(key)
    match entry["type"]:
        case "extra_forbidden":
            parent = _at(model, key[:-1])[0]
            known = list(_fields(parent)) if isinstance(parent, type) and issubclass(parent, Table) else []
            return f"{where}: unknown key {dotted(key)}{did_you_mean(str(key[-1]), known)} (known: {', '.join(known)})"
        case "missing":
            return f"{where}: {dotted(key)} is missing{_must_be(model, key)}"
        case "value_error":
            return f"{where}: {f'{dotted(key)} ' if key else ''}{entry['ctx']['error']}"
        case "model_type":
            return f"{where}: {dotted(key)} is {entry['input']!r}, must be a table: [{dotted(key)}]"
        case "literal_error" | "enum":
            expected = str(entry["ctx"]["expected"])
            near = did_you_mean(str(entry["input"]), re.findall(r"'([^']+)'", expected))
            return f"{where}: {dotted(key)} is {entry['input']!r}, must be {expected}{near}"
        case _:
            wanted = _must_be(model, key) or f": {entry['msg']}"
            return f"{where}: {dotted(key)} is {entry['input']!r}{wanted}"


def _must_be(model: type[Table], key: Key) -> str:
    wanted = allowed(model, key)
    return f", must be {wanted}" if wanted else ""


def allowed(model: type[Table], key: Key) -> str | None:
    """Return what a key's value must be, in words; None where its field does not say."""
    field = _at(model, key)[1]
    if field is None:
        return None
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    # In `Annotated[str, Field(description=...)] | None` the description stands one level down.
    inner = (data for arg in get_args(field.annotation) for data in getattr(arg, "__metadata__", ()))
    return field.description or next((d.description for d in inner if getattr(d, "description", None)), None)


def _fields(model: type[Table]) -> dict[str, FieldInfo]:
    """The fields by the names that files have for them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _at(model: Any, key: Key) -> tuple[Any, FieldInfo | None]:
    """The type at key, and the innermost field on the way there."""
    kind, field = model, None
    for part in key:
        if isinstance(kind, type) and issubclass(kind, Table):
            field = _fields(kind).get(str(part), field)
            kind = field.annotation if field is not None else None
            kind = next((arg for arg in get_args(kind) if isinstance(arg, type) and issubclass(arg, Table)), kind)
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
    return kind, field
