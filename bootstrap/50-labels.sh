# purpose: SELinux labels for what the steps before have written
# inputs: none
# check: restorecon -n -v -R /etc/ssh /root/.ssh
if command -v restorecon >/dev/null; then
  restorecon -R -F /etc/ssh /etc/systemd/system /root/.ssh /usr/local/bin
fi
