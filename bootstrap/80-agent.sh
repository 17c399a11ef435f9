# purpose: let labkit give a restored machine its own identity over a virtio port, before the first SSH connection
# inputs: none
# check: test -x /usr/local/bin/labkit-agent
# on: build cloud cloud-box
#
# One line in: a base64 shell script, run as root. One line out: its exit status. Only the process that started
# the machine can reach the port. busybox, if installed, runs most commands without starting a program, which
# matters under software emulation. SELinux lets systemd start programs from bin directories, not from lib.
shell=/bin/sh
if busybox=$(command -v busybox); then
  shell="$busybox sh"
fi
cat >/usr/local/bin/labkit-agent <<AGENT
#!$shell
while :; do
  if IFS= read -r line <&3; then
    printf '%s' "\$line" | base64 -d | $shell >/run/labkit-agent.log 2>&1
    echo "\$?" >&3
  else
    sleep 1
  fi
done 3<>/dev/virtio-ports/org.labkit.0
AGENT
chmod 755 /usr/local/bin/labkit-agent
# The values of the limits do not matter, only that they are set: the kernel patches the code of its scheduler and its
# allocator when the first cgroup with a quota or a cpuset appears and when the last one goes, and QEMU's emulation does
# not always survive that (Oops: int3).
cat >/etc/systemd/system/labkit-agent.service <<'UNIT'
[Unit]
Description=labkit identity agent
# Not a condition: udev may create the port after everything else is up.
Requires=dev-virtio\x2dports-org.labkit.0.device
After=dev-virtio\x2dports-org.labkit.0.device ssh.service sshd.service ssh.socket network.target

[Service]
ExecStart=/usr/local/bin/labkit-agent
Restart=always
CPUQuota=400%
AllowedCPUs=0
RestartSec=1

[Install]
WantedBy=multi-user.target
UNIT
# systemd gives a device 90 s to appear, which on a loaded host under emulation is not always enough.
mkdir -p '/etc/systemd/system/dev-virtio\x2dports-org.labkit.0.device.d'
cat >'/etc/systemd/system/dev-virtio\x2dports-org.labkit.0.device.d/timeout.conf' <<'DEVICE'
[Unit]
JobRunningTimeoutSec=20min
DEVICE
systemctl --no-reload enable labkit-agent.service
