"""What the server measures of itself: Prometheus metrics, and a line of JSON for each request."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from textsiam.serving.batcher import Batcher

_SECONDS = (0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Meters:
    """Metrics of one server, in a registry of its own.

    Args:
        batcher: Whose queue is watched.
    """

    def __init__(self, batcher: Batcher) -> None:
        self.registry = CollectorRegistry()
        names = ["route", "method", "status"]
        self.requests = Counter("textsiam_requests_total", "Requests answered.", names, registry=self.registry)
        why = "Seconds from the first byte of a request to the last of its answer."
        self.seconds = Histogram("textsiam_request_seconds", why, ["route"], buckets=_SECONDS, registry=self.registry)
        watched = {
            "requests": ("textsiam_queue_requests", "Requests that wait for the model or are in work."),
            "tokens": ("textsiam_queue_tokens", "Tokens that wait for the model."),
            "fill": ("textsiam_batch_fill", "Share of the token budget used by the last step."),
            "tokens_per_second": ("textsiam_tokens_per_second", "Pace of the model."),
            "steps": ("textsiam_steps", "Steps of the model since the start."),
            "failures": ("textsiam_failed_steps", "Steps that raised an error."),
        }
        for fact, (name, why) in watched.items():
            Gauge(name, why, registry=self.registry).set_function(lambda fact=fact: getattr(batcher.load, fact))


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time, level, event, and what was given as `extra={"facts": {…}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {"time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname.lower(),
                                "event": record.getMessage()}  # fmt: skip
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_as_json(level: int = logging.INFO) -> None:
    """Write the server's log to stderr, a line of JSON a record."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("textsiam.serving", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(level)
