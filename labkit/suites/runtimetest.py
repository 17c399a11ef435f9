"""The runtimetest suite: the older way to test, with runtime-tools' runtimetest inside a container.

In a bundle under the runtime, in an image under Docker and podman, and the tools that validate bundle and image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.suites import Wish
from labkit.suites.validation import Kept, Validation

_SCENARIOS = ("bundle_validate", "docker", "image_validate", "podman", "runtimetest")  # as labkit_programs has them


class Runtimetest(Validation):
    name = "runtimetest"
    title = "runtimetest in a bundle, in Docker and in podman, and the validation of bundle and image"
    needs = ("runtime-tools", "image-tools", "umoci", "docker", "podman")

    def argv(self, program: str, runtime: str, wish: Wish) -> list[str]:
        return [*super().argv(program, runtime, wish), "--set", "runtimetest"]

    def names(self) -> list[str]:
        return list(_SCENARIOS)

    def holds(self, raw: Path) -> bool:
        return any((raw / f"{name}.tap").is_file() for name in _SCENARIOS)

    def spoils(self, wish: Wish) -> bool:
        return False

    def expected(self, kept: Kept | None, facts: Mapping[str, str]) -> Sequence[str]:
        return kept.only if kept and kept.only else _SCENARIOS


SUITE = Runtimetest()
