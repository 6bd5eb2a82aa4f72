"""What the tests share: one Apache Kafka per run, fresh topics per test, and the optional data sets."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.errors import BrokerUnavailable
from streamer.transport.local_broker import LocalKafka

INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker("integration")


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """host:port of the run's Apache Kafka. Never stop it: a test that must takes a LocalKafka of its own."""
    try:
        broker = LocalKafka(short_lived=True).start()
    except BrokerUnavailable as exc:
        pytest.skip(f"Apache Kafka cannot be had here: {exc}")
    yield broker.address
    broker.stop()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix that no other test uses: fresh topics, groups and changelogs."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture(scope="session")
def data_sets() -> Path:
    """The folder of the optional data sets, named by HEADWATER_DATA."""
    named = os.environ.get("HEADWATER_DATA")
    if not named:
        pytest.skip("HEADWATER_DATA names no folder of data sets")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"HEADWATER_DATA={named} is no folder")
    return folder


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small artefact with random weights, 60 items "i0" … "i59". Never write into it."""
    from tests.tiny_artefact import build

    return build(tmp_path_factory.mktemp("artefact"))
