"""What builders are asked to build: an image over BASE with CONFIG, some files changed, some removed, some made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..common.files import remove_tree
from ..engines import image
from ..engines.image import TAR, Entry, directory
from .case import NAME, Case

BUILT = NAME.format("built")
BASE = Case(
    "base",
    (),
    layers=[
        (
            [
                Entry("t/old", b"old\n"),
                directory("t/old-dir/"),
                Entry("t/old-dir/child", b"old\n"),
                Entry("t/changed", b"old\n"),
                Entry("t/kept", b"kept\n"),
                image.symlink("t/link", "kept"),
            ],
            TAR,
        )
    ],
)
CONFIG: dict[str, Any] = {
    "User": "1000:2000",
    "Env": ["LABKIT=a b", "EQUALS=a=b"],
    "Entrypoint": ["/bin/true", "first one"],
    "Cmd": ["second"],
    "WorkingDir": "/srv/app dir",
    "Labels": {"org.labkit.plain": "a value", "org.labkit.quotes": 'it\'s "so"'},
    "ExposedPorts": {"8080/tcp": {}, "53/udp": {}},
    "Volumes": {"/data": {}},
    "StopSignal": "SIGUSR1",
}
OWNED = b"of 12:34\n"
_RUN = (
    "rm /t/old", "rm -r /t/old-dir", "echo new >/t/changed", "echo set >/t/setuid", "chmod 4755 /t/setuid",
    "echo one >/t/one", "busybox ln /t/one /t/two", "busybox ln -s kept /t/new-link", "mkdir -p /t/new/deep",
)  # fmt: skip


def write(place: Path) -> None:
    """Write a build's context, with its Dockerfile."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "owned").write_bytes(OWNED)
    lines = [f"FROM {NAME.format(BASE.name)}", "COPY --chown=12:34 owned /t/owned", f"RUN {' && '.join(_RUN)}"]
    lines += [f"ENV {name}={_quoted(value)}" for name, _, value in (one.partition("=") for one in CONFIG["Env"])]
    lines += [f"LABEL {key}={_quoted(value)}" for key, value in CONFIG["Labels"].items()]
    lines += [f"EXPOSE {port}" for port in CONFIG["ExposedPorts"]]
    lines += [f'VOLUME ["{path}"]' for path in CONFIG["Volumes"]]
    lines += [f"STOPSIGNAL {CONFIG['StopSignal']}", f"USER {CONFIG['User']}", f"WORKDIR {CONFIG['WorkingDir']}"]
    lines += [f"{word.upper()} {_array(CONFIG[word])}" for word in ("Entrypoint", "Cmd")]
    (place / "Dockerfile").write_text("\n".join(lines) + "\n")


def change(root: Path, context: Path) -> None:
    """What the Dockerfile does to the files, done to a tree."""
    t = root / "t"
    (t / "owned").write_bytes((context / "owned").read_bytes())
    os.chown(t / "owned", 12, 34)
    (t / "old").unlink()
    remove_tree(t / "old-dir")
    (t / "changed").write_bytes(b"new\n")
    (t / "setuid").write_bytes(b"set\n")
    (t / "setuid").chmod(0o4755)
    (t / "one").write_bytes(b"one\n")
    os.link(t / "one", t / "two")
    (t / "new-link").symlink_to("kept")
    (t / "new/deep").mkdir(parents=True)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def _array(words: list[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"
