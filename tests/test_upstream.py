"""The upstream suites in a real machine: runtime-tools built there from its real source, under runc, crun, Docker and
podman of Debian's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from labkit.suites import registry
from tests.conftest import Lab, make_lab
from tests.stock import Stock
from tests.upstream import runtime_tools

pytestmark = [pytest.mark.machine, pytest.mark.long]

SCENARIOS = ["bundle_validate", "docker", "image_validate", "podman", "runtimetest"]
PROGRAMS = {
    "hostname": "pass",
    "linux_cgroups_memory": "fail",  # cgroup v1 only
    "linux_cgroups_relative_cpus": "fail",  # cgroup v1 only
    "prestart": "no-assertions",
    "process_rlimits_fail": "pass",  # by printing nothing
    "process_user": "pass",
    "root_readonly_true": "pass",
    "start": "fail",  # asserts the opposite of the spec
}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory, stock: Stock) -> Iterator[Lab]:
    """A lab whose machines build runtime-tools from a directory, with such a machine."""
    directory = tmp_path_factory.mktemp("upstream")
    tools = list(registry.find("runtimetest").needs)
    for lab in make_lab(directory, provider=stock.provider, stock=stock):
        (lab.cwd / "labkit.toml").write_text(f'runtime_tools = "{runtime_tools(directory)}"\ntools = {tools}\n')
        lab.run("up", timeout=900)
        yield lab


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_runtimetest_runs_under_the_runtime_and_both_engines(upstream: Lab, runtime: str) -> None:
    upstream.run("test", "--suite", "runtimetest", "--runtime", runtime)
    results = upstream.results()
    assert results["run"]["complete"] is True
    assert results["runtime"]["name"] == runtime
    passing = Counter(one["program"] for one in results["results"] if one["verdict"] == "pass")
    assert sorted(passing) == SCENARIOS
    # Import, build, save, validate; then what runtimetest saw in the container. It sees less than under the runtime
    # alone of what an engine masks and mounts in its own way.
    assert passing["runtimetest"] > 200
    assert passing["docker"] > 200
    assert passing["podman"] > 200
    bad = {(one["program"], one["name"]) for one in results["results"] if one["verdict"] not in ("pass", "skip")}
    assert {program for program, _ in bad} == {"docker", "podman"}
    assert {name.partition("]")[2] for _, name in bad} == {" (/dev/mqueue) found in order", " (/sys) found in order"}
    assert results["totals"]["skip"] < 200


def test_docker_runs_the_runtime_under_test_or_none(upstream: Lab) -> None:
    upstream.guest("cp /usr/bin/crun /usr/local/bin/other")
    upstream.run("test", "--suite", "runtimetest", "--runtime", "/usr/local/bin/other", "--only", "docker", status=1)
    [one] = upstream.results()["results"]
    assert one["verdict"] == "skip"
    assert "Docker does not know /usr/local/bin/other" in one["diagnostic"]["reason"]


def test_the_real_programs_run(upstream: Lab) -> None:
    words = ["--suite", "validation", "--runtime", "runc", "--only", ",".join(PROGRAMS)]
    done = upstream.run("test", *words)  # all that is bad is expected
    assert done.stdout.startswith("validation on runc 1.1.")  # an archive tells no ref
    results = upstream.results()
    one_cpu = {"linux_cgroups_relative_cpus": "skip"} if results["machine"]["provider"] == "uml" else {}
    assert {one["name"]: one["verdict"] for one in results["programs"]} == PROGRAMS | one_cpu
    assert results["policy"] == {"expired": [], "unexpected_passes": [], "misspelt": []}
