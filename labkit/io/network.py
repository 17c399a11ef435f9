"""A guest's way to the network: out to the world, not to servers on this host; and SSH in, from 127.0.0.1.

    QEMU:  guest -- QEMU's user network -- sockets in a namespace -- tap slirp0 -- slirp4netns -- this host's network
    UML:   guest -- tap guest0 -- routes of a namespace -- tap slirp0 -- slirp4netns -- this host's network

QEMU's own user network opens a socket for each connection of its guest, and those to 10.0.2.2, or from a guest that
crafts its packets to 127.0.0.1, end at this host's loopback. So QEMU is put into a network namespace, where its sockets
find nothing of this host, and slirp4netns (https://github.com/rootless-containers/slirp4netns) leads out of that. A
User-Mode Linux sends packets, which the namespace forwards. The namespace's own routing decides what gets to
slirp4netns: nothing that is for a loopback, a link-local address (the metadata of clouds) or an address of this host.
slirp4netns alone, with the guest on its tap, does not do: its --disable-host-loopback lets crafted packets to 127.0.0.1
through (seen with version 1.2.0, libslirp 4.7.0).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import urllib.parse
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from labkit.core.deadline import Deadline
from labkit.core.errors import LabError, MachineError
from labkit.core.text import printable
from labkit.io import process
from labkit.io.files import through, write_atomic

TOOLS = ("slirp4netns", "ip")
_NET = "198.51.100"  # TEST-NET-2 of RFC 5737: no network has these addresses
FORWARDED = f"{_NET}.100:2222"  # in the namespace: where QEMU takes connections for the guest's SSH
GUEST, ROUTER, RESOLVES = f"{_NET}.202", f"{_NET}.201", f"{_NET}.3"  # of a guest with a tap, and what it is told
GUEST_TAP = "guest0"
_TAP = "slirp0"
API = "network.sock"
LOG = "network.log"
RESOLVER = "resolv.conf"
_HELPER = "network"  # below a machine's directory: the mark of its slirp4netns, which is not its QEMU
ADDRESS = "127.0.0.1"
_TRY = 20.0  # seconds for what takes milliseconds
_SETUP = f"""ip -batch - <<END || exit 1
link set lo up
tuntap add dev {_TAP} mode tap
address add {_NET}.100/24 dev {_TAP}
link set {_TAP} up
route add default via {_NET}.2
route add blackhole 169.254.0.0/16
$1
END
test ! -e /etc/resolv.conf || mount --bind "$2" /etc/resolv.conf || exit 1
for switch in $3; do
  echo 1 >/proc/sys/net/ipv4/$switch || exit 1
done
shift 3
exec "$@"
"""
_ROUTED = f"""tuntap add dev {GUEST_TAP} mode tap
address add {ROUTER}/30 dev {GUEST_TAP}
link set {GUEST_TAP} up
"""
_SWITCHES = f"ip_forward conf/{_TAP}/proxy_arp"  # so that slirp4netns finds the guest
_APART = ("--ipc", "--uts", "--pid", "--fork", "--kill-child=KILL")


class Network(StrEnum):
    """What a guest reaches besides being reached."""

    GUARDED = "guarded"  # everything but this host's own servers
    CLOSED = "closed"  # nothing
    OPEN = "open"  # everything, servers on this host's loopback at 10.0.2.2 too


class PortTaken(MachineError):
    pass


def choose(wanted: str) -> tuple[Network, str]:
    """The network for machine.network = wanted; where it had to be CLOSED, the text says why, else it is empty."""
    if wanted != "auto":
        return Network(wanted), ""
    why = _unguarded()
    return (Network.CLOSED, why) if why else (Network.GUARDED, "")


def _unguarded() -> str:
    """Why a guest cannot be guarded here; empty where it can, which is found out by trying."""
    if missing := [tool for tool in TOOLS if process.which(tool) is None]:
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed"
    tun = Path("/dev/net/tun")
    if not os.access(tun, os.R_OK | os.W_OK):
        return "this user may not open /dev/net/tun" if tun.exists() else "there is no /dev/net/tun"
    try:
        done = process.run([*_inside(Path("/dev/null")), "true"], timeout=_TRY, check=False)
    except LabError as error:
        return error.message
    said = (done.stderr.strip().splitlines() or [done.outcome])[-1]
    return f"no network can be made in a namespace: {said}" if done.status else ""


def inside(directory: Path, allowed: Sequence[str]) -> list[str]:
    """What the command of a program in a network of its own begins with; allowed: addresses in the web that it is to
    reach though they are this host's.
    """
    return _inside(_resolver(directory), _routes(_addresses(), allowed))


def routed(directory: Path, allowed: Sequence[str], network: Network) -> list[str]:
    """The same, with a tap GUEST_TAP for a guest that has the address GUEST/30, the router ROUTER and the name server
    RESOLVES. The program is process 1 of a PID namespace, and has IPC and UTS namespaces of its own, too.
    """
    way = _routes(_addresses(), allowed)
    if network is Network.CLOSED:
        way = f"route delete default\n{way}"
    return _inside(_resolver(directory), _ROUTED + way, _SWITCHES, _APART)


def _resolver(directory: Path) -> Path:
    resolver = directory / RESOLVER
    write_atomic(resolver, f"nameserver {RESOLVES}\n")
    resolver.chmod(0o644)  # QEMU reads it as another user
    return resolver


def _inside(resolver: Path, routes: str = "", switches: str = "", apart: Sequence[str] = ()) -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = ["sh", "-c", _SETUP, "sh", routes, str(resolver), switches]
    return ["unshare", "--net", "--mount", *apart, *user, "--", *script]


def _addresses() -> list[str]:
    """This host's own addresses but those of its loopback, which is not routed anyway."""
    found = json.loads(process.run(["ip", "-json", "-4", "address"], timeout=_TRY).stdout)
    each = (info.get("local", "") for link in found for info in link.get("addr_info", ()))
    return [address for address in each if address and not address.startswith("127.")]


