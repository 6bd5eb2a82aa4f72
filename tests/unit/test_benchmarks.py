"""What the benchmarks compute: figures and their files, workloads, what is measured of a run, what counts as the same list."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import growth, memory, outputs, race, report, snapshot, soak, throughput, workloads
from benchmarks.contestants import PEERS, present
from benchmarks.figures import Figure, Result
from benchmarks.growth import Cost
from benchmarks.outputs import WrongOutput
from benchmarks.race import Moment, Speed
from benchmarks.states import EVENTS_EACH, WINDOW, lived, records
from streamer.core.event_types import EventTypes
from streamer.core.protocol import Label, Profile, Recommendation, Recommendations, Source
from streamer.core.user_state import UserStates
from streamer.errors import DataError

RATINGS = """user_id:token\titem_id:token\trating:float\ttimestamp:float
7\t1\t5\t300
8\t2\t3\t50
7\t2\t1\t100
"""
FILMS = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
1\tToy Story\t1995\tAnimation Comedy
2\tGoldenEye\t1995\tAction
"""


# ---------------------------------------------------------------------- figures
def test_a_result_is_written_with_the_promised_keys_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "r.json"
    result = Result.here("r", {"events_per_s": Figure.of([3.0, 1.0, 2.0], "events/s", 4.0)})
    result.write(path)
    written = json.loads(path.read_bytes())
    assert set(written) == {"name", "commit", "machine", "figures"}
    assert written["figures"] == {
        "events_per_s": {"value": 2.0, "unit": "events/s", "goal": 4.0, "runs": [3.0, 1.0, 2.0]}
    }
    assert Result.read(path) == result


@pytest.mark.parametrize(
    ("value", "unit", "goal", "met"),
    [(3.0, "×", 2.5, True), (2.0, "×", 2.5, False), (40.0, "ms", 50.0, True), (60.0, "ms", 50.0, False)],
)
def test_a_goal_in_a_unit_of_cost_is_an_upper_bound(value: float, unit: str, goal: float, met: bool) -> None:
    assert Figure(value, unit, goal).met is met
    assert Figure(value, unit).met is None


def test_the_report_says_every_figure_with_its_goal_and_place(tmp_path: Path) -> None:
    Result("latency-1000", "abc", {"cores": "2", "load": "9"}, {"p99_ms": Figure(60.0, "ms", 50.0)}).write(
        tmp_path / "latency.json"
    )
    report.write(tmp_path)
    text = (tmp_path / report.TABLE).read_text()
    assert "| latency-1000 | `p99_ms` | 60 ms | ≤ 50 | no |" in text
    assert "latency-1000: cores 2, commit abc." in text


def test_without_results_the_report_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make bench"):
        report.write(tmp_path)


