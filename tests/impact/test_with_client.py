"""The monitor on a real client over a memory store: faults in, honest counters out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featurechaos import AsyncFeatureClient, Cause, FeatureClient, Origin
from featurechaos.errors import StoreUnavailable
from featurechaos.faults import Outage
from featurechaos.impact import ImpactMonitor, Report
from featurechaos.testing import ManualClock

ROWS = 400
DEFAULT = 0.9
CONFIG = {
    "project": "p",
    "sources": {"primary": {"type": "memory"}},
    "views": [
        {
            "name": "plane",
            "join_keys": {"tail": "int64"},
            "features": {"risk": {"dtype": "float32", "default": DEFAULT}},
            "ttl_s": None,
        }
    ],
    "policy": {"deadline_s": 10, "last_known": None, "retry": None, "breaker": None, "empty": None},
    "chaos": {"enabled": True, "max_share": 1.0},
}
RISK = np.random.default_rng(41).random(ROWS).astype(np.float32)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[FeatureClient]:
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")
    with FeatureClient.from_config(CONFIG) as one:
        one.write_to_online_store("plane", table())
        yield one


def table() -> dict[str, NDArray[Any]]:
    then = np.full(ROWS, int((time.time() - 60) * 1e6)).astype("M8[us]")  # noqa: TID251 - a row's date
    return {"tail": np.arange(ROWS), "risk": RISK, "event_timestamp": then}


def risk(response: Any) -> NDArray[np.float32]:
    return np.asarray(response.columns["risk"])


def batches() -> list[dict[str, NDArray[Any]]]:
    return [{"tail": np.arange(first, first + 20)} for first in range(0, ROWS, 20)]


def serve(client: FeatureClient, monitor: ImpactMonitor) -> list[float]:
    served: list[float] = []
    for k, tails in enumerate(batches()):
        served += monitor.predict(client.get_online_features(["plane:risk"], tails, request_id=str(k))).tolist()
    assert monitor.flush(10)
    return served


def test_without_a_fault_nothing_changes(client: FeatureClient) -> None:
    with ImpactMonitor(client, risk, threshold=0.3, sample_share=1.0) as monitor:
        served = serve(client, monitor)
        report = monitor.report()

    assert served == RISK.tolist()
    assert (report.pairs, report.flips, report.mean_abs_delta) == (ROWS, 0, 0.0)
    assert list(report.by_origin) == [Origin.PRIMARY]


def test_counters_of_an_outage_equal_a_loop_over_the_pairs(client: FeatureClient) -> None:
    with (
        ImpactMonitor(client, risk, threshold=0.3, sample_share=1.0) as monitor,
        client.chaos.inject(Outage(source="primary"), share=0.5, lease_s=60, seed=3, reason="a test"),
    ):
        served = serve(client, monitor)
        report = monitor.report()

    pairs = list(zip(served, RISK.tolist(), strict=True))
    lost = [(score, clean) for score, clean in pairs if score != clean]
    flips = sum((score >= 0.3) != (clean >= 0.3) for score, clean in pairs)
    assert 0 < len(lost) < ROWS
    assert {score for score, _ in lost} == {float(np.float32(DEFAULT))}
    assert (report.predictions, report.pairs, report.flips) == (ROWS, ROWS, flips)
    assert report.by_origin[Origin.DEFAULT].pairs == len(lost)
    assert report.by_origin[Origin.DEFAULT].flips == flips
    assert report.by_cause[Cause.REFUSED].flips == flips
    assert report.by_view["plane"].flips_up == flips
    assert report.mean_delta == pytest.approx(np.mean([score - clean for score, clean in pairs]), abs=1e-6)


def test_a_share_of_the_requests_is_paired_and_all_are_counted(client: FeatureClient) -> None:
    with ImpactMonitor(client, risk, threshold=0.3, sample_share=0.5) as monitor:
        serve(client, monitor)
        report = monitor.report()

    assert report.predictions == ROWS
    assert 0 < report.pairs < ROWS
    assert report.pairs % 20 == 0


def test_an_async_client_is_monitored_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURECHAOS_CHAOS", "armed")

    async def run() -> Report:
        async with AsyncFeatureClient.from_config(CONFIG) as client:
            await client.write_to_online_store("plane", table())
            with ImpactMonitor(client, risk, threshold=0.3, sample_share=1.0) as monitor:
                fault = Outage(source="primary")
                with client.chaos.inject(fault, share=1.0, lease_s=60, seed=3, reason="a test"):
                    for tails in batches():
                        monitor.predict(await client.get_online_features(["plane:risk"], tails))
                    assert await asyncio.to_thread(monitor.flush)
                return monitor.report()

    report = asyncio.run(run())

    assert (report.pairs, report.flips) == (ROWS, int((RISK < 0.3).sum()))


def test_a_real_outage_without_a_witness_is_not_told_as_quiet(client: FeatureClient) -> None:
    store = client.store("primary")
    with ImpactMonitor(client, risk, threshold=0.3, sample_share=1.0, flip_budget=0.02) as monitor:
        store.fail_with = StoreUnavailable("gone")  # type: ignore[attr-defined]
        serve(client, monitor)
        report = monitor.report()

    assert (report.pairs, report.unpaired, report.is_blind) == (0, ROWS, True)
    assert f"NOT MEASURED: {ROWS:,} predictions had no clean features" in str(report)
    assert "flips over 2.0%: unknown" in str(report)


def test_each_tier_behind_the_source_is_priced_before_it_is_needed() -> None:
    sources = CONFIG["sources"] | {"second": {"type": "memory"}}  # type: ignore[operator]
    policy = CONFIG["policy"] | {"shadow": {"share": 1.0, "max_per_s": 1000}}  # type: ignore[operator]
    stale = np.random.default_rng(42).random(ROWS).astype(np.float32)
    stale[300:] = RISK[300:]
    with FeatureClient.from_config(CONFIG | {"sources": sources, "policy": policy}, clock=ManualClock()) as client:
        then = np.full(ROWS, int((client.clock.wall() - 60) * 1e6)).astype("M8[us]")
        for store, risks, rows in (("primary", RISK, ROWS), ("second", stale, 360)):
            kept = {"tail": np.arange(rows), "risk": risks[:rows], "event_timestamp": then[:rows]}
            client.store(store).write(client._batch("plane", kept), client.clock.monotonic() + 5)
        with ImpactMonitor(client, predict=risk, threshold=0.5, sample_share=0.0) as monitor:
            for keys in batches():
                monitor.predict(client.get_online_features(["plane:risk"], keys))
                while client._compare() == 0.0:
                    pass

            prices = monitor.tiers()
            told = client.status()["shadow"]["models"]

    flips = int(((RISK >= 0.5) != (stale >= 0.5))[:360].sum())
    assert (prices["second"]["pairs"], prices["second"]["flips"], prices["second"]["failed"]) == (360, flips, 0)
    assert prices["second"]["mean_abs_delta"] == pytest.approx(float(np.abs(RISK - stale)[:360].mean()), rel=1e-5)
    assert prices["default"]["pairs"] == ROWS
    assert prices["default"]["flips"] == int((RISK < 0.5).sum())
    assert told == {"default": prices}


def test_tiers_are_told_in_the_order_in_which_they_are_tried() -> None:
    """Also one that had nothing of the first requests: last-known rows are not there yet."""
    sources = CONFIG["sources"] | {"second": {"type": "memory"}}  # type: ignore[operator]
    policy = CONFIG["policy"] | {"shadow": {"share": 1.0}, "last_known": {}}  # type: ignore[operator]
    with FeatureClient.from_config(CONFIG | {"sources": sources, "policy": policy}, clock=ManualClock()) as client:
        then = np.full(ROWS, int((client.clock.wall() - 60) * 1e6)).astype("M8[us]")
        kept = {"tail": np.arange(ROWS), "risk": RISK, "event_timestamp": then}
        client.store("primary").write(client._batch("plane", kept), client.clock.monotonic() + 5)
        with ImpactMonitor(client, predict=risk, threshold=0.5, sample_share=0.0) as monitor:
            for _ in range(2):
                monitor.predict(client.get_online_features(["plane:risk"], batches()[0]))
                client._compare()

            prices = monitor.tiers()

    assert {name: one["pairs"] for name, one in prices.items()} == {"second": 0, "last_known": 20, "default": 40}
    assert list(prices) == ["second", "last_known", "default"]


def test_a_monitor_prices_tiers_by_the_policy_in_force() -> None:
    def under(**shadow: Any) -> dict[str, Any]:
        policy = CONFIG["policy"] | {"shadow": shadow or None}  # type: ignore[operator]
        return CONFIG | {"policy": policy}

    def pairs() -> int:
        monitor.predict(client.get_online_features(["plane:risk"], batches()[0]))
        client._compare()
        return int(monitor.tiers().get("default", {"pairs": 0})["pairs"])

    with FeatureClient.from_config(under(), clock=ManualClock()) as client:
        then = np.full(ROWS, int((client.clock.wall() - 60) * 1e6)).astype("M8[us]")
        kept = {"tail": np.arange(ROWS), "risk": RISK, "event_timestamp": then}
        client.store("primary").write(client._batch("plane", kept), client.clock.monotonic() + 5)
        with ImpactMonitor(client, predict=risk, threshold=0.5, sample_share=0.0) as monitor:
            told = [pairs()]
            for policy in (under(share=1.0), under(share=0.0), under(share=1.0), under()):
                client.reload(policy)
                told.append(pairs())

            assert told == [0, 20, 20, 40, 40]
            assert not monitor._prices._waiting, "nothing waits for tiers that nobody reads"


def test_a_model_that_fails_on_a_tier_is_counted_and_the_others_are_not_hurt() -> None:
    def predict(response: Any) -> NDArray[np.float32]:
        scores = risk(response)
        if (scores == np.float32(DEFAULT)).all():
            raise ValueError("not this one")
        return scores

    sources = CONFIG["sources"] | {"second": {"type": "memory"}}  # type: ignore[operator]
    policy = CONFIG["policy"] | {"shadow": {"share": 1.0}}  # type: ignore[operator]
    with FeatureClient.from_config(CONFIG | {"sources": sources, "policy": policy}, clock=ManualClock()) as client:
        then = np.full(ROWS, int((client.clock.wall() - 60) * 1e6)).astype("M8[us]")
        for store in ("primary", "second"):
            kept = {"tail": np.arange(ROWS), "risk": RISK, "event_timestamp": then}
            client.store(store).write(client._batch("plane", kept), client.clock.monotonic() + 5)
        with ImpactMonitor(client, predict=predict, threshold=0.5, sample_share=0.0) as monitor:
            monitor.predict(client.get_online_features(["plane:risk"], batches()[0]))
            client._compare()

            assert monitor.tiers()["default"]["failed"] == 20
            assert (monitor.tiers()["second"]["pairs"], monitor.tiers()["second"]["flips"]) == (20, 0)
