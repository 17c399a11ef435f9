"""The command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..common.arguments import Parser
from ..common.attached import add_arguments
from ..common.cgroups import cgroup_version
from ..common.claims import claims_of
from ..common.executables import find_runtime
from . import __version__, conversation, faults, report
from .alone import alone, put
from .base import Broken, Place
from .session import Session, names

PARTS = ("report", "swap", "faults")
_APART = (conversation.ID, faults.ID, *report.IDS)  # what ids begin with that are not about calls


def run(argv: list[str]) -> int:
    """The exit status; see the package's docstring."""
    return alone("labkit-engine", __package__ or "", argv, _parse, _work)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="labkit-engine", description="Uses an engine over a runtime, and prints JSON lines.")
    parser.add_argument("--engine", required=True, choices=names())
    parser.add_argument("--runtime", required=True, help="name or path of the runtime under test")
    parser.add_argument(
        "--runtime-arg", action="append", default=[], metavar="WORD", help="before each of its commands"
    )
    parser.add_argument("--reference", default="", help="name or path of a runtime to compare with")
    parser.add_argument(
        "--program", action="append", default=[], metavar="PATH", help="of the engine's, where PATH has it not"
    )
    parser.add_argument("--part", action="append", choices=PARTS, default=[], help="only this (default: all)")
    parser.add_argument("--only", metavar="A,B", default="", help="only what these checks need")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("top", nargs="?", default="", help=argparse.SUPPRESS)
    add_arguments(parser)
    parser.add_argument("--version", action="version", version=f"labkit-engine {__version__}")
    args = parser.parse_args(argv)
    args.runtime = find_runtime(args.runtime)
    return args


def _work(args: argparse.Namespace, top: Path) -> int:
    runtime = args.runtime
    own = [str(Path(path).parent) for path in args.program]
    os.environ["PATH"] = ":".join([*own, os.environ.get("PATH", os.defpath)])
    only = [word for word in args.only.split(",") if word]
    plan = planned(only, args.part)
    reference = find_runtime(args.reference) if args.reference else ""
    same = bool(reference) and os.path.realpath(reference) == os.path.realpath(runtime) and not args.runtime_arg
    facts = {
        "engine": args.engine,
        "runtime-path": runtime,
        "runtime-version": claims_of([runtime, *args.runtime_arg]).version,
        "runtime-arguments": " ".join(args.runtime_arg),
        "reference-path": "" if same else reference,
        "kernel": os.uname().release,
        "cgroup": cgroup_version(),
        "suite": f"labkit-engine {__version__}",
    }
    put("plan", facts=facts, parts=plan.parts, steps=plan.steps, faults=plan.faults, only=only)
    doubtful = _over(args, plan, top / "runtime", runtime)
    if reference and not same and doubtful:
        _over_reference(args, doubtful, top / "reference", reference)
    put("finish")
    return 0


class Plan:
    """parts are what will run, steps and faults those of two of them."""

    def __init__(self, parts: Sequence[str], steps: Sequence[str], wrong: Sequence[str]) -> None:
        self.parts, self.steps, self.faults = list(parts), list(steps), list(wrong)


def planned(only: Sequence[str], parts: Sequence[str]) -> Plan:
    """What these checks need, all where none is named; of parts, all where none is named."""
    parts = parts or [part for part in PARTS if _is_wanted(part, only)]
    steps = [step.id for step in conversation.STEPS if "swap" in parts and _is_needed(step.id, only)]
    wrong = [fault.id for fault in faults.FAULTS if "faults" in parts and (not only or fault.id in only)]
    return Plan(parts, steps, wrong)


def _place(data: Path, runtime: str) -> Place:
    return Place(data, Path("/run", data.name), str(data / "bin" / Path(runtime).name))


def _over(args: argparse.Namespace, plan: Plan, data: Path, runtime: str) -> list[str]:
    """The report, the conversation and the calls that both made, then the faults; the steps that were not as expected.

    All in one session: to start an engine takes as long as some steps do.
    """
    doubtful = list(plan.steps)
    put("session", under="runtime", runtime=runtime)
    try:
        with Session(args.engine, _place(data, runtime), runtime, args.runtime_arg) as session:
            put("version", engine=session.engine.version())
            try:
                if "report" in plan.parts:
                    for found in report.hold(session):
                        put("report", **found)
                for found in conversation.hold(session.engine, plan.steps):
                    put("step", under="runtime", **found)
                    if "cannot" in found or found.get("observed") == found["expected"]:
                        doubtful.remove(str(found["step"]))
            finally:
                for line in session.calls():
                    put("call", under="runtime", line=line)
            if plan.faults:
                for found in faults.hold(session, plan.faults):
                    put("fault", **found)
            put("log", under="runtime", text=session.log())
    except Broken as why:
        put("broken", under="runtime", why=str(why))
    return doubtful


def _over_reference(args: argparse.Namespace, steps: Sequence[str], data: Path, reference: str) -> None:
    """The steps that were not as expected, to tell whether the runtime or the engine is why."""
    put("session", under="reference", runtime=reference)
    try:
        with Session(args.engine, _place(data, reference), reference) as session:
            for found in conversation.hold(session.engine, steps):
                put("step", under="reference", **found)
            log = session.log()
    except Broken as why:
        put("broken", under="reference", why=str(why))
        return
    put("log", under="reference", text=log)


def _is_wanted(part: str, only: Sequence[str]) -> bool:
    """Whether a part is to run: calls are made by all but the faults."""
    own = {"report": report.IDS, "swap": (conversation.ID,), "faults": (faults.ID,)}
    calls = any(not ident.startswith(_APART) for ident in only)
    return not only or any(ident.startswith(own[part]) for ident in only) or (calls and part != "faults")


def _is_needed(step: str, only: Sequence[str]) -> bool:
    """Whether a step is to run: where anything but steps is asked for, all do, for the calls that they make."""
    return not only or step in only or any(not ident.startswith(_APART) for ident in only)