def test_every_kind_of_result_has_its_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    def result(name: str, **found: Figure) -> Result:
        return Result(name, "", {}, found)

    per_s, ms = Figure(1000.0, "events/s"), Figure(5.0, "ms")
    results = [
        result("throughput-uniform", events_per_s=per_s, quix_events_per_s=per_s),
        result("throughput-zipf", events_per_s=per_s),
        result("latency-100", p50_ms=ms, p99_ms=ms, p999_ms=ms),
        result("latency-1000", p50_ms=ms, p99_ms=ms, p999_ms=ms),
        result("growth", users_10_cpu_us=Figure(1.0, "µs/event"), users_100_cpu_us=Figure(2.0, "µs/event")),
        result("soak-60", rss_mb=Figure(3.0, "MB", None, [1.0, 2.0, 3.0])),
    ]
    made = plots.draw(results, tmp_path)
    assert [path.name for path in made] == ["throughput.png", "latency.png", "growth.png", "soak.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made)
    assert plots.draw([], tmp_path) == []


# ---------------------------------------------------------------------- workloads
def users_of(events: workloads.Events) -> list[str]:
    return [json.loads(value)["user_id"] for _, value in events]


def test_uniform_never_repeats_a_user_before_all_others_came() -> None:
    users = users_of(workloads.uniform(users=700).events(2100, 0))
    assert Counter(Counter(users).values()) == {3: 700}
    assert len(set(users[:700])) == len(set(users[350:1050])) == 700


@pytest.mark.parametrize("made", [workloads.uniform(users=50), workloads.zipf(users=50)])
def test_events_are_the_same_wherever_one_starts(made: workloads.Workload) -> None:
    whole = list(made.events(workloads.BLOCK + 300, 0))
    assert list(made.events(350, workloads.BLOCK - 50)) == whole[-350:]
    assert len({json.loads(value)["event_id"] for _, value in whole}) == len(whole)


def test_zipf_gives_the_first_user_twice_the_seconds_events() -> None:
    counts = Counter(users_of(workloads.zipf(users=1000).events(40_000, 0)))
    # Of 1000 users the first has 1 / H(1000) = 13.4 % of the events, the second half of that; 40,000 draws: s.d. 0.17 %.
    assert counts["user-000000"] / 40_000 == pytest.approx(0.1336, abs=0.008)
    assert counts["user-000001"] / 40_000 == pytest.approx(0.0668, abs=0.006)


def test_ml_100k_keeps_the_real_order_and_starts_again_with_new_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    (folder / "ml-100k.inter").write_text(RATINGS)
    (folder / "ml-100k.item").write_text(FILMS)
    monkeypatch.setattr(workloads, "CACHE", tmp_path)
    made = workloads.ml_100k()
    rows = len(RATINGS.splitlines()) - 1
    events = [json.loads(value) for _, value in made.events(2 * rows, 0)]
    times = [event["timestamp_ms"] for event in events]
    assert times == sorted(times)
    first, second = events[:rows], events[rows:]
    assert {e["user_id"] for e in first}.isdisjoint(e["user_id"] for e in second)
    assert [e["item_id"] for e in first] == [e["item_id"] for e in second]
    known = {item.item_id for item in made.items}
    assert all(item.startswith("i") for item in known)


def test_a_workload_without_its_data_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Path:
        raise DataError("no network")

    monkeypatch.setattr("streamer.datasets.fetch", refuse)
    with pytest.raises(workloads.NoData, match="MovieLens-100K cannot be had: no network"):
        workloads.workload("ml-100k")


# ---------------------------------------------------------------------- what is measured
def moments(*ends: int) -> list[Moment]:
    """A look a second, at a worker with a partition that ends there, half a core busy."""
    return [Moment(float(at), at / 2, {0: end}) for at, end in enumerate(ends)]


def test_who_publishes_steadily_is_measured_between_the_first_and_last_look_behind_the_warm_up() -> None:
    start, last = race.span(moments(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), 3.0)
    assert (start.at, last.at) == (3.0, 9.0)


def test_who_publishes_in_bursts_is_measured_from_burst_to_burst() -> None:
    # Bursts of 100 that take two looks to come; what counts is from the end of one to the end of another.
    start, last = race.span(moments(50, 100, 100, 100, 150, 200, 200, 200, 250, 300, 300, 300), 2.0)
    assert (start.at, start.ends[0], last.at, last.ends[0]) == (5.0, 200, 9.0, 300)


def test_a_short_run_gives_a_third_to_the_warm_up() -> None:
    start, last = race.span(moments(1, 2, 3, 4, 5, 6, 7), 60.0)
    assert (start.at, last.at) == (2.0, 6.0)


def test_a_worker_that_published_once_cannot_be_measured() -> None:
    start, last = race.span(moments(5, 5, 5), 1.0)
    assert start is last


def test_throughputs_ratios_are_those_of_the_medians_and_their_runs_those_of_the_rounds() -> None:
    speeds = {
        "headwater": [Speed(100.0, 10.0, 1.0), Speed(300.0, 10.0, 1.0), Speed(200.0, 20.0, 1.0)],
        "quix": [Speed(50.0, 40.0, 1.0), Speed(100.0, 50.0, 1.0), Speed(40.0, 45.0, 1.0)],
        "raw": [Speed(1000.0, 1.0, 0.0)] * 3,
    }
    found = throughput.ratios(speeds, "uniform")
    assert found["vs_quix"] == Figure(200 / 50, "×", 2.5, [2.0, 3.0, 5.0])
    assert found["share_of_raw"] == Figure(0.2, "of raw", 0.12, [0.1, 0.3, 0.2])
    assert found["vs_quix_cpu"] == Figure(4.5, "×", None, [4.0, 5.0, 2.25])


def test_growth_is_the_steepest_axis_but_the_catalogues() -> None:
    found = growth.figures_of(
        {
            "catalogue": [(10, Cost(1.0, 1.0)), (1000, Cost(9.0, 1.0))],
            "users": [(10, Cost(2.0, 1.0)), (100, Cost(2.5, 1.0)), (1000, Cost(3.0, 1.0))],
            "window": [(50, Cost(2.0, 1.0)), (500, Cost(4.0, 1.0))],
        }
    )
    values = {key: figure.value for key, figure in found.items() if key.startswith("growth")}
    assert values == {"growth_catalogue": 9.0, "growth_users": 1.5, "growth_window": 2.0, "growth": 2.0}


def test_a_point_never_scores_more_than_it_can_afford() -> None:
    points = [point for axis in growth.AXES.values() for _, point in axis]
    assert all(
        point.items * sum(point.events) <= 2 * max(growth.SLOW, 2000 * point.items) for point in points
    )
    assert growth.Point(users=10).events == (20, growth.COUNTED)


def test_soak_thins_to_medians_and_finds_the_slope() -> None:
    samples = [100.0 + n for n in range(960)]
    thin = soak.thinned(samples)
    assert len(thin) == soak.POINTS
    assert thin[0] == 101.5  # of 100, 101, 102, 103
    assert soak.slope_per_h(samples) == pytest.approx(3600 / memory.RSS_EVERY_S)
    assert soak.thinned([1.0, 2.0]) == [1.0, 2.0]


def test_latencies_are_counted_in_a_histogram_of_three_digits() -> None:
    pytest.importorskip("hdrh")
    from benchmarks.latency import histogram

    made = histogram([n / 1000 for n in range(1, 1001)])  # 1 to 1000 ms
    assert made.get_value_at_percentile(50) / 1000 == pytest.approx(500, rel=2e-3)
    assert made.get_value_at_percentile(99.9) / 1000 == pytest.approx(999, rel=2e-3)


# ---------------------------------------------------------------------- the same job
PLACE = (0, 7)


def listed(*items: tuple[str, float, str | None], version: int = 1) -> Recommendations:
    return Recommendations(
        "u", version, 0, 0, "m", "model", [Recommendation(*item) for item in items], Source("events", *PLACE)
    )


OURS = listed(("a", 3.0, "x"), ("b", 2.0, "x"), ("c", 1.0, "y"))


def test_lists_are_the_same_up_to_the_last_bits_and_the_order_of_ties() -> None:
    tied = listed(("a", 3.0, "x"), ("b", 2.0, "x"), ("d", 1.0, "y"))
    swapped = listed(("b", 2.9999, "x"), ("a", 3.0, "x"), ("c", 1.0001, "y"))
    near = listed(("a", 3.0, "x"), ("b", 2.9999, "x"), ("c", 1.0, "y"))
    assert outputs.same_list(OURS, tied)  # c and d score the same: either may be the third of three
    assert outputs.same_list(near, swapped)


@pytest.mark.parametrize(
    "other",
    [
        listed(("a", 3.0, "x"), ("b", 2.0, "x")),
        listed(("b", 3.0, "x"), ("a", 2.0, "x"), ("c", 1.0, "y")),
        listed(("d", 3.0, "x"), ("b", 2.0, "x"), ("c", 1.0, "y")),
        listed(("a", 3.1, "x"), ("b", 2.0, "x"), ("c", 1.0, "y")),
        listed(("a", 3.0, "x"), ("b", 2.0, "x"), ("c", 1.0, "y"), version=2),
        listed(("a", 3.0, "x"), ("b", 2.0, "y"), ("c", 1.0, "y")),
    ],
    ids=["short", "swapped", "another item", "another score", "another version", "another reason"],
)
def test_a_contestant_with_other_lists_is_disqualified(other: Recommendations) -> None:
    assert outputs.compare_lists("peer", {PLACE: OURS}, {PLACE: OURS}) == 1
    with pytest.raises(WrongOutput, match="peer"):
        outputs.compare_lists("peer", {PLACE: other}, {PLACE: OURS})


def test_a_contestant_without_a_list_for_the_same_event_is_disqualified() -> None:
    with pytest.raises(WrongOutput, match="nothing to compare"):
        outputs.compare_lists("peer", {(0, 8): OURS}, {PLACE: OURS})


def test_a_profile_must_have_every_interest_and_the_heads_probabilities() -> None:
    def profile(*shares: tuple[str, float], windows: tuple[str, ...] = ("1h", "24h")) -> Profile:
        interests = {"short_term": [Label("g", 1.0)], "category": [Label(*share) for share in shares]}
        return Profile("u", 1, 0, 0, "m", interests, {each: {} for each in windows}, Source("events", *PLACE))

    ours = {PLACE: profile(("a", 0.7), ("b", 0.3))}
    assert outputs.compare_profiles("peer", {PLACE: profile(("a", 0.7001), ("b", 0.3))}, ours) == 1
    for wrong in (
        profile(("a", 0.6), ("b", 0.4)),
        profile(("a", 0.7)),
        profile(("a", 0.7), ("b", 0.3), windows=("1h",)),
    ):
        with pytest.raises(WrongOutput, match="peer"):
            outputs.compare_profiles("peer", {PLACE: wrong}, ours)


def test_a_peer_that_is_not_installed_is_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [each.name for each in present(["quix"])] == ["headwater"]
    assert "quix is left out: quixstreams is not installed" in capsys.readouterr().out
    assert {each.name for each in PEERS} == {"plain_faust", "quix", "kafka_streams", "bytewax"}


def test_the_per_event_job_makes_the_same_lists_as_the_model(artefact: Path, tmp_path: Path) -> None:
    import numpy as np

    from benchmarks.peers.job import TOP_K, Job, State
    from streamer.core.event_types import EventTypes
    from streamer.core.features import gap_feature, value_feature
    from streamer.serving.model import Model

    made = workloads.uniform(users=1, items=60)
    items = tmp_path / "items.json"
    items.write_bytes(msgspec.json.encode({item.item_id: item.categories for item in made.items}))
    job, model, types = Job(artefact, items), Model.load(artefact), EventTypes.DEFAULT
    stored: bytes | None = None
    state, seen, last = np.zeros((1, model.hidden), np.float32), set(), -1
    for offset, (_, value) in enumerate(itertools.islice(made.events(130, 0), 130)):
        handled = job.handle(stored, value, 3, offset)
        stored = handled.state
        event = json.loads(value)
        row, kind = int(event["item_id"][1:]), types.by_name[event["type"]]
        now, code = np.array([event["timestamp_ms"]]), np.array([kind.code], np.uint8)
        state = model.step(
            state,
            model.item_vectors[row][None],
            code.astype(np.int64),
            gap_feature(now, np.array([last])),
            value_feature(np.array([event.get("value", 0.0)], np.float32), code, types),
        )
        last = event["timestamp_ms"]
        if kind.consumes:
            seen.add(row)
        excluded = np.array([(0, each) for each in sorted(seen)], np.int64).reshape(-1, 2)
        scores, rows = model.score(state, model.item_vectors, model.item_bias, excluded, TOP_K)
        found = msgspec.json.decode(handled.recommendations, type=Recommendations)
        kept = rows[0] >= 0
        assert [item.item_id for item in found.items] == [f"i{each}" for each in rows[0][kept]]
        assert [item.score for item in found.items] == pytest.approx(scores[0][kept].tolist(), abs=1e-5)
        assert found.source == Source("events", 3, offset)
        assert found.version == offset + 1
    kept_state = msgspec.msgpack.decode(stored or b"", type=State)
    assert len(kept_state.times) == len(kept_state.rows) == len(kept_state.codes) == 100
    profile = msgspec.json.decode(handled.profiles, type=Profile)
    assert sum(profile.activity["7d"].values()) == 100
    assert set(profile.interests) == {"short_term", "long_term", *model.heads}


# ---------------------------------------------------------------------- the snapshot of the signals
def test_the_snapshot_that_is_measured_holds_what_was_counted() -> None:
    shared, spent = snapshot.counted(4_000, 300)
    found = snapshot.measure(shared, spent)
    assert len(spent) == 2
    assert found["edges"].value > 10_000
    assert found["snapshot"].value > 0.01
    assert {"counting", "copying", "packing", "unpacking", "restoring", "records", "items"} < set(found)


# ---------------------------------------------------------------------- states
def test_users_that_have_lived_can_be_read_back() -> None:
    made = dict(records(lived(2, 4, 50), range(5), 1000))
    assert len(made) == 5
    for turn, (user, pairs) in enumerate(made.items()):
        states = UserStates.load([user], dict(pairs).get, 4, WINDOW, EventTypes.DEFAULT)
        assert states.heads["applied"].tolist() == [1000 + turn]
        assert states.heads["version"].tolist() == [EVENTS_EACH]
        assert states.windows.entries(np.array([0]))[1].tolist() == [WINDOW]
