from __future__ import annotations

import io
import json
import logging
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from streamer import log_lines, telemetry
from streamer.errors import SettingsError
from streamer.log_lines import BrokerWatch, JsonLines, Ration, reachable
from streamer.settings import Settings
from streamer.transport.local_broker import free_port

UNITS = (
    "_seconds",
    "_bytes",
    "_events",
    "_records",
    "_items",
    "_info",
    "_ratio",
    "_queue",
    "_assigned",
    "_ready",
)


@pytest.fixture
def root_logging() -> Iterator[None]:
    """What `install` changes, put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in log_lines.CHATTY}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def record(
    name: str = "headwater", line: int = 1, level: int = logging.ERROR, message: str = "m"
) -> logging.LogRecord:
    return logging.LogRecord(name, level, "file.py", line, message, None, None)


def test_metric_names_and_labels_follow_the_conventions() -> None:
    families = [family for family in REGISTRY.collect() if family.name.startswith("headwater_")]
    assert len(families) >= 20
    for family in families:
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        else:
            assert family.name.endswith(UNITS), family.name
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels.isdisjoint({"user", "user_id", "item", "item_id"})


def test_every_outcome_is_shown_before_its_first_event() -> None:
    assert all(
        REGISTRY.get_sample_value("headwater_events_total", {"outcome": outcome}) is not None
        for outcome in telemetry.OUTCOMES
    )


def test_metrics_are_served_and_a_taken_port_is_a_sentence() -> None:
    settings = replace(Settings(), metrics_port=free_port())
    telemetry.serve(settings)
    with urllib.request.urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics", timeout=10) as answer:
        assert "headwater_ready" in answer.read().decode()
    with pytest.raises(SettingsError, match="HEADWATER_METRICS_PORT"):
        telemetry.serve(settings)


def test_port_0_serves_nothing() -> None:
    before = threading.active_count()
    telemetry.serve(replace(Settings(), metrics_port=0))
    assert threading.active_count() == before


def test_a_line_of_code_speaks_once_a_second_and_says_what_it_left_out() -> None:
    now = 0.0
    ration = Ration(1.0, clock=lambda: now)
    assert ration.filter(record(line=1))
    assert not any(ration.filter(record(line=1)) for _ in range(3))
    assert ration.filter(record(line=2)), "another line is not its business"
    assert ration.filter(record(line=1, level=logging.CRITICAL)), "what is critical always passes"
    now = 1.0
    later = record(line=1, message="gone")
    assert ration.filter(later)
    assert later.getMessage() == "gone (3 more like it suppressed)"
    now = 2.0
    again = record(line=1, message="gone")
    assert ration.filter(again)
    assert again.getMessage() == "gone"


class Broker:
    """Is reached when told so; lets a test wait until it has been asked."""

    def __init__(self) -> None:
        self.up = False
        self.asked = threading.Event()

    def reached(self) -> bool:
        self.asked.set()
        return self.up


def wait_for(caplog: pytest.LogCaptureFixture, words: str) -> None:
    for _ in range(500):
        if words in caplog.text:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"never logged: {words}")


def test_an_absent_broker_is_reported_once_and_its_return_once(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    watch = BrokerWatch(broker.reached, interval_s=0.01)
    assert watch.filter(record("aiokafka.conn")), "nobody knows yet"
    wait_for(caplog, "broker away")
    assert not any(watch.filter(record("aiokafka.producer.sender")) for _ in range(1000))
    assert watch.filter(record("headwater.worker")), "our own lines are not held back"
    broker.up = True
    wait_for(caplog, "broker back")
    assert "(1000 lines of aiokafka held back)" in caplog.text
    assert [r.getMessage().split(" ")[1] for r in caplog.records] == ["away:", "back"]
    assert watch.filter(record("aiokafka.conn"))


def test_a_complaint_while_the_broker_answers_is_no_absence(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    broker.up = True
    watch = BrokerWatch(broker.reached, interval_s=0.01)
    assert watch.filter(record("aiokafka.conn"))
    assert broker.asked.wait(5)
    assert watch.filter(record("aiokafka.conn"))
    assert caplog.records == []


def test_reachable_asks_every_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"127.0.0.1:{server.getsockname()[1]}"
        assert reachable([f"127.0.0.1:{free_port()}", there])
    assert not reachable([there])


def test_json_lines_are_json_with_the_traceback() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        failed = logging.LogRecord("headwater", logging.ERROR, "f.py", 1, "it is %s", ("so",), None)
        failed.exc_info = sys.exc_info()
    shown = json.loads(JsonLines().format(failed))
    assert (shown["level"], shown["logger"], shown["message"]) == ("ERROR", "headwater", "it is so")
    assert "ValueError: broken" in shown["error"]
    assert shown["time"].endswith("Z")


@pytest.mark.usefixtures("root_logging")
def test_text_and_json_reach_the_stream_and_libraries_stay_quiet() -> None:
    for fmt in ("text", "json"):
        stream = io.StringIO()
        log_lines.install("INFO", fmt, stream=stream)
        logging.getLogger("headwater.worker").info("assigned %s", [1, 2])
        logging.getLogger("faust.app").info("chatter")
        logging.getLogger("aiokafka").error("unable to connect")
        assert stream.getvalue().count("\n") == 1
        assert "assigned [1, 2]" in stream.getvalue()
