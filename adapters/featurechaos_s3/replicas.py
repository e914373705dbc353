"""Which replica answers for each view of a source, and how a better one takes its place."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featurechaos.codec import Layout
from featurechaos.errors import DecodeError, RequestError, StoreRefused, StoreUnavailable
from featurechaos.stores import Place, Refreshed
from featurechaos_s3.bucket import Address
from featurechaos_s3.buried import Buried, Tombstone, from_cache
from featurechaos_s3.child import Hydrator
from featurechaos_s3.manifest import instant, safe_name
from featurechaos_s3.replica import Replica
from featurechaos_s3.shelf import Shelf, locked, source_folder
from featurechaos_s3.spec import S3Spec

_log = logging.getLogger(__name__)
_HYDRATE_S = 900.0
_LOOK_AGAIN_S = 1.0
_MOST_DATED = 32


@dataclass(slots=True)
class _Box:
    """What answers for one view; each attribute is swapped whole, and a reader takes it once.

    `told` are the tombstones this process was told of itself, `bad` the replicas on disk that failed their
    check, `seen` tells whether the deletions on disk are those in `buried`.
    """

    layout: Layout
    current: Replica | None = None
    dated: tuple[Replica, ...] = ()
    buried: Buried = field(default_factory=Buried)
    told: Buried = field(default_factory=Buried)
    bad: frozenset[str] = frozenset()
    seen: tuple[int, int] = (0, 0)
    is_opened: bool = False


class Replicas:
    """The replicas of every view of one source.

    State: a box a view, changed under one lock and read without it.
    """

    def __init__(self, spec: S3Spec, place: Place) -> None:
        self._spec, self._place = spec, place
        self._bases = {name: view.base for view in place.views for name in (view.name, view.base)}
        layouts = {view.base: Layout.of(view) for view in reversed(place.views)}
        self._boxes = {base: _Box(layouts[base]) for base in sorted(layouts)}
        self._cache: Path | None = None
        self._is_closed = False
        self.forked()

    def forked(self) -> None:
        """In a new process: what other threads held is not held, and what they did is not being done."""
        self._lock = threading.RLock()
        self._hydrator = Hydrator()

    def close(self) -> None:
        """Let go of everything; a read at work in another thread still ends well."""
        self._is_closed = True
        self._hydrator.stop()
        with self._lock:
            for box in self._boxes.values():
                box.current, box.dated = None, ()

    def base(self, view: str) -> str:
        """What a view is stored as; RequestError when the source has no such view."""
        if view not in self._bases:
            msg = f"source {self._place.source!r} has no view {view!r}, it has {', '.join(self._boxes)}"
            raise RequestError(msg)
        return self._bases[view]

    def current(self, base: str) -> Replica | None:
        """What answers for a view now. The first time, a replica left on disk is mapped as it is."""
        box = self._opened(base)
        return box.current if box else None

    def at(self, base: str, as_of_us: int) -> Replica:
        """The newest prepared (or current) image not after a date, or StoreUnavailable."""
        box = self._opened(base)
        known = (*box.dated, box.current) if box else ()
        old_enough = [one for one in known if one is not None and one.as_of_us <= as_of_us]
        if not old_enough:
            when = instant(as_of_us)
            msg = f"source {self._place.source!r} has no image of view {base!r} prepared for {when}"
            raise StoreUnavailable(msg)
        return max(old_enough, key=lambda one: one.as_of_us)

    def buried(self, base: str) -> Buried:
        """The tombstones laid over a view's replicas."""
        box = self._opened(base)
        return box.buried if box else Buried()

    def bury(self, base: str, tombstones: Iterable[Tombstone]) -> None:
        """Lay tombstones over a view's replicas in this process, from now on."""
        with self._lock:
            box = self._boxes[base]
            box.told = box.told.with_more(tombstones)
            box.buried = box.buried.with_more(box.told)

    def refresh(self, timeout_s: float, views: Sequence[str] | None) -> list[Refreshed]:
        """Bring some views (default: all) up to date; one replica damaged on disk is made anew, once."""
        bases = list(self._boxes) if views is None else list(dict.fromkeys(map(self.base, views)))
        until = self._place.clock.monotonic() + timeout_s
        done = self._refreshed(bases, timeout_s)
        again = [one.view for one in done if one.state == "refused" and self._boxes[one.view].bad]
        left_s = until - self._place.clock.monotonic()
        if again and left_s > 0:
            second = {one.view: one for one in self._refreshed(again, left_s)}
            done = [second.get(one.view, one) for one in done]
        return done

    def prepare(self, view: str, as_of_us: int, timeout_s: float) -> int | None:
        """Have the newest image at or before a date; its date, None when there is no image that old."""
        base = self.base(view)
        outcomes, why = self._hydrate([base], timeout_s, as_of_us=as_of_us)
        outcome = outcomes.get(base, {"state": "failed", "detail": why, "replica": None})
        if outcome["state"] == "absent":
            return None
        if outcome["replica"] is None:
            when = instant(as_of_us)
            msg = f"source {self._place.source!r}: view {base!r} as of {when}: {outcome['detail']}"
            raise StoreUnavailable(msg)
        return self._prepared(base, outcome["replica"]).as_of_us

    def keep_fresh(self) -> float:
        """One round in the background; the seconds to the next.

        What another process of ours looked at lately is only mapped; while one is at work we look again soon.
        """
        # All of them cold before one is warmed: a first read must not wait for the disk behind our lock.
        for base in self._boxes:
            self._opened(base)
        for base in self._boxes:
            self._adopt(base, warm=True)
        half_s = self._spec.refresh_s / 2
        due = [base for base, box in self._boxes.items() if box.bad or self._shelf(base).checked_s_ago() > half_s]
        if not due:
            return self._spec.refresh_s
        with locked(self._shelf(due[0]).folder.parent / "refreshing", wait=False) as is_ours:
            if not is_ours:
                return min(_LOOK_AGAIN_S, self._spec.refresh_s)
            self.refresh(_HYDRATE_S, due)
        return self._spec.refresh_s

    def _opened(self, base: str) -> _Box | None:
        if self._is_closed:
            msg = f"source {self._place.source!r} is closed"
            raise StoreUnavailable(msg)
        box = self._boxes.get(base)
        if box is not None and not box.is_opened:
            self._adopt(base, warm=False)
        return box

    def _refreshed(self, bases: list[str], timeout_s: float) -> list[Refreshed]:
        if not self._is_closed:
            for base in self._boxes:
                self._opened(base)
        outcomes, why = self._hydrate(bases, timeout_s)
        missing = {"state": "failed", "detail": why, "replica": None}
        return [self._outcome(base, outcomes.get(base, missing)) for base in bases]

    def _outcome(self, base: str, said: dict[str, Any]) -> Refreshed:
        box, state, detail = self._boxes[base], said["state"], said["detail"]
        if state == "hydrated":
            box.bad -= {said["replica"]}
        if trouble := self._adopt(base, warm=True):
            state, detail = "refused", trouble
        if state in {"refused", "failed"} and not self._is_closed:
            _log.warning("view %s: refresh %s: %s", base, state, detail)
        now = box.current
        return Refreshed(base, state, now.as_of_us if now else None, now.rows if now else None, detail)

    def _hydrate(
        self, bases: list[str], timeout_s: float, *, as_of_us: int | None = None
    ) -> tuple[dict[str, dict[str, Any]], str]:
        """Have the child work on some views; see `Hydrator.run`."""
        try:
            views = [self._work(base, as_of_us) for base in bases]
        except StoreRefused as error:
            return {}, str(error)
        address = asdict(Address.of(self._spec, self._place.source))
        job = {"address": address, "max_bytes": self._spec.max_bytes, "views": views}
        return self._hydrator.run(job, timeout_s)

    def _work(self, base: str, as_of_us: int | None) -> dict[str, Any]:
        box = self._boxes[base]
        return {
            "view": base,
            "layout": box.layout.describe().decode(),
            "folder": str(self._shelf(base).folder),
            "bad": sorted(box.bad),
            "as_of_us": as_of_us,
        }

    def _adopt(self, base: str, *, warm: bool) -> str:
        """Map what the shelf says is current, if it isn't yet; in one sentence why not, if it can't be."""
        with self._lock:
            box = self._boxes[base]
            try:
                shelf = self._shelf(base)
                _read_deletions(box, shelf)
                pointer = shelf.pointer()
                if pointer is None or pointer.replica in box.bad:
                    return ""
                return self._swap_in(box, shelf.folder / pointer.replica, warm=warm)
            except (DecodeError, OSError, StoreRefused) as error:
                return str(error)
            finally:
                box.is_opened = True

    def _swap_in(self, box: _Box, folder: Path, *, warm: bool) -> str:
        try:
            replica = _mapped(box, folder, warm=warm)
        except FileNotFoundError:
            return ""
        except (DecodeError, OSError) as error:
            if isinstance(error, DecodeError):
                box.bad |= {folder.name}
            if box.current is not None and box.current.name == folder.name:
                box.current = None
            return str(error)
        if not self._is_closed:
            box.current = replica
        return ""

    def _prepared(self, base: str, name: str) -> Replica:
        with self._lock:
            box = self._boxes[base]
            try:
                replica = _mapped(box, self._shelf(base).folder / name, warm=True)
            except (DecodeError, OSError) as error:
                box.bad |= {name}
                msg = f"source {self._place.source!r}: {error}"
                raise StoreUnavailable(msg) from error
            box.bad -= {name}
            others = tuple(one for one in box.dated if one.name != name)
            box.dated = (*others, replica)[-_MOST_DATED:]
            return replica

    def folder(self) -> Path:
        """The source's own folder, which the replicas of all its views are in; made if need be."""
        if self._cache is None:
            address = json.dumps([self._spec.endpoint_url, self._spec.url])
            self._cache = source_folder(self._spec.cache_dir, self._place.project, address)
        return self._cache

    def _shelf(self, base: str) -> Shelf:
        return Shelf(self.folder() / safe_name(base), self._boxes[base].layout.hash)


def _mapped(box: _Box, folder: Path, *, warm: bool) -> Replica:
    """A replica by its folder, the very one in use where there is one; warmed and checked if asked."""
    known = [one for one in (box.current, *box.dated) if one is not None and one.name == folder.name]
    replica = known[0] if known else Replica(folder, box.layout)
    if warm and not replica.is_warm:
        replica.warm()
    return replica


def _read_deletions(box: _Box, shelf: Shelf) -> None:
    try:
        now = shelf.deletions_path.stat()
    except FileNotFoundError:
        return
    if (now.st_mtime_ns, now.st_ino) != box.seen:
        _, found = from_cache(shelf.deletions_path.read_bytes())
        box.buried = found.with_more(box.told)
        box.seen = (now.st_mtime_ns, now.st_ino)
