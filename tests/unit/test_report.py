"""The demo's arithmetic: which list judges which event, latency, throughput, and the report's stable form."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from streamer.cli.demo import judging, keep, report
from streamer.cli.demo.judging import PublishedBefore, Quality
from streamer.cli.demo.passes import TWINS, shown_user, twins
from streamer.cli.demo.replay import Arrival, last_offsets, latencies_ms, throughput
from streamer.cli.produce import Sent
from streamer.core.partitioner import Kind
from streamer.core.protocol import Label, Profile, Recommendation, Recommendations, Source
from streamer.datasets import Interaction
from streamer.settings import Settings
from streamer.transport.local_broker import LocalBroker


def output(user: str, offset: int, items: tuple[str, ...] = (), partition: int = 0) -> Recommendations:
    listed = [Recommendation(item, 1.0) for item in items]
    source = Source("events", partition, offset)
    return Recommendations(user, offset, 0, 0, "m", "model", listed, source)


def arrival(at_s: float, user: str, offset: int, partition: int = 0) -> Arrival:
    return Arrival(at_s, int(at_s * 1000), output(user, offset, partition=partition))


def event(user: str, item: str = "1") -> Interaction:
    return Interaction(f"{user}-{item}", user, item, "rating", 4.0, 0)


def test_an_event_is_judged_by_the_last_list_with_a_smaller_source_offset() -> None:
    # Out of order on purpose: a redelivered run publishes older lists again.
    before = PublishedBefore([output("u", 9, ("d",)), output("u", 3, ("a",)), output("u", 5, ("b",))])
    found = {offset: before.at("u", offset) for offset in (3, 4, 5, 6, 9, 10)}
    lists = {offset: found_.items[0].item_id if found_ else None for offset, found_ in found.items()}
    assert lists == {3: None, 4: "a", 5: "a", 6: "b", 9: "b", 10: "d"}
    assert before.at("v", 99) is None


def test_the_list_published_for_an_event_itself_does_not_judge_it() -> None:
    replayed = [event("u", "a"), event("u", "b")]
    sent = [Sent(0, 0, 0.0), Sent(0, 1, 0.0)]
    arrivals = [Arrival(0.0, 0, output("u", 0, ("b",))), Arrival(0.0, 0, output("u", 1, ("a",)))]
    quality = judging.judge([event("v", "a")], replayed, sent, arrivals, ["a", "b"])
    # Event 0 had no list (a miss), event 1 the list after event 0: 1 of 2.
    assert quality.hit_rate_at_10["stream"] == 0.5
    assert quality.unseen_users == 1.0
    assert set(quality.ndcg_at_10) == {"stream", "popularity", "item_knn"}


def test_share_of_events_soon_after_the_same_users_last() -> None:
    far = ["x"] + [f"other-{n}" for n in range(50)] + ["x"]
    near = ["x"] + [f"other-{n}" for n in range(49)] + ["x"]
    assert judging.share_soon(far) == 0
    assert judging.share_soon(near) == 1 / 51


def test_latency_runs_from_the_due_time_to_the_first_output_that_includes_the_event() -> None:
    users = ["u", "u", "v"]
    sent = [Sent(0, 0, 10.0), Sent(0, 1, 10.1), Sent(1, 0, 10.2)]
    arrivals = [arrival(10.05, "u", 0), arrival(10.4, "u", 1), arrival(10.5, "u", 1)]
    # v got nothing: no latency rather than an invented one.
    assert latencies_ms(users, sent, arrivals) == pytest.approx([50.0, 300.0])


def test_an_output_for_a_batch_ends_the_latency_of_all_its_events() -> None:
    sent = [Sent(0, 0, 1.0), Sent(0, 1, 1.5)]
    assert latencies_ms(["u", "u"], sent, [arrival(2.0, "u", 1)]) == pytest.approx([1000.0, 500.0])


def test_last_offsets_are_the_users_latest() -> None:
    assert last_offsets(["u", "v", "u"], [Sent(0, 4, 0), Sent(1, 0, 0), Sent(0, 7, 0)]) == {"u": 7, "v": 0}


def test_throughput_is_told_from_when_the_worker_was_ready_to_its_last_output() -> None:
    arrivals = [arrival(5.0, "a", 9), arrival(6.0, "c", 99, partition=1), arrival(5.5, "b", 19)]
    assert throughput(arrivals, 100, ready_ms=4000) == 50.0
    assert throughput([], 100, ready_ms=4000) == 0.0


def test_twins_do_what_a_user_did_and_are_others() -> None:
    same = twins(event("a"))
    assert len(same) == len({each.user_id for each in same}) == len({each.event_id for each in same}) == TWINS
    assert same[0] == event("a")
    assert {each._replace(event_id="", user_id="") for each in same} == {
        event("a")._replace(event_id="", user_id="")
    }


def test_shown_user_is_a_busy_one() -> None:
    assert shown_user([event("a")] * 10 + [event("b")]) == "a"
    assert shown_user([event("a"), event("b")]) == "b"


@pytest.fixture
def found() -> report.Report:
    figures = {"stream": 0.25, "popularity": 0.125, "item_knn": 0.2}
    profile = Profile(
        "7", 2, 0, 0, "m", {"short_term": [Label("Drama", 0.5)]}, {"1h": {"rating": 2}}, Source("e", 0, 1)
    )
    top = output("7", 1, ("50", "1"))
    return report.Report(
        broker="Apache Kafka",
        model_version="v1",
        events=2,
        events_per_s=1234.56,
        latency_ms=[10.0, 20.0, 30.0],
        latency_rate=500.0,
        quality=Quality(figures, figures, 0.97, 0.85),
        dead_letters=0,
        worker_rss_mb=123.4,
        person=report.Person([event("7", "1")], profile, top),
        titles={"1": "Toy Story (1995)", "50": "Star Wars (1977) [bold]"},
    )


def test_report_as_json_has_the_stable_keys(found: report.Report, tmp_path: Path) -> None:
    report.write_json(found, tmp_path / "new" / "report.json")
    shown = json.loads((tmp_path / "new" / "report.json").read_text())
    assert shown["events"] == 2
    assert shown["events_per_s"] == 1234.6
    assert shown["latency_ms"] == {"p50": 20.0, "p99": 29.8}
    assert shown["hit_rate_at_10"] == {"stream": 0.25, "popularity": 0.125, "item_knn": 0.2}
    promised = {"events", "events_per_s", "latency_ms", "hit_rate_at_10", "ndcg_at_10"}
    assert promised | {"dead_letters", "worker_rss_mb", "model_version"} <= shown.keys()


def test_what_was_not_measured_is_null(found: report.Report) -> None:
    nothing = report.Report(**{**vars(found), "latency_ms": []})
    assert json.loads(report.to_json(nothing))["latency_ms"] == {"p50": None, "p99": None}


def test_the_screen_shows_titles_not_ids(found: report.Report) -> None:
    screen = io.StringIO()
    report.show(found, Console(file=screen, width=100))
    text = " ".join(screen.getvalue().split())
    assert "Toy Story (1995)" in text
    assert "Star Wars (1977) [bold]" in text  # markup in a title is text
    assert "85% belong to users that training never saw" in text


@pytest.mark.parametrize(
    ("ours", "librdkafka"), [("murmur2", "murmur2_random"), ("crc32", "consistent_random")]
)
def test_kcat_is_told_the_partitioner(found: report.Report, ours: Kind, librdkafka: str) -> None:
    lines = [line for _, line in keep.instructions(Settings(partitioner=ours), found, Path("/c/demo"))]
    producing = [line for line in lines if " -P " in line]
    assert producing
    assert all(f"-X partitioner={librdkafka}" in line for line in producing)


class Sleeper(LocalBroker):
    """A broker only in name."""

    name = "sleeper"

    def _command(self) -> list[str]:
        return [sys.executable, "-c", "import time; time.sleep(60)"]

    def _wait_until_served(self) -> None: ...


def test_a_kept_broker_is_not_ended_at_our_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_exit: list[object] = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    monkeypatch.setattr("atexit.unregister", at_exit.remove)
    broker = Sleeper(tmp_path).start()
    assert len(at_exit) == 1
    keep.detach(broker)
    assert at_exit == []
    monkeypatch.undo()
    broker.stop_hard()
