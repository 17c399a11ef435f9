"""What machines of User-Mode Linux cannot show is skipped, by what is found there, and a broken runtime fails all the
same; and the page about it is held to the code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from labkit.suites import registry
from tests.conftest import Lab

PAGE = (Path(__file__).parent.parent / "docs/reference/uml-verdicts.md").read_text()
UNSEEN = {
    "CG-024": "no cgroup controller cpuset",
    "CG-029": "the kernel has no weight for block IO",
    "PERS-001": "this kernel's uname shows the same machine under LINUX32; the personality itself is as configured",
}
# A runtime that leaves one property out of the bundle's configuration.
BROKEN = """#!/usr/bin/python3
import json, os, sys
words = sys.argv[1:]
if "create" in words:
    path = os.path.join(words[words.index("--bundle") + 1], "config.json")
    with open(path) as file:
        config = json.load(file)
    table = config
    *parents, last = {keys!r}
    for key in parents:
        table = table.get(key, {{}})
    table.pop(last, None)
    with open(path, "w") as file:
        json.dump(config, file)
os.execv("/usr/bin/crun", ["/usr/bin/crun", *words])
"""


def verdicts(lab: Lab) -> Mapping[str, tuple[str, str]]:
    return {one["id"]: (one["verdict"], one["diagnostic"].get("message", "")) for one in lab.results()["results"]}


@pytest.mark.machine
def test_what_this_kernel_cannot_show_is_skipped_for_that_reason(uml: Lab) -> None:
    uml.run("test", "--runtime", "crun", "--only", ",".join(UNSEEN), status=1)  # nothing is shown
    assert verdicts(uml) == {ident: ("skip", reason) for ident, reason in UNSEEN.items()}
    assert "User-Mode Linux" in uml.results()["machine"]["kernel_origin"]
    uml.run("test", "--runtime", "runc", "--only", ",".join(UNSEEN))
    found = verdicts(uml)
    assert found["PERS-001"][0] == "fail", "runc 1.1 ignores it here as elsewhere"
    assert found["CG-024"] == ("skip", UNSEEN["CG-024"])


@pytest.mark.machine
@pytest.mark.parametrize(
    ("ident", "keys"),
    [
        ("PERS-001", "linux personality"),
        ("CG-005", "linux resources cpu"),
        ("CG-005", "linux resources cpu shares"),
        ("CG-023", "linux resources cpu quota"),
    ],
)
def test_a_runtime_that_leaves_it_out_fails_here_too(uml: Lab, ident: str, keys: str) -> None:
    script = BROKEN.format(keys=keys.split())
    uml.guest(f"cat >/usr/local/bin/broken <<'EOF'\n{script}\nEOF\nchmod 755 /usr/local/bin/broken")
    uml.run("test", "--runtime", "/usr/local/bin/broken", "--only", ident, status=1)
    assert verdicts(uml)[ident][0] == "fail"


@pytest.mark.machine
@pytest.mark.emulated
def test_a_kernel_with_cpuset_that_heeds_linux32_is_asked_for_all_of_it(emulated: Lab) -> None:
    emulated.run("test", "--runtime", "crun", "--only", ",".join(UNSEEN))
    assert verdicts(emulated) == {ident: ("pass", "") for ident in UNSEEN}


def rows(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, without its head."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    found = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in found[2:]]


@pytest.mark.parametrize(("heading", "suite"), [("The spec suite", "spec"), ("The validation suite", "validation")])
def test_the_page_names_checks_that_there_are(heading: str, suite: str) -> None:
    names = [name for row in rows(heading) for name in re.findall(r"`([A-Za-z0-9_-]+)`", row[0])]
    assert names
    assert set(names) <= set(registry.find(suite).names())


def test_the_page_has_the_reasons_as_they_are_printed() -> None:
    text = " ".join(PAGE.split())
    assert {row[0].split("`")[1] for row in rows("The spec suite")} == set(UNSEEN)
    for reason in UNSEEN.values():
        assert reason in text, json.dumps(reason)
