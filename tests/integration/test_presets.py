"""Every preset on real data: trained for seconds, released, and streamed through a real worker on a real Kafka."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from model_export import presets
from model_export.commands import main
from model_export.event_log import load_log
from model_export.interactions import NONE, Interactions
from model_export.text_export import export_encoder
from streamer.core.event_types import EventTypes
from streamer.core.protocol import ItemRecord, Recommendations, encode
from streamer.serving.artefact import read_manifest
from streamer.transport.log_reader import read_log
from tests.integration.stream import Deployment
from tests.tiny_artefact import tiny_bert

ITEMS, EVENTS, STREAMED = 60, 800, 120
LOGS = {
    "ecommerce": "uci-online-retail",
    "video": "ml-100k",
    "social": "lastfm-2k",
    "music": "lastfm-2k",
    "news": "mind-sample",
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    return export_encoder(tiny_bert(folder / "bert"), folder / "encoder")


def small(data: Interactions) -> Interactions:
    """The last events on the items that occur most."""
    chosen = np.argsort(-data.popularity, kind="stable")[:ITEMS]
    ordered = data.in_time_order(7)
    return ordered.take(np.flatnonzero(np.isin(ordered.item, chosen))[-EVENTS:])


def records(data: Interactions, types: EventTypes, with_friends: bool) -> list[dict[str, object]]:
    """What would have been produced; friends follow each other before anything else happens."""
    made: list[dict[str, object]] = []
    active = set(data.user.tolist())
    start_ms = int(data.timestamp_ms[0])
    for a, b in data.friends.tolist() if with_friends else []:
        if a in active and b in active:
            pair = {"user_id": data.users[a], "target_user_id": data.users[b]}
            made.append({"event_id": f"f{len(made)}", "type": "follow", "timestamp_ms": start_ms} | pair)
    for row in range(len(data)):
        kind = types.by_code[int(data.type[row])]
        event: dict[str, object] = {
            "event_id": f"e{row}",
            "user_id": data.users[int(data.user[row])],
            "item_id": data.items[int(data.item[row])].item_id,
            "type": kind.name,
            "timestamp_ms": int(data.timestamp_ms[row]),
        }
        if kind.uses_value:
            event["value"] = float(data.value[row])
        if data.text[row] != NONE:
            event["text"] = data.texts[int(data.text[row])]
        made.append(event)
    return made


def write(folder: Path, events: list[dict[str, object]], items: list[ItemRecord]) -> list[str]:
    """The log and its catalogue as files; the options of `train` that name them."""
    columns = ["user_id", "item_id", "target_user_id", "type", "value", "text", "timestamp_ms"]
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(events)
    (folder / "items.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, items)))
    return ["--data", str(folder / "log.csv"), "--items", str(folder / "items.jsonl")]


@pytest.mark.parametrize(
    "name",
    [
        "video",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("ecommerce", "social", "music", "news")),
    ],
)
def test_a_preset_is_trained_and_streamed(
    name: str,
    kafka: str,
    topic_prefix: str,
    encoder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = LOGS[name] if name == "video" else str(request.getfixturevalue("data_sets") / LOGS[name])
    preset = presets.load(name)
    data = small(load_log(source, EventTypes.DEFAULT))
    events = records(data, preset.types, name == "social")
    items = [data.items[row] for row in np.unique(data.item).tolist()]
    past, streamed = events[:-STREAMED], events[-STREAMED:]
    follows = [event for event in events if event["type"] == "follow"]
    assert bool(follows) == (name == "social")
    options = write(tmp_path, past, items)
    options += [
        "--text-encoder",
        str(encoder),
        "--epochs",
        "1",
        "--no-refit",
        "--hidden",
        "16",
        "--dim",
        "16",
    ]
    options += ["--social"] if name == "social" else []
    assert main(["train", "--preset", name, *options, "--out", str(tmp_path / "models")]) == 0
    artefact = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert read_manifest(artefact).window == preset.window
    assert read_manifest(artefact).heads["event_type"] == [each.name for each in preset.types]

    assert (read_manifest(artefact).users is not None) == (name == "social")

    (tmp_path / "headwater.toml").write_text(preset.settings_toml())
    deployment = Deployment(
        kafka,
        topic_prefix,
        artefact,
        tmp_path,
        {"HEADWATER_CONFIG": str(tmp_path / "headwater.toml"), "HEADWATER_GRACE_S": "31536000"},
    )
    try:
        stream(deployment, items, follows[:20] + streamed)
        lists = recommendations(deployment)
    finally:
        deployment.close()
    assert set(lists) == {str(event["user_id"]) for event in follows[:20] + streamed}
    known = {item.item_id for item in items}
    took = {str(event["user_id"]) for event in streamed}
    for user, found in lists.items():
        assert found.strategy == "model" or user not in took  # some have only followed
        assert {item.item_id for item in found.items} <= known
        assert len(found.items) == 10 or preset.serving["exclude_seen"]
    if preset.serving["exclude_seen"]:
        consumed = {
            (str(e["user_id"]), e["item_id"])
            for e in streamed
            if preset.types.by_name[str(e["type"])].consumes
        }
        shown = {(user, item.item_id) for user, found in lists.items() for item in found.items}
        assert not consumed & shown


def stream(deployment: Deployment, items: list[ItemRecord], events: list[dict[str, object]]) -> None:
    deployment.create_topics()
    deployment.release(deployment.artefact)
    deployment.send("items", [(item.item_id.encode(), encode(item)) for item in items])
    deployment.worker("worker").start().wait_ready()
    deployment.wait_for_catalogue(len(items))
    deployment.send_events(events)
    deployment.wait_absorbed(len(events), 120)
    deployment.check_exact()
    assert deployment.log_end("dead-letters") == 0


def recommendations(deployment: Deployment) -> dict[str, Recommendations]:
    """The newest list of each user."""
    decode: Callable[[bytes], Recommendations] = msgspec.json.Decoder(Recommendations).decode
    topic = deployment.settings.topic("recommendations")
    return {
        r.key.decode(): decode(r.value)
        for r in read_log(deployment.brokers, topic)
        if r.key is not None and r.value is not None
    }
