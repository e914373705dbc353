"""What every store promises, as tests: subclass, say how to open yours, run pytest.

    class TestMyStore(StoreContract):
        @pytest.fixture(autouse=True)
        def _server(self, my_server):
            self.server = my_server

        def open(self, place):
            return MyStore.open(MySpec(url=self.server.url), place)

        def put(self, store, ask, blobs):  # what the server holds, whatever it is
            for key, blob in zip(ask.keys.ids, blobs):
                self.server.set(ask.view.head + key + b"}", blob)

Every test works on a view of a name of its own, so one server serves all. The more hooks a class gives (`put`,
`stalled`, `down`), the more of the suite applies; a case that lacks its hook is no test of that class, rather
than a skipped one. `AsyncStoreContract` is the same for the async form. A store whose rows do not come by
`write` (dated images) overrides `fill` and `bury`. Needs pytest.
"""

from __future__ import annotations

from featurechaos.contract.asynchronous import AsyncStoreContract
from featurechaos.contract.store import StoreContract

__all__ = ["AsyncStoreContract", "StoreContract"]
