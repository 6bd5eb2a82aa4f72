from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from model_export.batches import NEVER, Batches
from model_export.event_log import LogOptions, load_log
from model_export.interactions import (
    NONE,
    Interactions,
    InteractionsBuilder,
    category_labels,
    category_targets,
)
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError
from streamer.transport import log_reader
from streamer.transport.log_reader import LogRecord

TYPES = EventTypes.DEFAULT
RATING = TYPES.by_name["rating"].code


def ratings(*events: tuple[str, str, int]) -> Interactions:
    """(user, item, second) each."""
    builder = InteractionsBuilder(TYPES)
    for user, item, second in events:
        builder.add(user, item, "rating", second * 1000, 5.0)
    return builder.build()


def test_recbole_folder(tmp_path: Path) -> None:
    (tmp_path / "toy.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\ti2\t4\t12.5\nv\ti1\t2\t3\n"
    )
    (tmp_path / "toy.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\ni1\tHeat\t1995\tCrime Drama\n"
    )
    data = load_log(str(tmp_path), TYPES)
    assert data.users == ["u", "v"]
    assert data.items == [
        ItemRecord("i1", "Heat (1995)", categories=["Crime", "Drama"]),
        ItemRecord("i2", ""),
    ]
    assert data.item.tolist() == [1, 0]
    assert data.timestamp_ms.tolist() == [12_500, 3_000]
    assert data.value.tolist() == [4, 2]
    assert data.type.tolist() == [RATING, RATING]


def test_csv_with_other_column_names_and_a_catalogue(tmp_path: Path) -> None:
    log, items = tmp_path / "log.csv", tmp_path / "items.jsonl"
    log.write_text("uid,item_id,type,at,text\nu,,search,1,a comedy\nu,x,view,2,ignored\n")
    items.write_text('{"item_id": "y", "title": "Why"}\n')
    options = LogOptions({"user_id": "uid", "timestamp_s": "at"}, str(items))
    data = load_log(str(log), TYPES, options)
    assert data.item_ids == ["y", "x"]
    assert data.item.tolist() == [NONE, 1]
    assert data.timestamp_ms.tolist() == [1000, 2000]
    assert (data.texts, data.text.tolist()) == (["a comedy"], [0, NONE])


