"""The suite itself: for each of its cases a store that breaks just that promise, and the case fails."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from featurechaos.codec import HEADER_BYTES, column, nulls
from featurechaos.contract import running
from featurechaos.contract.values import NOW_US
from featurechaos.model import Verdict
from featurechaos.readings import rows_of
from featurechaos.stores import Answer, Ask, Batch, Columns, Place, WriteCounts
from featurechaos.testing import AsyncStoreContract, MemoryStore, StoreContract, event_time_of
from tests.contract.sockets import AsyncSocketStore, Server, SocketStore, _Words
from tests.contract.test_memory import TestMemoryStore as OnMemory
from tests.contract.test_sockets import OnSockets

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

Case = tuple[type[Any], str, tuple[Any, ...]]
CASES: list[Case] = []


def fails(name: str, *params: Any) -> Callable[[type[Any]], type[Any]]:
    """This store must fail that case, for each of the parameters."""

    def kept(store: type[Any]) -> type[Any]:
        CASES.extend((store, name, given) for given in ([(param,) for param in params] if params else [()]))
        return store

    return kept


class Meddled(MemoryStore):
    """A store in memory whose answers pass through `meddle`."""

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        answers = super().read(asks, until, as_of_us=as_of_us)
        return [self.meddle(ask, answer) for ask, answer in zip(asks, answers, strict=True)]

    def meddle(self, ask: Ask, answer: Any) -> Answer:
        return answer  # type: ignore[no-any-return]


@fails("test_many_rows_come_in_the_order_asked")
class SwapsRows(Meddled):
    def meddle(self, ask: Ask, answer: Any) -> Answer:
        if len(answer) > 1000:
            answer[1000], answer[1001] = answer[1001], answer[1000]
        return answer  # type: ignore[no-any-return]


@fails("test_many_rows_come_in_the_order_asked")
class DropsTheTail(Meddled):
    def meddle(self, ask: Ask, answer: Any) -> Answer:
        return answer[:1000]  # type: ignore[no-any-return]


@fails("test_values_of_each_dtype_come_back", "scalars", "vectors")
class Widens(Meddled):
    """Numbers pass through float64."""

    def meddle(self, ask: Ask, answer: Any) -> Answer:
        rows, _ = rows_of(ask, answer, {})
        values = {name: column(rows, name) for name in ask.view.feature}
        wide = {name: each.astype(float) if each.dtype.kind in "if" else each for name, each in values.items()}
        absent = {name: nulls(rows, name) for name in values}
        return Columns(wide, absent, rows.event_time.copy(), rows.verdicts)


@fails("test_values_of_each_dtype_come_back", "scalars", "vectors", "lists")
class FillsNulls(Meddled):
    """What is null comes back as a value."""

    def meddle(self, ask: Ask, answer: Any) -> Answer:
        rows, _ = rows_of(ask, answer, {})
        filled = {name: column(rows, name) for name in ask.view.feature}
        for name, values in filled.items():
            for at in np.flatnonzero(nulls(rows, name)):
                values[at] = values[0]
        return Columns(filled, {}, rows.event_time.copy(), rows.verdicts)


class OtherKeys(MemoryStore):
    """A store that keeps rows under keys of its own making."""

    def key(self, key: bytes) -> bytes:
        return key

    def _renamed(self, ask: Ask) -> Ask:
        keys = ask.keys.take(np.arange(len(ask.keys)))
        keys.ids = [self.key(key) for key in keys.ids]
        return Ask(ask.view, ask.layout, keys)

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        return super().read([self._renamed(ask) for ask in asks], until, as_of_us=as_of_us)

    def write(self, batch: Batch, until: float) -> WriteCounts:
        return super().write(Batch(self._renamed(batch.ask), batch.blobs, batch.event_time), until)


@fails("test_keys_of_each_dtype_are_told_apart", "string", "bytes")
class FoldsCase(OtherKeys):
    def key(self, key: bytes) -> bytes:
        return key.lower().replace(b"%", b"").strip(b"0f")


@fails("test_keys_of_each_dtype_are_told_apart", "int32", "int64", "timestamp")
class LosesTheSign(OtherKeys):
    """And what does not fit 31 bits."""

    def key(self, key: bytes) -> bytes:
        return b"%d" % (abs(int(key)) % 2**31)


@fails("test_keys_of_several_parts_are_told_apart")
class JoinsLoosely(OtherKeys):
    def key(self, key: bytes) -> bytes:
        return key.replace(b"|", b"").replace(b"%7C", b"")


@fails("test_a_key_that_is_not_there_is_missing_in_its_place")
class RaisesKeyError(Meddled):
    def meddle(self, ask: Ask, answer: Any) -> Answer:
        if None in answer and any(answer):
            raise KeyError("no such row")
        return answer  # type: ignore[no-any-return]


@fails("test_a_key_that_is_not_there_is_missing_in_its_place")
class ClosesUp(Meddled):
    """The rows that are there, and no word of the others."""

    def meddle(self, ask: Ask, answer: Any) -> Answer:
        return [blob for blob in answer if blob is not None]


@fails("test_a_view_nobody_wrote_has_no_rows")
class AnswersEmptyBytes(Meddled):
    def meddle(self, ask: Ask, answer: Any) -> Answer:
        return [blob or b"" for blob in answer]


@fails("test_asking_for_nothing_gives_nothing")
class RefusesNothing(Meddled):
    def meddle(self, ask: Ask, answer: Any) -> Answer:
        return [*answer[:-1], answer[-1]]  # an IndexError where there is nothing


@fails("test_a_key_asked_for_twice_is_answered_twice")
class AnswersOnce(Meddled):
    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        self._seen: set[bytes] = set()
        return super().read(asks, until, as_of_us=as_of_us)

    def meddle(self, ask: Ask, answer: Any) -> Answer:
        new = [blob if key not in self._seen else None for key, blob in zip(ask.keys.ids, answer, strict=True)]
        self._seen.update(ask.keys.ids)
        return new


@fails("test_views_of_one_read_are_told_apart")
class OneAnswerForAll(Meddled):
    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        answers = super().read(asks, until, as_of_us=as_of_us)
        return answers[::-1]


@fails("test_an_answer_is_the_callers_to_write")
class LendsItsOwn(Meddled):
    def meddle(self, ask: Ask, answer: Any) -> Answer:
        kept: dict[tuple[bytes, ...], Answer] = self.__dict__.setdefault("kept", {})
        return kept.setdefault(tuple(ask.keys.ids), answer)


DAMAGES = ("foreign", "empty", "short", "long", "truncated", "flipped", "magic")


@fails("test_damaged_bytes_cost_their_row_only", *DAMAGES)
@fails("test_a_row_of_another_entity_is_handed_on_and_known_for_what_it_is")
class JudgesBytes(Meddled):
    """What it can't read, it hides."""

    def meddle(self, ask: Ask, answer: Any) -> Answer:
        good = rows_of(ask, answer, {})[0].verdicts == Verdict.FRESH
        return [blob if one else None for blob, one in zip(answer, good.tolist(), strict=True)]


