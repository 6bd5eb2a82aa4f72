"""The same job as a good Faust user would write it: an agent, a table, two topics, one event after another.

`python -m benchmarks.peers.plain_faust` with PLAIN_GROUP, PLAIN_BROKERS, PLAIN_PARTITIONS, PLAIN_DATA, PLAIN_MODEL (the
artefact) and PLAIN_ITEMS (JSON: item id → categories) in the environment.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import faust
import msgspec
import numpy as np

from streamer.core.event_types import EventTypes
from streamer.core.events import Event
from streamer.core.features import gap_feature, value_feature
from streamer.serving.model import Model

WINDOW, TOP_K, RECENT = 100, 10, 32
SHORT_MS, LONG_MS = 86_400_000, 30 * 86_400_000
WINDOWS = {"1h": 3_600_000, "24h": 86_400_000, "7d": 7 * 86_400_000}


class State(msgspec.Struct):
    """All that is known of a user."""

    gru: bytes
    version: int = 0
    last_ms: int = 0
    window: list[tuple[int, int, str]] = []
    """(time, item row, type), oldest first, at most WINDOW."""
    seen: set[int] = set()
    short: dict[str, float] = {}
    long: dict[str, float] = {}


app = faust.App(
    os.environ["PLAIN_GROUP"],
    broker=f"kafka://{os.environ['PLAIN_BROKERS']}",
    store="rocksdb://",
    key_serializer="raw",
    value_serializer="raw",
    datadir=os.environ["PLAIN_DATA"],
    topic_partitions=int(os.environ["PLAIN_PARTITIONS"]),
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,
    web_enabled=False,
    broker_max_poll_records=4000,
    stream_buffer_maxsize=4096,
    producer_linger=0.005,
)
events = app.topic("events", key_type=bytes, value_type=bytes)
profiles = app.topic("profiles", key_type=bytes, value_type=bytes)
recommendations = app.topic("recommendations", key_type=bytes, value_type=bytes)
users = app.Table("users", key_type=bytes, value_type=bytes, options={"driver": "rocksdict"})

types = EventTypes.DEFAULT
model = Model.load(Path(os.environ["PLAIN_MODEL"]))
categories = msgspec.json.decode(Path(os.environ["PLAIN_ITEMS"]).read_bytes(), type=dict[str, list[str]])
row_of = {item: row for row, item in enumerate(model.item_ids)}
decode_event = msgspec.json.Decoder(Event).decode
decode_state, encode_state = msgspec.msgpack.Decoder(State).decode, msgspec.msgpack.Encoder().encode
encode = msgspec.json.Encoder().encode


@app.agent(events)
async def recommend(stream: Any) -> None:
    async for message in stream.events():
        event, key = decode_event(message.value), message.key
        stored = users.get(key)
        state = decode_state(stored) if stored else State(bytes(4 * model.hidden))
        gru = absorb(state, event)
        users[key] = encode_state(state)
        source = {"topic": "events", "partition": message.message.partition, "offset": message.message.offset}
        head = {
            "user_id": event.user_id,
            "version": state.version,
            "revision": 0,
            "as_of_ms": state.last_ms,
            "model_version": model.version,
        }
        await profiles.send(key=key, value=encode({**head, **profile(state, gru), "source": source}))
        await recommendations.send(
            key=key, value=encode({**head, "strategy": "model", "items": top(state, gru), "source": source})
        )


def absorb(state: State, event: Event) -> np.ndarray:
    """Count the event, and step the GRU; returns its state (1, H)."""
    kind, row = types.by_name[event.type], row_of.get(event.item_id or "", -1)
    value = np.array([0.0 if event.value is None else event.value], np.float32)
    code, now, last = np.array([kind.code]), np.array([event.timestamp_ms]), np.array([state.last_ms])
    item = model.item_vectors[row] if row >= 0 else model.unknown
    before = np.frombuffer(state.gru, np.float32)[None]
    gru = model.step(
        before, item[None], code, gap_feature(now, last), value_feature(value, code.astype(np.uint8), types)
    )
    passed = max(0, event.timestamp_ms - state.last_ms)
    for interests, half_life in ((state.short, SHORT_MS), (state.long, LONG_MS)):
        decay = 0.5 ** (passed / half_life)
        for name in interests:
            interests[name] *= decay
        labels = categories.get(event.item_id or "", [])
        for name in labels:
            interests[name] = interests.get(name, 0.0) + kind.weight / len(labels)
    state.window = [*state.window[1 - WINDOW :], (event.timestamp_ms, row, event.type)]
    if kind.consumes and row >= 0:
        state.seen.add(row)
    state.gru, state.version, state.last_ms = gru.tobytes(), state.version + 1, event.timestamp_ms
    return gru


def profile(state: State, gru: np.ndarray) -> dict[str, Any]:
    interests = {}
    for kind, weights in (("short_term", state.short), ("long_term", state.long)):
        best = sorted(weights.items(), key=lambda pair: -pair[1])[:5]
        total = sum(weights.values()) or 1.0
        interests[kind] = [{"label": name, "p": round(weight / total, 4)} for name, weight in best]
    for task, shares in model.interests(gru).items():
        order = np.argsort(-shares[0])[:5].tolist()
        interests[task] = [{"label": model.heads[task][i], "p": round(float(shares[0, i]), 4)} for i in order]
    activity = {
        name: Counter(kind for time_ms, _, kind in state.window if time_ms > state.last_ms - span)
        for name, span in WINDOWS.items()
    }
    return {"interests": interests, "activity": activity}


def top(state: State, gru: np.ndarray) -> list[dict[str, Any]]:
    """The best items that the user has not consumed, each with the past item closest to it."""
    excluded = np.array([(0, row) for row in state.seen], np.int64).reshape(-1, 2)
    scores, rows = model.score(gru, model.item_vectors, model.item_bias, excluded, TOP_K)
    recent = [row for _, row, _ in state.window[-RECENT:] if row >= 0]
    support = model.item_vectors[rows[0]] @ model.item_vectors[recent].T
    support[rows[0][:, None] == np.array(recent)] = -np.inf
    because = support.argmax(axis=1).tolist()
    return [
        {"item_id": model.item_ids[row], "score": round(score, 6), "because": model.item_ids[recent[reason]]}
        for row, score, reason in zip(rows[0].tolist(), scores[0].tolist(), because, strict=True)
    ]


if __name__ == "__main__":
    for name in ("aiokafka", "faust", "mode"):  # Faust lets them format every debug message for nobody
        logging.getLogger(name).setLevel(logging.WARNING)
    app.main()
