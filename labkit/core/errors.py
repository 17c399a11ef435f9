"""Expected failures, as one tree; the exit status of a command follows from the branch.

LabError
├── UsageError            2  wrong usage, wrong configuration
└── InfrastructureError   3  the lab itself failed
    ├── HostError            a tool, disk space or permission is missing on this host
    ├── ImageError           an image could not be built, downloaded or verified
    │   └── GivenUp              nor will it be tried once more
    ├── MachineError         a machine did not start, died, or is not what its record says
    │   └── MonitorGone      QEMU exited during a monitor command; its log has the reason
    ├── ProgramFailed        a program of this host failed, or passed its time limit
    └── ConnectionFailed     SSH: refused, cut, timed out, or a host key that is not the pinned one
        └── CommandTimeout   a command on a machine passed its time limit and was killed there
"""

from __future__ import annotations

import signal
from typing import ClassVar


class LabError(Exception):
    """An expected failure, shown to the person without a traceback.

    message says what is wrong and where; hint, if any, what to do about it. Both are plain text and may contain
    untrusted text: the code that prints them escapes it (labkit.core.text.printable).
    """

    exit_status: ClassVar[int] = 3

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Interrupted(KeyboardInterrupt):
    """A signal that asks to end, handled as Ctrl-C is: everything held is let go. Its text is the signal's name.

    A note (add_note) on it, or on a KeyboardInterrupt, says what is left and how to go on.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class UsageError(LabError):
    exit_status = 2


class InfrastructureError(LabError):
    exit_status = 3


class HostError(InfrastructureError):
    pass


class ImageError(InfrastructureError):
    pass


class GivenUp(ImageError):
    pass


class MachineError(InfrastructureError):
    pass


class MonitorGone(MachineError):
    pass


class ConnectionFailed(InfrastructureError):
    pass


class CommandTimeout(ConnectionFailed):
    pass


class ProgramFailed(InfrastructureError):
    pass
