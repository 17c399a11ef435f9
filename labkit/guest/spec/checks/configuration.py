"""The bundle, config.json as a whole, and root: bundle.md, config.md."""

from __future__ import annotations

from typing import Any

from ..context import SLEEPER, Bundle, T
from ..parts import Part, part
from ..registry import check


@check("BUNDLE-001")
def config_name(t: T) -> None:
    bundle = t.bundle(SLEEPER)
    (bundle.path / "config.json").rename(bundle.path / "Config.json")
    t.refused(bundle, "create with Config.json in place of config.json")


@check("CONF-001")
def oci_version(t: T) -> None:
    for version in ("invalid", "1.0", "", None):
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
    hook: dict[str, Any] = {"path": t.host.busybox, "args": ["cat"]}
    config["hooks"] = {"createRuntime": [hook]}
    limit: dict[str, Any] = {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}
    config["process"]["rlimits"] = [limit]
    config["linux"]["resources"] = {}
    process, linux = config["process"], config["linux"]
    for place in (
        config, process, process["user"], process["capabilities"], limit, config["root"], config["mounts"][-1],
        hook, linux, linux["namespaces"][0], linux["resources"],
    ):  # fmt: skip
        place.update(unknown)
    c = t.run(config)
    t.equal(c.stdout, "ran\n", "output of the program")
    t.require(c.wait_stopped(), "the container stops")
    t.ok(c.delete(), "delete")


@part("root", "CONF-004")
def unknown_annotations(t: T, bundle: Bundle) -> Part:
    given = {"org.example.labkit": "", "labkit": "no dot", "org.opencontainers.labkit.unknown": "x"}
    bundle.config.setdefault("annotations", {}).update(given)
    seen = yield ":"
    said = seen.c.read_state().get("annotations")
    kept = {key: said.get(key) for key in given} if isinstance(said, dict) else said
    t.equal(kept, given, "annotations in state")


@check("CONF-005")
def invalid_values(t: T) -> None:
    for what, key, bad, good in (
        ("rootfsPropagation bogus", "rootfsPropagation", "bogus", "private"),
        ("seccomp.defaultAction SCMP_ACT_BOGUS", "seccomp", {"defaultAction": "SCMP_ACT_BOGUS"},
         {"defaultAction": "SCMP_ACT_ALLOW"}),
    ):  # fmt: skip
        config, valid = t.config(SLEEPER), t.config(SLEEPER)
        for linux, value in ((config["linux"], bad), (valid["linux"], good)):
            linux[key] = value
        t.refused(config, f"create with {what}", valid=valid)


@check("ROOT-001")
def root_path(t: T) -> None:
    config = t.config(SLEEPER)
    config["root"]["path"] = "nothing"
    t.refused(config, "create with a root.path that does not exist")
    file = t.bundle(SLEEPER)
    (file.path / "file").write_text("no directory")
    file.config["root"]["path"] = "file"
    file.write(file.config)
    t.refused(file, "create with a root.path that is a file")
    for kind in ("relative", "absolute"):
        bundle = t.bundle("cat /labkit-mark")
        other = bundle.path / "other"
        bundle.rootfs.rename(other)
        (other / "labkit-mark").write_text("this root")
        bundle.config["root"]["path"] = str(other) if kind == "absolute" else "other"
        bundle.write(bundle.config)
        t.equal(t.run(bundle).stdout, "this root", f"what the program finds in / where root.path is {kind}")


@check("ROOT-002")
def root_readonly(t: T) -> None:
    for readonly in (True, False, None):
        config = t.config("touch /file; echo $?; [ -e /file ] && echo made")
        if readonly is not None:
            config["root"]["readonly"] = readonly
        c = t.run(config)
        told = "unset" if readonly is None else str(readonly).lower()
        said = c.stdout.split()
        if readonly:
            t.true(said[:1] not in ([], ["0"]), "status of a write to a read-only /", "not 0", said)
            t.true("Read-only file system" in c.stderr, "writing to a read-only /", "Read-only file system", c.stderr)
            t.equal((c.bundle.rootfs / "file").exists(), False, "file made in a read-only /")
        else:
            t.equal(said, ["0", "made"], f"writing to / with readonly {told}")


@check("CONF-024")
def invalid_personality(t: T) -> None:
    config, valid = t.config(SLEEPER), t.config(SLEEPER)
    config["linux"]["personality"] = {"domain": "BOGUS"}
    valid["linux"]["personality"] = {"domain": "LINUX"}
    t.refused(config, "create with personality BOGUS", valid=valid)
