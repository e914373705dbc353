"""Probes: what each one makes of a window, and the laws that hold however a window is split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.drills.history import Calls, History, Pair, Record, Request, Sample
from featurechaos.drills.measures import quantile_of, share_of, shown
from featurechaos.drills.probes import PROBES, Probe
from featurechaos.drills.window import Window


def probe(name: str, **keys: object) -> Probe:
    bounds = {} if keys.keys() & {"min", "max", "equals"} else {"max": 1.0}
    return PROBES[name].model_validate({"probe": name, **bounds, **keys})


def asked(number: int, *, took: float = 0.01, ok: bool = True, origin: str = "PRIMARY", **more: object) -> Request:
    fields = {"rows": 10, "origins": {origin: 10}} | more
    return Request(t=number / 10, t_done=number / 10 + took, latency_s=took, request_id=str(number), ok=ok, **fields)  # type: ignore[arg-type]


def paired(number: int, flips: int, *, origin: str = "PRIMARY", cause: str = "NONE", **more: object) -> Pair:
    fields = {"served": {"5": 10}, "reference": {"5": 10}} | more
    return Pair(
        t=number / 10,
        request_id=str(number),
        origin=origin,
        cause=cause,
        rows=10,
        flips=flips,
        sum_abs_delta=0.5 * flips,
        sum_delta=-0.25 * flips,
        **fields,  # type: ignore[arg-type]
    )


def window(*records: Record) -> Window:
    return Window.of(History(records))


WORLD = window(
    *(
        asked(number, took=0.001 * (number + 1), ok=number != 3, degraded=number, max_age_s=60.0 * number)
        for number in range(9)
    ),
    asked(9, took=0.5, origin="SNAPSHOT", late=True),
    *(paired(number, flips=0, alerts=2, reference_alerts=1) for number in range(8)),
    paired(8, flips=3, cause="TIMEOUT", served={"60": 10}, alerts=1, reference_alerts=1),
    paired(9, flips=7, origin="SNAPSHOT", cause="REFUSED", alerts=3, reference_alerts=0),
    Calls(t=0.5, over_s=0.5, requests=5, calls={"primary": 6, "standby": 1}),
    Calls(t=1.0, over_s=0.5, requests=5, calls={"primary": 5}),
    Sample(t=0.2, probe="ready", value=True, params={"full": False}),
    Sample(t=0.4, probe="ready", value=False, params={"full": True}),
    Sample(t=0.2, probe="active_faults", value=1),
    Sample(t=0.3, probe="active_faults", value=0),
    Sample(t=0.3, probe="watermark_age_s", value=90.0, params={"view": "plane", "source": None}),
)  # fmt: skip


@pytest.mark.parametrize(
    ("asks", "value"),
    [
        (probe("error_rate"), 0.1),
        (probe("late_rate"), 0.1),
        (probe("degraded_share"), 0.36),
        (probe("origin_share", origin="SNAPSHOT"), 0.1),
        (probe("origin_share", origin=["PRIMARY", "SNAPSHOT"]), 1.0),
        (probe("latency_s", quantile=1.0), 0.5),
        (probe("latency_s", quantile=0.5), 0.005),
        (probe("latency_s", over=0.0055), 0.5),
        (probe("flip_rate"), 0.1),
        (probe("flip_rate", origin="SNAPSHOT"), 0.7),
        (probe("flip_rate", cause="TIMEOUT"), 0.3),
        (probe("flip_rate", cause="TIMEOUT", origin="SNAPSHOT"), None),
        (probe("mean_abs_delta"), 0.05),
        (probe("mean_delta"), -0.025),
        (probe("alert_rate_ratio"), 20 / 9),
        (probe("alert_rate_ratio", origin="SNAPSHOT"), None),
        (probe("psi", origin="SNAPSHOT"), 0.0),
        (probe("source_calls_ratio", source="primary"), 1.1),
        (probe("source_calls_ratio", source="nobody"), 0.0),
        (probe("age_s"), 480.0),
        (probe("ready"), 1.0),
        (probe("ready", full=True), 0.0),
        (probe("active_faults", equals=0), 1.0),
        (probe("watermark_age_s", view="plane"), 90.0),
        (probe("watermark_age_s", view="other"), None),
    ],
    ids=lambda one: one.label if isinstance(one, Probe) else None,
)
def test_each_probe_counts_what_it_says(asks: Probe, value: float | None) -> None:
    got = asks.measure(WORLD).value

    assert got == (value if value is None else pytest.approx(value))


def test_psi_sees_scores_that_moved() -> None:
    spread = {str(bin_): 10 for bin_ in range(0, 60, 5)}
    moved = {str(bin_): 10 for bin_ in range(30, 60, 5)}
    still, drifted = (window(asked(0), paired(0, 0, served=served, reference=spread)) for served in (spread, moved))

    assert probe("psi").measure(still).value == 0
    assert (probe("psi").measure(drifted).value or 0) > 1


def test_nothing_to_see_is_unknown_and_says_why() -> None:
    empty = window()

    needed: dict[str, dict[str, object]] = {
        "latency_s": {"quantile": 0.5},
        "origin_share": {"origin": "PRIMARY"},
        "source_calls_ratio": {"source": "primary"},
        "watermark_age_s": {"view": "plane"},
    }
    for name in PROBES:
        got = probe(name, **needed.get(name, {})).measure(empty)
        assert got.value is None
        assert got.why


def test_no_data_counts_the_edges_of_the_window() -> None:
    quiet = window(asked(0), asked(10)).between(-2.0, 5.0)

    assert probe("no_data_s", max=9).measure(quiet).value == pytest.approx(5.0 - 1.01)


def test_a_high_quantile_of_few_requests_is_unknown() -> None:
    assert quantile_of(np.arange(99.0), 0.99).value is None
    assert quantile_of(np.arange(100.0), 0.99).value == 98
    assert quantile_of(np.arange(3.0), 1.0).value == 2


def test_rows_that_fail_together_prove_less_than_rows_that_fail_alone() -> None:
    alone = share_of(np.full(200, 2), np.full(200, 20), "rows")
    together = share_of(np.repeat([20, 0], [20, 180]), np.full(200, 20), "rows")

    assert alone.value == together.value == 0.1
    assert together.high is not None and alone.high is not None
    assert together.high - 0.1 > 3 * (alone.high - 0.1)


def test_the_interval_of_a_share_holds_the_truth_about_99_times_of_100() -> None:
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(500):
        rate = rng.beta(2, 28, 150)  # requests differ: their rows rise and fall together
        got = share_of(rng.binomial(20, rate), np.full(150, 20), "rows")
        assert got.low is not None and got.high is not None
        missed += not got.low <= 2 / 30 <= got.high

    assert missed <= 15


REQUESTS = st.lists(
    st.tuples(st.integers(0, 400), st.booleans(), st.sampled_from(["PRIMARY", "SNAPSHOT"]), st.integers(0, 10)),
    max_size=40,
)


@given(REQUESTS, st.floats(0, 41))
def test_a_split_window_counts_each_thing_once(told: list[tuple[int, bool, str, int]], at: float) -> None:
    records: list[Record] = []
    for number, (due, ok, origin, flips) in enumerate(told):
        moved = asked(due, ok=ok, origin=origin, degraded=flips)
        records += [
            Request(
                **{name: getattr(moved, name) for name in moved.__slots__ if name != "request_id"} | {"t": due / 10},
                request_id=str(number),
            )
        ]
        records += [
            Pair(
                t=due / 10,
                request_id=str(number),
                origin=origin,
                rows=10,
                flips=flips,
                sum_abs_delta=0,
                sum_delta=0,
                served={"1": 10},
                reference={"2": 10},
            )
        ]
    whole = window(*records)
    parts = [whole.between(0, at), whole.between(at, 42)]

    assert sum(len(part.requests) for part in parts) == len(whole.requests)
    for side in ("served", "reference"):
        assert np.array_equal(sum(part.pairs.histogram(side) for part in parts), whole.pairs.histogram(side))
    for name, keys in (
        ("error_rate", {}),
        ("degraded_share", {}),
        ("origin_share", {"origin": "SNAPSHOT"}),
        ("flip_rate", {}),
    ):
        asks = probe(name, **keys)
        measures = [asks.measure(part) for part in parts]
        hits = sum((one.value or 0) * one.samples for one in measures)
        assert hits == pytest.approx((asks.measure(whole).value or 0) * asks.measure(whole).samples)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "seconds", "12.3 ms"),
        (5.0, "seconds", "5 s"),
        (7092.0, "seconds", "1.97 h"),
        (90000.0, "seconds", "1.04 d"),
        (0.99983, "share", "99.98 %"),
        (1.0, "share", "100 %"),
        (0.0638, "share", "6.38 %"),
        (2.2e-5, "number", "below 0.0001"),
        (1.0, "claim", "yes"),
        (None, "share", "unknown"),
    ],
)
def test_values_are_shown_as_people_read_them(value: float | None, unit: str, text: str) -> None:
    assert shown(value, unit) == text
