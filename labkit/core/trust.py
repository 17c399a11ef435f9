"""Whether labkit may obey a file: what another user can write makes that user's wishes ours.

As git's safe.directory (https://git-scm.com/docs/git-config#Documentation/git-config.txt-safedirectory): root's, this
user's and, for root by way of sudo, those of the user who called it.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from labkit.core.errors import UsageError


def require_trusted(path: Path, environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of a file or directory. UsageError where somebody else owns it, or may write or replace it.

    What does not exist is for its reader to tell.
    """
    environ = os.environ if environ is None else environ
    trusted = {0, os.geteuid()}
    if os.geteuid() == 0 and environ.get("SUDO_UID", "").isdecimal():
        trusted.add(int(environ["SUDO_UID"]))
    real = path.resolve()
    if real.is_char_device():  # /dev/null, for no configuration at all
        return path
    for place in (real, real.parent):
        try:
            info = place.stat()
        except OSError:
            return path
        why = None
        # In a sticky directory, such as /tmp, nobody can replace what others own.
        if place == real and info.st_uid not in trusted:
            why = f"belongs to {_name(info.st_uid)}"
        elif place == real.parent and info.st_uid not in trusted:
            why = f"is in {place}, which belongs to {_name(info.st_uid)}"
        elif info.st_mode & stat.S_IWOTH and not (stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX):
            why = "can be written by anybody" if place == real else f"is in {place}, where anybody can replace it"
        if why:
            raise UsageError(
                f"{path} {why}, so labkit, run by {_name(os.geteuid())}, does not obey it",
                hint="if you trust it, change its owner and mode (chown, chmod o-w); "
                "or name another one, or run labkit as the user who owns it",
            )
    return path


def _name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}" if uid else "root"
    except KeyError:  # a number without an account, as containers have it
        return f"user {uid}"
