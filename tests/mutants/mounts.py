"""Mutants of mounts, devices, masked and readonly paths, sysctls and propagation."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .engine import Call, Edit, Json, at, items, refuse
from .registry import config, in_container_setup, mutant

PLAIN = 4  # mounts that every config has
FLAGS = ("ro", "nosuid", "nodev", "noexec")
Change = Callable[[list[str]], list[str]]


def is_bind(options: list[str]) -> bool:
    return "bind" in options or "rbind" in options


def own(config: Json) -> list[Json]:
    """The mounts that a check has added."""
    return items(config, "mounts")[PLAIN:]


def change(config: Json, edit: Change, *, of: str = "") -> None:
    """Change the options of all mounts, or of those that are (not) bind mounts: of "bind" or "tmpfs"."""
    for mount in own(config):
        options = mount.get("options", [])
        if not of or is_bind(options) == (of == "bind"):
            mount["options"] = edit(options)


def drops(*names: str, of: str = "") -> Edit:
    return lambda config: change(config, lambda given: [option for option in given if option not in names], of=of)


def swaps(of: str = "", **names: str) -> Edit:
    return lambda config: change(config, lambda given: [names.get(option, option) for option in given], of=of)


def adds(*names: str, of: str = "") -> Edit:
    return lambda config: change(config, lambda given: [*given, *names], of=of)


def refuses(*names: str) -> Edit:
    def edit(config: Json) -> None:
        for mount in own(config):
            if set(mount.get("options", [])) & set(names):
                refuse("unknown option")

    return edit


def option(name: str, edit: Edit, *ids: str) -> None:
    def named(config: Json) -> None:
        edit(config)

    named.__name__ = name
    config(*ids)(named)


option("tmpfs_ro_ignored", drops("ro", of="tmpfs"), "MOUNT-004")
option("tmpfs_nosuid_ignored", drops("nosuid", of="tmpfs"), "MOUNT-004")
option("tmpfs_nodev_ignored", drops("nodev", of="tmpfs"), "MOUNT-004")
option("tmpfs_nodev_is_noexec", swaps(of="tmpfs", nodev="noexec"), "MOUNT-004")
option(
    "every_tmpfs_is_locked_down", adds("nosuid", "nodev", "noexec", of="tmpfs"), "MOUNT-004", "MOUNT-013", "MOUNT-014"
)
option("every_tmpfs_is_nodev", adds("nodev", of="tmpfs"), "MOUNT-004")
option("bind_ro_ignored", drops("ro", of="bind"), "MOUNT-010", "MOUNT-014")
option("bind_nosuid_ignored", drops("nosuid", of="bind"), "MOUNT-010")
option("bind_noexec_ignored", drops("noexec", of="bind"), "MOUNT-010")
option("every_bind_is_nosuid", adds("nosuid", of="bind"), "MOUNT-010")
option("every_bind_is_ro", adds("ro", of="bind"), "MOUNT-010", "MOUNT-002")
option("tmpfs_noatime_ignored", drops("noatime", of="tmpfs"), "MOUNT-011")
option("bind_noatime_ignored", drops("noatime", of="bind"), "MOUNT-011")
option("nodiratime_ignored", drops("nodiratime"), "MOUNT-011")
option("strictatime_ignored", drops("strictatime"), "MOUNT-011")
option("relatime_is_noatime", swaps(relatime="noatime"), "MOUNT-011")
option("sync_ignored", drops("sync"), "MOUNT-012")
option("dirsync_is_sync", swaps(dirsync="sync"), "MOUNT-012")
option("async_is_sync", swaps(**{"async": "sync"}), "MOUNT-012", "MOUNT-013")
option("dev_is_nodev", swaps(dev="nodev"), "MOUNT-013")
option("diratime_unknown", refuses("diratime"), "MOUNT-013")
option("norelatime_is_noatime", swaps(norelatime="noatime"), "MOUNT-013")
option("lazytime_ignored", drops("lazytime"), "MOUNT-015")
option("nolazytime_is_lazytime", swaps(nolazytime="lazytime"), "MOUNT-015")
option("iversion_unknown", refuses("iversion"), "MOUNT-016")
option("noiversion_is_nosuid", swaps(noiversion="nosuid"), "MOUNT-016")
option("silent_is_sync", swaps(silent="sync"), "MOUNT-017")
option("loud_unknown", refuses("loud"), "MOUNT-017")
option("defaults_is_nosuid", swaps(defaults="nosuid"), "MOUNT-018")
option(
    "defaults_are_all_there_is", lambda c: change(c, lambda given: [] if "defaults" in given else given), "MOUNT-018"
)
option("nosymfollow_ignored", drops("nosymfollow"), "MOUNT-020")
option("symfollow_is_nosymfollow", swaps(symfollow="nosymfollow"), "MOUNT-020")
option("tmpcopyup_ignored", drops("tmpcopyup"), "MOUNT-021")
option("ro_is_rro", swaps(of="bind", ro="rro"), "MOUNT-022")
option("nosuid_is_rnosuid", swaps(of="bind", nosuid="rnosuid"), "MOUNT-022")
option("rro_is_ro", swaps(rro="ro"), "MOUNT-006")
option("rro_ignored", drops("rro"), "MOUNT-006")
option("rnodev_is_nodev", swaps(rnodev="nodev"), "MOUNT-023")
option("rnosuid_ignored", drops("rnosuid"), "MOUNT-023")
option("rnoatime_is_noatime", swaps(rnoatime="noatime"), "MOUNT-024")
option("rstrictatime_ignored", drops("rstrictatime"), "MOUNT-024")
option("rrw_is_rw", swaps(rrw="rw"), "MOUNT-025")
option("rexec_ignored", drops("rexec"), "MOUNT-025")
option("ratime_ignored", drops("ratime"), "MOUNT-039")
option("rdiratime_is_diratime", swaps(rdiratime="diratime"), "MOUNT-039")
option("rnosymfollow_is_nosymfollow", swaps(rnosymfollow="nosymfollow"), "MOUNT-026")
option("rsymfollow_is_rnosymfollow", swaps(rsymfollow="rnosymfollow"), "MOUNT-026")
option("shared_is_slave", swaps(shared="slave"), "MOUNT-005")
option("private_is_slave", swaps(private="slave"), "MOUNT-005")
option("unbindable_is_private", swaps(unbindable="private"), "MOUNT-005")
option("rprivate_is_rslave", swaps(rprivate="rslave"), "MOUNT-027")
option("rshared_is_shared", swaps(rshared="shared"), "MOUNT-027")
option("slave_is_rslave", swaps(slave="rslave"), "MOUNT-041")
option("private_is_rprivate", swaps(private="rprivate"), "MOUNT-041")
option("ridmap_is_idmap", swaps(ridmap="idmap"), "MOUNT-028")


@config("MOUNT-014")
def first_option_wins(config: Json) -> None:
    def edit(given: list[str]) -> list[str]:
        kept: dict[str, str] = {}
        for name in given:
            kept.setdefault(name.removeprefix("no"), name)
        return list(kept.values())

    change(config, edit)


@config("MOUNT-014")
def options_are_sorted(config: Json) -> None:
    change(config, sorted)


@config("MOUNT-004", "MOUNT-010")
def only_the_last_flag(config: Json) -> None:
    def edit(given: list[str]) -> list[str]:
        flags = [name for name in given if name in FLAGS]
        return [name for name in given if name not in flags[:-1]]

    change(config, edit)


@config("MOUNT-004", "MOUNT-010", "MOUNT-012")
def last_option_dropped(config: Json) -> None:
    change(config, lambda given: given[:-1] if len(given) > 1 and given[-1] not in ("bind", "rbind") else given)


@config("MOUNT-019")
def remount_skipped(config: Json) -> None:
    config["mounts"] = [one for one in config["mounts"] if "remount" not in one.get("options", [])]


@config("MOUNT-019")
def remount_mounts_again(config: Json) -> None:
    drops("remount")(config)


@config("MOUNT-040")
def rw_ignored_at_remount(config: Json) -> None:
    change(config, lambda given: [name for name in given if name != "rw" or "remount" not in given])


@config("MOUNT-021")
def tmpcopyup_shows_the_original(config: Json) -> None:
    config["mounts"] = [one for one in config["mounts"] if "tmpcopyup" not in one.get("options", [])]


def mappings(config: Json) -> list[Json]:
    return [entry for one in own(config) for key in ("uidMappings", "gidMappings") for entry in one.get(key, [])]


@config("MOUNT-008", "MOUNT-028")
def mapped_ids_are_one_off(config: Json) -> None:
    for entry in mappings(config):
        entry["hostID"] += 1


@config("MOUNT-008")
def mapped_gids_are_the_uids(config: Json) -> None:
    for one in own(config):
        if "uidMappings" in one and "gidMappings" in one:
            one["gidMappings"] = one["uidMappings"]


@config("MOUNT-008")
def only_the_first_extent(config: Json) -> None:
    for one in own(config):
        for key in ("uidMappings", "gidMappings"):
            if key in one:
                one[key] = one[key][:1]


@config("MOUNT-008", "MOUNT-028", "MOUNT-029")
def mapped_ids_ignored(config: Json) -> None:
    drops("idmap", "ridmap")(config)
    for one in own(config):
        if "uidMappings" in one and "gidMappings" in one:
            del one["uidMappings"], one["gidMappings"]


@config("MOUNT-009")
def missing_mappings_are_copied(config: Json) -> None:
    for one in own(config):
        given = one.get("uidMappings") or one.get("gidMappings")
        if given:
            one.update(uidMappings=given, gidMappings=given)


@config("MOUNT-029")
def idmap_has_mappings_of_its_own(config: Json) -> None:
    everyone = [{"containerID": 0, "hostID": 0, "size": 65536}]
    for one in own(config):
        if {"idmap", "ridmap"} & set(one.get("options", [])):
            one.setdefault("uidMappings", everyone)
            one.setdefault("gidMappings", everyone)


@config("MOUNT-030")
def idmap_ignored_in_user_namespaces(config: Json) -> None:
    if any(one.get("type") == "user" for one in items(config, "linux", "namespaces")):
        drops("idmap", "ridmap")(config)


# Data, destinations, sources


def data_changed(edit: Change) -> Edit:
    def changed(given: list[str]) -> list[str]:
        data = [name for name in given if "=" in name]
        kept = edit(data)
        return [name for name in given if name not in data or name in kept]

    return lambda config: change(config, changed, of="tmpfs")


option("only_the_first_data", data_changed(lambda data: data[:1]), "MOUNT-007")
option("only_the_last_data", data_changed(lambda data: data[-1:]), "MOUNT-007")
option(
    "owner_of_a_mount_ignored", data_changed(lambda data: [d for d in data if d[:3] not in ("uid", "gid")]), "MOUNT-007"
)
option("unknown_options_dropped", data_changed(lambda data: [d for d in data if "labkit" not in d]), "MOUNT-031")


@mutant("MOUNT-031", "MOUNT-034", "MOUNT-035", "SYSCTL-003", "DEV-004", on="create")
def errors_swallowed(call: Call) -> int:
    call.run()
    return 0


@config("MOUNT-001")
def mounts_sorted_by_destination(config: Json) -> None:
    mounts = config["mounts"]
    mounts[PLAIN:] = sorted(mounts[PLAIN:], key=lambda one: one.get("destination", ""))


@config("MOUNT-001")
def first_mount_of_a_destination_stays(config: Json) -> None:
    kept: dict[str, Json] = {}
    for one in config["mounts"]:
        kept.setdefault(one.get("destination", ""), one)
    config["mounts"] = list(kept.values())


@config("MOUNT-002")
def sources_are_copied(config: Json) -> None:
    for number, one in enumerate(own(config)):
        if is_bind(one.get("options", [])):
            copy = f"{one['source']}.copy{number}"
            with suppress(OSError):
                subprocess.run(["cp", "-a", one["source"], copy], check=False, cwd=os.environ.get("PWD"))
            one["source"] = copy


@mutant("MOUNT-002", on="create")
def relative_sources_are_of_the_working_directory(call: Call) -> int:
    def edit(config: Json) -> None:
        for one in config["mounts"]:
            if is_bind(one.get("options", [])):
                one["source"] = str(Path.cwd() / one.get("source", ""))

    with call.edited(edit):
        return call.run()


@mutant("MOUNT-032", on="create")
def mounts_at_missing_destinations_skipped(call: Call) -> int:
    def edit(config: Json) -> None:
        root = call.root()
        config["mounts"][PLAIN:] = [one for one in own(config) if (root / one["destination"].lstrip("/")).exists()]

    with call.edited(edit):
        return call.run()


@mutant("MOUNT-032", on="create")
def destinations_are_emptied(call: Call) -> int:
    for one in own(call.config()):
        where = call.root() / one["destination"].lstrip("/")
        if where.is_file():
            where.write_text("")
    return call.run()


@config("MOUNT-032")
def blank_ends_a_destination(config: Json) -> None:
    for one in own(config):
        one["destination"] = one["destination"].partition(" ")[0]


@mutant("MOUNT-033", on="create")
def symlinks_lead_to_the_host(call: Call) -> None:
    for one in own(call.config()):
        first = call.root() / one["destination"].split("/")[1]
        if first.is_symlink():
            outside = first.parent.joinpath(first.readlink())
            (outside / "made").mkdir(parents=True, exist_ok=True)


@mutant("MOUNT-033", on="create")
def symlinked_destinations_skipped(call: Call) -> int:
    def edit(config: Json) -> None:
        root = call.root()
        config["mounts"][PLAIN:] = [
            one for one in own(config) if not (root / one["destination"].split("/")[1]).is_symlink()
        ]

    with call.edited(edit):
        return call.run()


@config("MOUNT-034")
def missing_sources_skipped(config: Json) -> None:
    config["mounts"][PLAIN:] = [
        one for one in own(config) if not is_bind(one.get("options", [])) or Path(one["source"]).exists()
    ]


@config("MOUNT-034")
def missing_sources_made(config: Json) -> None:
    for one in own(config):
        if is_bind(one.get("options", [])) and one["source"].startswith("/"):
            Path(one["source"]).mkdir(parents=True, exist_ok=True)


@config("MOUNT-035")
def unknown_types_are_tmpfs(config: Json) -> None:
    for one in own(config):
        one["type"] = one.get("type", "").replace("labkit-nosuch", "tmpfs")


@config("MOUNT-035")
def mounts_of_unknown_types_skipped(config: Json) -> None:
    config["mounts"] = [one for one in config["mounts"] if "nosuch" not in one.get("type", "")]


@config("MOUNT-036")
def mounts_need_a_source(config: Json) -> None:
    if any("source" not in one for one in own(config)):
        refuse("no source")


@config("MOUNT-036")
def type_of_a_bind_mount_counts(config: Json) -> None:
    for one in own(config):
        if one.get("type") == "tmpfs":
            one["options"] = [name for name in one.get("options", []) if name not in ("bind", "rbind")]


@config("MOUNT-036")
def rbind_only_as_first_option(config: Json) -> None:
    for one in own(config):
        one["options"] = [name for at, name in enumerate(one.get("options", [])) if at == 0 or name != "rbind"]


@mutant("MOUNT-037", on="create")
def mounts_on_the_host_as_well(call: Call) -> int:
    status = call.run()
    for one in own(call.config()) if not status else []:
        if one.get("type") == "tmpfs":
            where = str(call.root() / one["destination"].lstrip("/"))
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", where], check=False)
    return status


@config("MOUNT-037")
def work_directory_is_seen(config: Json) -> None:
    for one in own(config):
        if one.get("type") == "tmpfs":
            source = str(Path("/proc/self/cwd").resolve())
            config["mounts"].append({"destination": source, "type": "none", "source": source, "options": ["rbind"]})
            return


@config("MOUNT-038")
def ramfs_skipped(config: Json) -> None:
    config["mounts"] = [one for one in config["mounts"] if one.get("type") != "ramfs"]


@config("MOUNT-038")
def mqueue_is_tmpfs(config: Json) -> None:
    for one in own(config):
        if one.get("type") in ("mqueue", "ramfs"):
            one["type"] = "tmpfs"


@config("ROOT-003")
def readonly_root_means_all(config: Json) -> None:
    if at(config, "root").get("readonly"):
        adds("ro")(config)


@mutant("ROOT-003", on="create")
def readonly_root_hides_missing_destinations(call: Call) -> int:
    def edit(config: Json) -> None:
        root = call.root()
        if at(config, "root").get("readonly"):
            config["mounts"][PLAIN:] = [one for one in own(config) if (root / one["destination"].lstrip("/")).exists()]

    with call.edited(edit):
        return call.run()


@config("ROOT-003")
def readonly_root_not_with_mounts(config: Json) -> None:
    if own(config):
        at(config, "root")["readonly"] = False


@config("DEFFS-001")
def no_shm(config: Json) -> None:
    config["mounts"] = [one for one in items(config, "mounts") if one.get("destination") != "/dev/shm"]


# Devices


@in_container_setup("DEFDEV-004", "DEFDEV-005")
def dev_null_for_root_only(call: Call) -> str:
    return 'chmod 600 "$root/dev/null"'


@in_container_setup("DEFDEV-004", "DEFDEV-005")
def default_devices_readable_only(call: Call) -> str:
    return 'chmod 644 "$root"/dev/zero "$root"/dev/full "$root"/dev/urandom'


@in_container_setup("DEFDEV-004")
def dev_full_has_an_owner(call: Call) -> str:
    return 'chown 1000:0 "$root/dev/full"'


@in_container_setup("DEFDEV-004")
def dev_tty_has_a_group(call: Call) -> str:
    return 'chown 0:1001 "$root/dev/tty"'


@in_container_setup("DEFDEV-001")
def dev_urandom_is_a_file(call: Call) -> str:
    return 'rm "$root/dev/urandom"; echo 1234567 >"$root/dev/urandom"'


@in_container_setup("DEFDEV-001")
def dev_tty_is_console(call: Call) -> str:
    return 'rm "$root/dev/tty"; mknod -m 666 "$root/dev/tty" c 5 1'


@in_container_setup("SYML-001")
def dev_links_are_relative(call: Call) -> str:
    return 'ln -sfn fd/0 "$root/dev/stdin"; ln -sfn fd/1 "$root/dev/stdout"'


def devices(config: Json) -> list[Json]:
    return items(config, "linux", "devices")


@config("DEV-001")
def only_the_first_device(config: Json) -> None:
    del devices(config)[1:]


@config("DEV-001")
def last_device_dropped(config: Json) -> None:
    del devices(config)[-1:]


@config("DEV-001")
def devices_in_dev_only(config: Json) -> None:
    listed = devices(config)
    listed[:] = [one for one in listed if one.get("path", "/dev/").startswith("/dev/")]


@config("DEV-001")
def device_owner_and_group_swapped(config: Json) -> None:
    for one in devices(config):
        if "uid" in one and "gid" in one:
            one["uid"], one["gid"] = one["gid"], one["uid"]


@config("DEV-001")
def device_mode_under_umask(config: Json) -> None:
    for one in devices(config):
        if "fileMode" in one:
            one["fileMode"] &= ~0o022


@config("DEV-001")
def device_mode_0_is_unset(config: Json) -> None:
    for one in devices(config):
        if not one.get("fileMode", 1):
            del one["fileMode"]


@config("DEV-001")
def device_numbers_of_8_bits(config: Json) -> None:
    for one in devices(config):
        for key in ("major", "minor"):
            one[key] = one.get(key, 0) & 0xFF


@config("DEV-001")
def block_nodes_are_character_nodes(config: Json) -> None:
    for one in devices(config):
        one["type"] = one.get("type", "").replace("b", "c")


@config("DEV-001")
def no_fifos(config: Json) -> None:
    listed = devices(config)
    listed[:] = [one for one in listed if one.get("type") != "p"]


@config("DEV-009")
def configured_default_devices_ignored(config: Json) -> None:
    listed = devices(config)
    listed[:] = [one for one in listed if one.get("path") != "/dev/zero"]


@config("DEV-009")
def default_devices_belong_to_root(config: Json) -> None:
    for one in devices(config):
        if one.get("path") == "/dev/zero":
            one.update(uid=0, gid=0)


@config("DEFDEV-005")
def ptmx_for_root_only(config: Json) -> None:
    for one in items(config, "mounts"):
        if one.get("type") == "devpts":
            one["options"] = [name.replace("ptmxmode=0666", "ptmxmode=0600") for name in one.get("options", [])]


@config("MASK-001", "ROPATH-001")
def paths_of_proc_skipped(config: Json) -> None:
    for key in ("maskedPaths", "readonlyPaths"):
        listed_paths(key, lambda paths: [path for path in paths if not path.startswith("/proc")])(config)


@config("DEV-003")
def device_numbers_are_0_by_default(config: Json) -> None:
    for one in devices(config):
        one.setdefault("major", 0)
        one.setdefault("minor", 0)


@config("DEV-004")
def devices_are_character_devices_by_default(config: Json) -> None:
    for one in devices(config):
        if one.get("type", "") not in ("b", "c", "p", "u"):
            one["type"] = "c"


@config("DEV-004")
def devices_without_a_type_skipped(config: Json) -> None:
    listed = devices(config)
    listed[:] = [one for one in listed if one.get("type")]


@config("DEV-005")
def relative_devices_skipped(config: Json) -> None:
    listed = devices(config)
    listed[:] = [one for one in listed if one.get("path", "").startswith("/")]


@mutant("DEV-007", "DEV-002", on="create")
def devices_in_the_way_stay(call: Call) -> int:
    def edit(config: Json) -> None:
        listed = devices(config)
        listed[:] = [one for one in listed if not os.path.lexists(call.root() / one.get("path", "")[1:])]

    with call.edited(edit):
        return call.run()


@mutant("DEV-008", on="create")
def devices_in_the_way_refused(call: Call) -> int | None:
    paths = [one.get("path", "/")[1:] for one in devices(call.config())]
    return 1 if any(path and os.path.lexists(call.root() / path) for path in paths) else None


# Masked and readonly paths


def listed_paths(key: str, edit: Change) -> Edit:
    def changed(config: Json) -> None:
        linux = at(config, "linux")
        if linux.get(key):
            linux[key] = edit(linux[key])

    return changed


option("last_masked_path_dropped", listed_paths("maskedPaths", lambda paths: paths[:-1]), "MASK-001", "MASK-003")
option("first_masked_path_dropped", listed_paths("maskedPaths", lambda paths: paths[1:]), "MASK-001")
option(
    "only_the_first_readonly_path", listed_paths("readonlyPaths", lambda paths: paths[:1]), "ROPATH-001", "ROPATH-003"
)
option(
    "last_readonly_path_dropped", listed_paths("readonlyPaths", lambda paths: paths[:-1]), "ROPATH-001", "ROPATH-004"
)


@config("MASK-002", "ROPATH-002")
def relative_paths_skipped(config: Json) -> None:
    for key in ("maskedPaths", "readonlyPaths"):
        listed_paths(key, lambda paths: [path for path in paths if path.startswith("/")])(config)


@config("MASK-001")
def masked_paths_are_readonly(config: Json) -> None:
    linux = at(config, "linux")
    linux["readonlyPaths"] = linux.pop("maskedPaths", [])


@mutant("MASK-001", on="create")
def masked_directories_skipped(call: Call) -> int:
    return with_paths(call, "maskedPaths", lambda path: not (call.root() / path[1:]).is_dir())


@mutant("MASK-004", on="create")
def masked_symlinks_skipped(call: Call) -> int:
    return with_paths(call, "maskedPaths", lambda path: not (call.root() / path[1:]).is_symlink())


def with_paths(call: Call, key: str, keep: Callable[[str], bool]) -> int:
    with call.edited(listed_paths(key, lambda paths: [path for path in paths if keep(path)])):
        return call.run()


@mutant("MASK-004", on="create")
def masked_symlinks_lead_to_the_host(call: Call) -> None:
    for path in at(call.config(), "linux").get("maskedPaths", []):
        link = call.root() / path[1:]
        if link.is_symlink() and link.readlink().is_absolute():
            link.readlink().write_text("")


@mutant("MASK-003", "ROPATH-004", on="create")
def missing_paths_refused(call: Call) -> int | None:
    linux = at(call.config(), "linux")
    paths = [*linux.get("maskedPaths", []), *linux.get("readonlyPaths", [])]
    there = [os.path.lexists(call.root() / path.lstrip("/")) for path in paths if "/mount" not in path]
    return None if all(there) else 1


@mutant("MASK-003", "ROPATH-004", on="create")
def missing_paths_made(call: Call) -> None:
    linux = at(call.config(), "linux")
    for path in (*linux.get("maskedPaths", []), *linux.get("readonlyPaths", [])):
        if path.startswith("/lk"):
            with suppress(FileExistsError):
                (call.root() / path[1:]).mkdir(parents=True)


@config("ROPATH-003")
def readonly_mounts_lose_their_options(config: Json) -> None:
    paths = at(config, "linux").get("readonlyPaths", [])
    for one in own(config):
        if one["destination"] in paths:
            one["options"] = [name for name in one.get("options", []) if name in ("bind", "rbind")]


@mutant("USERNS-002", on="create")
def rootfs_is_chowned(call: Call) -> int:
    mapped = items(call.config(), "linux", "uidMappings")
    status = call.run()
    for directory, _, files in os.walk(call.root()) if mapped else ():
        for name in files:
            os.chown(Path(directory, name), 100000, 100000, follow_symlinks=False)
    return status


@mutant("USERNS-002", on="create")
def bind_sources_are_chowned(call: Call) -> None:
    found = call.config()
    for one in own(found) if items(found, "linux", "uidMappings") else []:
        if is_bind(one.get("options", [])):
            os.chown(one["source"], 100000, 0)


@mutant("USERNS-002", on="delete")
def rootfs_is_chowned_by_delete(call: Call) -> None:
    known = call.state()
    if known:
        call.bundle = Path(known["bundle"])
        os.chown(call.root() / "home", 1, 1) if (call.root() / "home").exists() else None


def on_nodes_of_the_suite(call: Call) -> bool:
    """A container with a user namespace, and a /dev that is not this computer's."""
    mapped = items(call.config(), "linux", "uidMappings")
    return bool(mapped) and " labkit-dev " in Path("/proc/self/mountinfo").read_text()


