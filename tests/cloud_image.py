"""A small Debian cloud image, made here: what a distribution publishes, in the least that boots and runs cloud-init.

SeaBIOS starts GRUB from the disk's first sectors, GRUB the kernel from the first partition. No loop device, no mount.
"""

from __future__ import annotations

import os
from pathlib import Path

from labkit.images import grub
from labkit.io import process

_PACKAGES = (
    "linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "openssh-server", "cloud-init", "grub-common",
    "grub-pc-bin", "runc", "crun", "iproute2", "kmod", "sudo",
)  # fmt: skip
_MIB = 1200

# cloud-init runs as it does everywhere, with one data source to look for and without the modules that take long
# and do nothing here. lab's own packages are there but busybox-static, whose archive is a directory: what the bootstrap
# installs comes through apt-get, and from no network.
_SETUP = r"""
set -eu
cat >/etc/cloud/cloud.cfg.d/90-test.cfg <<'CONF'
datasource_list: [NoCloud]
cloud_init_modules: [write-files, set_hostname, users-groups, ssh]
cloud_config_modules: [set-passwords, runcmd]
cloud_final_modules: [scripts-user]
CONF
systemctl enable systemd-networkd.service
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service
echo '/dev/vda1 / ext4 defaults 0 1' >/etc/fstab
: >/etc/machine-id
rm -f /etc/ssh/ssh_host_*

mkdir /srv/archive
cd /srv/archive
apt-get -q download busybox-static
for deb in *.deb; do
  dpkg-deb --field "$deb"
  sum=$(sha256sum "$deb")
  printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "${sum%% *}"
done >Packages
rm -f /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/srv/archive ./' >/etc/apt/sources.list

cat >/tmp/grub.cfg <<CONF
set root=(hd0,msdos1)
linux $(ls /boot/vmlinuz-*) root=/dev/vda1 rw console=ttyS0 mitigations=off quiet
initrd $(ls /boot/initrd.img-*)
boot
CONF
grub-mkimage -O i386-pc -o /boot/core.img -c /tmp/grub.cfg -p /boot/grub biosdisk part_msdos ext2 linux
cp /usr/lib/grub/i386-pc/boot.img /boot/
"""

# In a user namespace of one's own, where the builder is not root: owners in the file system are right all the same.
_DISK = r"""
set -eu
mkdir tree
tar -C tree -xf rootfs.tar --exclude='./dev/*'
cp tree/boot/boot.img tree/boot/core.img .
mkfs.ext4 -q -F -E offset=$start -d tree disk.raw "$((mib - start / 1048576))M"
rm -rf tree rootfs.tar
"""


def build(directory: Path) -> Path:
    """Make the image in directory; its path. Takes a minute or two, most of it mmdebstrap's."""
    directory.mkdir()
    setup = directory / "setup"
    setup.write_text(_SETUP)
    words: list[str | Path] = ["mmdebstrap", "--variant=minbase", "--mode=auto", "--format=tar"]
    words += [f"--include={','.join(_PACKAGES)}", "--aptopt=Acquire::Languages none", "--aptopt=Acquire::Retries 3"]
    words += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    words += [f"--customize-hook=copy-in {setup} /", '--customize-hook=chroot "$1" /bin/sh /setup']
    process.run([*words, "trixie", directory / "rootfs.tar"], timeout=900)
    disk = directory / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(_MIB << 20)
    root: list[str | Path] = [] if os.geteuid() == 0 else ["unshare", "--map-auto", "--map-root-user"]
    process.run([*root, "sh", "-c", f"start={grub.START} mib={_MIB}\n{_DISK}"], timeout=300, cwd=directory)
    grub.install(disk, (directory / "boot.img").read_bytes(), (directory / "core.img").read_bytes())
    image = directory / "cloud.qcow2"
    process.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, image], timeout=300)
    disk.unlink()
    return image
