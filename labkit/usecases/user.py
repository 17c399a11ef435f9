"""The user of `--user` in a machine that labkit made; on a host of somebody's own its owner makes users."""

from __future__ import annotations

from labkit.core.errors import UsageError
from labkit.core.observer import Observer
from labkit.core.text import printable
from labkit.io.remote import Remote
from labkit.machines.base import Machine, Owned

_LIMIT = 60.0  # seconds

# A million ids: checks have containers whose ids are beyond the 65536 that distributions give a user.
_MAKE = """if id -u "$1" >/dev/null 2>&1; then
  exit 0
elif command -v useradd >/dev/null; then
  useradd -m -s /bin/sh -K SUB_UID_COUNT=1000000 -K SUB_GID_COUNT=1000000 "$1" || exit
else
  adduser -D "$1" || exit # busybox
fi
for file in /etc/subuid /etc/subgid; do
  grep -q "^$1:" "$file" 2>/dev/null || echo "$1:100000:1000000" >>"$file" || exit
done
echo made
"""


def make(name: str, remote: Remote, machine: Machine, observer: Observer) -> None:
    """Make the user, with subordinate ids, where there is none. UsageError where that cannot be."""
    if not name or isinstance(machine, Owned):
        return
    answer = remote.run(["sh", "-c", _MAKE, "sh", name], timeout=_LIMIT)
    if answer.status:
        said = printable(answer.stderr.strip()[-300:])
        raise UsageError(f"--user: {machine.name} has no user {name!r}, and none can be made: {said}")
    if answer.stdout.strip() == "made":
        observer.step(f"made user {name} on {machine.name}")
