# purpose: the programs that the lab needs, where the system lacks them (an image made from packages has them)
# inputs: LAB_PACKAGES (package names, separated by spaces)
# check: command -v runc crun busybox python3
installed() {
  if command -v dpkg-query >/dev/null; then
    test "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed
  else
    rpm -q --quiet "$1"
  fi
}

fetch() {
  if command -v apt-get >/dev/null; then
    # Not wanted and slow under emulation: needrestart's look at every process, and a new initramfs with busybox.
    apt-get -q update && NEEDRESTART_SUSPEND=1 apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
      --no-install-recommends install "$@"
  else
    dnf -y --setopt=install_weak_deps=False install "$@"
  fi
}

set --
for package in $LAB_PACKAGES; do
  installed "$package" || set -- "$@" "$package"
done
initramfs=/etc/initramfs-tools/update-initramfs.conf
if test $# -gt 0 && test -e "$initramfs"; then
  sed -i.labkit 's/^update_initramfs=.*/update_initramfs=no/' "$initramfs"
fi
# Mirrors fail now and then, and so does a network that has just come up.
for pause in 5 15 45 0; do
  test $# -gt 0 || break
  echo "labkit: installing $*"
  if fetch "$@"; then
    set --
  else
    sleep "$pause"
  fi
done
if test -e "$initramfs.labkit"; then
  mv "$initramfs.labkit" "$initramfs"
fi
test $# -eq 0 || {
  echo "labkit: cannot install $*" >&2
  exit 1
}
