"""The sample config of the docs, two small stores to load it with, and ways to change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from featurechaos.config import Settings, load
from featurechaos.config.read import parse

SAMPLE = """
project: flights
sources:
  primary: {type: redis, url: "redis://127.0.0.1:6379/0", layout: packed, timeout_s: 0.015}
  standby:
    {type: s3, url: "s3://features/flights", endpoint_url: null, region: us-east-1, refresh_s: 60, cache_dir: null}
views:
  - name: airport_hourly
    join_keys: {airport: string}
    features:
      dep_delay_mean_2h: {dtype: float32, default: 0.0}
      embedding: {dtype: "float32[64]"}
    ttl_s: 7200          # soft: look for a younger row; null: never expires
    max_age_s: null      # hard: never serve past this
  - {name: plane, join_keys: {tailnum: string}, features: {seats: {dtype: int32}}, ttl_s: null}
services: {delay_model: ["airport_hourly:dep_delay_mean_2h"]}
policy:
  deadline_s: 0.050
  order: [primary, standby]        # default: all sources in file order
  retry: {attempts: 2, wait_first_s: 0.002, budget_ratio: 0.1, budget_burst: 3}
  breaker: {window_s: 10, failure_rate: 0.5, slow_rate: 0.8, slow_s: 0.010, min_calls: 20, open_s: 1.0,
            healthy_s: 1.0, ramp_s: 2.0}
  empty: {share: 0.1, min_rows: 200, window_s: 10}
  hedge: null
  shadow: null
  last_known: {keep_s: 900, max_rows: 200000}
  on_missing: accept               # accept | fallback | default
  on_expired: fallback             # serve | fallback | default
  on_exhausted: default            # default | raise
chaos: {enabled: false, max_share: 0.05, listen: null}
impact: {sample_share: 0.02, flip_budget: 0.02, reference_source: null}
metrics: {port: null}
"""


class WireSpec(BaseModel):
    """What a small online store takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["redis"]
    url: str
    layout: Literal["packed"] = "packed"
    timeout_s: float = Field(0.015, gt=0)
    max_connections: int = 64
    password: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://")):
            msg = f"wanted redis:// or rediss://, got {url}"
            raise ValueError(msg)
        return url


class ImageSpec(BaseModel):
    """What a small snapshot store takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["s3"]
    url: str
    endpoint_url: str | None = None
    region: str | None = None
    refresh_s: float = 60
    cache_dir: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class WireStore:
    spec = WireSpec


class ImageStore:
    spec = ImageSpec
    default_role = "snapshot"


STORES: Mapping[str, Any] = {"redis": WireStore, "s3": ImageStore}


def _laid_over(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: _laid_over(below.get(key), each) for key, each in above.items()}}
    return above


@pytest.fixture
def sample() -> dict[str, Any]:
    """The sample of the docs as a mapping, to change at will."""
    tree: dict[str, Any] = yaml.safe_load(SAMPLE)
    return tree


@pytest.fixture
def loaded(sample: dict[str, Any]) -> Callable[..., Settings]:
    """Load the sample with some YAML laid over it: mappings are merged, everything else is replaced."""

    def loaded(over: str = "", **environ: str) -> Settings:
        return load(_laid_over(sample, parse(over, name="over") if over else {}), environ=environ, stores=STORES)

    return loaded


@pytest.fixture
def stores() -> Mapping[str, Any]:
    return STORES


@pytest.fixture
def sample_text() -> str:
    return SAMPLE
