"""Labs to be done harm to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.driver import Templates


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Templates]:
    made = Templates(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()
