"""Every error we raise on purpose.

    FeatureError
    ├─ RequestError               the caller's mistake; goes straight up
    ├─ StoreError
    │  ├─ StoreUnavailable        no answer: retry it, fail over
    │  │  ├─ StoreTimeout
    │  │  ├─ NoTime               the deadline left no room to ask
    │  │  ├─ BreakerOpen
    │  │  ├─ StoreEmpty           it answers, but without its data
    │  │  └─ InjectedOutage       a fault's; layers can't tell, counters can
    │  └─ StoreRefused            no permission: fail over, never retry
    ├─ DecodeError                an answer that isn't what the view promises
    ├─ Exhausted                  every source was tried; `.causes` says why, by view
    ├─ PartialWrite               some rows or sources failed; `.report` says which
    ├─ ChaosRefused               an injection that may not happen here, and why
    └─ SpecError                  a YAML or config mistake; path in the message

A message names the thing, what was wanted and what came, in one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurechaos.response import Response
    from featurechaos.stores import WriteReport


class FeatureError(Exception):
    """The base of every error this package raises on purpose."""


class RequestError(FeatureError):
    """The call itself is wrong; asking again will not help."""


class StoreError(FeatureError):
    """A source could not do what it was asked.

    `injected` is True when a fault made it so; layers never look, provenance and references do.
    `shard` names the part of the source that failed, where there are several: only a breaker of its own counts it.
    """

    injected: bool = False
    shard: str = ""


class StoreUnavailable(StoreError):
    """A source gave no answer."""


class StoreTimeout(StoreUnavailable):
    """A source gave no answer in the time it had."""


class NoTime(StoreUnavailable):
    """The deadline left a source no time worth asking in."""


class BreakerOpen(StoreUnavailable):
    """A source was not asked because it has been failing."""


class StoreEmpty(StoreUnavailable):
    """A source answers, but says NOT_FOUND for rows known to exist."""


class InjectedOutage(StoreUnavailable):
    """A fault took the source away."""

    injected = True


class StoreRefused(StoreError):
    """A source answered that we may not ask: bad credentials, no permission."""


class DecodeError(FeatureError):
    """Stored bytes are not what the view promises."""


class SpecError(FeatureError):
    """A config or drill file is wrong; the message begins with the path of the mistake."""


class ChaosRefused(FeatureError):
    """A fault may not be injected here."""


class Exhausted(FeatureError):
    """At least one row got no value from any source and the caller asked to be told.

    Attributes:
        response: the full answer; the rows that were exhausted are null.
        causes: view name -> how many of its rows, and why the first of them.
    """

    def __init__(self, message: str, *, response: Response, causes: Mapping[str, str]) -> None:
        super().__init__(message)
        self.response = response
        self.causes = dict(causes)


class PartialWrite(FeatureError):
    """Some sources or rows could not be written; `.report` says which."""

    def __init__(self, message: str, *, report: WriteReport) -> None:
        super().__init__(message)
        self.report = report


@contextmanager
def translating(errors: Mapping[type[Exception], type[FeatureError]], *, source: str) -> Iterator[None]:
    """Turn a driver's exceptions into ours at the adapter's edge; the first match in order wins."""
    try:
        yield
    except FeatureError:
        raise
    except Exception as error:
        for theirs, ours in errors.items():
            if isinstance(error, theirs):
                message = f"source {source!r}: {str(error) or type(error).__name__}"
                raise ours(message) from error
        raise
