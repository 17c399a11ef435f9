# purpose: SELinux labels for the files that earlier steps wrote
# inputs: none
# check: ! have restorecon || test -z "$(restorecon -n -v -R /etc/ssh /root/.ssh /etc/sudoers.d)"
# on: build cloud cloud-box
if have restorecon; then
  for path in /etc/ssh /etc/sudoers.d /etc/cloud /etc/systemd/system /root/.ssh /home/vagrant /usr/local/bin; do
    test ! -e "$path" || restorecon -R -F "$path"
  done
fi
