"""A machine's identity: name, machine-id, SSH host key, and the key that may log in.

Machines restored from one live state are twins until the script made here gives each its own identity.
"""

from __future__ import annotations

import base64
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path

from labkit.core.errors import MachineError
from labkit.core.home import Home
from labkit.io.files import locked, make_directory, write_atomic

# For a guest that has no device to tell it that it was restored: the kernel takes what virtio-rng gives it, and makes
# its random numbers of that from now on (RNDRESEEDCRNG, random(4)). A guest without Python does so within a minute.
RESEED = """head -c 64 /dev/hwrng >/dev/urandom 2>/dev/null || :
python3 -c 'import fcntl, os; fcntl.ioctl(os.open("/dev/urandom", os.O_WRONLY), 0x5207)' || :
"""


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
    """The lab's own client key: path of the private file, and the public line. Made at first use.

    The public file is for people: what it should hold is in the private one. MachineError where that is damaged.
    """
    directory = make_directory(home.keys, mode=0o700)
    private, public = directory / "id_ed25519", directory / "id_ed25519.pub"
    with locked(directory / "lock", timeout=30, waiting=lambda _: None, what="the lab's SSH key"):
        if not private.exists():
            write_atomic(private, new_key().private, mode=0o600)
        try:
            line = f"{_public(private.read_bytes())} labkit\n"
        except (ValueError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no SSH key"
            raise MachineError(
                f"the lab's SSH key {private} cannot be read: {why}",
                hint="put it back from a copy; or remove it: labkit makes a new one, which machines that there are may "
                "refuse",
            ) from error
        if not public.is_file() or public.read_bytes() != line.encode():
            write_atomic(public, line)
    return private, line.strip()


def _public(private: bytes) -> str:
    """The public half of a private key in OpenSSH's format (its PROTOCOL.key); ValueError where it is damaged."""
    begin, end = b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"-----END OPENSSH PRIVATE KEY-----"
    if not private.startswith(begin) or end not in private:
        raise ValueError
    data = base64.b64decode(private.removeprefix(begin).partition(end)[0].replace(b"\n", b""), validate=True)
    if not data.startswith(b"openssh-key-v1\0"):
        raise ValueError
    rest = data[15:]
    for _ in range(3):  # cipher, key derivation, its options
        _, rest = _string(rest)
    key, _ = _string(rest[4:])  # after the number of keys
    kind, _ = _string(key)
    return f"{kind.decode('ascii')} {base64.b64encode(key).decode()}"


def _string(data: bytes) -> tuple[bytes, bytes]:
    """The string that data begins with, as SSH writes one, and the rest."""
    end = 4 + int.from_bytes(data[:4])
    if len(data) < max(4, end):
        raise ValueError
    return data[4:end], data[end:]


def script(identity: Identity, authorized: str, *, now: float, entropy: str) -> str:
    """The shell script that gives a restored guest its identity. now: seconds since the epoch; entropy: any text.

    sshd rereads its key first, so that it restarts on one CPU while the rest runs on the other; it writes its
    pid file again once it listens, and the script ends after that.
    """
    return f"""set -e
umask 077
{_keys(identity, authorized)}if test -s /run/sshd.pid && read -r pid </run/sshd.pid
then rm /run/sshd.pid; kill -HUP "$pid"
else pid=; systemctl try-restart ssh.service || systemctl try-restart sshd.service; fi
{wake_script(now=now, entropy=entropy)}{_names(identity)}
test -z "$pid" || while ! test -s /run/sshd.pid; do sleep 0.02; done
"""


def boot_script(identity: Identity, authorized: str) -> str:
    """The lines of a script that give a guest its identity while it boots, before its sshd starts."""
    return f"umask 077\n{_keys(identity, authorized)}{_names(identity)}\n"


def _keys(identity: Identity, authorized: str) -> str:
    return f"""printf %s {shlex.quote(identity.host_key.private)} >/etc/ssh/ssh_host_ed25519_key
printf '%s\\n' {shlex.quote(identity.host_key.public)} >/etc/ssh/ssh_host_ed25519_key.pub
mkdir -p /root/.ssh
printf '%s\\n' {shlex.quote(authorized)} >/root/.ssh/authorized_keys
"""


def _names(identity: Identity) -> str:
    name = shlex.quote(identity.hostname)
    return f"""printf %s {name} >/proc/sys/kernel/hostname
printf '%s\\n' {name} >/etc/hostname
printf '127.0.0.1 localhost %s\\n' {name} >/etc/hosts
umask 022
printf '%s\\n' {identity.machine_id} >/etc/machine-id
chmod 644 /etc/machine-id /etc/hostname /etc/hosts /etc/ssh/ssh_host_ed25519_key.pub"""


def authorize(key: str) -> str:
    """The lines of a script that let the key log in, beside those that may already."""
    file, line = "/root/.ssh/authorized_keys", shlex.quote(key)
    return f"grep -qxF {line} {file} 2>/dev/null || {{ umask 077; mkdir -p /root/.ssh; echo {line} >>{file}; }}\n"


def wake_script(*, now: float, entropy: str) -> str:
    """The shell script for a guest that has its identity and resumes after a halt; arguments as for script()."""
    return f"date -u -s @{now:.0f} >/dev/null\nprintf %s {shlex.quote(entropy)} >/dev/urandom\n"


def known_hosts_line(address: str, port: int, identity: Identity) -> str:
    return f"[{address}]:{port} {identity.host_key.public}\n"