def test_parquet_with_timestamps(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "user_id": [1, 1],
            "item_id": [7, None],
            "at": pyarrow.array([1_000_000, 2_500_000], pyarrow.timestamp("us")),
            "value": [3.0, None],
        }
    )
    parquet.write_table(table, tmp_path / "log.parquet")
    data = load_log(str(tmp_path / "log.parquet"), TYPES, LogOptions({"timestamp_ms": "at"}))
    assert data.timestamp_ms.tolist() == [1000, 2500]
    assert data.type.tolist() == [RATING, TYPES.by_name["view"].code]
    assert data.item.tolist() == [0, NONE]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "no column 'user_id'"),
        ("user_id,item_id,timestamp_ms\n", "holds no event"),
        ("user_id,item_id\nu,i\n", "no column 'timestamp_ms"),
        ("user_id,item_id,timestamp_ms\nu,i,noon\n", "log.csv, row 1: 'timestamp_ms' is 'noon'"),
        ("user_id,item_id,timestamp_ms\n,i,5\n", "row 1: 'user_id' is empty"),
        ("user_id,item_id,timestamp_ms,type\nu,i,5,teleport\n", "unknown event type 'teleport'"),
        ("user_id,item_id,timestamp_ms\nu,,5\n", "no event of the log has an item_id"),
    ],
)
def test_an_unusable_csv_is_a_sentence(content: str, sentence: str, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(content)
    with pytest.raises(DataError, match=sentence):
        load_log(str(log), TYPES)


def test_a_log_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no event log at"):
        load_log(str(tmp_path / "nothing"), TYPES)
    with pytest.raises(DataError, match="names no topic"):
        load_log("kafka://localhost:9092", TYPES)
    with pytest.raises(DataError, match=r"is no log that can be read: .* a folder of Last\.fm-2K"):
        load_log(str(tmp_path), TYPES)
    for name in "ab":
        (tmp_path / f"{name}.inter").touch()
    with pytest.raises(DataError, match=r"exactly one \.inter file \(found: a\.inter, b\.inter\)"):
        load_log(str(tmp_path), TYPES)


def test_a_broken_movielens_folder_is_not_taken_for_another_format(tmp_path: Path) -> None:
    (tmp_path / "ml-100k.inter").write_text("h\th\th\th\n1\t2\tfive\t3\n")
    (tmp_path / "ml-100k.item").write_text("h\th\th\th\n2\tHeat\t1995\tCrime\n")
    with pytest.raises(DataError, match=r"ml-100k\.inter:2"):
        load_log(str(tmp_path), TYPES)


def test_a_topic_is_read_as_the_worker_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def event(name: str, time_ms: int, **more: str) -> bytes:
        fields = {"event_id": name, "user_id": "u", "type": "view", "timestamp_ms": time_ms, "item_id": "a"}
        return json.dumps(fields | more).encode()

    item = b'{"item_id": "a", "title": "A"}'
    topics = {
        "x.items": [LogRecord(0, 0, 0, b"a", item), LogRecord(0, 1, 0, b"b", b"no item")],
        "x.events": [
            LogRecord(0, 0, 9_000, b"u", event("1", 5_000)),
            LogRecord(0, 1, 9_000, b"u", event("1", 6_000)),  # a repeat
            LogRecord(0, 2, 9_000, b"u", event("2", 99_000)),  # ahead of the record's own time
            LogRecord(0, 3, 9_000, b"u", event("3", 7_000, type="teleport")),  # a dead letter
            LogRecord(1, 0, 9_000, b"u", event("4", 8_000, item_id="new")),
            LogRecord(1, 1, 9_000, b"u", event("5", 8_500, type="refresh", item_id="other")),
        ],
    }
    asked: list[object] = []

    def read_log(brokers: str, topic: str, until: object = None) -> list[LogRecord]:
        asked.append((brokers, topic, until))
        return topics[topic]

    monkeypatch.setattr(log_reader, "read_log", read_log)
    said: list[str] = []
    data = load_log("kafka://h:1,i:2/x.events", TYPES, LogOptions(until={0: 4, 1: 2}), said.append)
    assert asked == [("h:1,i:2", "x.items", None), ("h:1,i:2", "x.events", {0: 4, 1: 2})]
    assert data.items == [ItemRecord("a", "A"), ItemRecord("new", "")]
    assert data.timestamp_ms.tolist() == [5_000, 9_000, 8_000]
    assert said == [
        "x.events: 3 events read, 1 left out that a worker rejects",
        "left out: 1 requests for a fresh list",
    ]


def test_split_by_time_keeps_ties_together_and_orders_them_by_seed() -> None:
    data = ratings(*[("u", f"i{n}", n // 4) for n in range(16)])
    past, rest = data.split(0.6, seed=1)  # 9.6 events: the cut falls into the third moment
    assert rest is not None
    assert len(past) == 8
    assert past.timestamp_ms.max() < rest.timestamp_ms.min()
    assert past.item.tolist() == data.split(0.6, seed=1)[0].item.tolist()
    assert any(past.item.tolist() != data.split(0.6, seed)[0].item.tolist() for seed in range(2, 6))
    assert data.split(1.0, seed=1)[1] is None
    with pytest.raises(DataError, match="no event lies before"):
        data.split(0.1, seed=1)


def test_features_are_those_of_the_worker() -> None:
    data = ratings(("u", "a", 0), ("v", "a", 1), ("u", "b", 60))
    history = next(history for history in data.histories(TYPES) if len(history) == 2)
    assert history.gap.tolist() == pytest.approx([0, np.log1p(60) / 16])
    assert history.value.tolist() == [0.5, 0.5]  # 5 of 0..10
    assert history.rows.tolist() == [0, 2]


def test_items_that_never_occur_are_not_trained() -> None:
    builder = InteractionsBuilder(TYPES)
    for item in ("cold", "warm"):
        builder.add_item(ItemRecord(item, item))
    builder.add("u", "warm", "view", 1)
    builder.add("u", None, "search", 2, text="x")
    known = builder.build().known_items_only()
    assert known.item_ids == ["warm"]
    assert known.item.tolist() == [0, NONE]


def test_category_targets_are_distributions() -> None:
    items = [
        ItemRecord("a", "", categories=["X", "Y"]),
        ItemRecord("b", "", categories=["Y"]),
        ItemRecord("c", ""),
    ]
    labels = category_labels(items)
    assert labels == ["X", "Y"]
    assert category_targets(items, labels).tolist() == [[0.5, 0.5], [0, 1], [0, 0]]
    assert category_labels(items, most=1) == ["Y"]


def test_a_batch_masks_what_was_consumed_and_never_a_target() -> None:
    builder = InteractionsBuilder(TYPES)
    for second, (item, kind) in enumerate((("a", "view"), ("a", "rating"), ("b", "rating"), ("a", "rating"))):
        builder.add("u", item, kind, second * 1000)
    data = builder.build()
    batches = Batches(data.histories(TYPES), 2, TYPES, events=100, chunk=50)
    (chunks,) = batches.epoch(np.random.default_rng(0))
    batch = batches.assemble(chunks)
    assert batch.item.tolist() == [[0, 0, 1]]
    assert batch.next_item.tolist() == [[0, 1, NONE]]  # a was rated before: it would not be recommended again
    assert batch.consumed_at.tolist() == [[1, 2]]  # the view did not consume it


def test_chunks_cover_every_target_once_and_remember_what_came_before() -> None:
    data = ratings(*[("u", f"i{n}", n) for n in range(50)])
    batches = Batches(data.histories(TYPES), 50, TYPES, events=30, chunk=20)
    for seed in range(5):
        targets: list[int] = []
        for chunks in batches.epoch(np.random.default_rng(seed)):
            batch = batches.assemble(chunks)
            targets += batch.next_item[batch.next_item != NONE].tolist()
            for row in range(len(chunks)):
                first = int(batch.item[row, 0])
                assert batch.gap[row, 0] == 0
                assert (batch.consumed_at[row, :first] < 0).all()
                assert int(batch.consumed_at[row, 49]) == NEVER
        assert sorted(targets) == list(range(1, 50))
