"""Counters, and what Prometheus reads of them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from featurechaos.codec import Layout, Rows
from featurechaos.errors import SpecError
from featurechaos.metrics import NAMES, Counters, Seen, collector, serve
from featurechaos.metrics.distributions import AGES, SECONDS, Ages, Distribution
from featurechaos.model import NO_TIME_US, Cause, Origin, Status, Verdict
from tests.layers.kit import VIEW

NAN = float("nan")
NOW_US = 1_800_000_000_000_000


def _events(*ages_s: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Event times of rows of these ages; NaN is no event."""
    return np.array([NO_TIME_US if age != age else NOW_US - int(age * 1e6) for age in ages_s], np.int64)  # noqa: PLR0124


def _scraped(counters: Counters) -> dict[str, dict[tuple[str, ...], float]]:
    """What a scrape says: sample name -> label values -> value."""
    registry = CollectorRegistry()
    registry.register(collector(counters))
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            metric = NAMES.get(sample.name) or NAMES[family.name]
            labels = tuple(sample.labels[label] for label in (*metric.labels, "le") if label in sample.labels)
            assert set(metric.labels) == set(sample.labels) - {"le"}
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.fixture
def counters() -> Counters:
    return Counters()


def test_a_healthy_request_is_one_call(counters: Counters) -> None:
    rows = [Seen("plane", Origin.PRIMARY, Status.PRESENT, False, 3, _events(10, 20, 4000))]

    counters.answered(0.004, degraded=False, wall_us=NOW_US, rows=rows)

    found = _scraped(counters)
    assert found["featurechaos_requests_total"] == {("false",): 1, ("true",): 0}
    assert found["featurechaos_request_seconds_sum"] == {(): 0.004}
    assert found["featurechaos_rows_total"] == {("plane", "PRIMARY", "PRESENT", "false"): 3}
    assert found["featurechaos_row_age_seconds_sum"] == {("plane", "PRIMARY"): 4030}
    buckets = found["featurechaos_row_age_seconds_bucket"]
    assert buckets["plane", "PRIMARY", "15.0"] == 1
    assert buckets["plane", "PRIMARY", "3600.0"] == 2
    assert buckets["plane", "PRIMARY", "+Inf"] == 3


def test_rows_that_differ_are_counted_each_as_it_is(counters: Counters) -> None:
    seen = Seen(
        "plane",
        origin=np.array([Origin.PRIMARY, Origin.SNAPSHOT, Origin.SNAPSHOT, Origin.DEFAULT], np.uint8),
        status=np.array([Status.PRESENT, Status.EXPIRED, Status.EXPIRED, Status.UNAVAILABLE], np.uint8),
        injected=np.array([False, True, False, True]),
        n=4,
        event_time=_events(1, 100, 200, NAN),
    )

    counters.answered(0.05, degraded=True, wall_us=NOW_US, rows=[seen])

    found = _scraped(counters)
    assert found["featurechaos_requests_total"] == {("false",): 0, ("true",): 1}
    assert found["featurechaos_rows_total"] == {
        ("plane", "PRIMARY", "PRESENT", "false"): 1,
        ("plane", "SNAPSHOT", "EXPIRED", "true"): 1,
        ("plane", "SNAPSHOT", "EXPIRED", "false"): 1,
        ("plane", "DEFAULT", "UNAVAILABLE", "true"): 1,
    }
    assert found["featurechaos_row_age_seconds_count"] == {("plane", "PRIMARY"): 1, ("plane", "SNAPSHOT"): 2}


@pytest.mark.parametrize("n", [1, 63, 64, 65, 500])
def test_many_rows_are_counted_as_few_are(counters: Counters, n: int) -> None:
    origin = np.tile(np.array([Origin.PRIMARY, Origin.SNAPSHOT, Origin.LAST_KNOWN], np.uint8), n)[:n]
    status = np.where(origin == int(Origin.PRIMARY), np.uint8(Status.PRESENT), np.uint8(Status.EXPIRED))

    counters.answered(0.001, degraded=True, rows=[Seen("v", origin, status, False, n)])

    by_origin = counters.rows()["v"]
    assert by_origin == {Origin(int(one)).name: int((origin == one).sum()) for one in np.unique(origin)}
    assert all(type(count) is int for count in by_origin.values())


