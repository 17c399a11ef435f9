"""The OpenSSH client's words: the pinned key and nothing else, and a command that means what ssh means by it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from labkit.core.endpoint import Endpoint, shell_argv

ENDPOINT = Endpoint("192.0.2.1", 2222, "me", Path("/a home/keys/id"), Path("/a home/known hosts"))


def test_without_a_command_it_is_a_shell() -> None:
    argv = shell_argv(ENDPOINT)
    assert (argv[0], argv[-1]) == ("ssh", "me@192.0.2.1")
    assert argv[1:7] == ["-F", "none", "-p", "2222", "-i", "/a home/keys/id"]
    assert {"StrictHostKeyChecking=yes", 'UserKnownHostsFile="/a home/known hosts"'} <= set(argv)


@pytest.mark.parametrize(
    "words", [("cd /etc; ls | wc -l",), ("runc", "--version"), ("a; b",), ("echo", "two  words", "$HOME"), ("-l", "x")]
)
def test_the_words_of_a_command_go_to_ssh_as_they_were_typed(words: tuple[str, ...]) -> None:
    assert shell_argv(ENDPOINT, words)[-len(words) - 2 :] == ["me@192.0.2.1", "--", *words]


@pytest.mark.parametrize("words", [("-l", "other", "-p", "1"), ("-V",), ("true", "-p", "1")])
def test_openssh_takes_no_word_of_the_command_for_an_option(words: tuple[str, ...]) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not installed here")
    argv = shell_argv(ENDPOINT, words)
    # -G prints what ssh would do, without a connection.
    done = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {"user me", "port 2222", "userknownhostsfile /a home/known hosts"} <= set(done.stdout.splitlines())
