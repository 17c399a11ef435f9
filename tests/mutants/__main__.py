from __future__ import annotations

import sys

sys.path[0] = sys.path[0].rpartition("/")[0]

from mutants.engine import run  # noqa: E402
from mutants.every import MUTANTS  # noqa: E402

sys.exit(run(MUTANTS[sys.argv[1]], sys.argv[2], sys.argv[3:]))
