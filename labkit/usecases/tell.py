"""The use case that ends a night: people are told what changed, where they asked for it, and nothing else.

What was told before is in reports/nights/told.json. What a channel did not take is told there with the next night that
has news, or at the next try.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from labkit.core import tomlfile
from labkit.core.config import Settings
from labkit.core.errors import LabError
from labkit.core.text import one_line
from labkit.io import tell as io
from labkit.io.files import disk_errors, make_directory, write_atomic
from labkit.reports import night as report
from labkit.results import night as nights
from labkit.results.news import News, Told, news
from labkit.results.night import Night

NIGHTS = "nights"
STATE = "told.json"
_KEPT = 20  # subjects of messages that a channel did not take
_LONGEST = 3500  # characters of a message in a chat
_STATE_LIMIT = 64 << 20

Send = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message by one channel (mail, webhook, apprise 1, ...). text is what a person should know, and
    holds no secret.
    """

    channel: str
    delivered: bool
    text: str


def check(settings: Settings) -> None:
    """UsageError where a message could not be sent for what the settings say: better before a night than after it."""
    for _, make in _channels(settings, os.environ):
        make()


def tell(settings: Settings, night: Night | Mapping[str, Any], *, timeout: float = io.TIMEOUT) -> list[Outcome]:
    """Tell people what a night changed, if they asked for it and there is something; what was told, and what failed.

    night may be night.json's object. timeout is for each channel. No LabError leaves this: a night is not lost for a
    message. A night that was told is not told again; only what failed is tried again.
    """
    channels = _channels(settings, os.environ)
    if not channels:
        return []
    path = settings.reports / NIGHTS / STATE
    try:
        given = night if isinstance(night, Night) else nights.from_json(night)
        before = _load(path)
        outcomes = []
        if isinstance(before, str):
            outcomes.append(Outcome("told.json", False, before))
            before = Told()
        brought, after = news(given, before, after=settings.tell.after, stale=settings.tell.stale)
        missed = dict(after.undelivered)
        for channel, make in channels:
            late = missed.get(channel, ())
            if brought or late:
                outcome, subject = _send(channel, make, given, brought, late, settings, timeout)
                outcomes.append(outcome)
                missed.pop(channel, None)
                if not outcome.delivered:
                    missed[channel] = (*late, *([subject] if brought else []))[-_KEPT:]
        names = {channel for channel, _ in channels}
        kept = {channel: subjects for channel, subjects in missed.items() if channel in names}
        _save(path, after.model_copy(update={"undelivered": kept}))
    except LabError as error:
        return [Outcome("told.json", False, error.message)]
    return outcomes


def _channels(
    settings: Settings, environ: Mapping[str, str]
) -> list[tuple[str, Callable[[], Callable[[float], Send]]]]:
    """The channels that the settings name. Each can be made, which reads its secrets (UsageError)."""
    given = settings.tell

    def secret(value: SecretStr, key: str) -> str:
        written = settings.file if settings.file and settings.origin(key) == str(settings.file) else None
        return io.secret(value.get_secret_value(), environ, key, written)

    def mail() -> Callable[[float], Send]:
        password = secret(given.mail.password, "tell.mail.password") if given.mail.password else None
        made = io.Mail(given.mail.server or "", given.mail.sender or "", given.mail.to, given.mail.user, password)
        return lambda timeout: lambda subject, text: io.mail(made, subject, text, timeout=timeout)

    def webhook(value: SecretStr) -> Callable[[float], Send]:
        url = secret(value, "tell.webhook")
        return lambda timeout: lambda subject, text: io.webhook(url, _payload(subject, text), timeout=timeout)

    def apprise(value: SecretStr) -> Callable[[float], Send]:
        url = secret(value, "tell.apprise")
        return lambda timeout: lambda subject, text: io.apprise(url, subject, _chat(text), timeout=timeout)

    channels: list[tuple[str, Callable[[], Callable[[float], Send]]]] = []
    if given.mail.to:
        channels.append(("mail", mail))
    if given.webhook:
        hook = given.webhook
        channels.append(("webhook", lambda: webhook(hook)))
    for number, one in enumerate(given.apprise, 1):
        channels.append((f"apprise {number}", lambda one=one: apprise(one)))  # type: ignore[misc]
    return channels


def _send(
    channel: str,
    make: Callable[[], Callable[[float], Send]],
    night: Night,
    brought: News,
    late: tuple[str, ...],
    settings: Settings,
    timeout: float,
) -> tuple[Outcome, str]:
    subject, text = report.told(night, brought, late=late, where=_where(settings, night))
    try:
        amiss = make()(timeout)(subject, text)
    except LabError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Outcome(channel, False, f"{error.message}{hint}"), subject
    return Outcome(channel, True, f"told: {subject}" + (f"; {amiss}" if amiss else "")), subject


def _where(settings: Settings, night: Night) -> str:
    """The address of the night's page, where its reports are on the web, else its path."""
    if settings.tell.link:
        return f"{settings.tell.link.rstrip('/')}/{NIGHTS}/{urllib.parse.quote(night.id, safe='')}/{report.PAGE}"
    return str(settings.reports / NIGHTS / night.id / report.PAGE)


def _payload(subject: str, text: str) -> dict[str, str]:
    """`text` is what Slack, Mattermost, Matrix's hookshot and their like show."""
    return {"text": f"{_inert(subject)}\n{_chat(text)}"}


def _chat(text: str) -> str:
    text = _inert(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…\n(cut; the report has the rest)"


def _inert(text: str) -> str:
    """Text in which chats see no command: `<!channel>` of Slack, `@all` of others; a `crun@main` stays."""
    text = text.translate({ord("<"): "‹", ord(">"): "›"})  # noqa: RUF001
    return re.sub(r"(?<![A-Za-z0-9])@", "＠", text)  # noqa: RUF001


def _load(path: Path) -> Told | str:
    """What was told before; as text why that cannot be read."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_STATE_LIMIT))
        if not isinstance(value, dict):
            raise ValueError("it is no object")
        return tomlfile.check(Told, value, lambda _: "told.json")
    except FileNotFoundError:
        return Told()
    except (OSError, ValueError, RecursionError, LabError) as error:
        return f"{path} cannot be read, so things may be told again: {one_line(str(error), 200)}"


def _save(path: Path, told: Told) -> None:
    with disk_errors(path.parent):
        make_directory(path.parent)
        write_atomic(path, told.model_dump_json(), mode=0o600)