def _routes(addresses: Sequence[str], allowed: Sequence[str]) -> str:
    """Lines for ip: none of this host's addresses is reached but for what is allowed there."""
    lines = [f"route add blackhole {address}/32" for address in addresses]
    for url in allowed:
        where = urllib.parse.urlsplit(url)
        port = where.port or {"http": 80, "https": 443}.get(where.scheme, 0)
        with contextlib.suppress(OSError):
            lines += [
                f"rule add to {address} ipproto tcp dport {port} lookup 100"
                for address in socket.gethostbyname_ex(where.hostname or "")[2]
                if address in addresses
            ]
    return "\n".join([*lines, f"route add default via {_NET}.2 table 100"])


def connect(directory: Path, pid: int, alive: int, output: int) -> None:
    """Start the way out of the namespace of process pid, which runs a guest in directory.

    alive: the end to read of a pipe whose other end that process holds; the way ends with it. output: where its
    messages go. Raises MachineError where it does not come up.
    """
    (directory / API).unlink(missing_ok=True)
    ready, told = os.pipe()
    words = ["slirp4netns", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp", f"--cidr={_NET}.0/24"]
    words += ["--api-socket", API, "--exit-fd", str(alive), "--ready-fd", str(told), str(pid), _TAP]
    owner = {process.OWNER: str(directory / _HELPER)}
    try:
        child = process.spawn(words, cwd=directory, output=output, errors=output, env=owner, files=[alive, told])
        os.close(told)
        told = -1
        if os.read(ready, 1) != b"1":  # it closes the pipe where it fails
            child.wait(_TRY)
            raise MachineError("slirp4netns, the machine's way to the network, did not start")
    finally:
        os.close(ready)
        if told >= 0:
            os.close(told)


def forward(directory: Path, port: int, to: str = FORWARDED) -> int:
    """Forward a port of 127.0.0.1, 0 for any free one, to the guest's SSH; which one it is. Raises PortTaken."""
    address, _, inner = to.partition(":")
    there = {"guest_addr": address, "guest_port": int(inner)}
    for _ in range(20):
        chosen = port or _free()
        here = {"proto": "tcp", "host_addr": ADDRESS, "host_port": chosen}
        answer = _ask(directory, {"execute": "add_hostfwd", "arguments": {**here, **there}})
        if "error" not in answer:
            return chosen
        if port:
            break
    raise PortTaken(printable(str(answer["error"])))


def _free() -> int:
    """A port that nobody has at this moment: slirp4netns does not tell which one it would have taken itself."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        found: int = probe.getsockname()[1]
        return found


def _ask(directory: Path, question: object) -> dict[str, object]:
    deadline, answer = Deadline.after(_TRY), b""
    try:
        with socket.socket(socket.AF_UNIX) as api, through(directory) as base:
            api.settimeout(_TRY)
            api.connect(f"{base}/{API}")
            api.sendall(json.dumps(question).encode())
            api.shutdown(socket.SHUT_WR)
            while not deadline.passed and (piece := api.recv(4096)):
                answer += piece
        said = json.loads(answer)
    except (OSError, ValueError) as error:
        raise MachineError(f"slirp4netns does not answer at {directory / API}: {error}") from error
    return said if isinstance(said, dict) else {"error": said}
