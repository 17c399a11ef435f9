"""AppArmor and SELinux: config.md#configLinuxProcess. Few hosts of a lab have one of them switched on."""

from __future__ import annotations

from pathlib import Path

from ..context import T
from ..registry import check


def has_apparmor() -> bool:
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text().startswith("Y")
    except OSError:
        return False


def selinux_label(root: Path = Path("/")) -> str:
    """This process's label; empty where SELinux is not in use. Before a policy is loaded all processes have the label
    `kernel` (the kernel's initial SID), and runtimes take it for switched off: go-selinux's GetEnabled.
    """
    listed = (root / "proc/filesystems").read_text().split()
    if "selinuxfs" not in listed or not (root / "sys/fs/selinux/enforce").exists():
        return ""
    label = (root / "proc/self/attr/current").read_text().rstrip("\0\n")
    return "" if label == "kernel" else label


@check("LSM-001")
def profile_that_is_not_loaded(t: T) -> None:
    config = t.config()
    config["process"]["apparmorProfile"] = "labkit-no-such"
    where = "that is not loaded" if has_apparmor() else "and no AppArmor"
    t.refused(config, f"create or start with a profile {where}", by_start=True)


@check("LSM-002")
def label_that_is_unknown(t: T) -> None:
    config = t.config()
    config["process"]["selinuxLabel"] = "lk_u:lk_r:lk_t:s0"
    where = "that the policy does not have" if selinux_label() else "and no SELinux"
    t.refused(config, f"create or start with a label {where}", by_start=True)


@check("LSM-003")
def profile_of_the_process(t: T) -> None:
    own = selinux_label()
    if not has_apparmor() and not own:
        t.skip("this host has neither AppArmor nor SELinux switched on")
    config = t.config(["/bin/cat", "/proc/self/attr/current"])
    if has_apparmor():
        own = "unconfined"
        config["process"]["apparmorProfile"] = own
    else:
        config["process"]["selinuxLabel"] = own
    found = t.run(config).stdout.rstrip("\0\n")
    t.equal(found, own, "what /proc/self/attr/current says")
