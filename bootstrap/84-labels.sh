# purpose: SELinux labels for what the steps before have written
# inputs: none
# check: ! have restorecon || test -z "$(restorecon -n -v -R /etc/ssh /root/.ssh)"
# on: build cloud
if have restorecon; then
  restorecon -R -F /etc/ssh /etc/systemd/system /root/.ssh /usr/local/bin
fi
