"""Second ways to break what one mutant breaks already."""

from __future__ import annotations

from .engine import Call, Json, at, items
from .registry import config, mutant


@config("LIFE-005")
def unknown_capability_ends_the_list(config: Json) -> None:
    for names in at(config, "process", "capabilities").values():
        unknown = [name for name in names if name == "CAP_LABKIT"]
        if unknown:
            del names[names.index(unknown[0]) :]


@config("HOST-003")
def hostname_makes_a_namespace(config: Json) -> None:
    """But the name is only set where one is listed."""
    found = items(config, "linux", "namespaces")
    if not any(one.get("type") == "uts" for one in found):
        found.append({"type": "uts"})
        config.pop("hostname", None)


@mutant("START-004")
def no_process_is_no_error(call: Call) -> int | None:
    if call.command == "create" and "process" not in call.config() and call.config():
        return 0 * call.run()
    return 0 * call.run() if call.command == "start" and not call.state() else None