@fails("test_damaged_bytes_cost_their_row_only", *DAMAGES)
class GivesUpOnDamage(Meddled):
    def meddle(self, ask: Ask, answer: Any) -> Answer:
        if (rows_of(ask, answer, {})[0].verdicts == Verdict.CORRUPT).any():
            raise ValueError("cannot read this")
        return answer  # type: ignore[no-any-return]


@fails("test_rows_of_an_older_and_a_newer_schema_are_read_by_name", "added", "removed")
class OneSchemaOnly(Meddled):
    def meddle(self, ask: Ask, answer: Any) -> Answer:
        ours = ask.layout.hash.to_bytes(8, "little")
        return [blob if blob and blob[8:16] == ours else None for blob in answer]


@fails("test_rows_of_an_older_and_a_newer_schema_are_read_by_name", "added", "removed")
@fails("test_layouts_of_written_rows_are_kept_and_others_left_out")
class ForgetsLayouts(MemoryStore):
    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return {}


@fails("test_layouts_of_written_rows_are_kept_and_others_left_out")
class InventsLayouts(MemoryStore):
    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return dict.fromkeys(hashes, next(iter(self.described.values())))


@fails("test_a_deleted_row_is_a_tombstone")
class DeletesForGood(MemoryStore):
    def write(self, batch: Batch, until: float) -> WriteCounts:
        counts = super().write(batch, until)
        for key, blob in zip(batch.ask.keys.ids, batch.blobs, strict=True):
            if len(blob) == HEADER_BYTES:
                self.rows.pop(batch.ask.view.head + key, None)
        return counts


