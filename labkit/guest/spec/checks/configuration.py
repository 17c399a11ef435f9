"""The bundle, config.json as a whole, and root: bundle.md, config.md."""

from __future__ import annotations

from pathlib import Path

from ..context import SLEEPER, T
from ..registry import check


@check("BUNDLE-001")
def config_name(t: T) -> None:
    bundle = t.bundle(SLEEPER)
    (bundle.path / "config.json").rename(bundle.path / "Config.json")
    t.refused(bundle, "create with Config.json in place of config.json")


@check("CONF-001")
def oci_version(t: T) -> None:
    for version in ("invalid", "", None):
        config = t.config(SLEEPER)
        del config["ociVersion"]
        if version is not None:
            config["ociVersion"] = version
        t.refused(config, f"create with ociVersion {version!r}" if version is not None else "create without ociVersion")


@check("CONF-002")
def older_version(t: T) -> None:
    for version in ((1, 0, 0), (1, 1, 0), (1, 2, 0), (1, 3, 0)):
        config = t.config(SLEEPER)
        config["ociVersion"] = text = ".".join(map(str, version))
        if version <= t.spec:
            c = t.create(config)
            t.equal(c.status(), "created", f"status with ociVersion {text}")
        else:
            t.note(f"newer ociVersion {text} accepted", t.try_create(config).created.ok)
            break


@check("CONF-003")
def unknown_properties(t: T) -> None:
    config = t.config("echo ran")
    unknown = {"labkitUnknown": {"deep": [1, None, "x"]}}
    for part in (config, config["process"], config["process"]["user"], config["root"], config["linux"]):
        part.update(unknown)
    config["mounts"][-1].update(unknown)
    c = t.run(config)
    t.equal(c.stdout, "ran\n", "output of the program")
    t.require(c.wait_stopped(), "the container stops")
    t.ok(c.delete(), "delete")


@check("CONF-004")
def unknown_annotations(t: T) -> None:
    given = {"org.example.labkit": "", "labkit": "no dot", "org.opencontainers.labkit.unknown": "x"}
    config = t.config(SLEEPER)
    config["annotations"] = given
    said = t.create(config).read_state().get("annotations")
    kept = {key: said.get(key) for key in given} if isinstance(said, dict) else said
    t.equal(kept, given, "annotations in state")


@check("CONF-005")
def invalid_values(t: T) -> None:
    for what, change in (
        ("rootfsPropagation bogus", {"rootfsPropagation": "bogus"}),
        ("seccomp.defaultAction SCMP_ACT_BOGUS", {"seccomp": {"defaultAction": "SCMP_ACT_BOGUS"}}),
        ("namespace type bogus", {"namespaces": [{"type": "bogus"}]}),
    ):
        config = t.config(SLEEPER)
        config["linux"]["namespaces"] += change.pop("namespaces", [])
        config["linux"].update(change)
        t.refused(config, f"create with {what}")


@check("ROOT-001")
def root_path(t: T) -> None:
    config = t.config(SLEEPER)
    config["root"]["path"] = "nothing"
    t.refused(config, "create with a root.path that does not exist")
    for absolute in (False, True):
        bundle = t.bundle(SLEEPER)
        other = bundle.path / "other"
        bundle.rootfs.rename(other)
        bundle.config["root"]["path"] = path = str(other) if absolute else "other"
        bundle.write(bundle.config)
        c = t.create(bundle)
        t.true(Path(f"/proc/{c.pid}/root").samefile(other), f"/ of the container is {path}")


@check("ROOT-002")
def root_readonly(t: T) -> None:
    script = "touch /file; echo $?; grep ' / / ' /proc/self/mountinfo || grep ' / ' /proc/self/mountinfo"
    for readonly in (True, None):
        config = t.config(script)
        if readonly:
            config["root"]["readonly"] = True
        c = t.run(config)
        says = c.stderr.strip()
        if readonly:
            t.true("Read-only file system" in says, "writing to a read-only /", "Read-only file system", says)
        t.equal((c.bundle.rootfs / "file").exists(), not readonly, f"file made in / with readonly {readonly}")