@mutant("USERNS-002", on="create")
def devices_of_the_host_are_chowned(call: Call) -> None:
    if on_nodes_of_the_suite(call):
        os.chown("/dev/full", 100000, 100000)


@mutant("USERNS-002", on="create")
def devices_of_the_host_are_chmodded(call: Call) -> None:
    if on_nodes_of_the_suite(call):
        Path("/dev/zero").chmod(0o600)


# Sysctls


def sysctls(config: Json) -> Json:
    return at(config, "linux", "sysctl")


@config("SYSCTL-001", "SYSCTL-002")
def only_the_first_sysctl(config: Json) -> None:
    for key in list(sysctls(config))[1:]:
        del sysctls(config)[key]


@config("SYSCTL-001", "SYSCTL-002")
def last_sysctl_dropped(config: Json) -> None:
    for key in list(sysctls(config))[-1:]:
        del sysctls(config)[key]


@config("SYSCTL-001")
def sysctl_of_many_numbers_cut(config: Json) -> None:
    for key, value in list(sysctls(config).items()):
        if key == "kernel.sem":
            sysctls(config)[key] = value.split()[0]


@config("SYSCTL-001", "SYSCTL-002", "SYSCTL-004")
def sysctls_of_the_host_as_well(config: Json) -> None:
    for key, value in sysctls(config).items():
        with suppress(OSError):
            Path("/proc/sys", *key.split(".")).write_text(value)


