"""`headwater consume profiles|recommendations`: what the worker published, one readable line per user."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from streamer.core.protocol import ItemRecord, Profile, Recommendations
from streamer.errors import DataError
from streamer.settings import Settings
from streamer.transport.log_reader import LogFollower, LogRecord, iter_log

Output = Profile | Recommendations
_DECODERS: Mapping[str, msgspec.json.Decoder[Any]] = {
    "profiles": msgspec.json.Decoder(Profile),
    "recommendations": msgspec.json.Decoder(Recommendations),
}
_item = msgspec.json.Decoder(ItemRecord)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", choices=sorted(_DECODERS), help="which of the two output topics")
    parser.add_argument("--user", metavar="U", help="only this user")
    parser.add_argument(
        "--last", type=int, default=20, metavar="N", help="the N users refreshed last (default: 20)"
    )
    parser.add_argument("--follow", action="store_true", help="then go on with every refresh, until Ctrl-C")
    parser.add_argument("--titles", action="store_true", help="show items by title (reads `items` first)")


def run(args: argparse.Namespace, settings: Settings) -> int:
    if settings.log_level == "INFO":
        logging.getLogger("headwater").setLevel(logging.WARNING)
    try:
        asyncio.run(_consume(args, settings, Console(highlight=False)))
    except KeyboardInterrupt:
        return 130
    return 0


class LatestOutputs:
    """The newest output of each user by (version, revision): how any consumer has to read these topics."""

    def __init__(self, topic: str, user: str | None = None) -> None:
        self._decoder = _DECODERS[topic]
        self._topic, self._user = topic, user
        self.by_user: dict[str, Output] = {}

    def take(self, record: LogRecord) -> Output | None:
        """The output that this record brings.

        None when it is older than what is there, a tombstone or another user's. Raises DataError for what is none.
        """
        if self._user is not None and record.key != self._user.encode():
            return None
        if record.value is None:
            self.by_user.pop((record.key or b"").decode(errors="replace"), None)
            return None
        try:
            output: Output = self._decoder.decode(record.value)
        except msgspec.MsgspecError as error:
            where = f"{self._topic} [{record.partition}] @ {record.offset}"
            raise DataError(
                f"{where} is none of Headwater's records: {error}: {record.value[:80]!r}"
            ) from error
        known = self.by_user.pop(output.user_id, None)
        if known is not None and (known.version, known.revision) >= (output.version, output.revision):
            self.by_user[output.user_id] = known
            return None
        self.by_user[output.user_id] = output
        return output


def output_line(output: Output, titles: Mapping[str, str] | None = None) -> Text:
    """One line: who, how new, and what."""
    line = Text()
    line.append(f"{output.user_id:>8} ", style="bold cyan")
    line.append(f"v{output.version}.{output.revision} ".ljust(9), style="dim")
    if isinstance(output, Profile):
        _append_profile(line, output)
    else:
        _append_items(line, output, titles or {})
    return line


def _append_items(line: Text, output: Recommendations, titles: Mapping[str, str]) -> None:
    if output.strategy != "model":
        line.append(f"({output.strategy}) ", style="yellow")
    for rank, item in enumerate(output.items, 1):
        line.append(f"{rank} ", style="dim")
        line.append(titles.get(item.item_id, item.item_id))
        line.append(f" {item.score:.2f}", style="green")
        if item.because is not None:
            line.append(f" ← {titles.get(item.because, item.because)}", style="dim")
        line.append("  ")
    if not output.items:
        line.append("nothing to recommend", style="yellow")


def _append_profile(line: Text, output: Profile) -> None:
    for task, labels in output.interests.items():
        if labels:
            line.append(f"{task} ", style="dim")
            line.append(", ".join(f"{label.label} {label.p:.0%}" for label in labels[:3]) + "  ")
    for window, counts in output.activity.items():
        if counts:
            line.append(f"{window} ", style="dim")
            line.append(", ".join(f"{kind} {n}" for kind, n in counts.items()) + "  ", style="green")


def titles_of(records: Iterable[LogRecord]) -> dict[str, str]:
    """Item id → title; what is no item is passed over, a withdrawn item keeps its last title."""
    titles: dict[str, str] = {}
    for record in records:
        if record.value is not None:
            try:
                item = _item.decode(record.value)
            except msgspec.MsgspecError:
                continue
            titles[item.item_id] = item.title
    return titles


async def read_titles(settings: Settings) -> dict[str, str]:
    """Titles of everything that was ever on `items`."""
    titles: dict[str, str] = {}
    async for batch in iter_log(settings.brokers, settings.topic("items"), security=settings.kafka_options()):
        titles.update(titles_of(batch))
    return titles


async def _consume(args: argparse.Namespace, settings: Settings, console: Console) -> None:
    titles = await read_titles(settings) if args.titles else {}
    topic = settings.topic(args.topic)
    latest = LatestOutputs(args.topic, args.user)

    def show(output: Output) -> None:
        console.print(output_line(output, titles), soft_wrap=not console.is_terminal)

    def show_latest() -> None:
        for output in list(latest.by_user.values())[-args.last :] if args.last > 0 else []:
            show(output)

    if not args.follow:
        async for batch in iter_log(settings.brokers, topic, security=settings.kafka_options()):
            for record in batch:
                latest.take(record)
        show_latest()
        if not latest.by_user:
            console.print(
                f"nothing on {topic}" + (f" for user {args.user}" if args.user else ""), style="yellow"
            )
        return
    live = False

    async def take(records: list[LogRecord]) -> None:
        fresh = [output for record in records if (output := latest.take(record)) is not None]
        for output in fresh if live else []:
            show(output)

    follower = LogFollower(settings.brokers, topic, take, settings.kafka_options())
    await follower.start()
    try:
        await follower.caught_up()
        show_latest()
        live = True
        await follower.join()
    finally:
        await follower.stop()
