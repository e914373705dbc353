"""Which degraded views stand behind a pair.

A pair is one row of a response. It is attributed to every view whose row in it is degraded or was
changed by a fault, with the cause and origin of that row. Two degraded views both get the whole
pair: nothing here can say which of them moved the score, so **sums over views, causes or origins
can exceed the total**. Within one view, one cause or one origin a pair counts once.
A pair no view of which was touched is *clean*: it counts under the view `(clean)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featurechaos.model import Cause, Origin, Status

CLEAN_VIEW = "(clean)"
"""Stands for the view where no view is to blame; no view can have this name."""

_CAUSES = 16  # More than `Cause` has, so that a cause and an origin share one byte.

_PRIMARY, _REPLICA = int(Origin.PRIMARY), int(Origin.REPLICA)
_PRESENT, _NOT_FOUND = int(Status.PRESENT), int(Status.NOT_FOUND)
_WORD = 8


class Provenance(Protocol):
    """Where each row of one view came from: uint8 (n,) codes and a bool (n,) for rows a fault changed."""

    @property
    def origin(self) -> NDArray[np.uint8]: ...
    @property
    def status(self) -> NDArray[np.uint8]: ...
    @property
    def cause(self) -> NDArray[np.uint8]: ...
    @property
    def injected(self) -> NDArray[np.bool_]: ...


class Provenanced(Protocol):
    """The part of a response that says where its rows came from."""

    @property
    def views(self) -> tuple[str, ...]: ...
    def provenance(self, view: str) -> Provenance: ...
    def __len__(self) -> int: ...


class Blame(NamedTuple):
    """One view that may have changed a pair, and how its row got there."""

    view: str
    cause: Cause
    origin: Origin


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a response that share their blames. `rows`: intp (k,), None for all of them."""

    blames: tuple[Blame, ...]
    rows: NDArray[np.intp] | None


def is_degraded(truth: Provenance) -> NDArray[np.bool_]:
    """Which rows of one view are degraded: not PRESENT from PRIMARY or REPLICA, and not NOT_FOUND."""
    origin, status = truth.origin, truth.status
    online = (origin == _PRIMARY) | (origin == _REPLICA)
    healthy: NDArray[np.bool_] = (online & (status == _PRESENT)) | (status == _NOT_FOUND)
    return ~healthy


def attribute(response: Provenanced, *, keep: NDArray[np.bool_] | None = None) -> Iterator[Group]:
    """Split a response's rows by who is to blame.

    Every row is in one group and no group is empty. `keep`, bool (n,), leaves the other rows out.
    """
    if not len(response):
        return
    if (shared := _shared_code(response)) is not None:
        if keep is None or keep.any():
            yield Group(_blames(response.views, shared), None if keep is None else np.flatnonzero(keep))
        return
    codes = _codes(response)
    everything = np.arange(len(codes)) if keep is None else np.flatnonzero(keep)
    codes = codes[everything]
    kinds, kind_of_row = _kinds(codes)
    for kind, code in enumerate(kinds.tolist()):
        yield Group(_blames(response.views, tuple(code)), everything[kind_of_row == kind])


def _kinds(codes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The different rows of codes, and which of them each row is."""
    columns = codes.shape[1]
    if columns > _WORD:
        kinds, kind_of_row = np.unique(codes, axis=0, return_inverse=True)
        return kinds, kind_of_row.reshape(-1)  # numpy 2.0 keeps a dimension here.
    # As one word a row they are sorted in a fifth of the time (bench_impact).
    words = np.zeros((len(codes), _WORD), np.uint8)
    words[:, :columns] = codes
    _, first, kind_of_row = np.unique(words.view(np.uint64).ravel(), return_index=True, return_inverse=True)
    return codes[first], kind_of_row


def _shared_code(response: Provenanced) -> tuple[int, ...] | None:
    """The codes all rows share, as a row of `_codes`; None where the rows of some view differ.

    Almost every response is served one way throughout, most often the same way for all views; and comparing bytes
    costs a tenth of the numpy calls of the general case.
    """
    codes, farthest, count = [], 0, len(response)
    code, last = 0, None
    for view in response.views:
        truth = response.provenance(view)
        facts = truth.origin.tobytes(), truth.status.tobytes(), truth.cause.tobytes(), truth.injected.tobytes()
        if facts != last:
            for fact in facts:
                if fact != fact[:1] * count:
                    return None
            origin, status, cause, injected = (fact[0] for fact in facts)
            is_healthy = (status == _PRESENT and origin in (_PRIMARY, _REPLICA)) or status == _NOT_FOUND
            code, last = 0 if is_healthy and not injected else 1 + origin * _CAUSES + cause, facts
            farthest = max(farthest, origin)
        codes.append(code)
    return (*codes, 0 if any(codes) else farthest)


def _codes(response: Provenanced) -> NDArray[np.uint8]:
    """uint8 (n, views + 1): 1 + origin * 16 + cause of touched rows, else 0; last, a clean row's origin."""
    codes = np.zeros((len(response), len(response.views) + 1), np.uint8)
    farthest = np.zeros(len(response), np.uint8)
    for column, view in enumerate(response.views):
        truth = response.provenance(view)
        touched = is_degraded(truth) | truth.injected
        codes[:, column] = np.where(touched, 1 + truth.origin * _CAUSES + truth.cause, 0)
        farthest = np.maximum(farthest, truth.origin)
    clean = ~codes[:, :-1].any(axis=1)
    codes[clean, -1] = farthest[clean]
    return codes


@lru_cache(maxsize=1024)
def _blames(views: tuple[str, ...], code: tuple[int, ...]) -> tuple[Blame, ...]:
    touched = [
        Blame(view, Cause((value - 1) % _CAUSES), Origin((value - 1) // _CAUSES))
        for view, value in zip(views, code[:-1], strict=True)
        if value
    ]
    return tuple(touched) or (Blame(CLEAN_VIEW, Cause.NONE, Origin(code[-1])),)