class Orders(MemoryStore):
    """A store with an order of its own between a stored row and a new one."""

    def replaces(self, new: int, old: int) -> bool:
        return new >= old

    def write(self, batch: Batch, until: float) -> WriteCounts:
        counts = WriteCounts()
        self.described[batch.ask.layout.hash] = batch.ask.layout.describe()
        for key, blob in zip(batch.ask.keys.ids, batch.blobs, strict=True):
            held = self.rows.get(batch.ask.view.head + key)
            if held is None or self.replaces(event_time_of(blob), event_time_of(held[-1])):
                self.rows[batch.ask.view.head + key] = [blob]
                counts.written += 1
            else:
                counts.older += 1
        return counts


TIMES = (0, -1, -NOW_US, NOW_US, 2**53 + 1, 2**62)


@fails("test_the_newest_event_time_wins_to_the_microsecond", *TIMES)
@fails("test_a_tombstone_is_replaced_by_newer_rows_only")
class LastWriteWins(Orders):
    def replaces(self, new: int, old: int) -> bool:
        return True


@fails("test_the_newest_event_time_wins_to_the_microsecond", *TIMES)
class KeepsItsOwnOnATie(Orders):
    def replaces(self, new: int, old: int) -> bool:
        return new > old


@fails("test_the_newest_event_time_wins_to_the_microsecond", 2**53 + 1, 2**62)
class ComparesFloats(Orders):
    def replaces(self, new: int, old: int) -> bool:
        return float(new) >= float(old)


@fails("test_the_newest_event_time_wins_to_the_microsecond", -1)
class ComparesText(Orders):
    def replaces(self, new: int, old: int) -> bool:
        return str(new) >= str(old)


@fails("test_a_write_of_nothing_writes_nothing")
class CountsTooMuch(MemoryStore):
    def write(self, batch: Batch, until: float) -> WriteCounts:
        counts = super().write(batch, until)
        counts.written = max(1, counts.written)
        return counts


@fails("test_as_of_gives_the_rows_known_then")
class LivesInThePresent(MemoryStore):
    def _row(self, key: bytes, as_of_us: int | None) -> bytes | None:
        return super()._row(key, None)


class ReadOnlyOnMemory(OnMemory):
    is_writable: ClassVar[bool] = False

    def fill(self, store: MemoryStore, view: Any, table: Any) -> None:
        raise AssertionError("not used")


@fails("test_a_write_is_refused_in_our_words")
class TakesWhatItShouldNot(MemoryStore):
    """Says it is not writable, and swallows rows."""


@fails("test_it_has_the_shape_of_a_store")
class SaysTheWrongThing(MemoryStore):
    writable: ClassVar[bool] = False


@fails("test_close_may_be_called_twice_and_leaves_no_thread")
class LeavesAThread(MemoryStore):
    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if not hasattr(self, "left"):
            self.left = threading.Event()
            threading.Thread(target=self.left.wait, args=(4.0,), daemon=True).start()
        return super().read(asks, until, as_of_us=as_of_us)


@fails("test_no_time_left_ends_at_once")
@fails("test_a_stalled_server_is_left_at_the_deadline")
class Overstays(SocketStore):
    overstays = True


@fails("test_without_a_server_there_are_only_store_errors")
class LetsTheDriverSpeak(SocketStore):
    translates_nothing = True


@fails("test_close_may_be_called_twice_and_leaves_no_thread")
class ClosesOnce(SocketStore):
    closes_once = True


@fails("test_eight_threads_get_their_own_rows")
class SharesAConnection(SocketStore):
    shares = True


