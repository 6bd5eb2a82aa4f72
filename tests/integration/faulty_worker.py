"""A worker with a fault injected, or a safeguard taken out: `python faulty_worker.py FAULT[:N] ...`.

freeze:N          stops itself (SIGSTOP) between its N-th ownership check and the send that follows it
raise:N           the N-th batch fails in the executor
no-contiguity     trusts the offsets of its changelog acknowledgements blindly
faust-spans       commits as Faust does: every skipped offset counts as done
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from faust.transport.drivers import aiokafka as driver

from agents.ingest import Ingest
from streamer.__main__ import main
from streamer.transport.changelog import Changelog
from streamer.transport.consumer import BatchConsumer, Run


def freeze(after: int) -> None:
    confirm, seen = BatchConsumer.confirm, [0]

    async def confirm_then_stop(self: BatchConsumer, run: Run) -> None:
        await confirm(self, run)
        if run.tp.topic.endswith("events"):
            seen[0] += 1
            if seen[0] == after:
                print(f"frozen after the check of {run.tp} {run.span}", flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)

    BatchConsumer.confirm = confirm_then_stop  # type: ignore[method-assign]


def raise_in_batch(number: int) -> None:
    compute, seen = Ingest.compute, [0]

    def failing(self: Ingest, work: Any, lagging: bool = False) -> Any:
        seen[0] += 1
        if seen[0] == number:
            raise RuntimeError("injected")
        return compute(self, work, lagging)

    Ingest.compute = failing  # type: ignore[method-assign]


def no_contiguity() -> None:
    async def blind(self: Changelog, partition: int, sent: Any, records: Any) -> None:
        self._next_offset[partition] = sent[-1].base_offset + sent[-1].records

    Changelog._check = blind  # type: ignore[method-assign]


def faust_spans() -> None:
    for name in ("_add_gap", "_new_offset", "_filter_tps_with_pending_acks", "ack"):
        setattr(BatchConsumer, name, getattr(driver.Consumer, name))


FAULTS = {
    "freeze": freeze,
    "raise": raise_in_batch,
    "no-contiguity": no_contiguity,
    "faust-spans": faust_spans,
}

if __name__ == "__main__":
    for fault in sys.argv[1:]:
        name, _, number = fault.partition(":")
        FAULTS[name](*([int(number)] if number else []))  # type: ignore[operator]
    raise SystemExit(main(["worker"]))