def test_rows_without_an_event_have_no_age_and_the_future_is_now(counters: Counters) -> None:
    for events in (_events(NAN, 5), _events(NAN), _events(7), _events(-60), _events(-60, 1), np.empty(0, np.int64)):
        seen = Seen("v", Origin.PRIMARY, Status.PRESENT, False, len(events), events)
        counters.answered(0.1, degraded=False, wall_us=NOW_US, rows=[seen])

    found = counters.read()["row_age_seconds"]

    ages = found["v", "PRIMARY"]
    assert isinstance(ages, Distribution)
    assert (ages.count, ages.total) == (5, 13.0)
    assert ages.counts[0] == 3
    assert list(found) == [("v", "PRIMARY")]


def test_ages_are_of_the_rows_as_they_were_seen(counters: Counters) -> None:
    events = _events(5, 5)

    counters.answered(0.1, degraded=False, wall_us=NOW_US, rows=[Seen("v", 1, 1, False, 2, events)])
    events[:] = NO_TIME_US

    assert counters.stats()["row_age_seconds"] == [{"view": "v", "origin": "PRIMARY", "count": 2, "sum": 10.0}]


def test_fallbacks_are_counted_by_cause_and_rows_without_one_are_not(counters: Counters) -> None:
    causes = np.array([Cause.NONE, Cause.TIMEOUT, Cause.TIMEOUT, Cause.MISSING], np.uint8)

    counters.fallbacks("v", "primary", causes, injected=np.array([False, True, False, False]))
    counters.fallbacks("v", "primary", Cause.TIMEOUT, n=5)
    counters.fallbacks("v", "primary", Cause.NONE, n=9)

    assert _scraped(counters)["featurechaos_row_fallbacks_total"] == {
        ("v", "primary", "TIMEOUT", "true"): 1,
        ("v", "primary", "TIMEOUT", "false"): 6,
        ("v", "primary", "MISSING", "false"): 1,
    }


def test_everything_else_is_counted_under_its_name(counters: Counters) -> None:
    counters.source_call("primary", "ok", 0.002)
    counters.source_call("primary", "timeout", 0.015)
    counters.one_more("retries_total", "primary")
    counters.exhausted("v", 2)
    counters.exhausted("v", injected=True)
    counters.keys_null("v", 3)
    counters.corrupt_cells("v", 4)
    counters.fault("outage", applied=True, n=5)
    counters.fault("stale", applied=False)

    found = _scraped(counters)
    assert found["featurechaos_source_calls_total"] == {("primary", "ok"): 1, ("primary", "timeout"): 1}
    assert found["featurechaos_source_call_seconds_count"] == {("primary",): 2}
    assert found["featurechaos_source_call_seconds_bucket"]["primary", "0.015"] == 2
    assert found["featurechaos_source_call_seconds_bucket"]["primary", "0.01"] == 1
    assert found["featurechaos_retries_total"] == {("primary",): 1}
    assert found["featurechaos_rows_exhausted_total"] == {("v", "false"): 2, ("v", "true"): 1}
    assert found["featurechaos_keys_null_total"] == {("v",): 3}
    assert found["featurechaos_corrupt_cells_total"] == {("v",): 4}
    assert found["featurechaos_faults_applied_total"] == {("outage",): 5}
    assert found["featurechaos_faults_not_applied_total"] == {("stale",): 1}


def test_pairs_of_several_monitors_add_up(counters: Counters) -> None:
    key = ("delay", "v", Cause.TIMEOUT, Origin.SNAPSHOT)
    counters.pairs_from(lambda: {key: (10, 2)})
    counters.pairs_from(lambda: {key: (5, 1), ("delay", "(clean)", Cause.NONE, Origin.NONE): (7, 0)})

    found = _scraped(counters)

    assert found["featurechaos_pairs_total"] == {
        ("delay", "v", "TIMEOUT", "SNAPSHOT"): 15,
        ("delay", "(clean)", "NONE", "NONE"): 7,
    }
    assert found["featurechaos_flips_total"]["delay", "v", "TIMEOUT", "SNAPSHOT"] == 3


