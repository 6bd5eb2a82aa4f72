from __future__ import annotations

import numpy as np
import pytest

from model_export.cleaning import clean, describe_items, standing, weigh_by_value
from model_export.interactions import InteractionsBuilder
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord
from streamer.errors import DataError

TYPES = EventTypes.DEFAULT
NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


def builder(*events: tuple[str, str, int, float]) -> InteractionsBuilder:
    """Ratings: user, item, ms before now, value."""
    made = InteractionsBuilder(TYPES)
    for user, item, ago_ms, value in events:
        made.add(user, item, "rating", NOW_MS - ago_ms, value)
    return made


def test_repeats_and_impossible_times_are_left_out_and_said() -> None:
    data = builder(
        ("u", "a", 9, 4), ("u", "a", 9, 4), ("u", "a", 9, 5), ("v", "a", 8, 4), ("v", "b", -2 * DAY_MS, 4), ("v", "c", 7, 4)
    ).build()  # fmt: skip
    said: list[str] = []
    kept = clean(data, TYPES, NOW_MS, said.append)
    assert kept.value.tolist() == [4, 5, 4, 4]
    assert said[0].startswith(
        "left out: 1 of 6 events with a time before 1970 or in the future (the first such time is"
    )
    assert said[1] == "left out: 1 exact repeats of an event"
    assert "items have no text" in said[2]


def test_a_log_in_the_future_is_a_wrong_unit() -> None:
    data = builder(("u", "a", -3 * DAY_MS, 4), ("v", "a", -3 * DAY_MS, 4), ("v", "b", 1, 4)).build()
    with pytest.raises(DataError, match=r"2 of 3 events are with a time .* --column timestamp_s=COLUMN"):
        clean(data, TYPES, NOW_MS)


def test_values_out_of_range_name_the_range() -> None:
    data = builder(("u", "a", 3, 80), ("v", "a", 2, 90), ("v", "b", 1, 4)).build()
    with pytest.raises(DataError, match=r"2 of 3 .*--event-types \(a rating of 80, taken are 0 to 10\)"):
        clean(data, TYPES, NOW_MS)


def test_one_user_is_no_log_to_learn_from() -> None:
    with pytest.raises(DataError, match=r"all 2 events are of one user, 'u'.*--column user_id=COLUMN"):
        clean(builder(("u", "a", 2, 4), ("u", "b", 1, 4)).build(), TYPES, NOW_MS)


def test_order_and_dangling_users_are_said() -> None:
    made = builder(("u", "a", 1, 4), ("v", "a", 2, 4), ("u", "b", 3, 4))
    made.add_item(ItemRecord("a", "A"))
    made.add_item(ItemRecord("b", "B"))
    for pair in (("u", "v"), ("u", "x"), ("x", "y"), ("x", "y"), ("z", "z")):
        made.add_friend(*pair)
    said: list[str] = []
    clean(made.build(), TYPES, NOW_MS, said.append)
    assert said[0].startswith("the log is not in time order (2 steps back)")
    assert said[1].startswith("2 users of the graph have no event")
    assert "1 of 3 pairs" in said[1]


def test_standing_is_the_users_own_scale() -> None:
    rows = [("mild", f"m{n}", n, 5.0 if n % 2 else 4.0) for n in range(40)]
    rows += [("harsh", f"h{n}", n, 2.0 if n % 2 else 1.0) for n in range(40)]
    data = builder(*rows).build()
    found = standing(data, TYPES)
    liked = data.value % 3 == 2  # 5 of the mild one, 2 of the harsh one
    assert found[liked].min() > 0.4
    assert found[~liked].max() < -0.4
    weighed = weigh_by_value(data, TYPES, 0.5)
    assert weighed.weight[liked].min() > 1 > weighed.weight[~liked].max()
    assert weighed.weight.mean() == pytest.approx(data.weights(TYPES).mean(), rel=1e-5)
    history = weighed.histories(TYPES)[0]
    np.testing.assert_array_equal(history.weight, weighed.weight[history.rows])


def test_types_without_values_stand_nowhere() -> None:
    made = InteractionsBuilder(TYPES)
    for user in "uv":
        made.add(user, "a", "purchase", 1, 900.0)
    assert standing(made.build(), TYPES).tolist() == [0, 0]


def test_items_without_text_are_described_by_their_earliest_reviews() -> None:
    made = InteractionsBuilder(TYPES)
    made.add_item(ItemRecord("b", "Bass", text="four strings"))
    for item, text, time_ms in (("a", "later", 2), ("a", "first", 1), ("b", "ignored", 3)):
        made.add("u", item, "review", time_ms, 5, text)
    described = describe_items(made.build())
    assert [item.text for item in described.items] == ["four strings", "first later"]
    assert describe_items(made.build(), most=5).items[1].text == "first"
