"""The numbers we hold ourselves to; a bench says what it measured, and this says whether that is reached."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

MOST_MISSED = 2
MOST_FACTOR = 1.3


@dataclass(frozen=True, slots=True)
class Goal:
    """One number: at most `limit`, or at least it; `profile` is the table that shows what it is made of."""

    bench: str
    what: str
    limit: float
    unit: str
    profile: str
    at_least: bool = False

    def factor(self, measured: float) -> float:
        """How far past the limit: 1 or less is reached."""
        near, far = (measured, self.limit) if self.at_least else (self.limit, measured)
        if far == near:
            return 1.0
        return far / near if near else inf

    def is_reached(self, measured: float) -> bool:
        return self.factor(measured) <= 1.0

    @property
    def wanted(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g} {self.unit}".rstrip()


_READ, _GUARD, _FAILOVER = "Where a read of ours goes", "What each layer costs", "Kill to Flap"

GOALS = {
    "read_100x3": Goal(
        "read", "100 entities x 3 views, all touched, against redis-py `mget` undecoded", 1.25, "x", _READ
    ),
    "read_1x1": Goal("read", "1 entity x 1 view, all touched, against redis-py `mget` undecoded", 1.0, "x", _READ),
    "read_feast": Goal(
        "read", "100 x 3 with `to_dict()`, times faster than Feast on its own layout", 40, "x", _READ, at_least=True
    ),
    "last_known": Goal(
        "policy",
        "remembering last-known rows, of a 100 x 3 read",
        10,
        "%",
        "Remembering the last known rows, read from a real server",
    ),
    "policy": Goal("policy", "the whole default policy above the bare store call, CPU a request", 15, "us", _GUARD),
    "hook_idle": Goal("policy", "the fault hook with no fault on, CPU a request", 1, "us", "Guarding a blocking call"),
    "snapshot": Goal(
        "snapshot",
        "100 of 1,000,000 rows from the local replica, against the Redis read",
        1.0,
        "x",
        "Some of 1,000,000 rows",
    ),
    "failed": Goal("failover", "requests failed under kill, freeze, pause, trickle", 0, "", _FAILOVER),
    "late": Goal(
        "failover", "answers later than deadline + 10 ms that no stall of the machine excuses", 0, "", _FAILOVER
    ),
    "excused": Goal("failover", "late answers excused, of 1,000", 1, "", _FAILOVER),
    "back": Goal("failover", "until 90 % of rows are the primary's again", 7, "s", _FAILOVER),
    "impact": Goal("impact", "the counters, CPU a prediction in batches of 100", 0.4, "us", "Counting pairs"),
    "import": Goal("import", "`import featurechaos`, against `import numpy, pydantic`", 1.3, "x", "Where it goes"),
    "import_heavy": Goal(
        "import", "of redis, boto3, pyarrow, moto, loaded by `import featurechaos`", 0, "", "Where it goes"
    ),
}
