"""What a type checker sees of the public face. Never run: `make types` reads it, and an unused ignore is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from featurechaos import AsyncFeatureClient, Exhausted, FeatureClient, PartialWrite, Provenance, Response, WriteReport
from featurechaos.faults import Delay, Outage, Stale
from featurechaos.impact import ImpactMonitor


def serving(rows: list[dict[str, Any]], columns: dict[str, Any]) -> None:
    with FeatureClient.from_config("featurechaos.yaml") as client:
        assert_type(client, FeatureClient)
        response = client.get_online_features(["plane:seats"], rows, deadline_s=0.05, on_exhausted="raise")
        assert_type(response, Response)
        assert_type(client.get_online_features("service:delay", columns, True), Response)
        assert_type(client.ready(full=True), bool)
        assert_type(client.reference(response), Response)
    FeatureClient.from_config({"project": "p"}).close()
    client.get_online_features(["plane:seats"], rows, deadline_s="soon")  # type: ignore[arg-type]
    client.get_online_features(["plane:seats"], rows, False, 0.05)  # type: ignore[call-arg]
    FeatureClient.from_config(7)  # type: ignore[arg-type]


def answers(response: Response) -> None:
    assert_type(response.to_dict(include_provenance=True), dict[str, list[Any]])
    assert_type(response.to_df(), pd.DataFrame)
    assert_type(response.to_arrow(), pa.Table)
    assert_type(response.columns, Mapping[str, NDArray[Any]])
    assert_type(response.nulls["seats"], NDArray[np.bool_])
    assert_type(response.degraded, NDArray[np.bool_])
    assert_type(response.any_degraded, bool)
    truth = response.provenance("plane")
    assert_type(truth, Provenance)
    assert_type(truth.origin, NDArray[np.uint8])
    assert_type(truth.age_s, NDArray[np.float64])
    assert_type(truth.event_time, NDArray[np.int64])
    truth.origin = truth.status  # type: ignore[misc]


def writing(client: FeatureClient, table: pd.DataFrame) -> None:
    try:
        assert_type(client.write_to_online_store("plane", table), WriteReport)
    except PartialWrite as error:
        assert_type(error.report, WriteReport)
    try:
        client.get_online_features("service:delay", [], on_exhausted="raise")
    except Exhausted as error:
        assert_type(error.response, Response)


def injecting(client: FeatureClient) -> None:
    faults = (Outage(source="primary"), Delay(source="primary", delay_s=0.1), Stale(view="plane", age_s=86400))
    with client.chaos.inject(*faults, share=0.01, lease_s=300, seed=7, reason="a drill") as injection:
        assert_type(injection.applied, int)
    client.chaos.inject(*faults)  # type: ignore[call-arg]


def measuring(client: FeatureClient, response: Response, model: Any) -> None:
    monitor = ImpactMonitor(client, predict=model, threshold=0.3, sample_share=0.02)
    assert_type(monitor.report().flip_rate, float)
    assert_type(monitor.report().pairs, int)


async def serving_async(rows: list[dict[str, Any]]) -> None:
    async with AsyncFeatureClient.from_config("featurechaos.yaml") as client:
        assert_type(await client.get_online_features(["plane:seats"], rows), Response)
        assert_type(await client.ready(), bool)
