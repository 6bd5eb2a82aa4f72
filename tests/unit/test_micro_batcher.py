"""Batching, priority, bounds, errors and the end of the micro-batcher, with an encoder that counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from streamer.serving.micro_batcher import MicroBatcher, Priority

F32 = npt.NDArray[np.float32]


class Encoder:
    """A text's vector is its number; batches are remembered. While `gate` is closed it blocks its thread."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, texts: list[str]) -> F32:
        self.gate.wait(10)
        self.batches.append(texts)
        if "bad" in texts:
            raise ValueError("a bad text")
        return np.array([[float(text or 0)] for text in texts], np.float32)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_callers_share_a_batch_and_get_their_own() -> None:
    encoder = Encoder()
    batcher = MicroBatcher(encoder)
    results = await asyncio.gather(*(batcher.encode([str(i), str(i + 0.5)]) for i in range(5)))
    assert [r.ravel().tolist() for r in results] == [[i, i + 0.5] for i in range(5)]
    assert len(encoder.batches) == 1
    await batcher.close()


async def test_a_long_request_is_cut_and_put_together() -> None:
    encoder = Encoder()
    batcher = MicroBatcher(encoder, max_batch=10, max_items=4, max_wait_s=0, max_queued=5)
    vectors = await batcher.encode([str(i) for i in range(11)], Priority.ITEM)
    assert vectors.ravel().tolist() == list(range(11))
    assert [len(batch) for batch in encoder.batches] == [4, 4, 3]
    await batcher.close()


async def test_no_texts() -> None:
    batcher = MicroBatcher(Encoder())
    assert (await batcher.encode([])).shape == (0, 1)
    await batcher.close()


async def test_texts_of_events_overtake_the_catalogue() -> None:
    encoder = Encoder()
    batcher = MicroBatcher(encoder, max_batch=4, max_items=2, max_wait_s=0)
    encoder.gate.clear()
    items = asyncio.create_task(batcher.encode(["1", "2", "3", "4", "5"], Priority.ITEM))
    await until(lambda: batcher.queued(Priority.ITEM) == 3)  # two of five are being encoded
    events = asyncio.create_task(batcher.encode(["10", "11", "12"]))
    await until(lambda: batcher.queued(Priority.EVENT) == 3)
    encoder.gate.set()
    await asyncio.gather(items, events)
    assert encoder.batches == [["1", "2"], ["10", "11", "12", "3"], ["4", "5"]]
    await batcher.close()


async def test_the_queue_is_bounded_per_priority() -> None:
    encoder = Encoder()
    batcher = MicroBatcher(encoder, max_batch=2, max_items=2, max_wait_s=0, max_queued=4)
    encoder.gate.clear()
    waiting = [asyncio.create_task(batcher.encode([str(i)], Priority.ITEM)) for i in range(20)]
    await until(lambda: batcher.queued(Priority.ITEM) == 4)
    await asyncio.sleep(0.02)
    assert batcher.queued(Priority.ITEM) == 4
    event = asyncio.create_task(batcher.encode(["99"]))
    await until(lambda: batcher.queued(Priority.EVENT) == 1)
    encoder.gate.set()
    assert [float(r[0, 0]) for r in await asyncio.gather(*waiting)] == list(range(20))
    assert float((await event)[0, 0]) == 99
    await batcher.close()


async def test_an_error_reaches_its_callers_and_no_later_ones() -> None:
    batcher = MicroBatcher(Encoder())
    with pytest.raises(ValueError, match="a bad text"):
        await batcher.encode(["1", "bad"])
    assert (await batcher.encode(["2"])).tolist() == [[2.0]]
    await batcher.close()


async def test_a_cancelled_request_is_not_encoded() -> None:
    encoder = Encoder()
    batcher = MicroBatcher(encoder, max_batch=1, max_wait_s=0)
    encoder.gate.clear()
    first = asyncio.create_task(batcher.encode(["1"]))
    second = asyncio.create_task(batcher.encode(["2"]))
    await until(lambda: batcher.queued(Priority.EVENT) == 1)
    second.cancel()
    await asyncio.sleep(0)
    encoder.gate.set()
    await first
    await batcher.encode(["3"])
    assert encoder.batches == [["1"], ["3"]]
    await batcher.close()


async def test_closing_finishes_the_batch_and_refuses_the_rest() -> None:
    encoder = Encoder()
    batcher = MicroBatcher(encoder, max_batch=1, max_wait_s=0, max_queued=1)
    encoder.gate.clear()
    tasks = [asyncio.create_task(batcher.encode([str(i)])) for i in range(3)]  # encoded, queued, at the door
    await until(lambda: batcher.queued(Priority.EVENT) == 1)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.01)
    encoder.gate.set()
    await closing
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, np.ndarray)
    assert all(isinstance(error, RuntimeError) for error in others)
    with pytest.raises(RuntimeError, match="closed"):
        await batcher.encode(["4"])
    await batcher.close()


@pytest.mark.parametrize(
    "limits", [{"max_batch": 0}, {"max_items": 0}, {"max_queued": 0}, {"max_wait_s": -1}]
)
def test_impossible_limits(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MicroBatcher(Encoder(), **limits)
