"""The words of the OCI Runtime Command Line Interface 1.0.1, and those that runc and crun both take besides."""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


DOCUMENT: dict[str, frozenset[str]] = {
    "create": _set("--bundle --console-socket --pid-file"),
    "start": _set(""),
    "state": _set(""),
    "kill": _set("--signal"),
    "delete": _set(""),
}
# Before the command, practised; and what is asked without a command.
GLOBAL = _set("--root --log --log-format --debug --systemd-cgroup")
ALONE = _set("--version -v --help -h")
_CREATE = _set("-b --no-pivot --no-new-keyring --preserve-fds")
_CHECKPOINT = _set("--image-path --work-path --tcp-established --ext-unix-sk --shell-job --file-locks")
PRACTICE: dict[str, frozenset[str]] = {
    "create": _CREATE,
    "start": _set(""),
    "state": _set(""),
    "kill": _set("--all -a"),
    "delete": _set("--force -f"),
    "run": _CREATE | DOCUMENT["create"] | _set("--detach -d --keep"),
    "exec": _set(
        "--process -p --detach -d --pid-file --console-socket --tty -t --cwd --env -e --user -u --cap -c "
        "--preserve-fds --cgroup --process-label --apparmor --no-new-privs"
    ),
    "ps": _set("--format -f"),
    "list": _set("--format -f --quiet -q"),
    "pause": _set(""),
    "resume": _set(""),
    "features": _set(""),
    "update": _set(
        "--resources -r --blkio-weight --cpu-period --cpu-quota --cpu-share --cpu-rt-period --cpu-rt-runtime "
        "--cpuset-cpus --cpuset-mems --kernel-memory --kernel-memory-tcp --memory --memory-reservation --memory-swap "
        "--pids-limit --l3-cache-schema --mem-bw-schema"
    ),
    "checkpoint": _CHECKPOINT | _set("--manage-cgroups-mode --leave-running --parent-path --pre-dump"),
    "restore": _CHECKPOINT | DOCUMENT["create"] | _set("-b --manage-cgroups-mode --detach -d"),
}
# Those that are followed by a value, and those that may stand several times.
_VALUED = PRACTICE["update"] | _set(
    "--bundle -b --console-socket --pid-file --signal --root --log --log-format --preserve-fds --process -p --cwd "
    "--env -e --user -u --cap -c --cgroup --process-label --apparmor --format -f --image-path --work-path "
    "--manage-cgroups-mode --parent-path"
)
REPEATED = _set("--env -e --cap -c")
SIGNALS = _set(
    "HUP INT QUIT ILL TRAP ABRT IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CLD CONT STOP TSTP TTIN "
    "TTOU URG XCPU XFSZ VTALRM PROF WINCH IO POLL PWR SYS RTMIN RTMAX"
)


def valued(command: str, option: str) -> bool:
    """Whether the option is followed by its value; -f is --force of delete, and --format of others."""
    return option in _VALUED and not (command == "delete" and option == "-f")
