"""Meters: what the server counts, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .desk import Desk

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Meters:
    """One server's, apart from all others in the process. `handle`: what the model is attached by."""

    def __init__(self, desk: Desk, handle: Any) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self.requests = Counter("hetsched_requests", "Requests answered", ["endpoint", "status"], registry=own)
        self.tokens = Counter("hetsched_tokens", "Tokens of prompts read, and of texts", ["kind"], registry=own)
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind)  # is there from the beginning, at 0
        text = "Seconds of requests that came to their end, with their wait"
        self.request_s = Histogram("hetsched_request_seconds", text, buckets=_SECONDS, registry=own)
        text = "Seconds to the first token, with the wait for a place"
        self.first_token_s = Histogram("hetsched_first_token_seconds", text, buckets=_SECONDS, registry=own)
        text = "Seconds a token after the first"
        self.token_s = Histogram("hetsched_token_seconds", text, buckets=_SECONDS, registry=own)
        self._registry.register(_State(desk, handle))

    def text(self) -> bytes:
        """All of them, now."""
        return generate_latest(self._registry)


class _State(Collector):
    """What others count already."""

    def __init__(self, desk: Desk, handle: Any) -> None:
        self._desk, self._handle = desk, handle

    def collect(self) -> Iterator[Metric]:
        """Read at each visit."""
        scheduler = self._handle.scheduler
        stats = scheduler.stats
        yield GaugeMetricFamily("hetsched_requests_running", "Requests in the batch", self._desk.running)
        yield GaugeMetricFamily("hetsched_requests_waiting", "Requests in the queue", self._desk.waiting)
        yield GaugeMetricFamily("hetsched_expert_hit_rate", "Active experts that were on the GPU", stats.hit_rate)
        text = "Bytes of experts copied to the GPU"
        yield CounterMetricFamily("hetsched_expert_copied_bytes", text, stats.bytes_moved)
        yield GaugeMetricFamily("hetsched_expert_slots", "Experts for which the GPU has room", _slots(scheduler))


def _slots(scheduler: Any) -> int:
    return int(scheduler.residency.num_slots)
