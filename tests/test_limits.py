"""A step that a limit of labkit.toml ended is told in labkit's words: what was done, which limit, its value."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from labkit.core import config
from labkit.core.config import Limits
from labkit.core.deadline import Deadline, allowed
from labkit.core.errors import CommandTimeout, ImageError, MachineError
from labkit.core.observer import Silent
from labkit.images import build
from labkit.images.build import Builder, recipe
from labkit.io.network import Network
from labkit.io.within import within
from labkit.machines.base import MachineState
from labkit.machines.fake import FakeMachine, Reply
from labkit.provision.bootstrap import BootstrapPlan
from labkit.provision.remote import provision
from labkit.qemu import hardware
from tests.conftest import until


def test_a_limit_is_named_as_it_was_set() -> None:
    assert Deadline.after(24.9999, "build").allowed == "25 s (limits.build)"
    assert Deadline.after(0.5).allowed == "0.5 s"
    for name in Limits.model_fields:
        assert allowed(30, name) == f"30 s (limits.{name})"


@pytest.mark.parametrize(
    ("output", "what"), [(b"", ""), (b"labkit: step docker\n", " at step docker")], ids=["before", "in a step"]
)
def test_a_bootstrap_that_takes_too_long(output: bytes, what: str) -> None:
    def respond(argv: Sequence[str]) -> Reply:
        time.sleep(0.1)
        return Reply(0, output, error=CommandTimeout("`sh /var/lib/labkit/bootstrap` ran longer than 0.09 s"))

    remote = FakeMachine("m", respond, state=MachineState.RUNNING).connect(Deadline.after(1))
    with pytest.raises(MachineError) as caught:
        provision(remote, BootstrapPlan("#!/bin/sh\n", (), ("docker",)), Silent(), timeout=0.1)
    said = rf"the bootstrap of .* did not end within 0\.1 s \(limits\.build\); it was ended{what}"
    assert re.fullmatch(said, caught.value.message)


@pytest.mark.bootstrap
@pytest.mark.needs("mmdebstrap")
def test_an_image_that_takes_too_long(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "LABKIT_LIMITS_BUILD": "0.9"}
    settings = config.load(cwd=tmp_path, environ=environ)
    with pytest.raises(ImageError) as caught:
        Builder(settings, Silent()).ensure(
            recipe(settings.distro(), settings, ()), hardware.here("tcg", 1, 512, Network.OPEN)
        )
    assert caught.value.message == "the image of Debian 13 could not be built within 0.9 s (limits.build)"
    assert list(settings.home.images.iterdir()) == []


def test_what_has_no_bound_of_its_own() -> None:
    discarded: list[str] = []
    go_on = threading.Event()

    def slow() -> str:
        assert go_on.wait(60)
        return "late"

    with pytest.raises(TimeoutError):
        within(Deadline.after(0.1), slow, discarded.append)
    assert within(Deadline.after(5), lambda: "in time") == "in time"
    with pytest.raises(ZeroDivisionError):
        within(Deadline.after(5), lambda: 1 // 0)
    go_on.set()
    until(lambda: discarded == ["late"])


def test_why_an_image_was_not_built() -> None:
    """The last words of the bootstrap, and not mmdebstrap's about itself, nor its command line."""
    output = "\n".join(
        (
            "I: running --customize-hook in shell: sh -c 'chroot'",
            "labkit: nothing was begun, these addresses do not answer from here:",
            "go: https://example.org/go.tar.gz: nobody answers at example.org, port 443",
            'E: setup failed: E: command failed: chroot "$1" /bin/sh /bootstrap',
            "I: removing tempdir /x...",
            "E: mmdebstrap failed to run",
        )
    )
    assert build._said(output) == output.splitlines()[1:3]
