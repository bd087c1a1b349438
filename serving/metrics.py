"""Figures for Prometheus: requests and their times, and what the side that computes says of itself."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from serving.work import Computing

PREFIX = "gpt2_jittor_"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
GAUGES = {"running": "texts that are being continued", "waiting": "texts and other work that waits"}
COUNTERS = {
    "prompt_tokens": "tokens of prompts",
    "cached_tokens": "tokens of prompts that were not computed again",
    "generated_tokens": "tokens that were generated",
    "steps": "steps of the running batch",
}


class Metrics:
    """The figures of one server, in a registry of its own."""

    def __init__(self, computing: Computing):
        self._computing = computing
        self.registry = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}requests", "requests that were answered", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            f"{PREFIX}request_seconds",
            "from a request to its whole answer",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            f"{PREFIX}first_token_seconds", "from a request to its first token", buckets=SECONDS, registry=self.registry
        )
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What the side that computes says now, as `prometheus_client` asks for it."""
        figures = self._computing.figures()
        for name, said in GAUGES.items():
            yield GaugeMetricFamily(PREFIX + name, said, getattr(figures, name))
        for name, said in COUNTERS.items():
            yield CounterMetricFamily(PREFIX + name, said, getattr(figures, name))

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
