"""What a command opens beside a service that runs on the same config."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurechaos import FeatureClient
from featurechaos.cli.opening import opened
from featurechaos.config import Settings, load

PORTS = """
chaos: {enabled: true, listen: "127.0.0.1:0"}
metrics: {port: 0}
"""


@pytest.fixture
def settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The config of a service that tells metrics and takes faults."""
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    monkeypatch.setenv("FEATURECHAOS_TOKEN", "0123456789abcdef0123456789abcdef")
    config = folder / "featurechaos.yaml"
    config.write_text(config.read_text() + PORTS)
    return load(config)


def test_a_command_takes_no_port_of_the_service(settings: Settings) -> None:
    with FeatureClient(settings) as service:
        service.ready()
        assert service.chaos.listening

    with opened(settings) as client:
        client.ready()

        assert client.chaos.listening is None
        assert client.settings.metrics.port is None