def test_gauges_are_asked_when_someone_looks(counters: Counters) -> None:
    state = {"value": 0.0}
    counters.gauges.add("breaker_state", {"source": "primary"}, lambda: state["value"])
    counters.gauges.add("snapshot_age_seconds", {"view": "v"}, lambda: None)
    counters.gauges.add("view_watermark_age_seconds", {"source": "s", "view": "v"}, lambda: NAN)
    counters.gauges.add("snapshot_age_seconds", {"view": "w"}, lambda: 1 / 0)
    counters.gauges.add("snapshot_age_seconds", {"view": "x"}, lambda: 1)
    counters.gauges.add("snapshot_age_seconds", {"view": "x"}, lambda: 60)

    state["value"] = 2

    found = _scraped(counters)
    assert found["featurechaos_breaker_state"] == {("primary",): 2}
    assert found["featurechaos_snapshot_age_seconds"] == {("x",): 60}
    assert "featurechaos_view_watermark_age_seconds" not in found


@pytest.mark.parametrize(
    ("name", "labels"),
    [("requests_total", {"degraded": "true"}), ("breaker_state", {"view": "v"}), ("breaker_state", {}), ("nope", {})],
)
def test_a_gauge_that_no_dashboard_knows_is_refused(counters: Counters, name: str, labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"a gauge wants a name and labels of NAMES, got '{name}'"):
        counters.gauges.add(name, labels, lambda: 1.0)


def test_every_metric_is_there_before_anything_happened(counters: Counters) -> None:
    registry = CollectorRegistry()
    registry.register(collector(counters))

    text = generate_latest(registry).decode()

    assert set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) == set(NAMES)
    assert set(counters.read()) == {name.removeprefix("featurechaos_") for name in NAMES}


def test_labels_are_those_of_the_contract() -> None:
    assert NAMES["featurechaos_rows_total"].labels == ("view", "origin", "status", "injected")
    assert all(
        "injected" in NAMES[f"featurechaos_{name}"].labels for name in ("row_fallbacks_total", "rows_exhausted_total")
    )
    allowed = {"degraded", "source", "outcome", "view", "origin", "status", "injected", "cause", "fault", "model"}
    assert {label for metric in NAMES.values() for label in metric.labels} == allowed


ages_s = st.integers(-100, 10**10).map(lambda tenths: tenths / 10) | st.just(NAN) | st.sampled_from(AGES).map(float)
batches = st.lists(
    st.tuples(st.lists(ages_s, min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 900)), max_size=8
)


@given(batches)
def test_ages_are_counted_together_as_they_are_one_by_one(batches: list[tuple[list[float], int, int]]) -> None:
    together, apart = Ages(), Ages()

    for some, origin, times in batches:
        rows = some * times
        codes = np.array([origin if at % 2 else Origin.PRIMARY for at in range(len(rows))], np.uint8)
        together.add(_events(*rows), NOW_US, codes)
        for code, age in zip(codes, rows, strict=True):
            apart.add(_events(age), NOW_US, int(code))

    got, wanted = dict(together.read()), dict(apart.read())
    assert {origin: each.counts for origin, each in got.items()} == {
        origin: each.counts for origin, each in wanted.items()
    }
    assert {origin: each.total for origin, each in got.items()} == {
        origin: each.total for origin, each in wanted.items()
    }


