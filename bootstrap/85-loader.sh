# purpose: what a box needs in addition to an image built from packages: GRUB, and DNS by DHCP (cloud images have both)
# inputs: none
# check: test -s /boot/core.img
# on: box
install_packages systemd-resolved grub-common grub-pc-bin
cat >/boot/grub.cfg <<'CONF'
set root=(hd0,msdos1)
linux /vmlinuz root=/dev/vda1 rw console=tty0 console=ttyS0 net.ifnames=0 quiet
initrd /initrd.img
boot
CONF
grub-mkimage -O i386-pc -o /boot/core.img -c /boot/grub.cfg -p /boot/grub biosdisk part_msdos ext2 linux
cp /usr/lib/grub/i386-pc/boot.img /boot/
