"""The images whose configuration is converted, by conversion.md of image-spec."""

from __future__ import annotations

from types import MappingProxyType

from ..engines import image
from .case import OUTSIDE, Case

LABELS = MappingProxyType(
    {
        "org.labkit.plain": "value",
        "org.labkit.empty": "",
        "org.labkit.spaces": "  a  b  ",
        "org.labkit.unicode": "caf\u00e9 \u2603",
        "org.labkit.quotes": "\"'\\$HOME${HOME}",
        "org.labkit.lines": "one\ntwo\n",
        "org.labkit.json": '{"a": [1, 2]}',
        "org.labkit.same-key": "from the label",
    }
)
IMPLICIT = "org.opencontainers.image."
OVERRIDES = MappingProxyType(
    {
        f"{IMPLICIT}{key}": f"label-{key}"
        for key in (
            "os",
            "architecture",
            "variant",
            "os.version",
            "os.features",
            "author",
            "created",
            "stopSignal",
            "exposedPorts",
        )
    }
)
# What converters and engines have defaults for, and values that are easily changed on the way.
ENV = (
    "PATH=/opt/bin:/bin", "HOME=/nowhere", "TERM=labkit", "HOSTNAME=labkit-host", "container=labkit", "USER=labkit",
    "LANG=C.UTF-8", "EMPTY=", "SPACES= a  b ", "EQUALS=a=b=c", "UNICODE=caf\u00e9", "DOLLAR=$HOME ${HOME}",
    "QUOTES=\"'\\",
)  # fmt: skip
MANIFEST = MappingProxyType({"org.labkit.of-manifest": "m", "org.labkit.same-key": "from the manifest"})
INDEX = MappingProxyType({"org.labkit.of-index": "i"})

WHOLE = Case(
    "whole",
    ["CONV-001", "CONV-002", "CONV-007", *(f"CONV-{number:03}" for number in (*range(10, 19), 21, 40, 42, 43, 44))],
    about={
        "variant": "v1",
        "os.version": "6.1-labkit",
        "os.features": ["labkit-a", "labkit-b"],
        "author": "labkit <labkit@example.org>",
        "created": "2001-02-03T04:05:06.789Z",
    },
    config={
        "User": "1000:1000",
        "Env": ["PATH=/bin", "A=1", "B=two words"],
        "Entrypoint": ["/bin/true", "first"],
        "Cmd": ["second", "third one"],
        "WorkingDir": "/srv/app dir",
        "ExposedPorts": {"8080/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}, "/srv/cache": {}},
        "Labels": dict(LABELS),
        "StopSignal": "SIGUSR1",
    },
    annotations=MANIFEST,
    index=INDEX,
    runs=True,
)
_TRUE = {"Entrypoint": ["/bin/true"], "Env": ["PATH=/bin"]}


def _user(name: str, user: str, *checks: str) -> Case:
    return Case(name, checks, config={**_TRUE, "User": user}, runs=True)


CONVERSIONS = [
    WHOLE,
    Case("environment", ["CONV-003", "CONV-004"], config={"Entrypoint": ["/bin/true"], "Env": list(ENV)}, runs=True),
    Case("entrypoint", ["CONV-005"], config={"Entrypoint": ["/bin/true", "only"], "Env": ["PATH=/bin"]}, runs=True),
    Case("command", ["CONV-006"], config={"Cmd": ["/bin/true", "alone"], "Env": ["PATH=/bin"]}, runs=True),
    Case(
        "labels",
        ["CONV-020"],
        about={
            "variant": "v1",
            "os.version": "6.1-labkit",
            "os.features": ["labkit-a"],
            "author": "labkit",
            "created": "2001-02-03T04:05:06Z",
        },
        config={**_TRUE, "Labels": dict(OVERRIDES), "StopSignal": "SIGUSR1", "ExposedPorts": {"8080/tcp": {}}},
        runs=True,
    ),
    _user("name", "labkit", "CONV-032", "CONV-034"),
    _user("number", "1000", "CONV-030", "CONV-035"),
    _user("numbers", "1000:2000", "CONV-031", "CONV-035", "CONV-036"),
    _user("number-and-name", "1000:extra", "CONV-030", "CONV-033", "CONV-035", "CONV-036"),
    _user("name-and-number", "labkit:3000", "CONV-031", "CONV-032", "CONV-036"),
    _user("name-and-name", "labkit:others", "CONV-032", "CONV-033", "CONV-036"),
    _user("second-user", "other", "CONV-032", "CONV-034"),
    _user("numbers-of-nobody", "65000:65001", "CONV-030", "CONV-031"),
    _user("number-as-name", "4242", "CONV-039"),
    _user("unknown-user", "nosuchuser", "CONV-037"),
    _user("unknown-group", "labkit:nosuchgroup", "CONV-038"),
    Case(
        "user-of-outside",
        ["CONV-041"],
        config={**_TRUE, "User": "outsider"},
        runs=True,
        without=["etc/passwd"],
        layers=[([image.symlink("etc/passwd", f"{OUTSIDE}/passwd")], image.GZIP)],
    ),
]
