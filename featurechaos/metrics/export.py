"""Counters as Prometheus reads them. `prometheus-client` is imported when first used."""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from socketserver import TCPServer
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from featurechaos.errors import SpecError
from featurechaos.metrics.counters import Counters
from featurechaos.metrics.distributions import Distribution
from featurechaos.metrics.names import NAMES, PREFIX

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

Pages = Mapping[str, Callable[[], tuple[bool, Any]]]
NO_PAGES: Pages = MappingProxyType({})
LOOPBACK = "127.0.0.1"
_STALLED_S = 2.0
"""A connection that says nothing for this long is closed."""


def collector(counters: Counters) -> Collector:
    """What to register with a `prometheus_client` registry of one's own."""
    client = _client()

    class CountersCollector(client.registry.Collector):  # type: ignore[misc, name-defined]
        def describe(self) -> list[Family]:
            return []

        def collect(self) -> Iterator[Family]:
            yield from _families(counters)

    found: Collector = CountersCollector()
    return found


def serve(counters: Counters, port: int, *, host: str = LOOPBACK, pages: Pages = NO_PAGES) -> Endpoint:
    """Answer `GET /metrics` until closed; port 0 takes any free one.

    `pages` are answered beside it: path -> what says whether all is well, and a body; 200 or 503, as JSON.

    Raises SpecError if `prometheus-client` is missing or the port is taken.
    """
    client = _client()
    registry = client.CollectorRegistry()
    registry.register(collector(counters))
    problem = ""
    try:
        server = make_server(host, port, _with_pages(client.make_wsgi_app(registry), pages), _Server, _Handler)
    except OSError as error:
        problem = f"metrics.port: {host}:{port} cannot be listened on: {error.strerror or error}"
    else:
        return Endpoint(server)
    raise SpecError(problem)


def _with_pages(metrics: Any, pages: Pages) -> Any:
    """The metrics, and some pages beside them; those are nobody's but GET's."""

    def answered(environ: dict[str, Any], start_response: Any) -> Any:
        page = pages.get(environ.get("PATH_INFO", ""))
        if page is None or environ.get("REQUEST_METHOD") not in {"GET", "HEAD"}:
            return metrics(environ, start_response)
        try:
            is_well, body = page()
        except Exception as error:
            log.exception("the page %s could not be made", environ.get("PATH_INFO"))
            is_well, body = False, {"error": type(error).__name__}
        content = json.dumps(body, default=str).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        start_response("200 OK" if is_well else "503 Service Unavailable", headers)
        return [content]

    return answered


class Endpoint:
    """A running endpoint. `close` stops it and waits until its threads and socket are gone."""

    def __init__(self, server: WSGIServer) -> None:
        self._server = server
        self.host, self.port = str(server.server_address[0]), int(server.server_address[1])
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="featurechaos-metrics", daemon=True
        )
        self._thread.start()
        _running.add(self)

    def close(self) -> None:
        """Stop answering; twice is once."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Endpoint(http://{self.host}:{self.port}/metrics)"


_running: weakref.WeakSet[Endpoint] = weakref.WeakSet()


def _forget() -> None:
    """A child has the socket and no thread that answers; let go of it, so that the parent can close it."""
    for endpoint in _running:
        endpoint._server.socket.close()  # noqa: SLF001 - of this file


os.register_at_fork(after_in_child=_forget)


class _Server(WSGIServer):
    """One connection at a time: scrapes are rare, and so no thread is ever left behind."""

    def server_bind(self) -> None:
        # HTTPServer's own looks its name up, which may ask a DNS server.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that goes away is no news."""


class _Handler(WSGIRequestHandler):
    timeout = _STALLED_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Scrapes are not logged."""


def _client() -> Any:
    missing = ""
    try:
        import prometheus_client
    except ModuleNotFoundError as error:
        missing = error.name or "prometheus_client"
    else:
        return prometheus_client
    raise SpecError(f"metrics need: pip install 'featurechaos[metrics]' ({missing} is not installed)")


def _families(counters: Counters) -> Iterator[Family]:
    """Every metric of `NAMES`, those without a value too: a dashboard can tell zero from gone."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    for name, values in counters.read().items():
        metric = NAMES[PREFIX + name]
        family: Any = kinds[metric.kind](PREFIX + name, metric.help, labels=metric.labels)
        for labels, value in values.items():
            if isinstance(value, Distribution):
                family.add_metric(labels, buckets=_buckets(value), sum_value=value.total)
            else:
                family.add_metric(labels, value)
        yield family


def _buckets(values: Distribution) -> list[tuple[str, float]]:
    """How many values are within each bound, as Prometheus wants them: cumulative, `+Inf` last."""
    bounds = [*(repr(float(bound)) for bound in values.bounds), "+Inf"]
    return list(zip(bounds, accumulate(values.counts), strict=True))
