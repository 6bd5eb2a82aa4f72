"""Nothing lost, nothing applied twice: real workers come, go, die and freeze under load; then every record is checked.

Each round ends with the offline recomputation over the same log: windows, counters, revisions and interests byte for byte,
GRU states within 4e-3. What is counted is events, not luck: each fault must have happened, or the test fails.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.integration.stream import Deployment, events
from tests.integration.workers import wait_until

RATE = 1000.0
USERS = 400
REQUESTS = 0.05
"""Of the records, those that ask for a fresh list."""


class Load(threading.Thread):
    """Sends events at RATE in the background."""

    def __init__(self, deployment: Deployment, n: int) -> None:
        super().__init__(daemon=True)
        self.deployment, self.n = deployment, n
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.deployment.send_events(events(self.n, USERS, requests=REQUESTS), RATE)
        except BaseException as exc:
            self.failure = exc

    def finish(self) -> None:
        self.join(self.n / RATE * 3 + 60)
        assert not self.is_alive(), "the load has not ended"
        assert self.failure is None, f"the load failed: {self.failure!r}"


def one_worker_up(deployment: Deployment) -> None:
    deployment.workers[0].start().wait_ready()
    deployment.wait_for_catalogue()


@pytest.mark.parametrize("standby", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_join_kill_wiped_return_and_leave(deploy: Callable[..., Deployment], standby: str) -> None:
    deployment = deploy(HEADWATER_STANDBY_REPLICAS=standby)
    first, second = deployment.worker("first"), deployment.worker("second")
    one_worker_up(deployment)
    load = Load(deployment, 25_000)
    load.start()
    time.sleep(2)
    second.start().wait_ready()
    wait_until(lambda: len(first.assigned() or ()) == 4, 30, "the partitions are shared")
    time.sleep(3)
    first.kill()
    wait_until(lambda: len(second.assigned() or ()) == 8, 40, "the survivor takes over")
    first.wipe()
    first.start().wait_ready()
    wait_until(lambda: len(second.assigned() or ()) == 4, 40, "the partitions are shared again")
    time.sleep(2)
    assert second.stop() == 0
    wait_until(lambda: len(first.assigned() or ()) == 8, 40, "the other takes over")
    load.finish()
    deployment.wait_absorbed(load.n)
    deployment.check_exact()


@pytest.mark.slow
@pytest.mark.parametrize("standby", ["0", "1"])
def test_churn(deploy: Callable[..., Deployment], standby: str) -> None:
    """Quick joins and leaves: rebalances that meet rebalances."""
    deployment = deploy(HEADWATER_STANDBY_REPLICAS=standby)
    first, second = deployment.worker("first"), deployment.worker("second")
    one_worker_up(deployment)
    load = Load(deployment, 40_000)
    load.start()
    for turn in range(8):
        second.start()
        time.sleep(3 + turn % 3)
        second.kill() if turn % 2 else second.stop()
    assert first.alive, first.log()[-3000:]
    load.finish()
    deployment.wait_absorbed(load.n, 90)
    deployment.check_exact()


@pytest.mark.parametrize("standby", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_frozen_between_check_and_send(deploy: Callable[..., Deployment], standby: str) -> None:
    """The zombie writes after its partitions are another's: the survivor notices the gap and repairs what was overwritten."""
    deployment = deploy(HEADWATER_STANDBY_REPLICAS=standby)
    frozen, survivor = deployment.worker("frozen", "freeze:150"), deployment.worker("survivor")
    frozen.start().wait_ready()
    deployment.wait_for_catalogue()
    survivor.start().wait_ready()
    load = Load(deployment, 30_000)
    load.start()
    wait_until(lambda: "frozen after the check" in frozen.log(), 40, "the freeze")
    wait_until(lambda: len(survivor.assigned() or ()) == 8, 40, "the survivor takes over")
    time.sleep(3)
    frozen.signal(signal.SIGCONT)
    load.finish()
    deployment.wait_absorbed(load.n, 90)
    time.sleep(3)  # repairs are in the log
    deployment.check_exact()


@pytest.mark.slow
def test_stopped_for_longer_than_its_session(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    first, second = deployment.worker("first"), deployment.worker("second")
    one_worker_up(deployment)
    second.start().wait_ready()
    load = Load(deployment, 25_000)
    load.start()
    time.sleep(3)
    first.signal(signal.SIGSTOP)
    wait_until(lambda: len(second.assigned() or ()) == 8, 40, "the survivor takes over")
    time.sleep(2)
    first.signal(signal.SIGCONT)
    load.finish()
    deployment.wait_absorbed(load.n, 90)
    time.sleep(3)
    deployment.check_exact()


def test_a_failing_batch_ends_the_worker_and_nothing_is_lost(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy()
    worker = deployment.worker("worker", "raise:60")
    one_worker_up(deployment)
    load = Load(deployment, 8_000)
    load.start()
    assert worker.wait(60) == 70
    assert "injected" in worker.log()
    deployment.worker("next").start().wait_ready()
    load.finish()
    deployment.wait_absorbed(load.n)
    deployment.check_exact()
