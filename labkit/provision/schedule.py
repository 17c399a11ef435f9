"""Values to text: what starts `nightly` every night, in systemd, cron, GitHub Actions and GitLab. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labkit.core.errors import UsageError
from labkit.provision.render import template

SERVICE, TIMER, CRON = "labkit-nightly.service", "labkit-nightly.timer", "labkit-nightly.cron"
CI = {
    "github": (".github/workflows/labkit-nightly.yml", "nightly-github.yml.j2"),
    "gitlab": (".gitlab/labkit-nightly.yml", "nightly-gitlab.yml.j2"),
}


@dataclass(frozen=True, slots=True)
class Nightly:
    """What runs: argv, without the task, in a directory, by a user, with these variables of the environment. It writes
    in the directories writable. collect: whether `gc` follows, as the settings say what is kept of nights.
    """

    argv: Sequence[str]
    directory: str
    user: str
    variables: Mapping[str, str]
    writable: Sequence[str] = ()
    collect: bool = False

    @property
    def private_tmp(self) -> bool:
        """Whether it can do without the /tmp that all share."""
        places = (*self.argv, self.directory, *self.writable, *self.variables.values())
        return not any(text.startswith(("/tmp/", "/var/tmp/")) for text in places)


def units(nightly: Nightly) -> dict[str, str]:
    """A service, a timer and a line for cron, by the names of their files. UsageError where a path or a value has
    characters that one of those cannot have.
    """
    for text in (*nightly.argv, nightly.directory, *nightly.writable, *nightly.variables.values()):
        if not text.isprintable() or "\\" in text or text != text.strip():
            raise UsageError(
                f"{text!r} cannot be written into a unit file or a crontab: it has a backslash, a control character or "
                "a space at its end",
                hint="use a directory of another name",
            )
    words = [f"{name}={value}" for name, value in nightly.variables.items()]
    call = [*(["env", *words] if words else []), *nightly.argv]
    then = f"; exec {shlex.join([*call, 'gc'])} >>nightly.log 2>&1" if nightly.collect else ""
    begin = "" if nightly.collect else "exec "
    line = f"cd {shlex.quote(nightly.directory)} && {begin}{shlex.join([*call, 'nightly'])} >nightly.log 2>&1{then}"
    line = line.replace("%", "\\%")  # cron takes % for the end of the line
    return {
        SERVICE: template("nightly.service.j2", nightly=nightly),
        TIMER: template("nightly.timer.j2", nightly=nightly),
        CRON: template("nightly.cron.j2", line=line),
    }


def ci(system: str, version: str) -> tuple[str, str]:
    """The path of a job's file in a repository, and its text; version is labkit's."""
    path, name = CI[system]
    return path, template(name, version=version)
