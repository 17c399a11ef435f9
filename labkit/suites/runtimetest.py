"""The runtimetest suite: the older way to test, with runtime-tools' runtimetest inside a container.

In a bundle under the runtime, in an image under Docker, podman and rkt, and the tools that validate bundle and image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from labkit.core.cell import Selection
from labkit.suites.base import Suite
from labkit.suites.recordings import RunFile
from labkit.suites.subset import Subset
from labkit.suites.validation import Validation

_SCENARIOS = (
    "bundle_validate",
    "docker",
    "image_validate",
    "podman",
    "rkt",
    "runtimetest",
)  # as labkit.guest.programs has them


class Runtimetest(Validation):
    name = "runtimetest"
    title = "runtimetest in a bundle, in Docker, podman and rkt, and the validation of bundle and image"
    # Without rkt: it has to be built, of a source that no distribution has.
    needs: tuple[str, ...] = ("runtime-tools", "image-tools", "umoci", "docker", "podman")

    def argv(self, program: str, runtime: str, selection: Selection) -> list[str]:
        return [*super().argv(program, runtime, selection), "--set", "runtimetest"]

    def names(self) -> list[str]:
        return list(_SCENARIOS)

    def listing(self, program: str, runtime: str) -> list[str] | None:
        return None

    alone = False

    def _has(self, name: str, kept: RunFile | None) -> bool:
        return name in _SCENARIOS

    def needs_reset(self, selection: Selection) -> bool:
        return False

    def expected(
        self, kept: RunFile | None, facts: Mapping[str, str], found: Collection[str], meant: Subset
    ) -> tuple[Sequence[str], str]:
        if kept and kept.only:
            return super().expected(kept, facts, found, meant)
        return (kept and kept.programs) or _SCENARIOS, ""  # a run of an older labkit had fewer


SUITE: Suite = Runtimetest()
