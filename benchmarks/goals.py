"""The numbers we hold ourselves to; a bench says what it measured, and this says whether that is reached."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

MOST_MISSED = 2
MOST_FACTOR = 1.3


@dataclass(frozen=True, slots=True)
class Goal:
    """One number: at most `limit`, or at least it."""

    bench: str
    what: str
    limit: float
    unit: str
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


GOALS = {
    "read_100x3": Goal("read", "100 entities x 3 views, all touched, against redis-py `mget` undecoded", 1.25, "x"),
    "read_1x1": Goal("read", "1 entity x 1 view, all touched, against redis-py `mget` undecoded", 1.0, "x"),
    "read_feast": Goal("read", "100 x 3 with `to_dict()`, times faster than Feast on its own layout", 40, "x", True),
    "last_known": Goal("policy", "remembering last-known rows, of a 100 x 3 read", 10, "%"),
    "policy": Goal("policy", "the whole default policy above the bare store call, CPU a request", 15, "us"),
    "hook_idle": Goal("policy", "the fault hook with no fault on, CPU a request", 1, "us"),
    "snapshot": Goal("snapshot", "100 of 1,000,000 rows from the local replica, against the Redis read", 1.0, "x"),
    "failed": Goal("failover", "requests failed under kill, freeze, pause, trickle", 0, ""),
    "late": Goal("failover", "answers later than deadline + 10 ms that no stall of the machine excuses", 0, ""),
    "excused": Goal("failover", "late answers excused, of 1,000", 1, ""),
    "back": Goal("failover", "until 90 % of rows are the primary's again", 7, "s"),
    "impact": Goal("impact", "the counters, CPU a prediction in batches of 100", 0.4, "us"),
    "import": Goal("import", "`import featurechaos`, against `import numpy, pydantic`", 1.3, "x"),
    "import_heavy": Goal("import", "of redis, boto3, pyarrow, moto, loaded by `import featurechaos`", 0, ""),
}