@fails("test_a_fork_leaves_both_sides_whole")
class TakesItsConnectionAlong(SocketStore):
    fork_blind = True


@fails("test_an_abandoned_read_costs_the_next_nothing")
@fails("test_a_stalled_server_is_left_at_the_deadline")
class KeepsAnAbandonedConnection(SocketStore):
    keeps = True


@fails("test_as_of_is_refused_where_no_history_is_kept")
class PretendsToHaveHistory(SocketStore):
    def _get(self, asks: Sequence[Ask], as_of_us: int | None) -> Any:
        return super()._get(asks, None)


@fails("test_a_cancelled_read_costs_the_next_nothing")
@fails("test_a_storm_of_cancels_never_hands_a_reply_to_another")
class KeepsACancelledConnection(AsyncSocketStore):
    keeps = True


@fails("test_no_time_left_ends_at_once")
@fails("test_a_stalled_server_is_left_at_the_deadline")
class OverstaysAsync(AsyncSocketStore):
    overstays = True


@fails("test_eight_threads_get_their_own_rows")
class SharesAStream(AsyncSocketStore):
    async def _once(self, request: Any) -> Any:
        reply = await super()._once(request)
        self._idle.append(self._idle[-1])
        return reply


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def suite_of(store: type[Any], server: Server) -> Any:
    """The suite over a kind of store, as a user would write it."""
    if issubclass(store, _Words):
        parent = AsyncStoreContract if issubclass(store, AsyncSocketStore) else StoreContract

        class Sockets(OnSockets, parent):  # type: ignore[misc, valid-type]
            begins: ClassVar[bool] = hasattr(store, "begin")

            def open(self, place: Place) -> Any:
                return store(server.port)

        suite = Sockets()
        suite.server = server
        return suite
    house = ReadOnlyOnMemory if store is TakesWhatItShouldNot else OnMemory

    class Memory(house):  # type: ignore[misc, valid-type]
        kept: MemoryStore

        def open(self, place: Place) -> Any:
            if not isinstance(self.kept, store):
                self.kept = store("it")
            return self.kept

    return Memory()


@pytest.mark.parametrize(
    ("store", "name", "given"), CASES, ids=lambda one: getattr(one, "__name__", None) or str(one).removeprefix("test_")
)
def test_a_broken_store_fails_its_case(
    store: type[Any], name: str, given: tuple[Any, ...], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "IN_TIME_S", 1.0)
    suite = suite_of(store, server)
    case = getattr(suite, name)
    assert callable(case), "a case left out fails nothing"
    alive = weakref.ref(suite)
    suite.setup_method()
    try:
        with pytest.raises((Exception, pytest.fail.Exception)):
            case(*given)
    finally:
        server.go_on()
        suite._open = [] if store is ClosesOnce else suite._open
        suite.teardown_method()
        del suite, case
        gc.collect()  # What broken stores leave behind is told here, and not beside another test.
    assert alive() is None


def test_every_case_is_failed_by_some_store() -> None:
    cases = {name for each in (StoreContract, AsyncStoreContract) for name in dir(each) if name.startswith("test_")}

    assert {name for _, name, _ in CASES} == cases


def test_a_class_with_every_hook_has_the_cases_that_want_them() -> None:
    assert callable(OnMemory.test_damaged_bytes_cost_their_row_only)
    assert callable(suite_of(SocketStore, None).test_a_stalled_server_is_left_at_the_deadline)  # type: ignore[arg-type]
    assert callable(suite_of(SocketStore, None).test_without_a_server_there_are_only_store_errors)  # type: ignore[arg-type]


def test_a_class_without_a_hook_has_no_such_case() -> None:
    class Bare(StoreContract):
        pass

    assert Bare.test_a_stalled_server_is_left_at_the_deadline is None
    assert Bare.test_damaged_bytes_cost_their_row_only is None
    assert Bare.test_an_abandoned_read_costs_the_next_nothing is None
    assert Bare.test_as_of_gives_the_rows_known_then is None
    assert Bare.test_as_of_is_refused_where_no_history_is_kept is not None
    with pytest.raises(NotImplementedError):
        Bare().open(Place("it", "p", (), running.CLOCK))
