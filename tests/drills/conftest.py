"""Imagined drills that many tests look at, told once."""

from __future__ import annotations

import pytest

from featurechaos.drills.history import History
from featurechaos.drills.script import Script
from tests.drills.histories import Story, kill_script


@pytest.fixture(scope="session")
def script() -> Script:
    return kill_script()


@pytest.fixture(scope="session")
def held() -> History:
    """A kill of the primary in which everything went well; 20 requests a second, to be quick."""
    return Story(rate_per_s=50).told()
