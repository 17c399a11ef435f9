"""Claims made and verified, in CPU seconds: `claim.py [--runs N]`. See README.md. Needs no machine."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import common  # noqa: F401  (the checkout is on the path)

from labkit.core import config
from labkit.store import runs
from labkit.usecases.claim import claim
from labkit.usecases.judge import judge
from labkit.usecases.verify import verify
from tests import recorded


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as place:
        directory = Path(place)
        settings = config.load(cwd=directory, environ={"HOME": place, "LABKIT_HOME": f"{place}/home"})
        outcome = judge(settings, str(recorded.V2))
        ident = runs.ids(directory / "reports")[0]
        made, verified = [], []
        for number in range(words.runs):
            before = time.process_time()
            claim(settings, [ident], directory / f"claim-{number}")
            made.append(time.process_time() - before)
            before = time.process_time()
            done = verify(directory / f"claim-{number}", key=directory / "home/keys/claim.pub")
            verified.append(time.process_time() - before)
            assert done.holds, done.differs
        size = sum(path.stat().st_size for path in (directory / "claim-0").rglob("*") if path.is_file())
        print(f"{len(outcome.run.results)} results, {size / 1e6:.1f} MB")
        for what, times in (("made", made), ("verified", verified)):
            print(f"{what}: median {statistics.median(times):.2f} s of CPU, worst {max(times):.2f} s")


if __name__ == "__main__":
    main()
