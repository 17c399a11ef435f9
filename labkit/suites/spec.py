"""The spec suite: labkit's own checks of runtime-spec requirements, as a zipapp of the package labkit_spec."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from labkit import results, tap
from labkit.errors import UsageError
from labkit.pyz import pyz
from labkit.suites import Capped, Heard, Wish, labkit_spec
from labkit.words import did_you_mean

_FOLDER = Path(labkit_spec.__file__).parent
_OUTPUT, _ERRORS = "spec.tap", "spec.err"
_RAW_LIMIT = 256 << 20  # bytes kept of each; a run has some hundred KB


class Spec:
    name = "spec"
    title = "labkit's conformance suite for the OCI runtime-spec 1.0 to 1.3"
    version = labkit_spec.__version__
    needs: tuple[str, ...] = ()

    def file_name(self) -> str:
        return "labkit-spec.pyz"

    def program(self) -> bytes:
        return pyz(_FOLDER)

    def argv(self, program: str, runtime: str, wish: Wish) -> list[str]:
        words = ["python3", program, "--runtime", runtime]
        words += ["--only", ",".join(wish.only)] if wish.only else []
        return words + (["--jobs", str(wish.jobs)] if wish.jobs else [])

    def names(self) -> list[str]:
        with (_FOLDER / "requirements.tsv").open(newline="") as file:
            return [row["id"] for row in csv.DictReader(file, delimiter="\t")]

    def check(self, wish: Wish) -> None:
        if wish.repeat or wish.limit:
            raise UsageError("the spec suite can neither repeat nor take a limit", hint="--suite validation can")
        known = self.names()
        for ident in wish.only:
            if ident not in known:
                raise UsageError(
                    f"the spec suite has no check {ident!r}{did_you_mean(ident, known)}", hint="./lab suites"
                )

    def spoils(self, wish: Wish) -> bool:
        return False

    @contextlib.contextmanager
    def listen(self, raw: Path, heard: Heard, only: Sequence[str] = ()) -> Iterator[_Listener]:
        with Capped(raw / _OUTPUT, _RAW_LIMIT) as out, Capped(raw / _ERRORS, _RAW_LIMIT) as err:
            listener = _Listener(out, err, heard)
            try:
                yield listener
            finally:
                listener.close()

    def holds(self, raw: Path) -> bool:
        return (raw / _OUTPUT).is_file()

    def read(self, raw: Path, known: Mapping[str, str] | None = None) -> results.Reading:
        reader = tap.Reader()
        events: list[tap.Event] = []
        with (raw / _OUTPUT).open("rb") as file:
            while piece := file.read(1 << 20):
                events += reader.feed(piece)
        reading = results.from_tap([*events, *reader.close()])
        return results.Reading(reading.results, {**(known or {}), **reading.facts}, reading.reason)


class _Listener:
    def __init__(self, out: Capped, err: Capped, heard: Heard) -> None:
        self.heard = False
        self.take_stderr = err.write
        self._out = out
        self._tell = heard
        self._reader = tap.Reader()
        self._done = 0
        self._planned: int | None = None

    def take(self, data: bytes) -> None:
        self._out.write(data)
        self._note(self._reader.feed(data))

    def close(self) -> None:
        self._note(self._reader.close())

    def _note(self, new: list[tap.Event]) -> None:
        self.heard = self.heard or bool(new)
        for event in new:
            if isinstance(event, tap.Plan):
                self._planned = event.count
            elif isinstance(event, tap.TestPoint):
                self._done += 1
                self._tell(results.result_of(event, self._done), self._done, self._planned)


SUITE = Spec()
