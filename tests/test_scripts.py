"""Every script that labkit can render, through shellcheck."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labkit.machines import identity
from labkit.provision.bootstrap import Target
from labkit.uml import guest
from tests.test_bootstrap import RELEASES, SHARED, WAYS, plan, settings, shellcheck


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("distribution", sorted({name for name, _ in RELEASES}))
def test_every_script_is_clean(tmp_path: Path, distribution: str, target: Target) -> None:
    """The variables of each script by themselves; what follows once for all that differ in keys of steps only."""
    bodies: dict[str, str] = {}
    heads = []
    for release in [release for name, release in RELEASES if name == distribution]:
        for ways in WAYS if target is Target.HOST else WAYS[:1]:
            script = plan(settings(tmp_path, **ways), target, distribution, release).script
            head, mark, _ = script.partition(SHARED)
            assert mark
            heads.append(head)
            bodies[re.sub("[0-9a-f]{16}", "KEY", script.removeprefix(head))] = script
    for script in bodies.values():
        assert shellcheck(script) == "", script[:1000]
    # SC2034: a variable that nothing uses; the steps do.
    assert shellcheck("\n".join(heads).replace("#!/bin/sh", ""), "--exclude=SC2034") == ""


@pytest.mark.parametrize("init", guest.INITS)
def test_what_a_guest_of_uml_begins_with_is_clean(init: str) -> None:
    script = guest.script(init, identity.boot_script(identity.new("it's mine"), "ssh-ed25519 AAAA labkit"))
    assert shellcheck(f"#!/bin/sh\n{script}") == ""
