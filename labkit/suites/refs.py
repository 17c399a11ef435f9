"""What is known of runtime-tools' validation suite, in validation.toml: the programs of each ref."""

from __future__ import annotations

import functools
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import StrictStr

from labkit.core import tomlfile
from labkit.core.tomlfile import Table

_DATA = Path(__file__).with_name("validation.toml")


class Ref(Table):
    """The programs of a ref: its own, or those of another one (like) without some and with others (besides)."""

    spec: StrictStr
    programs: tuple[StrictStr, ...] = ()
    like: StrictStr | None = None
    without: tuple[StrictStr, ...] = ()
    besides: tuple[StrictStr, ...] = ()
    also: tuple[StrictStr, ...] = ()


class Data(Table):
    default: StrictStr
    tree: StrictStr
    silent: tuple[StrictStr, ...]
    spoil: tuple[StrictStr, ...]
    refs: dict[str, Ref]

    def find(self, name: str) -> Ref | None:
        """The ref of that name, None where it is not known; 0.9.0 is v0.9.0."""
        names = (name, f"v{name}")
        also = (ref for ref in self.refs.values() if any(fnmatchcase(n, p) for p in ref.also for n in names))
        return self.refs.get(name) or self.refs.get(names[1]) or next(also, None)

    def programs(self, ref: Ref) -> tuple[str, ...]:
        if not ref.like:
            return ref.programs
        inherited = (name for name in self.programs(self.refs[ref.like]) if name not in ref.without)
        return tuple(sorted((*inherited, *ref.besides)))

    @property
    def every(self) -> frozenset[str]:
        """The programs of all refs."""
        return frozenset(name for ref in self.refs.values() for name in self.programs(ref))

    def fitting(self, spec: str, found: Collection[str]) -> list[str]:
        """The refs whose references name that version of runtime-spec ("" where none is known) and that have all known
        programs of those found: the one with the most programs first, so that none that is missing goes unseen.
        """
        sizes = {
            name: len(self.programs(ref))
            for name, ref in self.refs.items()
            if spec in ("", ref.spec) and {*found} & self.every <= {*self.programs(ref)}
        }
        return sorted(sizes, key=lambda name: (-sizes[name], name != self.default))


@functools.cache
def data() -> Data:
    return tomlfile.check(Data, tomlfile.read(_DATA), lambda _: str(_DATA))
