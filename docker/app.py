"""The playground's service: reads features at a steady rate, scores them, and says where the rows came from.

It also plays the pipeline: every FEED_S seconds it writes new rows and publishes a snapshot. Whatever is
down is tried again the next time; serving goes on meanwhile.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos import FeatureClient, Origin, PartialWrite, Response
from featurechaos.clock import SystemClock
from featurechaos.errors import FeatureError
from featurechaos.impact import ImpactMonitor
from featurechaos.metrics import serve as serve_metrics

AIRPORTS = [f"A{k:02}" for k in range(60)]
PLANES = [f"N{k:05}" for k in range(2000)]
ENTITIES_A_REQUEST = 20
FEED_S = 15.0
TOLD_S = 10.0
THRESHOLD = 0.3

log = logging.getLogger("playground")


def delay_risk(features: NDArray[Any]) -> NDArray[np.float64]:
    """A model stood in for by a formula: late airports and late planes make late flights."""
    columns = np.nan_to_num(features.astype(np.float64)).T
    airport_delay, departures, seats, plane_delay = columns
    logit = 0.05 * airport_delay + 0.01 * departures + 0.002 * seats + 0.03 * plane_delay - 2.2
    return np.asarray(1 / (1 + np.exp(-logit)), np.float64)


def scored(response: Response) -> NDArray[np.float64]:
    return delay_risk(response.to_numpy())


def airports(rng: Random, now_s: float) -> dict[str, Any]:
    return {
        "airport": AIRPORTS,
        "dep_delay_mean_2h": [rng.gammavariate(2.0, 8.0) for _ in AIRPORTS],
        "departures_2h": [rng.randrange(80) for _ in AIRPORTS],
        "event_timestamp": [datetime.fromtimestamp(now_s, UTC)] * len(AIRPORTS),
    }


def planes(rng: Random, now_s: float) -> dict[str, Any]:
    return {
        "tailnum": PLANES,
        "seats": [rng.choice((50, 90, 150, 180, 300)) for _ in PLANES],
        "arr_delay_last": [rng.gauss(5.0, 20.0) for _ in PLANES],
        "event_timestamp": [datetime.fromtimestamp(now_s, UTC)] * len(PLANES),
    }


def feed(client: FeatureClient, rng: Random, stop: threading.Event) -> None:
    """Write and publish until told to stop."""
    while not stop.is_set():
        now_s = client.clock.wall()
        for view, table in (("airport_hourly", airports(rng, now_s)), ("plane", planes(rng, now_s))):
            try:
                client.write_to_online_store(view, table)
            except PartialWrite as error:
                log.warning("%s", error)
            try:
                client.publish_snapshot(view, table)
            except FeatureError as error:
                log.warning("%s", error)
        client.refresh(FEED_S)
        stop.wait(FEED_S)


def serve(client: FeatureClient, monitor: ImpactMonitor, rng: Random, stop: threading.Event) -> None:
    """Answer requests at a steady rate and tell every ten seconds what they were made of."""
    every_s = 1 / float(os.environ.get("REQUESTS_PER_S", "50"))
    clock, origins = SystemClock(), Counter[str]()
    told_at = due_at = clock.monotonic()
    while not stop.wait(max(0.0, due_at - clock.monotonic())):
        due_at = max(due_at + every_s, clock.monotonic() - 1.0)
        response = client.get_online_features("service:delay_model", request(rng))
        monitor.predict(response)
        count(origins, response)
        if clock.monotonic() - told_at >= TOLD_S:
            told_at = clock.monotonic()
            log.info("rows: %s; decisions changed: %.2f %%", dict(origins), 100 * monitor.report().flip_rate)
            origins.clear()


def request(rng: Random) -> list[dict[str, str]]:
    return [{"airport": rng.choice(AIRPORTS), "tailnum": rng.choice(PLANES)} for _ in range(ENTITIES_A_REQUEST)]


def count(origins: Counter[str], response: Response) -> None:
    for view in response.views:
        numbers, rows = np.unique(response.provenance(view).origin, return_counts=True)
        origins.update({Origin(number).name: int(n) for number, n in zip(numbers, rows, strict=True)})


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    rng = Random(int(os.environ.get("SEED", "7")))
    config = Path(__file__).with_name("featurechaos.yaml")
    port, host = int(os.environ.get("METRICS_PORT", "9464")), os.environ.get("METRICS_HOST", "127.0.0.1")
    with (
        FeatureClient.from_config(config) as client,
        ImpactMonitor(client, predict=scored, threshold=THRESHOLD, model="delay_risk") as monitor,
        serve_metrics(client.observer.counters, port, host=host) as endpoint,
    ):
        log.info("metrics on port %d", endpoint.port)
        feeder = threading.Thread(target=feed, args=(client, Random(rng.getrandbits(32)), stop), name="feeder")
        feeder.start()
        try:
            serve(client, monitor, rng, stop)
        finally:
            stop.set()
            feeder.join()


if __name__ == "__main__":
    main()
