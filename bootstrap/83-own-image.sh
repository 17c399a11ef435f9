# purpose: what an image built from packages needs to boot: network, fstab, hostname (cloud images have it)
# inputs: LAB_KIND
# check: test -s /etc/fstab
# on: build box
cat >/etc/systemd/network/10-labkit.network <<'CONF'
[Match]
Type=ether

[Network]
DHCP=ipv4
CONF
systemctl enable systemd-networkd.service
systemctl mask systemd-networkd-wait-online.service
if test "$LAB_KIND" = box; then
  echo '/dev/vda1 / ext4 defaults 0 1' >/etc/fstab
else
  echo 'nameserver 10.0.2.3' >/etc/resolv.conf
  echo '/dev/vda / ext4 defaults 0 1' >/etc/fstab
fi
echo labkit >/etc/hostname
echo '127.0.0.1 localhost labkit' >/etc/hosts
: >/etc/machine-id
