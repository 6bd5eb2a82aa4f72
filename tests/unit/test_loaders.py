from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model_export.event_log import LogOptions, load_log
from model_export.interactions import NONE, Interactions
from model_export.loaders.catalogues import categories_of
from model_export.loaders.cells import id_of, time_ms_of
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError

TYPES = EventTypes.DEFAULT


def load(path: Path | list[str], **options: object) -> tuple[Interactions, list[str]]:
    said: list[str] = []
    source = path if isinstance(path, list) else str(path)
    return load_log(source, TYPES, LogOptions(**options), said.append), said  # type: ignore[arg-type]


def names(data: Interactions) -> list[str]:
    return [TYPES.by_code[int(code)].name for code in data.type]


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (1_396_437_466.94, 1_396_437_466_940),
        ("1396437466", 1_396_437_466_000),
        (1_396_437_466_940, 1_396_437_466_940),
        (1_396_437_466_940_000, 1_396_437_466_940),
        (1_396_437_466_940_000_000, 1_396_437_466_940),
        ("2014-04-02T11:17:46.940Z", 1_396_437_466_940),
        ("2014-04-02T13:17:46.940+02:00", 1_396_437_466_940),
        ("2014-04-02 11:17:46", 1_396_437_466_000),
        ("11/12/2019 2:14:46 PM", ms(2019, 11, 12, 14, 14, 46)),
        ("02 28, 2014", ms(2014, 2, 28)),
        ("31/12/2010 08:26", ms(2010, 12, 31, 8, 26)),
        (datetime(2014, 4, 2), ms(2014, 4, 2)),
        (datetime(2014, 4, 2).date(), ms(2014, 4, 2)),
    ],
)
def test_times_of_many_forms(found: object, expected: int) -> None:
    assert time_ms_of(found, "row 1", "at") == expected


def test_a_time_of_no_known_form_says_how_to_name_it() -> None:
    with pytest.raises(DataError, match=r"row 1: 'at' is '2\.4\.14', which is no number .* --time-format"):
        time_ms_of("2.4.14", "row 1", "at")
    assert time_ms_of("2.4.14", "row 1", "at", time_format="%d.%m.%y") == ms(2014, 4, 2)
    with pytest.raises(DataError, match="does not fit the time format"):
        time_ms_of("2014", "row 1", "at", time_format="%d.%m.%y")


def test_ids_of_many_forms() -> None:
    assert [id_of(found, "", "id") for found in (17850.0, 7, " a ", b"x", "00012")] == [
        "17850",
        "7",
        "a",
        "x",
        "00012",
    ]
    with pytest.raises(DataError, match="has 300 bytes"):
        id_of("x" * 300, "row 1", "id")
    for empty in (None, "", "  ", float("nan")):
        with pytest.raises(DataError, match="'id' is empty"):
            id_of(empty, "row 1", "id")


def test_categories_of_many_forms() -> None:
    for found in ("A|B", "['A', 'B']", [["A", "B"], ["A"]], ["A", "B"], "A;B", "A,B"):
        assert categories_of(found) == ["A", "B"]
    assert categories_of(None or "") == []


