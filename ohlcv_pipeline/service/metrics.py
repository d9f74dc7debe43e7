"""Where an outside monitor asks: a listener of its own, by default on loopback, so that nothing of it is public.

What is told is `operations.metrics`; here are the service's own requests, and the socket.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Histogram, start_http_server

from ohlcv_pipeline.operations.metrics import Metrics
from ohlcv_pipeline.operations.overview import Overview
from ohlcv_pipeline.service.context import Context
from ohlcv_pipeline.service.problems import ProblemError

log = logging.getLogger(__name__)

ANSWER_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Monitoring:
    """The metrics of one running service, in a registry of their own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.registry = CollectorRegistry()
        self._metrics = Metrics(context.platform, context.clock, self._overview)
        self.registry.register(self._metrics)
        self._answers = Histogram(
            "http_request_duration_seconds",
            "Requests to the service, by route and not by address",
            ["route", "method", "status"],
            buckets=ANSWER_SECONDS,
            registry=self.registry,
        )

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._answers.labels(route, method, str(status)).observe(seconds)

    def _overview(self) -> Overview | None:
        try:
            return self._context.summary.current().overview
        except ProblemError:
            return None

    @contextmanager
    def listening(self) -> Iterator[int | None]:
        """Answer at the address of the settings; yield the port, None where nobody listens.

        An address that cannot be had is logged: a service without metrics is better than none.
        """
        address = self._context.platform.settings.metrics_host_and_port
        server = None if address is None else self._server(*address)
        if server is None:
            yield None
            return
        self._metrics.begin()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()

    def _server(self, host: str, port: int) -> WSGIServer | None:
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            log.warning("no metrics: %s:%d cannot be had (%s); set OHLCV_METRICS_ADDRESS", host, port, error.strerror)
            return None
        return server
