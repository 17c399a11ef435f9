# An init of a few lines, for what needs no systemd: the mounts that systemd makes, sshd, and a process 1 that collects
# the children of others.
mkdir -p /dev/pts /dev/shm /dev/mqueue /run/lock /run/sshd
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 /sys/fs/cgroup
mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security 2>/dev/null
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp
mount --make-rshared /
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
# shellcheck disable=SC3045 # dash and bash have it
ulimit -Hn 524288
read -r controllers </sys/fs/cgroup/cgroup.controllers
for controller in $controllers; do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
mkdir /sys/fs/cgroup/sshd
(echo 0 >/sys/fs/cgroup/sshd/cgroup.procs && exec /usr/sbin/sshd)
while :; do
  sleep 86400 &
  wait "$!"
done
