"""Every metric by its name: what it is, its labels, what it says. Labels come from small fixed sets.

`origin`, `status` and `cause` have the names of the enumerations (`PRIMARY`, `NOT_FOUND`, `BREAKER_OPEN`);
`degraded` and `injected` are `true` or `false`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

PREFIX = "featurechaos_"
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `kind` is Prometheus's word."""

    kind: Literal["counter", "histogram", "gauge"]
    labels: Labels
    help: str


_ALL = {
    "requests_total": Metric("counter", ("degraded",), "Requests answered."),
    "request_seconds": Metric("histogram", (), "Seconds from entry to answer."),
    "source_calls_total": Metric("counter", ("source", "outcome"), "Attempts at a source."),
    "source_call_seconds": Metric("histogram", ("source",), "Seconds an attempt at a source took."),
    "rows_total": Metric("counter", ("view", "origin", "status", "injected"), "Rows answered."),
    "row_fallbacks_total": Metric(
        "counter", ("view", "source", "cause", "injected"), "Rows that a source did not serve, by why."
    ),
    "row_age_seconds": Metric("histogram", ("view", "origin"), "Age of the rows served, by event time."),
    "retries_total": Metric("counter", ("source",), "Attempts after the first."),
    "retries_won_total": Metric("counter", ("source",), "Attempts after the first that got an answer."),
    "retries_denied_total": Metric(
        "counter", ("source",), "Attempts after the first that the budget had no token for."
    ),
    "hedges_total": Metric("counter", ("source",), "Calls to a replica before the source had answered."),
    "hedges_won_total": Metric("counter", ("source",), "Calls to a replica before its turn whose answer was used."),
    "hedges_denied_total": Metric("counter", ("source",), "Slow calls that the budget had no token to hedge."),
    "hedge_after_seconds": Metric("gauge", ("source",), "How long a source is waited for before its replica is asked."),
    "retry_budget_tokens": Metric("gauge", (), "Retries and hedges that may be made now."),
    "breaker_state": Metric("gauge", ("source",), "0 closed; higher numbers take less or no traffic."),
    "source_empty": Metric("gauge", ("source",), "1 while a source lacks rows known to exist and is not believed."),
    "policy_loaded_timestamp_seconds": Metric("gauge", (), "When the policy in force was loaded."),
    "policy_refused": Metric("gauge", (), "1 while a reload was refused and none was taken since."),
    "snapshot_age_seconds": Metric("gauge", ("view",), "Age of the image that answers when sources do not."),
    "view_watermark_age_seconds": Metric("gauge", ("view", "source"), "Age of the newest event written."),
    "rows_exhausted_total": Metric("counter", ("view", "injected"), "Rows that no source could serve."),
    "keys_null_total": Metric("counter", ("view",), "Rows not read, since a join key was null."),
    "corrupt_cells_total": Metric("counter", ("view",), "Cells that could not be read in rows that could."),
    "faults_applied_total": Metric("counter", ("fault",), "Reads that a fault changed."),
    "faults_not_applied_total": Metric("counter", ("fault",), "Reads that a fault was due for and could not change."),
    "shadow_requests_total": Metric("counter", ("outcome",), "Healthy answers drawn to be read again from each tier."),
    "shadow_rows_total": Metric(
        "counter", ("view", "source", "origin", "outcome"), "Healthy rows read again: same, other or lacking there."
    ),
    "shadow_behind_seconds": Metric(
        "histogram", ("view", "source", "origin"), "How much older a tier's rows were than those served."
    ),
    "shadow_read_seconds": Metric("histogram", ("source",), "Seconds a read of a source in the shadow took."),
    "pairs_total": Metric("counter", ("model", "view", "cause", "origin"), "Predictions scored on clean features too."),
    "flips_total": Metric("counter", ("model", "view", "cause", "origin"), "Pairs whose two decisions differ."),
}

NAMES: Mapping[str, Metric] = MappingProxyType({PREFIX + name: metric for name, metric in _ALL.items()})
