from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_export.interactions import NONE, Interactions, InteractionsBuilder
from model_export.social import (
    USER_ITEM,
    GraphConfig,
    MetUsers,
    aligned,
    as_content,
    graph_vectors,
    introduced,
    meet,
)  # fmt: skip
from streamer.core.event_types import EventTypes
from streamer.core.hashing import user_hash
from streamer.errors import DataError

TYPES = EventTypes.DEFAULT
CONFIG = GraphConfig(dim=16, epochs=25, batch_events=500)
FOLLOW = TYPES.by_name["follow"].code


def circles() -> Interactions:
    """Four circles of 25 friends with tastes of their own; the last five of each have no event, user `alone` no friend."""
    rng = np.random.default_rng(2)
    builder = InteractionsBuilder(TYPES)
    for circle in range(4):
        for user in range(25):
            for other in rng.choice(25, 6, replace=False).tolist():
                builder.add_friend(f"{circle}-{user}", f"{circle}-{other}")
            for place in range(10 if user < 20 else 0):
                item = f"{circle if rng.random() < 0.9 else int(rng.integers(4))}/{int(rng.integers(12))}"
                builder.add(f"{circle}-{user}", item, "like", place)
    builder.add_friend("stranger", "other stranger")
    return builder.build()


def test_users_without_events_lie_near_what_their_friends_like() -> None:
    data = circles()
    found = graph_vectors(data, TYPES, CONFIG)
    scores = found.users @ found.items.T
    taste = np.array([int(item.item_id[0]) for item in data.items])
    right = []
    for row, user in enumerate(data.users):
        if "-" in user and int(user[2:]) >= 20:
            right.append(taste[np.argsort(-scores[row])[:5]] == int(user[0]))
    assert np.mean(right) > 0.8  # of any: 0.25
    alone = graph_vectors(data, TYPES, GraphConfig(dim=16, epochs=1, friends=0.0))
    assert not alone.users[data.users.index("0-24")].any()


def test_who_is_out_of_reach_has_no_vector() -> None:
    data = circles()
    found = graph_vectors(data, TYPES, GraphConfig(dim=8, epochs=1))
    assert not found.users[data.users.index("stranger")].any()
    length = np.linalg.norm(found.users, axis=1)
    assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))


def test_the_same_seed_gives_the_same_vectors_and_the_loss_falls() -> None:
    losses: list[float] = []
    one = graph_vectors(circles(), TYPES, CONFIG, lambda epoch, loss: losses.append(loss))
    assert np.array_equal(one.users, graph_vectors(circles(), TYPES, CONFIG).users)
    assert losses[-1] < losses[0]


def test_content_keeps_the_cosines() -> None:
    vectors = graph_vectors(circles(), TYPES, GraphConfig(dim=8, epochs=1)).users
    content = as_content(vectors, 384)
    assert content.shape == (len(vectors), 384)
    np.testing.assert_allclose(content @ content.T, vectors @ vectors.T, atol=1e-5)
    with pytest.raises(DataError, match="graph vectors of 8 do not fit content of 4"):
        as_content(vectors, 4)


def test_a_known_user_is_met_before_the_first_event() -> None:
    builder = InteractionsBuilder(TYPES)
    for user, item, time_ms in (("u", "a", 5000), ("v", "a", 6000), ("u", "b", 7000)):
        builder.add(user, item, "like", time_ms)
    builder.add_friend("u", "silent")
    data = builder.build()
    met = introduced(data, np.array([True, False, True]), FOLLOW)
    assert met.texts == [USER_ITEM + user for user in ("u", "v", "silent")]
    ordered = met.in_time_order(0)
    assert [None if item == NONE else met.item_ids[item] for item in ordered.item] == [None, "a", "a", "b"]
    assert (ordered.type[0], ordered.text.tolist()) == (FOLLOW, [0, NONE, NONE, NONE])
    history = next(h for h in ordered.histories(TYPES) if len(h) == 3)
    assert history.gap[1] == pytest.approx(0, abs=1e-3)


def test_another_run_can_be_turned_to_lie_like_the_first() -> None:
    one = graph_vectors(circles(), TYPES, CONFIG)
    other = graph_vectors(circles(), TYPES, replace(CONFIG, seed=8))
    turned = aligned(other, one)
    assert (one.users * turned.users).sum(1).mean() > 0.6 > 0.3 > (one.users * other.users).sum(1).mean()
    np.testing.assert_allclose(turned.users @ turned.items.T, other.users @ other.items.T, atol=1e-4)


def test_a_training_log_introduces_nobody_with_what_is_to_come() -> None:
    data = circles()
    meeting = meet(data, TYPES, CONFIG)
    log, then, now = meeting.log, meeting.then, meeting.now
    met = np.flatnonzero((log.type == FOLLOW) & (log.item == NONE))
    cut = np.sort(data.timestamp_ms)[len(data) // 2]
    assert len(log) == len(data) + len(met)
    assert (log.timestamp_ms[met] >= cut - 1).all()
    assert {log.users[user] for user in log.user[met]} == {
        f"{u}#2" for u in data.users if "-" in u and int(u[2:]) < 20
    }
    half = data.take(np.flatnonzero(data.timestamp_ms < cut))
    alone = graph_vectors(half, TYPES, CONFIG)
    np.testing.assert_allclose(then @ then.T, alone.users @ alone.users.T, atol=1e-3)
    np.testing.assert_array_equal(now, graph_vectors(data, TYPES, CONFIG).users)
    later = meeting.introduce(data)
    assert len(later) == len(data) + len(np.unique(data.user))
    assert meeting.contents(np.zeros((2, 384), np.float32), now).shape == (2 + len(now), 384)
    none = EventTypes([each for each in TYPES if each.name != "follow"])
    with pytest.raises(DataError, match="there is no event type 'follow'"):
        meet(data, none, CONFIG)


def test_whom_a_model_knows_is_found_by_hash() -> None:
    data = circles()
    meeting = meet(data, TYPES, GraphConfig(dim=8, epochs=1))
    met = MetUsers.of(data.users, meeting)
    assert met is not None
    assert (met.hashes[1:] > met.hashes[:-1]).all()
    assert met.type_code == FOLLOW
    row = np.searchsorted(met.hashes, np.uint64(user_hash("2-24")))
    np.testing.assert_array_equal(met.graph[row], meeting.now[data.users.index("2-24")])
    assert user_hash("stranger") not in met.hashes
    assert MetUsers.of(data.users, replace(meeting, now=np.zeros_like(meeting.now))) is None


def test_bad_options_and_logs_are_sentences() -> None:
    with pytest.raises(DataError, match="layers is 0"):
        GraphConfig(layers=0)
    with pytest.raises(DataError, match="edge_dropout 1"):
        GraphConfig(edge_dropout=1)
    builder = InteractionsBuilder(TYPES)
    builder.add("u", "a", "like", 1)
    builder.add("u", None, "search", 2)
    with pytest.raises(DataError, match="there is no graph to learn from"):
        graph_vectors(builder.build().take(np.array([1])), TYPES)
