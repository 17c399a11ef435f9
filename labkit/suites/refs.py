"""What is known of runtime-tools' validation suite, in validation.toml: the programs of each ref."""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import StrictStr

from labkit.core import tomlfile
from labkit.core.tomlfile import Table

_DATA = Path(__file__).with_name("validation.toml")


class Ref(Table):
    spec: StrictStr
    programs: tuple[StrictStr, ...] = ()
    like: StrictStr | None = None
    also: tuple[StrictStr, ...] = ()


class Data(Table):
    default: StrictStr
    tree: StrictStr
    silent: tuple[StrictStr, ...]
    spoil: tuple[StrictStr, ...]
    refs: dict[str, Ref]

    def find(self, name: str) -> Ref | None:
        also = (ref for ref in self.refs.values() if any(fnmatchcase(name, pattern) for pattern in ref.also))
        return self.refs.get(name) or next(also, None)

    def programs(self, ref: Ref) -> tuple[str, ...]:
        return self.programs(self.refs[ref.like]) if ref.like else ref.programs


@functools.cache
def data() -> Data:
    return tomlfile.check(Data, tomlfile.read(_DATA), lambda _: str(_DATA))