def test_no_answer_sorts_in_the_ages_of_more_than_128(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sorted in a thousand held up the reads beside it for milliseconds."""
    sorted_in: list[int] = []
    fold = Ages._fold

    def folded(self: Ages) -> None:
        sorted_in.append(len(self._waiting))
        fold(self)

    monkeypatch.setattr(Ages, "_fold", folded)
    ages = Ages()
    for at in range(1000):
        if at % 2:
            ages.add(_events(1, 2, 3), NOW_US, np.array([Origin.PRIMARY, Origin.REPLICA, Origin.SNAPSHOT], np.uint8))
        else:
            ages.add_times(_events(4, 5).tobytes(), NOW_US, Origin.PRIMARY)

    assert sorted_in
    assert max(sorted_in) == 128
    assert sum(age.count for _, age in ages.read()) == 2500


def test_a_value_on_a_bound_is_within_it() -> None:
    ages, seconds = Ages(), Distribution(SECONDS)
    ages.add(_events(*AGES), NOW_US, Origin.PRIMARY)
    for bound in SECONDS:
        seconds.add(bound)

    assert next(ages.read())[1].counts == [1] * len(AGES) + [0]
    assert seconds.counts == [1] * len(SECONDS) + [0]


def test_what_was_read_does_not_change_afterwards(counters: Counters) -> None:
    counters.answered(0.1, degraded=False, wall_us=NOW_US, rows=[Seen("v", 1, 1, False, 1, _events(5))])
    before = counters.stats()

    text = json.dumps(before)
    counters.answered(0.1, degraded=True, wall_us=NOW_US, rows=[Seen("v", 1, 1, False, 1, _events(5))])

    assert json.dumps(before) == text
    assert before["requests_total"] == [{"degraded": "false", "value": 1}, {"degraded": "true", "value": 0}]
    assert before["row_age_seconds"] == [{"view": "v", "origin": "PRIMARY", "count": 1, "sum": 5.0}]


@pytest.mark.parametrize("n", [2, 100, 1000, 10_000])
def test_an_answer_is_not_held_once_it_is_counted(counters: Counters, n: int) -> None:
    rows = Rows.blank(Layout.of(VIEW), n, Verdict.FRESH)
    rows.event_time[:] = NOW_US - 3_000_000
    held = weakref.ref(rows.words)
    counters.answered_plainly(0.001, NOW_US, n, [("v", int(Origin.PRIMARY), rows.times)], ("primary", 0.0005))

    del rows

    assert held() is None
    assert counters.rows() == {"v": {"PRIMARY": n}}
    assert counters.stats()["row_age_seconds"] == [{"view": "v", "origin": "PRIMARY", "count": n, "sum": 3 * n}]


def test_threads_lose_no_count(counters: Counters) -> None:
    events = _events(5, 6)

    def work() -> None:
        for _ in range(500):
            counters.answered(0.001, degraded=False, wall_us=NOW_US, rows=[Seen("v", 1, 1, False, 2, events)])
            counters.one_more("retries_total", "primary")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = counters.read()
    assert found["requests_total"]["false",] == 2000
    assert found["rows_total"]["v", "PRIMARY", "PRESENT", "false"] == 4000
    assert found["retries_total"]["primary",] == 2000
    ages = found["row_age_seconds"]["v", "PRIMARY"]
    assert isinstance(ages, Distribution)
    assert (ages.count, ages.total) == (4000, 22_000.0)


def test_bounds_rise() -> None:
    for bounds in (SECONDS, AGES):
        assert list(bounds) == sorted(set(bounds))


# The endpoint.


@pytest.fixture
def endpoint(counters: Counters) -> Iterator[Any]:
    with serve(counters, 0) as running:
        yield running


def _get(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_the_endpoint_answers_on_loopback(counters: Counters, endpoint: Any) -> None:
    counters.answered(0.1, degraded=True)

    assert endpoint.host == "127.0.0.1"
    assert 'featurechaos_requests_total{degraded="true"} 1.0' in _get(endpoint.port)


def test_closing_leaves_no_thread_and_no_socket(counters: Counters) -> None:
    before = set(threading.enumerate())
    endpoint = serve(counters, 0)
    _get(endpoint.port)

    endpoint.close()
    endpoint.close()

    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", endpoint.port), timeout=1):
        pass
    again = serve(counters, endpoint.port)
    assert again.port == endpoint.port
    again.close()


def test_a_scraper_that_goes_away_harms_nobody(endpoint: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as rude:
        rude.sendall(b"GET /met")

    assert "featurechaos_requests_total" in _get(endpoint.port)
    assert capfd.readouterr() == ("", "")


def test_a_taken_port_is_told(counters: Counters, endpoint: Any) -> None:
    with pytest.raises(SpecError, match=rf"metrics\.port: 127\.0\.0\.1:{endpoint.port} cannot be listened on: Address"):
        serve(counters, endpoint.port)


def test_a_fork_in_the_middle_of_counting_does_not_lock_the_child() -> None:
    program = (
        "import os, warnings; warnings.simplefilter('ignore')\n"
        "from featurechaos.metrics import Counters, serve\n"
        "counters = Counters(); endpoint = serve(counters, 0); counters._lock.acquire()\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    counters.one_more('retries_total', 'primary')\n"
        "    os._exit(0 if endpoint._server.socket.fileno() == -1 else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "counters._lock.release(); endpoint.close()\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)

    assert (done.stdout, done.stderr) == ("0\n", "")


def test_without_prometheus_client_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text(
        "raise ModuleNotFoundError('no', name='prometheus_client')\n", encoding="utf-8"
    )
    program = (
        "from featurechaos.metrics import Counters, serve\n"
        "counters = Counters(); counters.answered(1.0, degraded=False)\n"
        "try:\n    serve(counters, 0)\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False, env=environ
    )

    assert done.stdout == (
        "SpecError metrics need: pip install 'featurechaos[metrics]' (prometheus_client is not installed)\n"
    )
