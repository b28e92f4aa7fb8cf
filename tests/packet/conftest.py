import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from replay import PROGRAM, Replay  # noqa: E402


@pytest.fixture
def replay(tmp_path):
    assert PROGRAM.exists(), f"{PROGRAM} is missing: build it, or set SLUICE_BUILD"
    return Replay(tmp_path)
