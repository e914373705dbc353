"""One flights world for the whole session, built from a cold cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurechaos.demo.flights import FlightsWorld, Requests


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What XDG_CACHE_HOME is in these tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def world(cache_home: Path) -> FlightsWorld:
    return FlightsWorld.build(cache_dir=cache_home / "featurechaos" / "demo")


@pytest.fixture(scope="session")
def asked(world: FlightsWorld) -> Requests:
    """The whole test sample."""
    return world.requests("test")
