"""The driver of CRI, with a crictl that only pretends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.guest.engines import crictl
from labkit.guest.engines.base import Broken, Cannot, Options, Place
from labkit.guest.engines.crictl import Crictl

# Its pods are files of the directory that it is in: NAME has the configuration of the container, or nothing.
CRICTL = f"""#!{sys.executable}
import json, os, sys
place = os.path.dirname(os.path.abspath(__file__))
words = [word for word in sys.argv[1:]]
while words and words[0].startswith("--"):
    del words[:2]
with open(place + "/said", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
command, last = words[0], words[-1]
pods = [name for name in sorted(os.listdir(place)) if name.startswith("pod-")]
path = place + "/" + last.replace("container-", "pod-", 1)
if command == "run":
    pod, container = json.load(open(last)), json.load(open(words[2]))
    assert os.listdir(pod["log_directory"]) == []
    name = pod["metadata"]["name"]
    with open(place + "/pod-" + name, "w") as file:
        json.dump(container, file)
    if container["command"] == ["nowhere"]:
        sys.exit("level=fatal msg=running container: no such file")
    print("container-" + name)
elif command == "inspect":
    config = json.load(open(path))
    state = "CONTAINER_RUNNING" if config["command"] == ["sleep"] else "CONTAINER_EXITED"
    print(json.dumps(dict(status=dict(state=state, exitCode=7))))
elif command == "logs":
    print("out")
    print("err", file=sys.stderr)
elif command == "exec":
    print("in")
    sys.exit("level=fatal msg=execing command: command terminated with exit code 5")
elif command == "pods" and "--quiet" in words:
    name = last.strip("^$").replace("\\\\", "")
    print(*[pod for pod in pods if pod == "pod-" + name])
elif command == "pods":
    print(json.dumps(dict(items=[dict(metadata=dict(name=pod[4:])) for pod in pods])))
elif command == "rmp":
    os.unlink(place + "/" + last)
elif command == "stats":
    print(json.dumps(dict(stats=[dict(cpu=dict(usageCoreNanoSeconds=dict(value="12")),
                                      memory=dict(workingSetBytes=dict(value="34")))])))
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crictl:
    for name in ("bin", "data", "run"):
        (tmp_path / name).mkdir()
    for name in ("crictl", "containerd"):
        (tmp_path / "bin" / name).write_text(CRICTL)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    monkeypatch.setattr(crictl, "cgroup_version", lambda: "v2")
    return Crictl(Place(tmp_path / "data", tmp_path / "run", "/runtime"))


def said(engine: Crictl) -> list[str]:
    """The commands that crictl was given, without options."""
    lines = (engine.place.data.parent / "bin/said").read_text().splitlines()
    return [" ".join(json.loads(line)[4:]) for line in lines]


def config(engine: Crictl, what: str) -> Any:
    return json.loads((engine.place.data / f"{what}.json").read_text())


def test_a_container_runs_in_a_pod_that_is_gone_afterwards(engine: Crictl) -> None:
    done = engine.run("lk-1", "image", ["echo", "hello"])
    assert (done.status, done.out, done.err) == (7, "out\n", "err\n")
    data = engine.place.data
    assert said(engine) == [
        f"run --no-pull {data}/container.json {data}/pod.json",
        "inspect --quiet --output json container-lk-1",
        "logs container-lk-1",
        "pods --quiet --no-trunc --name ^lk\\-1$",
        "rmp --force pod-lk-1",
    ]
    assert engine.containers() == []


def test_what_fails_is_given_back_and_its_pod_removed(engine: Crictl) -> None:
    done = engine.run("lk-1", "image", ["nowhere"])
    assert done.status == 1 and "no such file" in done.err and "run" in done.argv
    assert engine.containers() == []


def test_a_name_that_comes_again_has_a_new_log(engine: Crictl) -> None:
    logs = engine.place.data / "logs/lk-1"
    logs.mkdir(parents=True)
    (logs / "log").write_text("of another\n")
    assert engine.run("lk-1", "image", ["true"]).out == "out\n"
    assert not (logs / "log").exists()


def test_one_in_the_background_is_listed_asked_and_removed(engine: Crictl) -> None:
    assert engine.detach("lk-1", "image", ["sleep"]).ok
    assert engine.detach("lk-10", "image", ["true"]).ok
    assert engine.containers() == ["lk-1", "lk-10"]
    assert engine.running("lk-1") and not engine.running("lk-10")
    assert engine.wait("lk-10").out == "7"
    assert engine.execute("lk-1", ["sh"]).status == 5  # crictl's own is 1
    assert engine.stats("lk-1").out == "12 34"
    assert engine.remove("lk-1", force=True).ok
    assert engine.containers() == ["lk-10"]
    assert engine.remove("nobody", force=True).ok


def test_a_container_that_does_not_end_has_no_status(engine: Crictl) -> None:
    engine.place.limit = 1
    assert engine.run("lk-1", "image", ["sleep"]).status is None


def test_what_is_asked_is_where_cri_has_it(engine: Crictl) -> None:
    asked = {
        "memory": "67108864",
        "pids": "50",
        "user": "1000:2000",
        "read-only": "yes",
        "device": "/dev/zero:/dev/labkit-zero",
        "no-new-privileges": "yes",
        "sysctl": "net.x=81",
        "hostname": "labkit-report",
        "env": "LABKIT=a b=c",
        "workdir": "/home/labkit",
        "cap-drop": "NET_RAW",
        "volume": "/d:/mnt",
    }
    assert set(asked) == set(engine.asks)
    engine.asked("lk-1", "image", ["true"], asked)
    pod, container = config(engine, "pod"), config(engine, "container")
    assert (pod["hostname"], pod["linux"]["sysctls"]) == ("labkit-report", {"net.x": "81"})
    assert container["linux"]["resources"] == {"memory_limit_in_bytes": 67108864, "unified": {"pids.max": "50"}}
    security = container["linux"]["security_context"]
    assert (security["run_as_user"], security["run_as_group"]) == ({"value": 1000}, {"value": 2000})
    assert security["readonly_rootfs"] is True and security["no_new_privs"] is True
    assert security["capabilities"] == {"drop_capabilities": ["NET_RAW"]}
    assert "/proc/kcore" in security["masked_paths"] and "/proc/sys" in security["readonly_paths"]
    assert container["envs"] == [{"key": "LABKIT", "value": "a b=c"}]
    assert container["mounts"] == [{"host_path": "/d", "container_path": "/mnt"}]
    assert container["devices"] == [
        {"host_path": "/dev/zero", "container_path": "/dev/labkit-zero", "permissions": "rwm"}
    ]
    assert container["working_dir"] == "/home/labkit"


def test_options_are_what_is_asked(engine: Crictl) -> None:
    options = Options(user="1000", env={"A": "1", "B": "2"}, terminal=True, volumes={"/d": "/mnt"})
    engine.run("lk-1", "image", ["true"], options)
    container = config(engine, "container")
    assert container["tty"] is True and "run_as_group" not in container["linux"]["security_context"]
    assert [one["key"] for one in container["envs"]] == ["A", "B"]
    assert config(engine, "pod")["hostname"] == "lk-1"


def test_what_cri_has_not_is_said(engine: Crictl, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking: list[Callable[[], object]] = [
        lambda: engine.pause("x"),
        lambda: engine.unpause("x"),
        lambda: engine.again("x"),
        lambda: engine.kill("x", "TERM"),
        lambda: engine.healthy("x", "image", "true"),
    ]
    for do in lacking:
        with pytest.raises(Cannot, match=r"^CRI "):
            do()
    monkeypatch.setattr(crictl, "cgroup_version", lambda: "v1")
    older = Crictl(engine.place)
    assert "pids" not in older.asks and "pids" in engine.asks
    with pytest.raises(Cannot, match="cgroup v2"):
        older.run("lk-1", "image", ["true"], Options(pids=6))


def test_a_pod_takes_no_longer_than_there_is(engine: Crictl) -> None:
    """crictl doubles the time that it is given for a pod."""
    engine.place.limit = 12
    engine.containers()
    assert engine.place.commands[-1].argv[3:5] == ["--timeout", "5s"]


@pytest.mark.parametrize("before", ["absent", "empty", "used"])
def test_nothing_of_cni_stays_in_the_machine(
    engine: Crictl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    cni = tmp_path / "lib/cni"
    monkeypatch.setattr(crictl, "_CNI", cni)
    monkeypatch.setattr(crictl, "CGROUP_ROOT", tmp_path)
    for name in ("mount", "umount"):
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    if before != "absent":
        cni.mkdir(parents=True)
    if before == "used":
        (cni / "results").mkdir()
    engine.start()
    assert cni.is_dir() and (tmp_path / "labkit").is_dir()
    engine.stop()
    assert cni.exists() is (before == "used")


def test_a_pod_gets_the_answer_that_cni_asks_for(engine: Crictl, tmp_path: Path) -> None:
    (tmp_path / "plugin").write_text(crictl._PLUGIN)
    variables = {"CNI_COMMAND": "ADD", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}
    done = subprocess.run(["sh", tmp_path / "plugin"], input=b"{}", env=variables, stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout)
    assert result["cniVersion"] == crictl._NETWORK["cniVersion"]
    assert result["interfaces"] == [{"name": "eth0", "sandbox": "/run/netns/x"}] and result["ips"]


def test_crictl_is_missed(engine: Crictl, tmp_path: Path) -> None:
    (tmp_path / "bin/crictl").unlink()
    with pytest.raises(Broken, match="crictl is not installed"):
        Crictl(engine.place)
