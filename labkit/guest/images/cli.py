"""The command line; the work is done in namespaces of its own, as labkit.guest.engines does it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..common.arguments import Parser
from ..common.attached import add_arguments
from ..common.cgroups import cgroup_version
from ..common.claims import claims_of
from ..common.errors import UsageError
from ..common.executables import find_program, find_runtime
from ..common.files import remove_tree
from ..engines.alone import alone, put
from ..engines.base import Broken, Cannot, Place
from . import __version__, builders, cases, converters, layout
from .case import Case
from .converters.base import Converter
from .outside import Outside

BUILD = "BUILD-"  # what the ids of checks of builders begin with
_TOOL = "oci-image-tool"
_KEPT = 6  # commands of a case that are reported
_LIMIT = 120.0  # seconds for one command of a converter


def run(argv: list[str]) -> int:
    """The exit status; see the package's docstring."""
    return alone("labkit-images", __package__ or "", argv, _parse, _work)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="labkit-images", description="Gives a converter images, and prints JSON lines.")
    parser.add_argument("--converter", required=True, choices=converters.names())
    parser.add_argument("--runtime", required=True, help="name or path of the runtime under an engine")
    parser.add_argument(
        "--runtime-arg", action="append", default=[], metavar="WORD", help="before each of its commands"
    )
    parser.add_argument("--only", metavar="A,B", default="", help="only what these checks need")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("top", nargs="?", default="", help=argparse.SUPPRESS)
    add_arguments(parser)
    parser.add_argument("--version", action="version", version=f"labkit-images {__version__}")
    args = parser.parse_args(argv)
    args.only = [word for word in args.only.split(",") if word]
    args.is_program = args.converter in converters.programs()
    try:
        args.runtime = find_runtime(args.runtime)
    except UsageError:
        if not args.is_program:  # which needs none
            raise
        args.runtime = ""
    return args


def _work(args: argparse.Namespace, top: Path) -> int:
    wanted = cases.needed(args.only)
    builds = not args.only or any(ident.startswith(BUILD) for ident in args.only)
    facts = {
        "engine": args.converter,
        **(_runtime(args) if args.runtime else {}),
        "kernel": os.uname().release,
        "cgroup": cgroup_version(),
        "suite": f"labkit-images {__version__}",
    }
    put("plan", facts=facts, cases=[case.name for case in wanted], builds=["build"] * builds, only=args.only)
    data = top / "converter"
    place = Place(data, Path("/run", data.name), str(data / "bin" / Path(args.runtime).name))
    place.limit = _LIMIT
    try:
        converter = converters.make(args.converter, place, args.runtime, args.runtime_arg)
        try:
            converter.start()
            put("version", converter=converter.version())
            for case in wanted:
                put("case", case=case.name, **noted(place, converted(converter, case)))
            if builds:
                put("build", **noted(place, built(converter)))
        finally:
            converter.stop()
        put("log", text=place.tail(64 << 10))
    except Broken as why:
        put("broken", why=str(why))
    put("finish")
    return 0


def _runtime(args: argparse.Namespace) -> dict[str, str]:
    return {
        "runtime-path": args.runtime,
        "runtime-version": claims_of([args.runtime, *args.runtime_arg]).version,
        "runtime-arguments": " ".join(args.runtime_arg),
    }


def noted(place: Place, found: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """What comes of it, with the time that it took and the commands that it ran."""
    first, began = len(place.commands), time.monotonic()
    values: dict[str, Any] = {}
    try:
        for some in found:
            values.update(some)
    except Cannot as why:
        values["cannot"] = str(why)
    commands = [done.to_json() for done in place.commands[first:]][-_KEPT:]
    return {**values, "seconds": round(time.monotonic() - began, 3), "commands": commands}


def converted(converter: Converter, case: Case) -> Iterator[dict[str, Any]]:
    """What came of an image: the values of its event, for noted()."""
    outside = Outside(converter.place.data)
    yield {"about": case.about(converter.architecture)}
    found = converter.convert(case, outside)
    yield {"status": found.status, "err": found.err[-2000:], "config": found.config, "tree": found.seen}
    yield {"command": found.command} if found.command else {}
    yield {"outside": outside.changes()}


def built(converter: Converter) -> Iterator[dict[str, Any]]:
    """What came of the build: the values of its event, for noted()."""
    data = converter.place.data
    context, place = data / "context", data / "layout"
    builders.write(context)
    remove_tree(place)
    done = converter.build(context, place)
    yield {"status": done.status, "err": (done.err or done.out)[-2000:]}
    if done.ok:
        yield {"layout": layout.look(place), "validate": _validated(converter.place, place)}


def _validated(place: Place, directory: Path) -> dict[str, Any]:
    """What oci-image-tool says of a layout."""
    tool = find_program(_TOOL)
    if not tool:
        return {"cannot": f"{_TOOL} is not installed; the bootstrap's step image-tools brings it"}
    done = place.command([tool, "validate", "--type", "image", "--ref", "name=latest", str(directory)])
    return {"status": done.status, "err": (done.err or done.out)[-2000:]}
