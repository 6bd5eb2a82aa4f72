"""What is observed: every metric declared once, and how the log is written.

Metrics follow Prometheus's conventions (base units, `_total`) and never carry a user or item id in a label.
"""

from __future__ import annotations

import logging
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from streamer import log_lines
from streamer.errors import SettingsError

log = logging.getLogger("headwater.telemetry")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG_SECONDS = (
    0.005,
    0.01,
    0.02,
    0.035,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    15.0,
    60.0,
    300.0,
    3600.0,
)
_EVENTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2000, 4000, 8000)

OUTCOMES = ("applied", "replayed", "late", "duplicate", "refresh", "rejected")

EVENTS = Counter(
    "headwater_events", "Events by what became of them; refresh: requests for a fresh list", ["outcome"]
)
for _outcome in OUTCOMES:
    EVENTS.labels(_outcome)  # shown as 0 before the first
DEAD_LETTERS = Counter("headwater_dead_letters", "Records sent to the dead letters", ["reason"])
BATCH_EVENTS = Histogram("headwater_batch_events", "Events of one batch", buckets=_EVENTS)
BATCH_SECONDS = Histogram("headwater_batch_seconds", "Time to compute one batch", buckets=_SECONDS)
INFERENCE_SECONDS = Histogram(
    "headwater_inference_seconds", "Time in one run of an ONNX graph", ["graph"], buckets=_SECONDS
)
REFRESHES_WAITING = Gauge("headwater_refresh_queue", "Users whose refresh was put off while the worker lags")
LAG_SECONDS = Histogram(
    "headwater_end_to_end_lag_seconds",
    "From an event's Kafka timestamp to its acknowledged recommendation",
    buckets=_LAG_SECONDS,
)
CHANGELOG_BYTES = Counter("headwater_changelog_bytes", "Keys and values written to the changelog")
OUTPUT_RECORDS = Counter("headwater_output_records", "Acknowledged output records", ["topic"])
TABLE_BYTES = Gauge("headwater_table_bytes", "Size of this worker's users table on disk")
TABLE_RECORDS = Gauge(
    "headwater_table_records", "Heads, segments and chunks in this worker's users table, estimated"
)
MODEL_INFO = Gauge("headwater_model_info", "1 for the model that is serving", ["version", "device"])
CATALOGUE_ITEMS = Gauge("headwater_catalogue_items", "Items that may be recommended")
INDEX_RECALL = Gauge(
    "headwater_index_recall_ratio", "Share of the exact top k that the catalogue's index finds, as measured"
)
INDEX_LATER_ROWS = Gauge("headwater_index_waiting_items", "Catalogue rows behind those of the index")
INDEX_REBUILDS = Counter("headwater_index_rebuilds", "Times that the catalogue's index was built anew")
ENCODER_TEXTS = Counter("headwater_encoder_texts", "Texts encoded", ["purpose"])
ENCODER_QUEUE = Gauge("headwater_encoder_queue", "Texts waiting for the encoder")
SIGNAL_ROWS = Counter(
    "headwater_signal_rows", "Events counted into the shared signals, and those that came again", ["outcome"]
)
SIGNAL_EDGES = Gauge("headwater_signal_edge_records", "Edges between items that the signals keep")
SIGNAL_SNAPSHOTS = Counter("headwater_signal_snapshots", "Snapshots of the shared signals", ["result"])
for _result in ("read", "refused", "written", "failed"):
    SIGNAL_SNAPSHOTS.labels(_result)
SIGNAL_SNAPSHOT_BYTES = Gauge(
    "headwater_signal_snapshot_bytes", "Size of the snapshot that this worker read or wrote last"
)
SIGNAL_SNAPSHOT_TIME = Gauge(
    "headwater_signal_snapshot_timestamp_seconds",
    "When the counts of the snapshot that this worker read or wrote last were copied",
)
SIGNAL_START_ROWS = Gauge(
    "headwater_signal_start_events", "Events that this worker had to read at its start to have all counts"
)
SIGNAL_JUDGED = Counter("headwater_signal_judged", "Events that the blend learned from in this worker")
SIGNAL_LEARNED = Gauge(
    "headwater_signal_learned_events", "Events in all steps of the weights that this worker published last"
)
SIGNAL_FALLS = Counter(
    "headwater_signal_falls", "Times that a single signal took over because the blend was provably worse"
)
SIGNAL_CARRIED = Counter(
    "headwater_signal_carried", "Recommended items by the signal that carried them most", ["signal"]
)
SIGNAL_EXPLORED = Counter("headwater_signal_explored", "Items without interactions that were put into lists")
SWAPS = Counter("headwater_swaps", "Releases by what became of them", ["result"])
REBALANCES = Counter("headwater_rebalances", "Rebalances this worker took part in")
PARTITIONS = Gauge("headwater_partitions_assigned", "Event partitions of this worker")
FOREIGN_WRITES = Counter(
    "headwater_foreign_writes", "Gaps in our changelog offsets: another writer was there"
)
REPAIRED_RECORDS = Counter("headwater_repaired_records", "Records sent again over an older foreign one")
REFETCHES = Counter("headwater_refetches", "Fetches repeated because of a gap")
DROPPED_FETCHES = Counter("headwater_dropped_fetches", "Fetches dropped because they were behind or stale")
LOST_RUNS = Counter("headwater_lost_runs", "Runs given up because their partition was revoked")
READY = Gauge("headwater_ready", "1 while this worker has recovered and consumes")


class MetricsSettings(Protocol):
    @property
    def metrics_host(self) -> str: ...
    @property
    def metrics_port(self) -> int: ...


class LogSettings(Protocol):
    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> str: ...
    @property
    def brokers(self) -> str: ...


def serve(settings: MetricsSettings) -> None:
    """Serve /metrics from a thread, unless the port is 0. Raises SettingsError when the port is taken."""
    if settings.metrics_port == 0:
        return
    try:
        start_http_server(settings.metrics_port, settings.metrics_host)
    except OSError as exc:
        raise SettingsError(
            f"metrics cannot be served on {settings.metrics_host}:{settings.metrics_port} ({exc.strerror}): "
            "set HEADWATER_METRICS_PORT to another port for every worker of a machine, or to 0 for no metrics"
        ) from exc
    log.info("metrics on http://%s:%d/metrics", settings.metrics_host, settings.metrics_port)


def log_to_stderr(settings: LogSettings) -> None:
    """Everything logged goes to standard error as text or JSON lines, rationed."""
    log_lines.install(settings.log_level, settings.log_format, settings.brokers)
