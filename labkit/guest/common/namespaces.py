"""Namespaces of this process's own."""

from __future__ import annotations

import errno
import os
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000


def unshare(flags: int) -> None:
    """Raises OSError. os.unshare is new in Python 3.12; older Pythons of hosts that have json have ctypes too."""
    if sys.version_info >= (3, 12):
        os.unshare(flags)
        return
    try:
        import ctypes
    except ImportError:
        raise OSError(errno.ENOSYS, "this Python has neither os.unshare nor ctypes; the package python3 has") from None

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
