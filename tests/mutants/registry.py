"""How a mutant is made known: a function with one of these decorators, in any module of this package."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from .engine import Act, Call, Edit, Json, Mutant, at

MUTANTS: dict[str, Mutant] = {}


def mutant(*ids: str, on: str = "") -> Callable[[Act], Act]:
    """The function gets the calls of this command (all, when none); see engine.Mutant."""

    def register(act: Act) -> Act:
        made = Mutant(ids, on, act)
        if made.name in MUTANTS:
            raise ValueError(f"two mutants {made.name}")
        MUTANTS[made.name] = made
        return act

    return register


def config(*ids: str) -> Callable[[Edit], Edit]:
    """The function edits what `create` finds in config.json."""

    def register(edit: Edit) -> Edit:
        def act(call: Call) -> int:
            with call.edited(edit):
                return call.run()

        act.__name__ = edit.__name__
        mutant(*ids, on="create")(act)
        return edit

    return register


def state(*ids: str) -> Callable[[Edit], Edit]:
    """The function edits what `state` prints."""
    return _printed("state", ids)


def features(*ids: str) -> Callable[[Edit], Edit]:
    """The function edits what `features` prints."""
    return _printed("features", ids)


def _printed(command: str, ids: tuple[str, ...]) -> Callable[[Edit], Edit]:
    def register(edit: Edit) -> Edit:
        def act(call: Call) -> int | None:
            status, said = call.ask()
            if status:
                return None  # once more, to be seen
            told = json.loads(said)
            edit(told)
            print(json.dumps(told))
            return 0

        act.__name__ = edit.__name__
        mutant(*ids, on=command)(act)
        return edit

    return register


def in_container_setup(*ids: str) -> Callable[[Callable[[Call], str]], Callable[[Call], str]]:
    """The function gives a shell script, run before the container's root becomes `$root`, all of it mounted there."""

    def register(script: Callable[[Call], str]) -> Callable[[Call], str]:
        def act(call: Call) -> int:
            text = f"root='{call.root()}'; {script(call)}"
            hook = {"path": "/bin/sh", "args": ["sh", "-c", text], "env": [f"PATH={os.environ['PATH']}"]}

            def edit(config: Json) -> None:
                config.setdefault("hooks", {}).setdefault("createContainer", []).append(hook)

            with call.edited(edit):
                return call.run()

        act.__name__ = script.__name__
        mutant(*ids, on="create")(act)
        return script

    return register


def ignore(path: str, ids: str) -> None:
    def edit(config: Json) -> None:
        *keys, last = path.split(".")
        at(config, *keys).pop(last, None)

    edit.__name__ = f"ignores-{path}"
    config(*ids.split(","))(edit)