def test_lastfm(tmp_path: Path) -> None:
    (tmp_path / "artists.dat").write_text("id\tname\turl\tpictureURL\n1\tMoonspell\tu\tp\n2\tNobody\tu\tp\n")
    (tmp_path / "tags.dat").write_text("tagID\ttagValue\n1\tmetal\n2\tloud\n")
    (tmp_path / "user_taggedartists.dat").write_text(
        "userID\tartistID\ttagID\tday\tmonth\tyear\n"
        + "".join(f"{user}\t1\t1\t1\t4\t2009\n" for user in (7, 8, 9))
        + "7\t1\t2\t1\t4\t2009\n7\t1\t1\t1\t1\t1956\n"
    )
    (tmp_path / "user_friends.dat").write_text("userID\tfriendID\n7\t8\n8\t7\n7\t99\n")
    data, said = load(tmp_path)
    assert names(data) == ["tag"] * 3
    assert data.texts == ["metal, loud", "metal"]
    assert data.items == [ItemRecord("1", "Moonspell", categories=["metal"]), ItemRecord("2", "Nobody")]
    assert data.timestamp_ms.tolist() == [ms(2009, 4, 1)] * 3
    assert [[data.users[end] for end in pair] for pair in data.friends.tolist()] == [["7", "8"], ["7", "99"]]
    assert said == ["left out: 1 tag assignments dated before 2000"]
    (tmp_path / "user_taggedartists.dat").write_text("h\n7\t1\t1\t31\t2\t2009\n")
    with pytest.raises(DataError, match=r"user_taggedartists\.dat:2: day 31, month 2, year 2009 is no date"):
        load(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_amazon_of_2014(tmp_path: Path, packed: bool) -> None:
    row = {"reviewerID": "A", "asin": "B1", "overall": 5.0, "reviewText": "loud", "summary": "good"}
    text = json.dumps(row | {"unixReviewTime": 1393545600}) + "\n"
    file = tmp_path / ("Music.json.gz" if packed else "Music.json")
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    data, _ = load(file)
    assert (names(data), data.value.tolist(), data.texts) == (["review"], [5], ["good. loud"])
    assert data.timestamp_ms.tolist() == [1393545600000]


def test_amazon_of_2023(tmp_path: Path) -> None:
    file = tmp_path / "reviews.jsonl"
    row = {"rating": 4, "title": "ok", "text": "fine", "asin": "B1", "parent_asin": "P", "user_id": "A"}
    file.write_text(json.dumps(row | {"timestamp": 1588687728923}))
    data, _ = load(file)
    assert (data.item_ids, data.texts, data.timestamp_ms.tolist()) == (["P"], ["ok. fine"], [1588687728923])


def test_yoochoose_prepared_and_as_published(tmp_path: Path) -> None:
    (tmp_path / "yoochoose-clicks-1_train.txt").write_text("SessionId\tItemId\tTime\n3\t214\t1396437466.94\n")
    (tmp_path / "yoochoose-buys.dat").write_text("3,2014-04-02T11:44:11.179Z,215,12462,1\n")
    (tmp_path / "yoochoose-clicks.dat").write_text("1,2014-04-07T10:51:09.277Z,214,0\n")
    data, _ = load(tmp_path)
    assert names(data) == ["purchase", "click", "click"]
    assert [data.users[user] for user in data.user] == ["3", "3", "1"]
    assert data.timestamp_ms.tolist() == [1396439051179, 1396437466940, 1396867869277]


def test_online_retail_leaves_out_what_is_no_customers_purchase(tmp_path: Path) -> None:
    (tmp_path / "retail.csv").write_text(
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID\n"
        "1,85123A,LANTERN,6,2010-12-01 08:26:00,2.5,17850.0\n"
        "1,85123A,LANTERN,2,2010-12-01 08:26:00,2.5,17850.0\n"
        "2,85123A,LANTERN,1,2010-12-01 08:26:00,2.5,0\n"
        "2,85123A,LANTERN,1,2010-12-01 08:26:00,2.5,\n"
        "C3,85123A,LANTERN,-6,2010-12-02 08:26:00,2.5,17850\n"
        "3,POST,POSTAGE,1,2010-12-02 08:26:00,18,17850\n"
    )
    data, said = load(tmp_path / "retail.csv")
    assert (data.users, data.value.tolist(), names(data)) == (["17850"], [8], ["purchase"])
    assert data.items == [ItemRecord("85123A", "LANTERN", price=2.5)]
    assert said[0].startswith("left out: ")
    assert {"2 lines without a customer", "1 returns", "1 lines of fees"} <= set(said[0][10:].split(", "))


def test_mind(tmp_path: Path) -> None:
    (tmp_path / "news.tsv").write_text('N1\tsports\tsoccer\tA "big" win\tLong ago\turl\t[]\t[]\n')
    (tmp_path / "behaviors.tsv").write_text("5\tU1\t11/12/2019 2:14:46 PM\tN2 N3\tN1-1 N4-0\n")
    data, _ = load(tmp_path)
    now = ms(2019, 11, 12, 14, 14, 46)
    assert data.items[0] == ItemRecord("N1", 'A "big" win', "Long ago", ["sports", "soccer"])
    assert [data.item_ids[item] for item in data.item] == ["N2", "N3", "N1"]
    assert data.timestamp_ms.tolist() == [now - 120_000, now - 60_000, now]
    (tmp_path / "behaviors.tsv").write_text("5\tU1\t11/12/2019 2:14:46 PM\t\tN1\n")
    with pytest.raises(DataError, match=r"behaviors\.tsv:1: 'N1' does not say whether it was clicked"):
        load(tmp_path)


def test_movielens_1m_and_later(tmp_path: Path) -> None:
    old, new = tmp_path / "ml-1m", tmp_path / "ml-latest"
    for folder in (old, new):
        folder.mkdir()
    (old / "ratings.dat").write_text("1::7::5::978300760\n")
    (old / "movies.dat").write_text("7::Heat (1995)::Action|Crime\n")
    (new / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,7,5.0,978300760\n")
    (new / "movies.csv").write_text("movieId,title,genres\n7,Heat (1995),Action|Crime\n")
    assert load(old)[0].digest() == load(new)[0].digest()
    assert load(old)[0].items == [ItemRecord("7", "Heat (1995)", categories=["Action", "Crime"])]


def test_recbole_with_a_net(tmp_path: Path) -> None:
    (tmp_path / "toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\ti\t12.5\n")
    (tmp_path / "toy.net").write_text("source_id:token\ttarget_id:token\nu\tv\n")
    data, _ = load(tmp_path)
    assert (data.friends.tolist(), data.users, names(data)) == ([[0, 1]], ["u", "v"], ["view"])


def test_usual_names_and_words_need_no_map(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "timestamp,visitorid,event,itemid\n1433221332117,257597,addtocart,355908\n"
    )
    data, _ = load(tmp_path / "log.csv")
    assert (data.users, data.item_ids, names(data)) == (["257597"], ["355908"], ["cart"])
    assert data.timestamp_ms.tolist() == [1433221332117]


def test_requests_in_a_table_of_the_products_own_log_are_no_events(tmp_path: Path) -> None:
    rows = "u,a,view,1\nu,,refresh,2\nu,b,view,3\n"
    (tmp_path / "log.csv").write_text("user_id,item_id,type,timestamp_s\n" + rows)
    data, said = load(tmp_path / "log.csv")
    assert (names(data), data.item_ids) == (["view", "view"], ["a", "b"])
    assert any("1 requests for a fresh list" in each for each in said)


@pytest.mark.parametrize("separator", ["\t", ";", "|"])
def test_other_separators(tmp_path: Path, separator: str) -> None:
    lines = (("user_id", "item_id", "time"), ("u", "i", "2014-04-02"))
    (tmp_path / "log.txt").write_text("".join(separator.join(line) + "\n" for line in lines))
    assert load(tmp_path / "log.txt")[0].timestamp_ms.tolist() == [ms(2014, 4, 2)]


def test_several_logs_with_their_types_are_one(tmp_path: Path) -> None:
    (tmp_path / "views.csv").write_text("user_id,item_id,timestamp_s\nu,a,1\nv,b,2\n")
    (tmp_path / "sold.jsonl").write_text('{"user": "u", "item": "a", "ts": 3}\n')
    (tmp_path / "friends.csv").write_text("user_id,friend_id\nu,w\n")
    sources = [f"view={tmp_path / 'views.csv'}", f"purchase={tmp_path / 'sold.jsonl'}"]
    data, _ = load(sources, graph=tmp_path / "friends.csv")
    assert (names(data), data.item.tolist()) == (["view", "view", "purchase"], [0, 1, 0])
    assert (data.users, data.friends.tolist()) == (["u", "v", "w"], [[0, 2]])


def test_a_follow_is_an_edge_and_an_event(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,type,target_user_id,timestamp_s\nu,,follow,v,1\nv,a,like,,2\n"
    )
    data, _ = load(tmp_path / "log.csv")
    assert (data.friends.tolist(), data.item.tolist()) == ([[0, 1]], [NONE, 0])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("log.jsonl", '{"user_id": 1\n', "log.jsonl:1 is no JSON object"),
        ("log.parquet", "no", "is not a Parquet file"),
        ("log.csv", "user_id,item_id,timestamp_s\nu,a,1\nv,b,soon\n", "row 2: 'timestamp_s' is 'soon'"),
        (
            "log.csv",
            "user_id,item_id,timestamp_s,value\nu,a,1,much\n",
            "row 1: 'value' is 'much', which is no number",
        ),
        ("log.xlsx", "no", "is no log that can be read"),
    ],
)
def test_an_unreadable_file_is_a_sentence(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=sentence):
        load(tmp_path / name)


