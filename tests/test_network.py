"""The way of a guest to the network. Its QEMU is stood in for by a program that opens the same sockets."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit.io import network, process
from labkit.io.network import Network

# What a QEMU does for its guest: it takes connections where the guest's SSH is forwarded, and makes those asked for.
STAND_IN = """
import os, socket
host, port = os.environ["FORWARDED"].split(":")
here = socket.create_server((host, int(port)))
print("ready", flush=True)
while True:
    connection, _ = here.accept()
    with connection:
        words = connection.makefile().readline().split()
        try:
            socket.create_connection((words[0], int(words[1])), 5).close()
            connection.sendall(b"reached")
        except OSError as error:
            connection.sendall(str(error).encode())
"""


def real(test: Callable[..., None]) -> Callable[..., None]:
    """Of the real programs, on this host."""
    may = os.access("/dev/net/tun", os.R_OK | os.W_OK)
    for mark in (
        pytest.mark.host_runtime,
        pytest.mark.needs("slirp4netns", "ip"),
        pytest.mark.skipif(not may, reason="/dev/net/tun cannot be opened here"),
    ):
        test = mark(test)
    return test


class Guest:
    """The stand-in, with its way to the network."""

    def __init__(self, directory: Path, allowed: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.alive, held = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        output, to_output = os.pipe()
        words = [*network.inside(directory, allowed), sys.executable, "-I", "-S", "-c", STAND_IN]
        self.child = process.spawn(
            words,
            cwd=directory,
            output=to_output,
            errors=2,
            env={process.OWNER: str(directory), "FORWARDED": network.FORWARDED},
            files=[held],
        )
        os.close(held)
        os.close(to_output)
        assert os.read(output, 5) == b"ready"
        os.close(output)
        network.connect(directory, self.child.pid, self.alive, null)
        self.port = network.forward(directory, 0)
        os.close(null)

    def connects(self, host: str, port: int) -> str:
        with socket.create_connection(("127.0.0.1", self.port), 10) as asking:
            asking.sendall(f"{host} {port}\n".encode())
            asking.settimeout(20)
            return asking.recv(100).decode()

    def end(self) -> None:
        process.end_owned(self.directory)
        self.child.wait()
        os.close(self.alive)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path)
    yield made
    made.end()


def server(host: str) -> http.server.ThreadingHTTPServer:
    made = http.server.ThreadingHTTPServer((host, 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return made


def own_address() -> str:
    addresses = network._addresses()
    if not addresses:
        pytest.skip("this host has no address but its loopback's")
    return addresses[0]


@pytest.mark.parametrize("where", ["loopback", "gateway", "own address", "metadata"])
@real
def test_a_guest_reaches_no_server_of_this_host(guest: Guest, where: str) -> None:
    host = own_address() if where == "own address" else "127.0.0.1"
    with server(host) as here:
        port = here.server_address[1]
        asked = {"loopback": "127.0.0.1", "gateway": "198.51.100.2", "metadata": "169.254.169.254"}.get(where, host)
        assert guest.connects(asked, port) != "reached"
        here.shutdown()


@real
def test_it_reaches_what_the_settings_name_on_this_host(tmp_path: Path) -> None:
    host = own_address()
    with server(host) as proxy, server(host) as other:
        port = proxy.server_address[1]
        guest = Guest(tmp_path, (f"http://{host}:{port}",))
        try:
            assert guest.connects(host, port) == "reached"
            assert guest.connects(host, other.server_address[1]) != "reached"
        finally:
            guest.end()
            proxy.shutdown()
            other.shutdown()


@real
def test_a_port_that_is_taken_is_told_and_any_other_one_is_found(guest: Guest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder, pytest.raises(network.PortTaken):
        network.forward(guest.directory, holder.getsockname()[1])
    assert network.forward(guest.directory, 0) != guest.port


@real
def test_the_way_ends_with_what_it_is_for(guest: Guest) -> None:
    assert len(process.owned(guest.directory, helpers=True)) == 2
    guest.child.kill()
    guest.child.wait()
    assert subprocess.run(["sleep", "0.3"]).returncode == 0
    assert process.owned(guest.directory, helpers=True) == []


@real
def test_where_it_can_be_guarded_it_is() -> None:
    assert network.choose("auto") == (Network.GUARDED, "")


def test_without_its_tools_a_guest_has_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "which", lambda program: None)
    assert network.choose("auto") == (Network.CLOSED, "slirp4netns and ip are not installed")


@pytest.mark.parametrize("wanted", ["open", "closed"])
def test_what_is_asked_for_is_what_there_is(wanted: str) -> None:
    assert network.choose(wanted) == (Network(wanted), "")


def test_only_the_named_port_of_this_host_has_a_route() -> None:
    lines = network._routes(["192.0.2.2", "172.17.0.1"], ["http://192.0.2.2:3142/debian", "http://192.0.2.9/"])
    assert lines.splitlines() == [
        "route add blackhole 192.0.2.2/32",
        "route add blackhole 172.17.0.1/32",
        "rule add to 192.0.2.2 ipproto tcp dport 3142 lookup 100",
        "route add default via 198.51.100.2 table 100",
    ]