@config("SYSCTL-003")
def unknown_sysctls_skipped(config: Json) -> None:
    for key in list(sysctls(config)):
        if "nosuch" in key:
            del sysctls(config)[key]


@config("SYSCTL-003")
def bad_sysctls_skipped(config: Json) -> None:
    for key, value in list(sysctls(config).items()):
        if not value[:1].isdigit():
            del sysctls(config)[key]


@config("SYSCTL-004")
def sysctls_of_other_namespaces_skipped(config: Json) -> None:
    types = {one.get("type") for one in items(config, "linux", "namespaces")}
    for key in list(sysctls(config)):
        if (key.startswith("net.") and "network" not in types) or (key.startswith("kernel.") and "ipc" not in types):
            del sysctls(config)[key]


# Propagation of /


def root_propagation(**values: str) -> Edit:
    def edit(config: Json) -> None:
        linux = at(config, "linux")
        given = linux.get("rootfsPropagation", "")
        if given in values:
            linux["rootfsPropagation"] = values[given]

    return edit


for name, given, other, ident in (
    ("root_shared_is_slave", "shared", "slave", "PROP-001"),
    ("root_shared_is_private", "shared", "private", "PROP-001"),
    ("root_slave_is_private", "slave", "private", "PROP-002"),
    ("root_slave_is_shared", "slave", "shared", "PROP-002"),
    ("root_private_is_slave", "private", "rslave", "PROP-003"),
    ("root_unbindable_is_private", "unbindable", "private", "PROP-004"),
    ("root_unbindable_is_slave", "unbindable", "slave", "PROP-004"),
):
    option(name, root_propagation(**{given: other}), ident)


@config("PROP-001", "PROP-004")
def root_propagation_ignored(config: Json) -> None:
    at(config, "linux").pop("rootfsPropagation", None)
