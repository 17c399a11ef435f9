# The system's own init. What looks for QEMU's hardware, or would ask for an address that is there, is left out: each
# would be waited for. In system.control, which comes before /etc.
mkdir -p /run/systemd/system.control
for unit in labkit-agent.service systemd-networkd.service systemd-networkd.socket systemd-udev-settle.service \
  systemd-udev-trigger.service serial-getty@ttyS0.service getty@tty1.service modprobe@drm.service \
  modprobe@efi_pstore.service; do
  ln -s /dev/null "/run/systemd/system.control/$unit"
done
# Docker's daemon does not start on a kernel without NAT, unless it is told to do without.
if command -v dockerd >/dev/null && ! { iptables -w -t nat -N labkit && iptables -w -t nat -X labkit; } >/dev/null 2>&1
then
  mkdir -p /run/systemd/system.control/docker.service.d
  printf '[Service]\nEnvironment="DOCKER_OPTS=--iptables=false --ip6tables=false"\n' \
    >/run/systemd/system.control/docker.service.d/labkit.conf
fi
exec /sbin/init
