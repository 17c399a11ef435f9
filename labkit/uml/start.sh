# What the first process of a User-Mode Linux guest does, before INIT_WORDS: labkit.uml.guest puts the identity, and
# the values of the variables, in front. Nothing on the disk changes but what makes it this machine.
test -e /proc/uptime || mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
modules=/usr/lib/modules/$(uname -r)
mkdir -p "$modules"
mkdir -p /run/labkit-modules
mount -o ro /dev/ubdb /run/labkit-modules
mount --bind "/run/labkit-modules/$(uname -r)" "$modules"
ip link set lo up
ip address add "$address/30" dev vec0
ip link set vec0 up
ip route add default via "$router"
if test -L /etc/resolv.conf; then rm /etc/resolv.conf; fi
echo "nameserver $resolver" >/etc/resolv.conf
