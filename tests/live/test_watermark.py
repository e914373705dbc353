"""How far each view is written, as the metrics tell it."""

from __future__ import annotations

import datetime as dt

import pytest

from featurechaos import FeatureClient
from featurechaos.demo.servers import ValkeyServer
from featurechaos.testing import ManualClock

pytestmark = pytest.mark.live


def test_the_age_of_the_newest_write_is_told_for_each_view_and_source() -> None:
    clock = ManualClock()
    with ValkeyServer() as valkey:
        config = {
            "project": "t",
            "sources": {"primary": {"type": "redis", "url": valkey.url, "connect_timeout_s": 5.0}},
            "views": [
                {"name": name, "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}}
                for name in ("written", "never")
            ],
            "policy": {"deadline_s": 10, "breaker": None},
        }
        with FeatureClient.from_config(config, clock=clock) as client:
            at = dt.datetime.fromtimestamp(clock.wall() - 30, dt.UTC)
            client.write_to_online_store("written", {"k": [1], "f": [1.0], "event_timestamp": [at]})
            clock.advance(12)

            told = client.stats()["view_watermark_age_seconds"]
            valkey.kill()
            gone = client.stats()["view_watermark_age_seconds"]

    assert told == [{"view": "written", "source": "primary", "value": 42.0}]
    assert gone == [], "nobody can say"
