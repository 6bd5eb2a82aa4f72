"""`headwater broker`: a broker in the foreground."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from streamer.errors import BrokerUnavailable
from streamer.settings import Settings
from streamer.transport.local_broker import start_broker

PORT = 9092


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--light", dest="light", action="store_true", default=None, help="noida-db instead of Apache Kafka"
    )
    kind.add_argument(
        "--kafka", dest="light", action="store_false", help="Apache Kafka or nothing (default: fall back)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep the log in DIR (default: a temporary one)"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"port on 127.0.0.1 (default {PORT})")


def run(args: argparse.Namespace, settings: Settings) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    broker = start_broker(args.light, args.data, port=args.port, say=_say)
    try:
        _say(f"{broker.name} serves {broker.address}, log in {broker.data}. Ctrl-C stops it.")
        code = broker.wait()
    except KeyboardInterrupt:
        _say("Stopping.")
        return 0
    finally:
        broker.stop()
    raise BrokerUnavailable(
        f"{broker.name} ended by itself with code {code}; its last words are in {broker.log_path}"
    )


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
