"""The promises of a store's async form, and those of cancelled reads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from featurechaos.codec import column
from featurechaos.contract.rows import ask_of
from featurechaos.contract.running import in_time
from featurechaos.contract.store import StoreContract
from featurechaos.model import Verdict, View
from featurechaos.readings import rows_of
from featurechaos.stores import Batch, Place


class AsyncStoreContract(StoreContract, is_of_a_store=False):
    """The same promises of a store's async form, and those of cancelled reads. `open` gives the async store."""

    forks: ClassVar[bool] = False

    def setup_method(self) -> None:
        super().setup_method()
        self._runner = asyncio.Runner()

    def teardown_method(self) -> None:
        super().teardown_method()
        self._runner.close()

    def _made(self, place: Place) -> Any:
        return Blocking(self.open(place), self._runner)

    def _hook(self, store: Any) -> Any:
        return store.inner

    def fill(self, store: Any, view: View, table: Mapping[str, Any]) -> None:
        super().fill(Blocking(store, self._runner), view, table)

    def bury(self, store: Any, batch: Batch) -> None:
        super().bury(Blocking(store, self._runner), batch)

    def test_eight_threads_get_their_own_rows(self) -> None:
        """Tasks, here: a store belongs to a loop."""
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, list(range(200)))

        wrong = self._runner.run(_storm(store.inner, view, tasks=50, turns=8, cancel=False))

        assert not wrong

    def test_a_cancelled_read_costs_the_next_nothing(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, list(range(200)))

        async def cancelled(key: int, steps: int) -> None:
            task = asyncio.create_task(store.inner.read([ask_of(view, [key])], in_time()))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        for key in range(40):
            self._runner.run(cancelled(key, key % 5))
            assert self._numbers_of(store, ask_of(view, [key + 100])) == [key + 100]

    def test_a_storm_of_cancels_never_hands_a_reply_to_another(self) -> None:
        view = self._view()
        store = self._opened(view)
        self._fill(store, view, list(range(200)))

        wrong = self._runner.run(_storm(store.inner, view, tasks=20, turns=20, cancel=True))

        assert not wrong
        assert self._numbers_of(store, ask_of(view, [3])) == [3]


class Blocking:
    """An async store with its calls as plain ones, on a loop of their own."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self.inner, self._runner = inner, runner

    def read(self, *given: Any, **more: Any) -> Any:
        return self._runner.run(self.inner.read(*given, **more))

    def layouts(self, *given: Any) -> Any:
        return self._runner.run(self.inner.layouts(*given))

    def write(self, *given: Any) -> Any:
        return self._runner.run(self.inner.write(*given))

    def close(self) -> None:
        self._runner.run(self.inner.close())


async def _storm(store: Any, view: View, *, tasks: int, turns: int, cancel: bool) -> list[Any]:
    """Many reads at once, some of them cancelled on their way; the ones that got rows of another."""
    wrong: list[Any] = []

    async def reads(number: int) -> None:
        for turn in range(turns):
            keys = [(number * 31 + turn * 7) % 200, 900 + number]
            ask = ask_of(view, keys)
            try:
                async with asyncio.timeout(0.0005 * (turn % 4) if cancel and turn % 2 else None):
                    answers = await store.read([ask], in_time())
            except TimeoutError:
                continue
            rows, _ = rows_of(ask, answers[0], {})
            got = [column(rows, "f")[0], *rows.verdicts.tolist()]
            if got != [keys[0], Verdict.FRESH, Verdict.MISSING]:
                wrong.append((keys, got))
            if wrong:
                return

    await asyncio.gather(*(reads(number) for number in range(tasks)))
    return wrong
