"""What a day's staleness did to decisions, counted through real stores: equal to a loop over the stored pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featurechaos import Cause, FeatureClient, Origin
from featurechaos.demo import flights
from featurechaos.demo.flights import FlightsWorld, Requests
from featurechaos.faults import Outage, Stale
from featurechaos.impact import ImpactMonitor, Report
from featurechaos.impact.pairs import Scored
from tests.live.conftest import World, refreshed
from tests.live.flights import DAY_S, joined_table, joined_view, own_rows, table_of

pytestmark = [pytest.mark.live, pytest.mark.slow]

REQUESTS, BATCH = 1500, 100
CHAOS = {"enabled": True, "max_share": 1.0}
WHOLE: dict[str, Any] = {"control": False, "lease_s": 600, "seed": 7, "reason": "a day's staleness"}


@pytest.fixture(scope="module")
def of_2013() -> FlightsWorld:
    return flights.world()


@pytest.fixture(scope="module")
def asked(of_2013: FlightsWorld) -> Requests:
    """Flights of all four months, by chance."""
    return of_2013.requests("test", n=REQUESTS)


@dataclass
class Kept:
    """Every pair as it was scored, for a loop that knows nothing of counters."""

    scored: list[Scored] = field(default_factory=list)

    def __call__(self, response: Any, scored: Scored, good: NDArray[np.bool_]) -> None:
        assert good.all()
        self.scored.append(scored)

    def rows(self) -> Iterator[tuple[float, float, bool, bool]]:
        for one in self.scored:
            columns = (one.served, one.reference, one.decided_served, one.decided_reference)
            yield from zip(*(column.tolist() for column in columns), strict=True)


def check_counters(report: Report, kept: Kept) -> None:
    pairs = flips = up = down = alerts_served = alerts_reference = 0
    moved = 0.0
    for served, reference, now, before in kept.rows():
        pairs += 1
        flips += now != before
        up += now and not before
        down += before and not now
        alerts_served += now
        alerts_reference += before
        moved += abs(served - reference)
    assert (report.predictions, report.pairs, report.unpaired, report.failed) == (REQUESTS, pairs, 0, 0)
    assert (report.flips, report.total.flips_up, report.total.flips_down) == (flips, up, down)
    assert report.alert_rate_ratio == alerts_served / alerts_reference
    assert report.mean_abs_delta == pytest.approx(moved / pairs, abs=1e-6)


def test_rows_a_day_old_and_restamped(
    world: World, of_2013: FlightsWorld, asked: Requests, tell: Callable[[str], None]
) -> None:
    view = joined_view(of_2013)
    client = world.client(world.config(views=[view], chaos=CHAOS))
    client.write_to_online_store("flight", joined_table(of_2013, asked, age_s=0, base_us=world.base_us))
    client.publish_snapshot("flight", joined_table(of_2013, asked, age_s=DAY_S, base_us=world.base_us))
    features = [f"flight:{name}" for name in view["features"]]

    for share in (0.0, 1.0):
        kept, served = Kept(), np.empty((REQUESTS, len(features)), np.float32)

        def predict(response: Any, **inputs: Any) -> NDArray[np.float64]:
            return of_2013.model.predict_matrix(matrix_of(response, features), inputs)

        with (
            client.chaos.inject(Stale("flight", DAY_S, visible=False), share=share, **WHOLE) as injection,
            monitor_of(client, predict, of_2013, kept) as monitor,
        ):
            for batch in batches():
                response = client.get_online_features(features, {"number": np.arange(REQUESTS)[batch]})
                monitor.predict(response, **asked.take(batch).inputs)
                served[batch] = matrix_of(response, features)
                # Nothing tells but `injected`: that is what makes it invisible.
                assert not response.any_degraded
                assert set(response.provenance("flight").origin) == {Origin.PRIMARY}
                assert response.injected.all() == (share == 1.0) == response.injected.any()
            assert monitor.flush(60)
            report = monitor.report()

        tell(f"share {share:g}: {told(report)}")
        assert np.array_equal(served, of_2013.features_at(asked, age_s=DAY_S if share else 0), equal_nan=True)
        assert (injection.applied, injection.not_applied) == (REQUESTS * share, 0)
        check_counters(report, kept)
        if share:
            assert 0.15 <= report.flip_rate <= 0.25
            assert report.by_view["flight"].flips == report.flips
        else:
            assert (report.flips, report.mean_abs_delta) == (0, 0.0)


def matrix_of(response: Any, features: list[str]) -> NDArray[np.float32]:
    return np.stack([response.columns[name] for name in features], axis=1)


def test_an_outage_served_from_images_a_day_old(
    world: World, of_2013: FlightsWorld, asked: Requests, tell: Callable[[str], None]
) -> None:
    client = world.client(world.config(views=of_2013.config_views(), chaos=CHAOS, policy={"breaker": None}))
    for view in of_2013.tables:
        for age_s, put in ((0, client.write_to_online_store), (DAY_S, client.publish_snapshot)):
            put(view, table_of(of_2013, asked, view, age_s=age_s, base_us=world.base_us))
    refreshed(client)
    rows, kept = own_rows(asked), Kept()
    served = np.empty((REQUESTS, len(of_2013.feature_refs)), np.float32)

    with (
        client.chaos.inject(Outage("primary"), share=1.0, **WHOLE),
        monitor_of(client, of_2013.model.predict, of_2013, kept) as monitor,
    ):
        for batch in batches():
            some = {name: column[batch] for name, column in rows.items()}
            response = client.get_online_features(of_2013.feature_refs, some)
            monitor.predict(response, **asked.take(batch).inputs)
            served[batch] = of_2013.model.matrix(response)
            assert response.degraded.all()
        assert monitor.flush(60)
        report = monitor.report()

    tell(told(report))
    assert np.array_equal(served, of_2013.features_at(asked, age_s=DAY_S), equal_nan=True)
    check_counters(report, kept)
    assert 0.15 <= report.flip_rate <= 0.25
    assert report.by_origin[Origin.SNAPSHOT].flips == report.flips
    assert report.by_cause[Cause.REFUSED].flips == report.flips


def monitor_of(client: FeatureClient, predict: Any, world: FlightsWorld, kept: Kept) -> ImpactMonitor:
    return ImpactMonitor(client, predict, threshold=world.model.threshold, sample_share=1.0, on_pairs=kept)


def batches() -> Iterator[slice]:
    for begin in range(0, REQUESTS, BATCH):
        yield slice(begin, begin + BATCH)


def told(report: Report) -> str:
    return (
        f"{report.pairs} pairs, {report.flips} flips ({report.flip_rate:.3f}), PSI {report.psi:.4f}, "
        f"mean |delta| {report.mean_abs_delta:.4f}, alert ratio {report.alert_rate_ratio:.3f}"
    )
