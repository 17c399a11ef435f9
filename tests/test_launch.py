"""What QEMU's console says of a guest that has died."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.core.errors import ConnectionFailed, MachineError
from labkit.io.console import CONSOLE, GuestPanicked, panic_lines, panics_named

PANIC = b"[ 8.1] Kernel panic - not syncing: sysrq triggered crash"


@pytest.mark.parametrize(
    ("console", "said"),
    [
        (b"", ""),
        (b"all is well\n", ""),
        (PANIC, PANIC.decode()),
        (PANIC + b"\r\n[ 8.2] Call Trace:\r\n", PANIC.decode()),
        (b"a\nb\nc\n" + PANIC + b"\nd", f"b / c / {PANIC.decode()}"),
        (b"x" * 5000 + b"\n\x1b[31mc\n" + PANIC, f"{'x' * 585} / \\x1b[31mc / {PANIC.decode()}"),
    ],
)
def test_the_line_of_a_panic_is_found(console: bytes, said: str) -> None:
    assert panic_lines(console) == said


@pytest.mark.parametrize("error", [MachineError("the machine ended"), ConnectionFailed("it was cut")])
def test_whatever_fails_after_a_panic_is_called_a_panic(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), panics_named(tmp_path, "come up"):
        raise error
    (tmp_path / CONSOLE).write_bytes(PANIC + b"\n---[ end Kernel panic - not syncing: sysrq triggered crash ]---\n")
    with (
        pytest.raises(GuestPanicked, match="kernel panicked, so it did not come up") as caught,
        panics_named(tmp_path, "come up"),
    ):
        raise error
    assert caught.value.hint is not None and "sysrq triggered crash" in caught.value.hint
