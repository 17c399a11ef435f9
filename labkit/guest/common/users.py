"""The ordinary user that a suite runs as, instead of root."""

from __future__ import annotations

import pwd

from .errors import UsageError
from .text import printable


def require_user(name: str) -> pwd.struct_passwd:
    """Raises UsageError unless there is such a user, who is not root."""
    try:
        record = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise UsageError(f"--user: this machine has no user {printable(name, 100)!r}") from None
    if record.pw_uid == 0:
        raise UsageError("--user: root runs the tests without it")
    return record
