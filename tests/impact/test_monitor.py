"""The monitor: what it samples, pairs, drops, survives and reports."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from featurechaos.errors import RequestError
from featurechaos.impact import ImpactMonitor, Report
from featurechaos.impact.kind import Kind
from featurechaos.impact.pairs import PairKey
from featurechaos.model import Cause, Origin, Status
from featurechaos.sampling import is_sampled


@dataclass(frozen=True)
class Truth:
    origin: NDArray[np.uint8]
    status: NDArray[np.uint8]
    cause: NDArray[np.uint8]
    injected: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Answer:
    """A response of one view with one feature, every row from one origin."""

    values: NDArray[np.float64]
    request_id: str = "r"
    origin: Origin = Origin.PRIMARY
    cause: Cause = Cause.NONE
    injected: bool = False
    carrier: list[str] | None = None
    feature_names_out: tuple[str, ...] = ("delay",)
    views: tuple[str, ...] = ("airport",)

    @property
    def columns(self) -> Mapping[str, NDArray[Any]]:
        return {"delay": self.values}

    @property
    def entity(self) -> Mapping[str, Any]:
        return {} if self.carrier is None else {"carrier": np.array(self.carrier)}

    @property
    def degraded(self) -> NDArray[np.bool_]:
        return np.full(len(self), self.origin > Origin.REPLICA)

    def to_numpy(self) -> NDArray[np.float64]:
        return self.values[:, None]

    def provenance(self, view: str) -> Truth:
        assert view in self.views

        def full(value: int) -> NDArray[np.uint8]:
            return np.full(len(self), value, np.uint8)

        injected = np.full(len(self), self.injected)
        return Truth(full(self.origin), full(Status.PRESENT), full(self.cause), injected)

    def __len__(self) -> int:
        return len(self.values)


@dataclass
class Client:
    """Gives the reference it was told to give."""

    clean: Callable[[Answer], Any]
    settings: Any = None
    asked: list[str] = field(default_factory=list)

    def reference(self, response: Answer) -> Any:
        self.asked.append(response.request_id)
        return self.clean(response)


def itself(response: Answer) -> Answer:
    return response


def doubled(response: Answer) -> Answer:
    """Clean features of twice the served value."""
    return Answer(np.minimum(2 * response.values, 1), response.request_id, carrier=response.carrier)


def delay(response: Answer, **_inputs: Any) -> NDArray[np.float64]:
    """A model whose score is the feature."""
    return response.values


def snapshot(*values: float, request_id: str = "r", **more: Any) -> Answer:
    return Answer(np.array(values), request_id, Origin.SNAPSHOT, Cause.TIMEOUT, **more)


@pytest.fixture
def make() -> Iterator[Callable[..., ImpactMonitor]]:
    made: list[ImpactMonitor] = []

    def monitor(clean: Callable[[Answer], Any] = doubled, predict: Any = delay, **options: Any) -> ImpactMonitor:
        given = {"threshold": 0.3, "sample_share": 1.0, "flip_budget": 0.02} | options
        made.append(ImpactMonitor(Client(clean), predict, **given))
        return made[-1]

    yield monitor
    for one in made:
        one.close()


Make = Callable[..., ImpactMonitor]


def settled(monitor: ImpactMonitor) -> Report:
    assert monitor.flush(10)
    return monitor.report()


def test_a_degraded_response_is_scored_again_on_clean_features(make: Make) -> None:
    monitor = make()

    scores = monitor.predict(snapshot(0.1, 0.2, 0.4))

    assert scores.tolist() == [0.1, 0.2, 0.4]
    report = settled(monitor)
    assert (report.predictions, report.sampled, report.pairs, report.flips) == (3, 3, 3, 1)
    assert report.flip_rate == 1 / 3
    assert report.mean_delta == pytest.approx(-0.7 / 3, abs=1e-6)
    assert report.mean_abs_delta == pytest.approx(0.7 / 3, abs=1e-6)
    assert report.alert_rate_ratio == 0.5
    assert report.by_origin[Origin.SNAPSHOT].flips == 1
    assert report.by_cause[Cause.TIMEOUT].pairs == 3
    assert report.by_view["airport"].flip_rate == 1 / 3
    assert report.waiting == 0


def test_a_clean_response_is_its_own_reference_and_scored_once(make: Make) -> None:
    calls = []

    def model(response: Answer) -> NDArray[np.float64]:
        calls.append(len(response))
        return response.values

    monitor = make(itself, model)

    monitor.predict(Answer(np.array([0.1, 0.9])))

    report = settled(monitor)
    assert (report.pairs, report.flips, report.mean_abs_delta) == (2, 0, 0.0)
    assert calls == [2]
    assert list(report.by_view) == ["(clean)"]
    assert report.by_origin[Origin.PRIMARY].pairs == 2


def test_an_invisible_fault_is_blamed_on_its_view_though_nothing_is_degraded(make: Make) -> None:
    monitor = make()

    monitor.predict(Answer(np.array([0.2]), injected=True))

    assert settled(monitor).by_view["airport"].flips == 1


def test_without_clean_features_rows_are_unpaired(make: Make) -> None:
    monitor = make(lambda _response: None)

    monitor.predict(snapshot(0.1, 0.2))

    report = settled(monitor)
    assert (report.sampled, report.unpaired, report.pairs) == (2, 2, 0)


def test_a_degraded_reference_is_none_even_if_it_is_the_response(make: Make) -> None:
    """The last good value as the reference would hide exactly the loss asked about."""
    monitor = make(itself)

    monitor.predict(snapshot(0.1, 0.2))

    report = settled(monitor)
    assert (report.unpaired, report.pairs) == (2, 0)


def test_only_the_clean_rows_of_a_reference_are_paired(make: Make) -> None:
    class Half(Answer):
        @property
        def degraded(self) -> NDArray[np.bool_]:
            return np.array([False, True, False])

    monitor = make(lambda _response: Half(np.array([0.9, 0.9, 0.1])))

    monitor.predict(snapshot(0.1, 0.1, 0.1))

    report = settled(monitor)
    assert (report.pairs, report.flips, report.unpaired) == (2, 1, 1)


def test_an_empty_response_has_no_scores_and_asks_no_model(make: Make) -> None:
    def picky(_response: Answer) -> NDArray[np.float64]:
        raise ValueError("found array with 0 samples")

    monitor = make(predict=picky)

    assert monitor.predict(snapshot()).shape == (0,)
    assert settled(monitor).predictions == 0


def test_share_zero_pairs_nothing_and_still_counts_predictions(make: Make) -> None:
    monitor = make(sample_share=0.0)

    monitor.predict(snapshot(0.1, 0.2))

    report = settled(monitor)
    assert (report.predictions, report.sampled, report.pairs, report.flips) == (2, 0, 0, 0)
    assert np.isnan(report.flip_rate)


def test_a_request_is_sampled_by_its_id_alone() -> None:
    ids = [f"request-{k}" for k in range(20_000)]

    chosen = {one for one in ids if is_sampled(one, 0.02)}

    assert 320 <= len(chosen) <= 480
    assert chosen == {one for one in ids if is_sampled(one, 0.02)}
    assert chosen <= {one for one in ids if is_sampled(one, 0.05)}
    assert [is_sampled("é", 0.0), is_sampled("é", 1.0)] == [False, True]


def test_sampling_is_the_same_in_every_language_and_version() -> None:
    assert [is_sampled("request-1", share) for share in (0.9785, 0.9786)] == [False, True]


def test_share_and_budget_come_from_the_clients_config_when_not_given() -> None:
    impact = SimpleNamespace(sample_share=1.0, flip_budget=0.25)
    with ImpactMonitor(Client(doubled, SimpleNamespace(impact=impact)), delay) as monitor:
        monitor.predict(snapshot(0.1))
        report = settled(monitor)

    assert report.sampled == 1
    assert report.alarm is not None
    assert report.alarm.budget == 0.25


@pytest.mark.parametrize("impact", [None, SimpleNamespace(sample_share=0.0, flip_budget=None)])
def test_impact_may_be_off_in_the_config(impact: Any) -> None:
    with ImpactMonitor(Client(doubled, SimpleNamespace(impact=impact)), delay) as monitor:
        monitor.predict(snapshot(0.1))
        report = settled(monitor)

    assert (report.predictions, report.sampled, report.alarm) == (1, 0, None)


def test_scores_made_elsewhere_are_recorded(make: Make) -> None:
    monitor = make()

    monitor.record(snapshot(0.2), [[0.25]])

    report = settled(monitor)
    assert (report.predictions, report.flips) == (1, 1)
    assert report.mean_abs_delta == pytest.approx(0.15, abs=1e-6)


def test_scores_of_the_wrong_number_are_the_callers_mistake(make: Make) -> None:
    with pytest.raises(RequestError, match=r"one number for each of 2 rows, got shape \(1,\)"):
        make().record(snapshot(0.1, 0.2), [0.5])
    with pytest.raises(RequestError, match=r"one number for each of 1 rows, got shape \(1, 3\)"):
        make(predict=lambda _response: [[1, 2, 3]]).predict(snapshot(0.1))


def test_the_models_error_on_the_served_features_flies(make: Make) -> None:
    def broken(_response: Answer) -> NDArray[np.float64]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(predict=broken).predict(snapshot(0.1))


def test_an_error_in_the_second_scoring_is_counted_logged_once_and_kept_from_the_caller(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def fragile(response: Answer) -> NDArray[np.float64]:
        if response.origin == Origin.PRIMARY:
            raise ZeroDivisionError("no clean flights")
        return response.values

    monitor = make(predict=fragile, model="delay")

    with caplog.at_level(logging.WARNING, "featurechaos.impact.monitor"):
        for _ in range(3):
            monitor.predict(snapshot(0.1, 0.2))
        report = settled(monitor)

    assert (report.predictions, report.failed, report.pairs) == (6, 6, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "model 'delay': a pair could not be scored, counted as failed: no clean flights"
    ]


def test_the_thread_goes_on_after_an_error(make: Make) -> None:
    def moody(response: Answer) -> Answer:
        if response.request_id == "bad":
            raise OSError("witness is gone")
        return doubled(response)

    monitor = make(moody)

    monitor.predict(snapshot(0.2, request_id="bad"))
    monitor.predict(snapshot(0.2, request_id="good"))

    report = settled(monitor)
    assert (report.failed, report.flips) == (1, 1)


def test_a_pair_with_a_score_that_is_none_fails_alone(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    monitor = make()

    monitor.predict(snapshot(0.2, float("nan"), 0.3, 1.5))

    report = settled(monitor)
    assert (report.pairs, report.failed, report.flips) == (2, 2, 1)
    assert "a score of kind 'probability' is within 0..1, got others in 2 pairs" in caplog.text


def test_scores_may_have_another_range(make: Make) -> None:
    monitor = make(lambda response: Answer(response.values + 30), threshold=15, kind=Kind("minutes", -60, 600))

    monitor.predict(snapshot(-20.0, 0.0, 100.0))

    report = settled(monitor)
    assert report.mean_delta == pytest.approx(-30, abs=1e-4)
    assert report.flips == 1


@pytest.mark.parametrize(
    ("threshold", "inputs", "flips"),
    [
        (0.3, {}, 0),
        (0.5, {}, 1),
        ({"column": "carrier", "default": 0.3, "UA": 0.6}, {}, 1),
        ({"column": "carrier", "default": 0.15, "UA": 0.6}, {}, 2),
        ({"column": "carrier", "default": 0.05, "UA": 0.85}, {}, 0),
        ({"column": "gate", "default": 0.05, 7: 0.15}, {"gate": np.array([7, 8])}, 1),
        ({"column": "gate", "default": 0.05, 7: 0.5}, {"gate": 7}, 1),
        (lambda scores, _response: scores > 0.15, {}, 1),
        (lambda scores, _response: np.digitize(scores, [0.15, 0.5]), {}, 2),
    ],
)
def test_a_threshold_is_a_number_a_mapping_or_a_callable(
    make: Make, threshold: Any, inputs: dict[str, Any], flips: int
) -> None:
    monitor = make(threshold=threshold)

    monitor.predict(snapshot(0.1, 0.4, carrier=["AA", "UA"]), **inputs)

    assert settled(monitor).flips == flips


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ("0.3", "threshold wants a finite number, got '0.3'"),
        (True, "threshold wants a finite number, got True"),
        (float("nan"), "threshold wants a finite number, got nan"),
        ({"UA": 0.3}, "a threshold mapping wants 'column'.* got keys 'UA'"),
        ({"column": "carrier", "UA": 0.3}, "and 'default'"),
        ({"column": "carrier", "default": "x"}, r"threshold\['default'\] wants a finite number, got 'x'"),
    ],
)
def test_a_threshold_that_is_none_is_refused(make: Make, threshold: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make(threshold=threshold)


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        (
            {"column": "gate", "default": 0.3},
            "'gate' is neither an input nor an entity column; there are: carrier",
        ),
        (lambda _scores, _response: [0.5], "gives bool or int for each of 1 rows"),
    ],
)
def test_a_threshold_that_cannot_decide_is_counted_as_failed_and_says_why(
    make: Make, caplog: pytest.LogCaptureFixture, threshold: Any, message: str
) -> None:
    monitor = make(threshold=threshold)

    monitor.predict(snapshot(0.1, carrier=["AA"]))

    assert settled(monitor).failed == 1
    assert message in caplog.text


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "0.5"])
def test_a_share_that_is_none_is_refused(make: Make, share: Any) -> None:
    with pytest.raises(RequestError, match=r"sample_share is within 0\.\.1"):
        make(sample_share=share)


@pytest.mark.parametrize("options", [{"model": 5}, {"kind": "probability"}])
def test_a_name_or_a_kind_that_is_none_is_refused_at_once(make: Make, options: dict[str, Any]) -> None:
    """Not when the report is printed."""
    with pytest.raises(RequestError, match="a monitor wants the model's name and a Kind of scores, got"):
        make(**options)


def test_a_model_that_is_none_is_refused(make: Make) -> None:
    with pytest.raises(RequestError, match=r"predict wants an estimator .* got int"):
        make(predict=5)


def test_both_scorings_get_the_same_inputs_though_the_caller_reuses_its_array(make: Make) -> None:
    gate = threading.Event()

    def slow(response: Answer) -> Answer:
        assert gate.wait(10)
        return doubled(response)

    monitor = make(slow, lambda response, boost: response.values + boost)
    boost = np.array([0.1])

    scores = monitor.predict(snapshot(0.1), boost=boost)
    boost[:] = scores[:] = 0.9
    gate.set()

    report = settled(monitor)
    assert report.mean_delta == pytest.approx(-0.1, abs=1e-6)


def test_rows_past_the_bound_of_the_queue_are_dropped_and_counted(make: Make) -> None:
    gate = threading.Event()

    def slow(response: Answer) -> Answer:
        assert gate.wait(10)
        return doubled(response)

    monitor = make(slow, most_queued_rows=5)

    for _ in range(4):
        monitor.predict(snapshot(0.1, 0.2))
    before = monitor.report()
    early = monitor.flush(0)
    gate.set()

    after = settled(monitor)
    assert (before.sampled, before.dropped, before.waiting, early) == (8, 4, 4, False)
    assert (after.pairs, after.dropped, after.waiting) == (4, 4, 0)


def test_after_close_scores_are_served_and_nothing_is_left_running(make: Make) -> None:
    monitor = make()
    monitor.predict(snapshot(0.2))

    monitor.close()
    monitor.close()

    assert monitor.predict(snapshot(0.4)).tolist() == [0.4]
    report = monitor.report()
    assert (report.predictions, report.pairs, report.dropped) == (2, 1, 1)
    assert "featurechaos-impact" not in {thread.name for thread in threading.enumerate()}


def test_close_counts_what_it_could_not_wait_for(make: Make) -> None:
    gate = threading.Event()
    monitor = make(lambda response: response if gate.wait(10) else None)
    for _ in range(3):
        monitor.predict(Answer(np.array([0.2, 0.1])))

    monitor.close(timeout_s=0)
    gate.set()

    assert monitor.report().dropped in (4, 6)  # The first may have been under way.


def test_no_thread_is_started_before_the_first_sampled_response(make: Make) -> None:
    monitor = make(sample_share=0.0)

    monitor.predict(snapshot(0.1))

    assert "featurechaos-impact" not in {thread.name for thread in threading.enumerate()}


def test_the_alarm_fires_when_flips_pass_the_budget(make: Make) -> None:
    monitor = make(flip_budget=0.02)

    monitor.predict(snapshot(*[0.2] * 30, *[0.1] * 70))

    alarm = settled(monitor).alarm
    assert alarm is not None
    assert (alarm.is_on, alarm.fired, alarm.first_at) == (True, 1, 100)


def test_the_snapshot_for_metrics_has_plain_counts(make: Make) -> None:
    monitor = make(model="delay")

    monitor.predict(snapshot(0.2, 0.1))
    monitor.flush()

    key = PairKey("delay", "airport", Cause.TIMEOUT, Origin.SNAPSHOT)
    assert monitor.pairs_snapshot() == {key: (2, 1)}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_counts_from_nothing_on_its_own_thread(make: Make) -> None:
    monitor = make()
    monitor.predict(snapshot(0.2))
    parent = settled(monitor)
    reader, writer = os.pipe()

    pid = os.fork()
    if not pid:
        try:
            monitor.predict(snapshot(0.2, 0.1))
            monitor.flush(10)
            os.write(writer, json.dumps(monitor.report().to_dict()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        child = Report.from_dict(json.loads(pipe.read()))
    os.waitpid(pid, 0)

    assert (child.predictions, child.pairs, child.flips) == (2, 2, 1)
    both = parent + child
    assert (both.predictions, both.pairs, both.flips, both.models) == (3, 3, 2, ("default",))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_closed_monitor_stays_closed_in_a_forked_child(make: Make) -> None:
    monitor = make()
    monitor.close()

    pid = os.fork()
    if not pid:
        monitor.predict(snapshot(0.2))
        os._exit(monitor.report().dropped)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 1


def test_threads_share_a_monitor(make: Make) -> None:
    monitor = make()

    def work() -> None:
        for k in range(50):
            monitor.predict(snapshot(0.2, 0.1, request_id=str(k)))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    report = settled(monitor)
    assert (report.predictions, report.pairs, report.flips) == (600, 600, 300)


def test_an_async_client_is_asked_on_its_own_loop() -> None:
    loops = []

    class AsyncClient:
        settings = None

        async def reference(self, response: Answer) -> Answer:
            loops.append(asyncio.get_running_loop())
            return doubled(response)

    async def serve() -> Report:
        with ImpactMonitor(AsyncClient(), delay, threshold=0.3, sample_share=1.0, flip_budget=0.02) as monitor:
            monitor.predict(snapshot(0.2))
            assert await asyncio.to_thread(monitor.flush)
            assert loops == [asyncio.get_running_loop()]
            return monitor.report()

    assert asyncio.run(serve()).flips == 1


def test_an_async_client_outside_its_loop_is_a_failure_that_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class AsyncClient:
        settings = None

        async def reference(self, response: Answer) -> Answer:
            return response

    with ImpactMonitor(AsyncClient(), delay, sample_share=1.0, flip_budget=0.02) as monitor:
        monitor.predict(snapshot(0.2))
        report = settled(monitor)

    assert report.failed == 1
    assert "within its event loop" in caplog.text
