"""The house that faults are injected into."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.kit import House


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[..., House]:
    """Make a house with another config."""
    return lambda **config: House(monkeypatch, **config)
