"""Faults held by another process, and what ends them; told by the values that are served."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from featurechaos import FeatureClient, Origin
from featurechaos.errors import ChaosRefused
from featurechaos.faults import Delay, Outage, Stale
from featurechaos.faults.remote import clear, hold, listed
from tests.live.conftest import TOKEN, World, eventually, now, open_files
from tests.live.truth import IMAGE, LIVE, VIEWS, values

pytestmark = pytest.mark.live

KEYS = np.arange(20)
BARE = {"retry": None, "breaker": None}
"""Every request is one call of the primary, faulted or not."""
LISTENS: dict[str, Any] = {"chaos": {"enabled": True, "max_share": 1.0, "listen": "127.0.0.1:0"}}
WHOLE: dict[str, Any] = {"share": 1.0, "control": False, "lease_s": 60.0, "seed": 7, "reason": "a test"}

HOLDER = """
import sys, threading
from featurechaos.faults import Outage
from featurechaos.faults.remote import hold
with hold(sys.argv[1], sys.stdin.readline().strip(), Outage("primary"), share=1.0, control=False, lease_s=60.0,
          seed=7, reason="a test"):
    print("on", flush=True)
    threading.Event().wait()
"""


@pytest.fixture
def serving(filled: World) -> FeatureClient:
    """A serving client that takes faults from other processes."""
    client = filled.client(filled.config(policy=BARE, **LISTENS))
    assert version(client) == LIVE
    return client


@pytest.fixture
def listening(armed: None) -> Iterator[FeatureClient]:
    """A client that takes faults and has no servers."""
    config = {"project": "p", "sources": {"primary": {"type": "memory"}, "standby": {"type": "memory"}}}
    with FeatureClient.from_config({**config, "views": VIEWS, "policy": BARE, **LISTENS}) as client:
        client.ready()
        yield client


def version(client: FeatureClient) -> int:
    """Which version of every row is served; all of one read are of one, and say so."""
    response = client.get_online_features(["plane:number", "plane:word"], {"tail": KEYS})
    (found,) = set((response.columns["number"] - KEYS * 16).tolist())
    assert response.columns["word"].tolist() == values(KEYS, found)["word"].tolist()
    truth = response.provenance("plane")
    assert set(truth.origin) == {Origin.PRIMARY if found == LIVE else Origin.SNAPSHOT}
    assert set(truth.injected) == {found == IMAGE}
    return int(found)


def url_of(client: FeatureClient) -> str:
    assert client.chaos.listening is not None
    return client.chaos.listening


@contextmanager
def holder(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds an outage of the primary."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDER, url], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(TOKEN + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "on\n"
            yield process
        finally:
            process.kill()


def test_killing_the_injecting_process_ends_the_fault(serving: FeatureClient) -> None:
    with holder(url_of(serving)) as process:
        assert [version(serving) for _ in range(5)] == [IMAGE] * 5

        os.kill(process.pid, signal.SIGKILL)
        began = now()
        eventually(lambda: version(serving) == LIVE, most_s=5)

    assert now() - began < 1.0
    assert serving.chaos.live() == ()


def test_a_holder_that_hangs_loses_the_fault_with_its_lease(serving: FeatureClient) -> None:
    with hold(url_of(serving), TOKEN, Outage("primary"), **WHOLE | {"lease_s": 0.5}) as held:
        assert version(serving) == IMAGE
        eventually(lambda: version(serving) == LIVE, most_s=5)

    assert held.state == "ended"
    assert serving.chaos.live() == ()


def test_when_the_with_ends_no_later_read_is_affected(serving: FeatureClient) -> None:
    for _ in range(5):
        with hold(url_of(serving), TOKEN, Outage("primary"), **WHOLE) as held:
            assert version(serving) == IMAGE
        assert version(serving) == LIVE
        assert (held.state, held.applied, held.not_applied) == ("released", 1, 0)


def test_they_are_listed_and_cleared_by_others(serving: FeatureClient) -> None:
    url = url_of(serving)
    with hold(url, TOKEN, Outage("primary", "hang"), **WHOLE | {"share": 0.25, "control": True}) as held:
        (one,) = listed(url, TOKEN)
        cleared = clear(url, TOKEN)
        assert (version(serving), listed(url, TOKEN)) == (LIVE, [])

    assert 59 < one.pop("left_s") <= 60
    assert one == {
        "fault": "outage", "source": "primary", "mode": "hang", "share": 0.25, "control_share": 0.25,
        "reason": "a test", "applied": 0, "not_applied": 0, "control": 0,
    }  # fmt: skip
    assert cleared == 1
    assert held.state == "cleared"


def test_every_kind_arrives_as_it_was_sent(listening: FeatureClient) -> None:
    faults = (Outage("standby"), Delay("primary", 0.002, 0.5), Stale("plane", 3600.0, visible=False))

    with hold(url_of(listening), TOKEN, *faults, **WHOLE | {"share": 0.1}):
        assert tuple(lease.fault for lease in listening.chaos.live()) == faults


def test_who_did_what_why_and_until_when_is_on_record(
    listening: FeatureClient, caplog: pytest.LogCaptureFixture
) -> None:
    reason = "a drill\nfaults on: not so"
    with hold(url_of(listening), TOKEN, Outage("primary"), **WHOLE | {"reason": reason}):
        pass
    with pytest.raises(ChaosRefused):
        listed(url_of(listening), "not the token at all")

    told = [record.getMessage() for record in caplog.records if record.name == "featurechaos.faults.control"]
    on, off, refused = told[-3:]
    assert on.startswith("faults on: outage:primary; share 1, 60 s, by ")
    assert f"pid {os.getpid()}" in on
    assert on.endswith(repr(reason))
    assert off.startswith("faults off: outage:primary; applied 0, by ")
    assert refused.startswith("refused: GET '/faults' by 127.0.0.1:")
    assert "\n" not in "".join(told)
    assert TOKEN not in "".join(told)


ORDER = {**WHOLE, "faults": [{"fault": "outage", "source": "primary"}]}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "problem"),
    [
        ({}, ORDER, 401, "wanted the header Authorization: Bearer and the token"),
        ({"Authorization": "Bearer guess"}, ORDER, 401, "wanted the header Authorization: Bearer and the token"),
        ({"Authorization": TOKEN}, ORDER, 401, "wanted the header Authorization: Bearer and the token"),
        ({**BEARER, "Origin": "http://127.0.0.1"}, ORDER, 403, "a browser may not order faults"),
        (BEARER, {**ORDER, "reason": "x" * 65536}, 413, "wanted at most 65536 bytes, got 65"),
        (BEARER, "not json", 400, "faults: the body: "),
        (BEARER, {**ORDER, "faults": []}, 400, "faults: faults: List should have at least 1 item"),
        (BEARER, {**ORDER, "faults": [{"fault": "sabotage"}]}, 400, "faults: faults.0: "),
        (
            BEARER,
            {**ORDER, "faults": [{"fault": "outage", "source": "x"}]},
            400,
            "inject: outage:x: source wants one of",
        ),
        (
            BEARER,
            {**ORDER, "faults": [{"fault": "stale", "view": "plane", "age_s": -1}]},
            400,
            "faults: faults.0.stale",
        ),
        (BEARER, {**ORDER, "share": 1.5}, 400, "faults: share: Input should be less than or equal to 1, got 1.5"),
        (BEARER, {**ORDER, "share": "1"}, 400, "faults: share: Input should be a valid number, got '1'"),
        (BEARER, {**ORDER, "lease_s": 1e9}, 400, "faults: lease_s: Input should be less than or equal to 3600"),
        (BEARER, {**ORDER, "reason": "  "}, 400, "inject: reason wants a few words on why"),
        (BEARER, {**ORDER, "control": True, "share": 0.6}, 200, ""),
        (BEARER, {**ORDER, "extra": 1}, 400, "faults: extra: Extra inputs are not permitted, got 1"),
        (BEARER, {key: ORDER[key] for key in ORDER if key != "share"}, 400, "faults: share: Field required"),
    ],
)
def test_what_is_not_in_order_is_refused_in_words(
    headers: dict[str, str], body: Any, status: int, problem: str, listening: FeatureClient
) -> None:
    parts = urlsplit(url_of(listening))
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    content = body if isinstance(body, str) else json.dumps(body)

    connection.request("POST", parts.path, content, headers)
    answer = connection.getresponse()
    first = json.loads(answer.readline())
    answer.close()
    connection.close()

    assert (answer.status, first.get("error", "")[: len(problem)]) == (status, problem)
    eventually(lambda: listening.chaos.live() == (), most_s=5)


def test_shares_of_all_holders_stay_within_the_cap(listening: FeatureClient) -> None:
    url = url_of(listening)
    with hold(url, TOKEN, Outage("primary"), **WHOLE | {"share": 0.6}):
        with pytest.raises(ChaosRefused) as caught, hold(url, TOKEN, Delay("primary", 0.001), **WHOLE | {"share": 0.5}):
            pytest.fail("it was let in")
        assert "within 1.0, got 1.1" in str(caught.value)
        with hold(url, TOKEN, Delay("primary", 0.001), **WHOLE | {"share": 0.4}):
            assert len(listed(url, TOKEN)) == 2


def test_who_is_not_armed_takes_no_faults(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEATURECHAOS_CHAOS")
    client = world.client(world.config(**LISTENS))

    client.get_online_features(["plane:number"], {"tail": KEYS})

    assert client.chaos.listening is None
    url = client.status()["control"]
    with pytest.raises(ChaosRefused, match="FEATURECHAOS_CHAOS: wanted 'armed'"), hold(
        url, TOKEN, Outage("primary"), **WHOLE
    ):  # fmt: skip
        pytest.fail("it was let in")
    assert client.chaos.live() == ()


def test_who_knows_no_token_does_not_listen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEATURECHAOS_CHAOS")
    monkeypatch.delenv("FEATURECHAOS_TOKEN")
    client = world.client(world.config(**LISTENS))

    client.get_online_features(["plane:number"], {"tail": KEYS})

    assert client.status()["control"] is None
    assert [each for each in threading.enumerate() if each.name == "featurechaos-control"] == []


def test_a_port_that_is_taken_costs_no_request(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
        chaos, metrics = {**LISTENS["chaos"], "listen": f"127.0.0.1:{ports[0]}"}, {"port": ports[1]}
        client = world.client(world.config(chaos=chaos, metrics=metrics))

        response = client.get_online_features(["plane:number"], {"tail": KEYS})

    assert len(response) == len(KEYS)
    assert client.chaos.listening is None
    told = [record.getMessage() for record in caplog.records]
    for port in ports:
        assert sum(f"127.0.0.1:{port}" in line for line in told if "from here" in line or "processes here" in line) == 1


def test_close_ends_faults_threads_and_sockets(filled: World) -> None:
    with FeatureClient.from_config(filled.config(**LISTENS)) as before:
        version(before)  # what is opened once for all is open then
    threads, files = threading.active_count(), open_files()
    client = FeatureClient.from_config(filled.config(**LISTENS))
    assert version(client) == LIVE
    url = url_of(client)

    with holder(url):
        assert version(client) == IMAGE
        client.close()
        assert client.chaos.live() == ()
        with pytest.raises(ChaosRefused):
            listed(url, TOKEN)

    assert threading.active_count() == threads
    assert open_files() == files
