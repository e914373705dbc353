"""The catalogue of notes: what can happen on the way of a read, said once.

Every note is `thing.past_participle`, with what it is about (a source, a view, a fault) and its fields.
Counters, metrics, logs and a drill's history all hear this one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

CATALOGUE: Mapping[str, str] = {
    "source.answered": "an attempt at a source ended; fields: outcome, seconds",
    "source.failed": "a source gave no answer and its rows moved on; fields: cause, rows (by view), injected, error",
    "source.emptied": "a source lacks rows known to exist, and is not believed; fields: reason",
    "source.refilled": "a source has its rows again; fields: reason",
    "rows.moved": "some rows of a view moved on from a source; fields: view, causes, injected",
    "retry.scheduled": "a source is asked again; fields: attempt, wait_s",
    "retry.answered": "a source that was asked again answered",
    "retry.denied": "the retry budget had no token left",
    "hedge.started": "a replica is asked too, since the source is slower than usual; fields: source",
    "hedge.used": "what a replica said before its turn is used, and the source is late or has failed; fields: source",
    "hedge.denied": "a source was slower than usual, and the budget had no token left to ask its replica",
    "breaker.opened": "a source is not asked for a while; fields: reason, again (a probe failed)",
    "breaker.probed": "a source that was left alone is read, to see",
    "breaker.closed": "a source takes its full share again; fields: reason",
    "breaker.ramping": "a source takes a growing share again; fields: reason",
    "source.drained": "an operator wants a source not to be asked; fields: reason",
    "source.held": "an operator wants what a breaker has decided to stay; fields: reason",
    "source.released": "a source is decided on by itself again; fields: reason",
    "policy.reloaded": "a client serves under another policy, or has found its file unchanged; fields: reason, version",
    "policy.refused": "a config was not taken, and the policy before goes on serving; fields: reason",
    "schema.learned": "rows of another layout are now readable; fields: hashes",
    "schema.unknown": "rows of a layout that could not be had were met, and are CORRUPT; fields: hashes, reason",
    "fault.applied": "a fault, named by its kind and its source or view, changed a read; fields: rows (1 for a call)",
    "write.failed": "a source took none or not all of a write; fields: view, error",
    "fault.not_applied": "a fault was due and could not apply; fields: rows, reason",
}

Listener = Callable[[str, str, Mapping[str, Any]], None]
"""Hears (name, about, fields). Must not raise and must be quick: it runs on the request path."""
