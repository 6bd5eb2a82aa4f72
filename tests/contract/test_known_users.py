"""A model that knows users by the graph of friends, in the worker: who is known is met, and takes on whom she follows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from model_export.social import MetUsers
from streamer.core.event_types import EventTypes
from streamer.core.events import Event
from streamer.core.features import gap_feature
from streamer.core.hashing import item_hash, user_hash
from streamer.core.manifest import USER_VECTORS
from streamer.core.popularity import Popularity
from streamer.core.protocol import ItemVector
from streamer.core.state_records import decode_heads, head_key
from streamer.errors import ArtefactError, DigestMismatch
from streamer.serving.artefact import read_manifest
from streamer.serving.catalogue import Catalogue
from streamer.serving.champion import Champion
from streamer.serving.known_users import KnownUsers
from streamer.serving.model import Model
from tests.contract.test_ingest import (
    DAY_MS,
    EVENTS,
    PARTITIONS,
    START_MS,
    Table,
    run,
    same_outputs,
    same_states,
)
from tests.tiny_artefact import build

TYPES = EventTypes.DEFAULT
FOLLOW = TYPES.by_name["follow"].code
KNOWN = ["u0-0", "u0-1", "u1-2", "star"]


def met_users(names: list[str]) -> MetUsers:
    hashes = np.array([user_hash(name) for name in names], np.uint64)
    graph = np.random.default_rng(5).standard_normal((len(names), 8)).astype(np.float32)
    order = np.argsort(hashes)
    return MetUsers(hashes[order], graph[order] / np.linalg.norm(graph[order], axis=1, keepdims=True), FOLLOW)


def champion_of(artefact: Path) -> Champion:
    model, catalogue = Model.load(artefact), Catalogue()
    nothing = np.zeros(384, np.float16).tobytes()
    catalogue.apply(
        (item, ItemVector(item, "e", nothing, True, [], 0, at)) for at, item in enumerate(model.item_ids)
    )
    return Champion(model, catalogue.snapshot(model), Popularity(DAY_MS), TYPES)


@pytest.fixture(scope="module", params=["gru", "transformer"])
def social(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Champion:
    folder = tmp_path_factory.mktemp("social")
    return champion_of(build(folder, encoder=request.param, users=met_users(KNOWN)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    return champion_of(build(tmp_path_factory.mktemp("plain"), version="plain"))


def log() -> list[list[Any]]:
    """Views and follows, of known and unknown ones, some with an item."""
    rng = np.random.default_rng(8)
    return [
        [
            record(
                partition,
                offset,
                f"u{partition}-{rng.integers(5)}",
                item=f"i{rng.integers(70)}" if rng.random() < 0.7 else None,
                target=str(rng.choice(["star", "u1-2", "nobody"])),
            )
            for offset in range(EVENTS)
        ]
        for partition in range(PARTITIONS)
    ]


def record(partition: int, offset: int, user: str, *, item: str | None, target: str) -> Any:
    follows = item is None or offset % 9 == 0
    event = Event(
        event_id=f"e{offset}",
        user_id=user,
        type="follow" if follows else "view",
        timestamp_ms=START_MS + 60_000 * offset,
        item_id=item,
        target_user_id=target if follows and target != user else "star" if follows else None,
    )
    return SimpleNamespace(
        topic="events",
        partition=partition,
        offset=offset,
        timestamp=START_MS + DAY_MS,
        key=user.encode(),
        value=msgspec.json.encode(event),
        headers=(),
    )


def head_of(table: Table, partition: int, user: str, hidden: int) -> Any:
    heads, _ = decode_heads([table.records[partition][head_key(user.encode())]], hidden, 3)
    return heads[0]


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_batches_cut_anywhere_give_the_same_states_and_lists(social: Champion, cut: int) -> None:
    whole, cut_up, each = Table(social), Table(social), Table(social, per_event=True)
    whole.stream(log(), EVENTS)
    cut_up.stream(log(), cut)
    each.stream(log(), cut)
    same_states(whole, cut_up, social.model.hidden)
    same_states(whole, each, social.model.hidden)
    for place, outputs in whole.outputs.items():
        (version,) = outputs
        same_outputs(outputs[version], each.outputs[place][version])


def test_a_state_rebuilt_after_a_swap_is_the_streamed_one(social: Champion, plain: Champion) -> None:
    """Each user's history fits the window, so all that the model saw can be replayed."""
    table, swapped = Table(social), Table(plain)
    table.stream(log(), 50)
    swapped.stream(log(), 50)
    swapped.ingest._champion = lambda: social  # between two batches
    more = [[record(p, EVENTS, f"u{p}-{u}", item="i3", target="star") for u in range(5)] for p in range(2)]
    for at, records in enumerate(more):
        for user, each in enumerate(records):
            each.offset += user
        for where in (table, swapped):
            where.take(where.ingest.compute({at: [where.ingest.decode(run(at, records))]}))
    # Whether an item had a vector, and whether a user was met, is counted as of then.
    same_states(table, swapped, social.model.hidden, but=("rebuilt", "usable"))


