"""Any log in: formats, ways to write a time, what is missing, what is left out, and what is said when nothing can be done."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.quality import training
from benchmarks.quality.log import Log, Source, load
from benchmarks.quality.reading import read_columns
from benchmarks.quality.times import joined, milliseconds
from model_export.social import MetUsers
from streamer.core.event_types import EventTypes
from streamer.errors import DataError

MAY_DAY_MS = 1_714_564_800_000
"""2024-05-01 12:00 UTC"""
ROWS = [(f"u{n % 7}", f"i{n % 11}", 1_700_000_000 + 60 * n) for n in range(40)]


def write(tmp_path: Path, name: str, text: str) -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def table(separator: str, header: bool = True) -> str:
    lines = [separator.join(["who", "what", "when"])] if header else []
    return "\n".join(lines + [separator.join(map(str, row)) for row in ROWS]) + "\n"


def load_table(file: Path, **named: object) -> Log:
    return load(Source(file, "who", "what", "when", **named), seed=1)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- formats
@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::", " "])
def test_separators(tmp_path: Path, separator: str) -> None:
    found = read_columns(write(tmp_path, "log.txt", table(separator)), ["when", "who"])
    assert found.rows()[:2] == [("1700000000", "u0"), ("1700000060", "u1")]


def test_a_file_without_a_header_has_numbered_columns(tmp_path: Path) -> None:
    found = read_columns(write(tmp_path, "log.dat", table("::", header=False)), ["1", "2", "3"])
    assert len(found) == len(ROWS)
    assert found.row(0) == ("u0", "i0", "1700000000")


def test_atomic_files_name_their_columns_without_the_type(tmp_path: Path) -> None:
    file = write(tmp_path, "x.inter", "user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3.5\n")
    assert read_columns(file, ["item_id", "timestamp"]).row(0) == ("2", "3.5")


def test_parquet_json_lines_json_and_gzip_hold_the_same(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS, schema=["who", "what", "when"], orient="row")
    frame.write_parquet(tmp_path / "log.parquet")
    records = [dict(zip(("who", "what", "when"), row, strict=True)) for row in ROWS]
    lines = "\n".join(map(json.dumps, records))
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(table(",").encode()))
    files = [
        tmp_path / "log.parquet",
        write(tmp_path, "log.jsonl", lines),
        write(tmp_path, "log.json", json.dumps(records)),
        tmp_path / "log.csv.gz",
        write(tmp_path, "log.csv", table(",")),
    ]
    logs = [load_table(file) for file in files]
    for log in logs[1:]:
        assert log.user.tolist() == logs[0].user.tolist()
        assert log.item.tolist() == logs[0].item.tolist()
        assert log.time_ms.tolist() == logs[0].time_ms.tolist()


def test_quotes_hold_separators_and_a_lone_quote_does_no_harm(tmp_path: Path) -> None:
    quoted = write(tmp_path, "q.csv", 'id,title\n1,"Man, The"\n2,plain\n')
    assert read_columns(quoted, ["title"]).to_series().to_list() == ["Man, The", "plain"]
    lone = write(tmp_path, "l.tsv", 'id\ttitle\n1\t12" vinyl\n2\tplain\n')
    assert read_columns(lone, ["title"]).to_series().to_list() == ['12" vinyl', "plain"]


def test_columns_are_found_whatever_their_case(tmp_path: Path) -> None:
    file = write(tmp_path, "log.csv", "WHO,Who,What\n1,2,3\n")
    assert read_columns(file, ["Who", "what"]).row(0) == ("2", "3")


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    file = write(tmp_path, "log.csv", table(","))
    with pytest.raises(DataError, match="has no column 'user'; its columns are who, what, when"):
        read_columns(file, ["user"])
    with pytest.raises(DataError, match="there is no file"):
        read_columns(tmp_path / "none.csv", ["who"])
    with pytest.raises(DataError, match="is empty"):
        read_columns(write(tmp_path, "empty.csv", ""), ["who"])
    (tmp_path / "log.xlsx").write_bytes(b"PK\x03\x04...")
    with pytest.raises(DataError, match="save the sheet as CSV"):
        read_columns(tmp_path / "log.xlsx", ["who"])
    with pytest.raises(DataError, match="is a folder"):
        read_columns(tmp_path, ["who"])
    with pytest.raises(DataError, match="is no JSON"):
        read_columns(write(tmp_path, "bad.jsonl", "{\n" * 30), ["who"])


# ---------------------------------------------------------------------- times
@pytest.mark.parametrize(
    "written",
    [
        "2024-05-01T12:00:00Z",
        "2024-05-01 12:00:00",
        "2024-05-01T14:00:00+02:00",
        "2024-05-01 12:00:00.000 UTC",
        "05/01/2024 12:00:00 PM",
        "Wed May 01 12:00:00 +0000 2024",
        "1714564800",
        "1714564800.0",
        "1714564800,0",
        "1714564800000",
        "1714564800000000",
        "1714564800000000000",
    ],
)
def test_moments(written: str) -> None:
    assert milliseconds(pl.Series("t", [written, None]))[0].to_list() == [MAY_DAY_MS, None]


@pytest.mark.parametrize(
    "written", ["2024-05-01", "20240501", 20240501, "05 1, 2024", "01.05.2024", "May 1, 2024"]
)
def test_days(written: object) -> None:
    assert milliseconds(pl.Series("t", [written]))[0].to_list() == [MAY_DAY_MS - 43_200_000]


def test_numbers_take_their_unit_from_the_median() -> None:
    assert milliseconds(pl.Series("t", [1_714_564_800, 1_714_564_801]))[1] == "epochs in s"
    assert milliseconds(pl.Series("t", [MAY_DAY_MS, MAY_DAY_MS, 5]))[1] == "epochs in ms"


def test_the_order_of_day_and_month_is_the_one_that_more_dates_have() -> None:
    found, form = milliseconds(pl.Series("t", ["25/12/2019 10:00", "26/12/2019 10:00", "01/12/2019 10:00"]))
    assert form == "texts like %d/%m/%Y %H:%M"
    assert found.is_sorted() is False
    assert found.null_count() == 0


def test_ways_to_write_a_time_may_mix_where_the_year_comes_first() -> None:
    found, _ = milliseconds(
        pl.Series("t", ["2024-05-01 12:00:00", "2024-05-01 12:00", "2024-05-01T12:00:00Z", "x"])
    )
    assert found.to_list() == [MAY_DAY_MS, MAY_DAY_MS, MAY_DAY_MS, None]


def test_a_date_in_three_columns() -> None:
    frame = pl.DataFrame({"day": ["1"], "month": ["5"], "year": ["2024"]})
    assert milliseconds(joined(frame, ["year", "month", "day"]))[0].to_list() == [MAY_DAY_MS - 43_200_000]


def test_what_is_no_time_is_said() -> None:
    with pytest.raises(DataError, match="holds 'soon', which is no time"):
        milliseconds(pl.Series("t", ["soon", "later"]))
    with pytest.raises(DataError, match="no time stamp at all"):
        milliseconds(pl.Series("t", [None, None], dtype=pl.Int64))


# ---------------------------------------------------------------------- logs
def test_rows_without_user_item_or_time_and_repeated_rows_are_left_out_and_said(tmp_path: Path) -> None:
    extra = "nan,i1,1700000000\nu1,,1700000000\nu1,i1,never\nu0,i0,1700000000\nu0,i0,1700000000\n"
    log = load_table(write(tmp_path, "log.csv", table(",") + extra))
    assert len(log) == len(ROWS)
    assert any(note.startswith("3 events left out: user, item or time") for note in log.notes)
    assert any(note.startswith("2 events left out: another has the same") for note in log.notes)


def test_whole_floats_are_the_ids_that_they_stand_for(tmp_path: Path) -> None:
    frame = pl.DataFrame({"who": [1.0, 2.0, None] * 20, "what": list(range(60)), "when": list(range(60))})
    frame.write_parquet(tmp_path / "log.parquet")
    log = load_table(tmp_path / "log.parquet")
    assert (log.users, len(log)) == (2, 40)


def test_events_are_in_time_order_and_ties_depend_on_the_seed(tmp_path: Path) -> None:
    tied = "who,what,when\n" + "".join(f"u{n % 5},i{n},{n // 20}\n" for n in range(60))
    file = write(tmp_path, "log.csv", tied)
    first, again, other = (load(Source(file, "who", "what", "when"), seed) for seed in (1, 1, 2))
    assert (np.diff(first.time_ms) >= 0).all()
    assert first.item.tolist() == again.item.tolist()
    assert first.item.tolist() != other.item.tolist()
    assert first.split(0.8) == 40  # a moment is never cut in two


def test_one_moment_for_all_is_refused(tmp_path: Path) -> None:
    log = load_table(
        write(tmp_path, "log.csv", "who,what,when\n" + "".join(f"u{n % 5},i{n},7\n" for n in range(60)))
    )
    with pytest.raises(DataError, match="leave-one-out"):
        log.split(0.8)


def test_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 usable events are too few"):
        load_table(write(tmp_path, "log.csv", "who,what,when\na,b,1\na,c,2\nb,c,3\n"))
    with pytest.raises(DataError, match="1 user"):
        load_table(
            write(tmp_path, "one.csv", "who,what,when\n" + "".join(f"a,i{n},{n}\n" for n in range(30)))
        )


def test_a_user_who_is_a_tenth_of_a_large_log_is_no_person(tmp_path: Path) -> None:
    rows = "".join(f"u{n % 300},i{n % 17},{n}\n" for n in range(900)) + "".join(
        f"0,i{n % 17},{n}\n" for n in range(300)
    )
    log = load_table(write(tmp_path, "log.csv", "who,what,when\n" + rows))
    assert (log.users, len(log)) == (300, 900)
    assert any("stands for unknown visitors" in note for note in log.notes)


def test_a_longer_log_is_cut_to_its_end(tmp_path: Path) -> None:
    log = load(Source(write(tmp_path, "log.csv", table(",")), "who", "what", "when"), 1, max_events=25)
    assert len(log) == 25
    assert log.time_ms[-1] == 1000 * ROWS[-1][2]


def test_types_by_name_by_synonym_and_of_their_own(tmp_path: Path) -> None:
    names = ["view", "AddToCart", "transaction", "wish for it!", ""]
    rows = "".join(f"u{n % 7},i{n % 11},{n},{names[n % 5]}\n" for n in range(50))
    log = load_table(write(tmp_path, "log.csv", "who,what,when,how\n" + rows), type="how")
    found = {each.name: each.code for each in log.types}
    assert found == {"view": 1, "cart": 5, "purchase": 6, "t17-wish-for-it": 17}
    assert np.bincount(log.type, minlength=18)[[1, 5, 6, 17]].tolist() == [20, 10, 10, 10]


def test_a_foreign_refresh_is_an_event_under_another_name(tmp_path: Path) -> None:
    rows = "".join(f"{u},{i},{t},{'refresh' if n % 4 == 0 else 'view'}\n" for n, (u, i, t) in enumerate(ROWS))
    log = load_table(write(tmp_path, "log.csv", "who,what,when,how\n" + rows), type="how")
    assert {each.name: each.code for each in log.types} == {"view": 1, "t17-refresh": 17}
    assert np.bincount(log.type, minlength=18)[[1, 17]].tolist() == [30, 10]


def test_more_types_than_there_are_codes_share_the_last(tmp_path: Path) -> None:
    rows = "".join(f"u{n % 7},i{n % 11},{n},kind{n % 40}\n" for n in range(400))
    log = load_table(write(tmp_path, "log.csv", "who,what,when,how\n" + rows), type="how")
    assert len(log.types) == 15
    assert log.type.max() == 31


def test_values_are_cut_to_the_range_that_most_have_and_may_be_missing(tmp_path: Path) -> None:
    values = [*map(str, range(1, 6)), "", "many", "1e9"]
    rows = "".join(
        f"u{n % 7},i{n % 11},{n},{values[n % 8] if n > 15 or n % 8 < 7 else 3}\n" for n in range(1600)
    )
    rows = rows.replace("1e9", "4", rows.count("1e9") - 1)
    log = load_table(write(tmp_path, "log.csv", "who,what,when,how\n" + rows), value="how")
    (rating,) = log.types
    assert (rating.name, rating.value_min, rating.value_max) == ("rating", 1.0, 5.0)
    assert np.nanmax(log.value) == 5.0
    assert 0.2 < np.isnan(log.value).mean() < 0.3


def test_texts_of_items_by_id_column_or_the_first(tmp_path: Path) -> None:
    log = write(tmp_path, "log.csv", table(","))
    items = write(
        tmp_path, "items.tsv", "id\tname\tkind\n" + "".join(f"i{n}\tItem {n}\tbook\n" for n in range(5))
    )
    found = load_table(log, items=items, item_text=("name", "kind"))
    assert found.has_text
    assert sorted(record.title for record in found.items)[-2:] == ["Item 3. book", "Item 4. book"]
    assert "5 of 11 items have a row in items.tsv" in found.notes
    with pytest.raises(DataError, match="needs --item-text"):
        load_table(log, items=items)
    with pytest.raises(DataError, match="no item of log"):
        load_table(log, items=write(tmp_path, "other.tsv", "id\tname\nx\tX\n"), item_text=("name",))


# ---------------------------------------------------------------------- friends
def test_friends_are_pairs_of_users_of_the_log(tmp_path: Path) -> None:
    events = write(tmp_path, "log.csv", table(","))
    graph = write(tmp_path, "friends.dat", "userID\tfriendID\nu0\tu1\nu1\tu0\nu2\tu2\nu3\tnobody\nu6\tu2\n")
    log = load_table(events, graph=graph)
    assert log.friends.tolist() == [[0, 1], [2, 6]]
    assert log.types.by_name["follow"].code == EventTypes.DEFAULT.by_name["follow"].code
    assert any("2 pairs of friends among 4 users" in note for note in log.notes)
    assert not len(load_table(events).friends)
    first = write(tmp_path, "net.csv", "a,b\nu0,u5\n")
    assert load_table(events, graph=first).friends.tolist() == [[0, 5]]


def test_graphs_that_say_nothing_are_refused(tmp_path: Path) -> None:
    events = write(tmp_path, "log.csv", table(","))
    strangers = write(tmp_path, "strangers.csv", "a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no pair of strangers\.csv names two users of the log"):
        load_table(events, graph=strangers)
    with pytest.raises(DataError, match="there is no graph at"):
        load_table(events, graph=tmp_path / "none.csv")


def test_a_log_with_friends_trains_a_model_that_knows_its_users(tmp_path: Path) -> None:
    graph = write(tmp_path, "friends.csv", "user_id,friend_id\nu0,u1\nu2,u3\n")
    log = load_table(write(tmp_path, "log.csv", table(",")), graph=graph)
    met = training.meeting(log, 7)
    assert met is not None
    content = np.random.default_rng(0).standard_normal((len(log.items), 384)).astype(np.float32)
    trained, _, _ = training.fit(log, content, 30.0, 7, met=met)
    assert (trained.data.type == met.type_code).any()
    assert len(trained.data.users) == 2 * log.users
    users = MetUsers.of([str(user) for user in range(log.users)], met)
    assert users is not None
    assert len(users.hashes) == log.users
    assert training.meeting(load_table(tmp_path / "log.csv"), 7) is None
