"""A process that has just started, run by its path: how long until it answers, and until the answers are good.

Reads a job as JSON on stdin (`cold.py` writes it) and tells what it saw as one JSON line on stdout. It holds
no replica: its cache is an empty folder.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np

from featurechaos import Exhausted, FeatureClient, Origin, Response, Status
from featurechaos.bench.pool import unpacked
from featurechaos.clock import SystemClock
from featurechaos.config import Metrics, load
from featurechaos.faults import Delay, Fault, Outage

_PAUSE_S = 0.02
_now = SystemClock().monotonic


def main() -> None:
    """Play the job."""
    job = json.load(sys.stdin)
    began = float(job["began"])
    told: dict[str, Any] = {"imported_s": _now() - began}
    with _opened(job) as client:
        told["made_s"] = _now() - began
        _see(client, job, told, began)
    sys.stdout.write(json.dumps(told) + "\n")


def _opened(job: dict[str, Any]) -> FeatureClient:
    settings = load(job["config"], name=job["name"])
    chaos = settings.chaos.model_copy(update={"listen": None, "max_share": 1.0})
    client = FeatureClient(replace(settings, metrics=Metrics(), chaos=chaos))
    faults = [_fault(one) for one in job["faults"]]
    if faults:
        client.chaos.inject(*faults, share=1.0, lease_s=600, seed=0, reason="featurechaos bench", control=False)
    return client


def _fault(one: dict[str, Any]) -> Fault:
    if one["fault"] == "delay":
        return Delay(one["source"], one["delay_s"])
    return Outage(one["source"], one.get("mode", "refuse"))


def _see(client: FeatureClient, job: dict[str, Any], told: dict[str, Any], began: float) -> None:
    """Read until answers are good and every local copy is whole, or the time is over."""
    features, rows = job["features"], [unpacked(one) for one in job["rows"]]
    local = {
        (source, client.settings.views[view].base)
        for view in job["views"]
        for source in client.settings.policies[view].local
        if hasattr(client.settings.sources[source].store_class, "publish")
    }
    refreshing = threading.Thread(target=client.refresh, args=(job["most_s"],), daemon=True)
    refreshing.start()
    number = 0
    while True:
        begun = _now()
        response = _read(client, features, rows[number % len(rows)])
        answered = _now()
        number += 1
        origins, lost = _truth(response)
        if number == 1:
            told["first"] = {"at_s": answered - began, "took_s": answered - begun, "origins": origins, "lost": lost}
        if "good" not in told and lost <= job["may_lose"]:
            told["good"] = {"at_s": answered - began, "took_s": answered - begun, "origins": origins, "lost": lost}
        if "whole_s" not in told and local and all(_is_whole(client, *one) for one in local):
            told["whole_s"] = _now() - began
        is_done = "good" in told and ("whole_s" in told or not local)
        if is_done or _now() - began > job["most_s"]:
            break
        threading.Event().wait(_PAUSE_S)
    told["requests"], told["looked_s"] = number, _now() - began
    told["has_local"] = bool(local)


def _read(client: FeatureClient, features: Any, rows: Any) -> Response:
    """One answer with every value of it in hand, whatever it holds."""
    try:
        response = client.get_online_features(features, rows, full_feature_names=True)
    except Exhausted as error:
        response = error.response
    for name in response.columns:
        response.columns[name]
    return response


def _is_whole(client: FeatureClient, source: str, base: str) -> bool:
    return client.snapshot_store(source).replica_as_of(base) is not None


def _truth(response: Response) -> tuple[dict[str, int], float]:
    """Rows by origin, and the share that carries no stored value though nobody said there is none."""
    counts, lost, rows = np.zeros(len(Origin), int), 0, 0
    for view in response.views:
        truth = response.provenance(view)
        counts += np.bincount(truth.origin, minlength=len(Origin))
        empty = (truth.origin == Origin.NONE) | (truth.origin == Origin.DEFAULT)
        lost += int((empty & (truth.status != Status.NOT_FOUND)).sum())
        rows += len(truth.origin)
    return {Origin(code).name: int(n) for code, n in enumerate(counts) if n}, lost / max(rows, 1)


if __name__ == "__main__":
    main()
