"""Results as TAP 14. Diagnostics are YAML in which every line is `key: JSON value`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TEXT_LIMIT = 4000
ITEM_LIMIT = 60


def shortened(value: Any, depth: int = 6) -> Any:
    """A JSON value of limited size: long strings and lists are cut and say so."""
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if depth and isinstance(value, Mapping):
        return {str(key)[:200]: shortened(item, depth - 1) for key, item in list(value.items())[:ITEM_LIMIT]}
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        items = list(value) if isinstance(value, (list, tuple)) else sorted(value, key=repr)
        more = [f"... {len(items) - ITEM_LIMIT} more"] if len(items) > ITEM_LIMIT else []
        return [shortened(item, depth - 1) for item in items[:ITEM_LIMIT]] + more
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}... {len(text) - TEXT_LIMIT} more characters"


def description(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("#", "\\#")


def point(number: int, result: Mapping[str, Any], summary: str) -> str:
    """One test point with its diagnostic block. result: id, verdict, message, ... (see runner.Result)."""
    verdict = result["verdict"]
    line = "ok" if verdict in ("pass", "skip") else "not ok"
    line += f" {number} - {result['id']} {description(summary)}"
    if verdict in ("skip", "flaky"):  # TAP has no word for what does not repeat; the block has
        directive = "SKIP" if verdict == "skip" else "TODO"
        line += f" # {directive} {description(str(result['message']))[:500]}"
    block = [f"  {key}: {json.dumps(shortened(value))}" for key, value in result.items()]
    return "\n".join([line, "  ---", *block, "  ...", ""])
