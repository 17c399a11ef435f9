"""Which security module a host has in use, read in trees made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.guest.spec.checks.lsm import selinux_label

LABEL = "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023"


@pytest.mark.parametrize(
    ("filesystems", "enforce", "current", "label"),
    [
        ("nodev\tselinuxfs\n\text4\n", True, f"{LABEL}\0", LABEL),
        ("nodev\tselinuxfs\n\text4\n", True, "kernel\0", ""),  # it is there, and no policy has been loaded
        ("nodev\tselinuxfs\n\text4\n", False, f"{LABEL}\0", ""),  # switched off, or nobody mounted its file system
        ("\text4\n", False, "unconfined\n", ""),  # AppArmor's
    ],
)
def test_selinux_is_in_use_with_a_policy(
    tmp_path: Path, filesystems: str, enforce: bool, current: str, label: str
) -> None:
    files = {"proc/filesystems": filesystems, "proc/self/attr/current": current}
    for name, text in {**files, **({"sys/fs/selinux/enforce": "0"} if enforce else {})}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert selinux_label(tmp_path) == label
