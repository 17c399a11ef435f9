"""A machine's identity: name, machine-id, SSH host key, and the key that may log in.

Machines restored from one live state are twins until the script made here gives each its own identity.
"""

from __future__ import annotations

import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path

from labkit.core.home import Home
from labkit.io.files import locked, make_directory, write_atomic


@dataclass(frozen=True, slots=True)
class KeyPair:
    private: str  # OpenSSH PEM
    public: str  # "ssh-ed25519 AAAA..."


@dataclass(frozen=True, slots=True)
class Identity:
    hostname: str
    machine_id: str
    host_key: KeyPair


def new_key() -> KeyPair:
    from labkit.machines.keys import ed25519  # cryptography: a tenth of a second

    return KeyPair(*ed25519())


def new(hostname: str) -> Identity:
    return Identity(hostname, secrets.token_hex(16), new_key())


def client_key(home: Home) -> tuple[Path, str]:
    """The lab's own client key: path of the private file, and the public line. Made at first use."""
    directory = make_directory(home.keys, mode=0o700)
    private, public = directory / "id_ed25519", directory / "id_ed25519.pub"
    with locked(directory / "lock", timeout=30, waiting=lambda _: None, what="the lab's SSH key"):
        if not (private.exists() and public.exists()):
            pair = new_key()
            write_atomic(private, pair.private, mode=0o600)
            write_atomic(public, pair.public + " labkit\n")
    return private, public.read_text().strip()


def script(identity: Identity, authorized: str, *, now: float, entropy: str) -> str:
    """The shell script that gives a restored guest its identity. now: seconds since the epoch; entropy: any text.

    sshd rereads its key first, so that it restarts on one CPU while the rest runs on the other; it writes its
    pid file again once it listens, and the script ends after that.
    """
    quoted = {name: shlex.quote(value) for name, value in (("name", identity.hostname), ("key", authorized))}
    return f"""set -e
umask 077
printf %s {shlex.quote(identity.host_key.private)} >/etc/ssh/ssh_host_ed25519_key
printf '%s\\n' {shlex.quote(identity.host_key.public)} >/etc/ssh/ssh_host_ed25519_key.pub
mkdir -p /root/.ssh
printf '%s\\n' {quoted["key"]} >/root/.ssh/authorized_keys
if test -s /run/sshd.pid && read -r pid </run/sshd.pid; then rm /run/sshd.pid; kill -HUP "$pid"
else pid=; systemctl try-restart ssh.service || systemctl try-restart sshd.service; fi
{wake_script(now=now, entropy=entropy)}printf %s {quoted["name"]} >/proc/sys/kernel/hostname
printf '%s\\n' {quoted["name"]} >/etc/hostname
printf '127.0.0.1 localhost %s\\n' {quoted["name"]} >/etc/hosts
umask 022
printf '%s\\n' {identity.machine_id} >/etc/machine-id
chmod 644 /etc/machine-id /etc/hostname /etc/hosts /etc/ssh/ssh_host_ed25519_key.pub
test -z "$pid" || while ! test -s /run/sshd.pid; do sleep 0.02; done
"""


def authorize(key: str) -> str:
    """The lines of a script that let the key log in, beside those that may already."""
    file, line = "/root/.ssh/authorized_keys", shlex.quote(key)
    return f"grep -qxF {line} {file} 2>/dev/null || {{ umask 077; mkdir -p /root/.ssh; echo {line} >>{file}; }}\n"


def wake_script(*, now: float, entropy: str) -> str:
    """The shell script for a guest that has its identity and resumes after a halt; arguments as for script()."""
    return f"date -u -s @{now:.0f} >/dev/null\nprintf %s {shlex.quote(entropy)} >/dev/urandom\n"


def known_hosts_line(address: str, port: int, identity: Identity) -> str:
    return f"[{address}]:{port} {identity.host_key.public}\n"