def test_bad_options_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp_s\nu,a,1\n")
    for options, sentence in (
        ({"columns": {"colour": "c"}}, "'colour' is no column of an event log"),
        ({"columns": {"user_id": "uid"}}, "no column 'uid', only user_id, item_id"),
        ({"graph": tmp_path / "none.csv"}, "there is no graph at"),
        ({"items": str(tmp_path / "none.csv")}, "there is no catalogue at"),
    ):
        with pytest.raises(DataError, match=sentence):
            load(tmp_path / "log.csv", **options)
    (tmp_path / "one.csv").write_text("user_id\nu\n")
    with pytest.raises(DataError, match="a graph has two, user_id and friend_id"):
        load(tmp_path / "log.csv", graph=tmp_path / "one.csv")
    with pytest.raises(DataError, match="no column of item ids, only user_id"):
        load(tmp_path / "log.csv", items=str(tmp_path / "one.csv"))


@pytest.mark.parametrize(
    ("folder", "events", "users", "friends"),
    [
        ("lastfm-2k", 85_011, 1_892, 12_717),
        ("amazon-musical-instruments", 10_261, 1_429, 0),
        ("yoochoose-100k", 83_846, 21_210, 0),
        ("mind-sample", 146_474, 4_637, 0),
    ],
)
def test_real_files(data_sets: Path, folder: str, events: int, users: int, friends: int) -> None:
    data, _ = load(data_sets / folder)
    assert (len(data), len(data.users), len(data.friends)) == (events, users, friends)


def test_real_online_retail(data_sets: Path) -> None:
    data, said = load(data_sets / "uci-online-retail")
    assert (len(data), len(data.items)) == (386_278, 3_659)
    assert "133,358 lines without a customer" in said[0]
    assert "0" not in data.users