def test_a_known_user_begins_with_what_friends_say(social: Champion, plain: Champion) -> None:
    hidden, model = social.model.hidden, social.model
    assert model.users is not None
    events = [
        [record(0, 1, "u0-0", item="i3", target="star"), record(0, 2, "u0-3", item="i3", target="star")]
    ]
    table = Table(social)
    table.stream(events, 2)
    known, unknown = (head_of(table, 0, user, hidden) for user in ("u0-0", "u0-3"))
    assert (known["usable"], unknown["usable"]) == (2, 1)
    assert not np.allclose(known["gru"], unknown["gru"], atol=1e-2)
    row = model.users.rows(np.array([user_hash("u0-0")], np.uint64))
    vectors = social.event_vectors(np.array([item_hash("i3")], np.uint64))
    now, none = np.array([START_MS]), np.array([-1])
    gap = np.array([[0, gap_feature(now, now - 1)[0]]], np.float32)
    code = np.array([[FOLLOW, TYPES.by_name["view"].code]])
    expected = model.replay(
        np.stack([model.users.of(row), vectors], axis=1), code, gap, np.zeros_like(gap), np.array([2])
    )
    np.testing.assert_allclose(known["gru"], expected[0], atol=2e-3)
    alone = model.replay(
        vectors[:, None],
        code[:, 1:],
        gap_feature(now, none)[None],
        np.zeros((1, 1), np.float32),
        np.array([1]),
    )
    np.testing.assert_allclose(unknown["gru"], alone[0], atol=2e-3)


def test_a_follow_takes_the_vector_of_whom_it_names(social: Champion, plain: Champion) -> None:
    star, nobody = (
        social.event_vectors(np.array([user_hash(name)], np.uint64))[0] for name in ("star", "nobody")
    )
    assert social.model.users is not None
    row = social.model.users.rows(np.array([user_hash("star")], np.uint64))
    np.testing.assert_array_equal(star, social.model.users.of(row)[0])
    np.testing.assert_array_equal(nobody, social.model.unknown)
    assert social.item_facts(np.array([user_hash("star"), user_hash("nobody"), 0], np.uint64))[
        0
    ].tolist() == [
        True,
        False,
        False,
    ]
    np.testing.assert_array_equal(
        plain.event_vectors(np.array([user_hash("star")], np.uint64))[0], plain.model.unknown
    )


def test_whom_users_follow_is_never_listed_nor_popular(social: Champion) -> None:
    table = Table(social)
    table.stream([[record(0, at, f"u0-{at}", item=None, target="star") for at in range(1, 5)]], 4)
    lists = [
        out for (topic, _), outs in table.outputs.items() if topic != "profiles" for out in outs.values()
    ]
    assert len(lists) == 4
    assert all(each.item_id.startswith("i") for out in lists for each in out.items)
    assert user_hash("star") not in social.popularity._hashes


def test_who_follows_herself_is_buried_with_a_reason(social: Champion) -> None:
    table = Table(social)
    own = record(0, 0, "u0-4", item=None, target="star")
    own.value = own.value.replace(b'"star"', b'"u0-4"')
    others = [record(0, at, "u0-3", item="i1", target="star") for at in range(1, 30)]
    for records in ([own], [own, *others]):
        delivery = table.ingest.compute({0: [table.ingest.decode(run(0, records))]})[0]
        (letter,) = delivery.dead_letters
        assert dict(letter.headers)["headwater-reason"] == b"self_target"
        assert letter.value == own.value


def test_damaged_tables_of_users_are_refused(tmp_path: Path) -> None:
    artefact = build(tmp_path, users=met_users(KNOWN))
    manifest = read_manifest(artefact)
    assert manifest.users is not None
    table = np.load(artefact / USER_VECTORS)
    table[1] = np.nan
    np.save(artefact / USER_VECTORS, table)
    with pytest.raises(DigestMismatch):
        Model.load(artefact)
    with pytest.raises(ArtefactError, match="holds NaN or infinity"):
        KnownUsers.load(artefact, manifest)
    np.save(artefact / USER_VECTORS, table[:2])
    with pytest.raises(ArtefactError, match=r"is float16\(2, 16\), expected float16\(4, 16\)"):
        KnownUsers.load(artefact, manifest)
