# purpose: an SSH server with keys only, one host key, and no PAM session for each connection
# inputs: none
# check: mkdir -p /run/sshd && sshd -t
# on: build cloud
#
# Without PAM no logind session and no user manager starts beside the runtime under test, and a command takes a
# quarter of the time under emulation. The host key made here lives until the machine is given its own.
mkdir -p /etc/ssh/sshd_config.d /run/sshd
cat >/etc/ssh/sshd_config.d/00-labkit.conf <<'CONF'
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
PrintMotd no
CONF
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C labkit-throwaway -f /etc/ssh/ssh_host_ed25519_key
# `!` would lock the account for an sshd without PAM; `*` only means that no password matches.
usermod -p '*' root
# Created now for the lab's key, so that it has the right mode and label.
mkdir -p /root/.ssh
: >>/root/.ssh/authorized_keys
chmod 700 /root/.ssh
chmod 600 /root/.ssh/authorized_keys
systemctl --no-reload mask sshd-keygen.service sshd-keygen.target
# Ubuntu starts sshd with the first connection, which would have to wait for it.
if systemctl --quiet is-enabled ssh.socket 2>/dev/null; then
  systemctl --no-reload disable ssh.socket
  systemctl --no-reload enable ssh.service
fi
