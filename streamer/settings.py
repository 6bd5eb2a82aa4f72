"""Everything that can be set, as one frozen value; the only reader of the environment.

A setting `top_k` is the environment variable `HEADWATER_TOP_K`, or `top_k = 10` in the TOML file that `HEADWATER_CONFIG`
names; the environment wins, and an empty variable counts as not set. The table of event types has no room in a variable:
it is `[[event_types]]` in the TOML file.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from streamer import setting_values as values
from streamer.errors import SettingsError

if TYPE_CHECKING:
    from streamer.core.event_types import EventTypes

PREFIX = "HEADWATER_"
NOT_SETTINGS = frozenset({"HEADWATER_CONFIG", "HEADWATER_DATA"})
"""Variables with our prefix that are no settings: the TOML file, and the folder of the tests' data sets."""
EVENT_TYPES = "event_types"


def _by(parse: Callable[[str], Any], *, secret: bool = False) -> Mapping[str, Any]:
    """How a setting is read from text, and whether it must not be shown."""
    return {"parse": parse, "secret": secret}


@dataclass(frozen=True)
class Settings:
    """Units are in the names; `Settings()` is what an empty environment gives."""

    # Where Kafka is
    brokers: str = field(default="localhost:9092", metadata=_by(values.addresses))
    """host:port, several separated by commas."""
    security_protocol: str = field(
        default="PLAINTEXT", metadata=_by(values.one_of("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"))
    )
    sasl_mechanism: str = field(
        default="", metadata=_by(values.one_of("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"))
    )
    sasl_username: str = field(default="", metadata=_by(values.text))
    sasl_password: str = field(default="", repr=False, metadata=_by(values.text, secret=True))
    ssl_cafile: Path | None = field(default=None, metadata=_by(values.existing_file))
    topic_prefix: str = field(default="", metadata=_by(values.topic_part))
    group: str = field(default="headwater", metadata=_by(values.topic_part))
    partitions: int = field(default=8, metadata=_by(values.whole(1, 10_000)))
    """Of `events` and of every topic that must agree with it."""
    replication_factor: int = field(default=1, metadata=_by(values.whole(1, 100)))
    session_timeout_s: float = field(default=10.0, metadata=_by(values.number(1, 1800)))
    """After this long without a heartbeat a worker's partitions go to another."""
    partitioner: Literal["murmur2", "crc32", "off"] = field(
        default="murmur2", metadata=_by(values.one_of("murmur2", "crc32", "off"))
    )
    """What producers of `events` must hash keys with; an event elsewhere is a dead letter."""

    # What a worker keeps, and where
    state_dir: Path = field(default=Path(".headwater/state"), metadata=_by(values.folder))
    """RocksDB of one worker: two workers need two folders."""
    cache_dir: Path = field(default=Path(".headwater/cache"), metadata=_by(values.folder))
    standby_replicas: int = field(default=0, metadata=_by(values.whole(0, 10)))
    changelog_compression: str = field(
        default="zstd", metadata=_by(values.one_of("none", "gzip", "snappy", "lz4", "zstd"))
    )
    """zstd halves what an event costs on the wire and on the brokers' disks, for a tenth of the worker's time."""
    window: int = field(default=100, metadata=_by(values.whole(1, 4080)))
    """Events per user that the model looks at."""
    grace_s: float = field(default=3600.0, metadata=_by(values.number(0, 366 * 86400)))
    """An event this far behind its user's newest is late: counted, not applied."""
    interest_half_life_short_s: float = field(default=86_400.0, metadata=_by(values.number(1, 1e10)))
    interest_half_life_long_s: float = field(default=2_592_000.0, metadata=_by(values.number(1, 1e10)))
    popularity_half_life_s: float = field(default=604_800.0, metadata=_by(values.number(1, 1e10)))

    # What it sends
    refresh: Literal["batch", "event"] = field(default="batch", metadata=_by(values.one_of("batch", "event")))
    """One output per touched user and batch, or after every event."""
    top_k: int = field(default=10, metadata=_by(values.whole(1, 1000)))
    exclude_seen: bool = field(default=True, metadata=_by(values.truth))
    diversity: float = field(default=0.0, metadata=_by(values.number(0, 1)))
    """How much a list shuns items that are like those above them (maximal marginal relevance); 0 = not at all."""
    exposure_discount: float = field(default=0.0, metadata=_by(values.number(0, 1)))
    """How much a list shuns items that are taken most anyway, so that others are seen, too; 0 = not at all."""

    signals: Literal["on", "off"] = field(default="on", metadata=_by(values.one_of("on", "off")))
    """Whether lists are blended from the model and collaborative signals that learn with every event."""
    signal_snapshot_s: float = field(default=300.0, metadata=_by(values.number(0, 86_400)))
    """How often at most the signals' counts are written to `signal-counts`: a start counts only what came later. 0 = never."""
    explore_share: float = field(default=0.0, metadata=_by(values.number(0, 1)))
    """Share of the lists whose last place goes to an item that nobody has taken yet; only with signals=on."""

    # How it works
    max_batch_events: int = field(default=16_000, metadata=_by(values.whole(1, 100_000)))
    """What a worker that lags takes at a time, if it is of half as many users at most; else fewer (`core/batch_size.py`)."""
    batch_wait_ms: float = field(default=20.0, metadata=_by(values.number(0, 1000)))
    """How far apart fetches, and with them batches, are at most held: at low load a batch waits until the last one's processor
    time is half of the time since it began, so that few events do not keep a worker as busy as many. 0 = never wait."""
    max_staleness_s: float = field(default=0.0, metadata=_by(values.number(0, 60)))
    """While a worker lags, refreshes may be put off for this long, so that a user's next events need no list of their own; 0 =
    every touched user of every batch is refreshed. State is never put off. With refresh=event it has no effect."""
    max_wait_ms: float = field(default=5.0, metadata=_by(values.number(0, 1000)))
    """How long the text encoder gathers texts for one run."""
    pipeline_depth: int = field(default=2, metadata=_by(values.whole(1, 64)))
    """Batches per partition between being computed and being acknowledged."""
    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto", metadata=_by(values.one_of("auto", "cpu", "cuda"))
    )

    half_precision: bool = field(default=False, metadata=_by(values.truth))
    """On CUDA: score items in half precision; how much of the exact top 20 that keeps is measured and logged at load."""

    # What it says
    metrics_port: int = field(default=9464, metadata=_by(values.whole(0, 65_535)))
    """0 = no metrics."""
    metrics_host: str = field(default="127.0.0.1", metadata=_by(values.text))
    log_level: str = field(
        default="INFO", metadata=_by(values.one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
    )
    log_format: Literal["text", "json"] = field(default="text", metadata=_by(values.one_of("text", "json")))

    event_table: tuple[Mapping[str, Any], ...] | None = None
    """The TOML file's [[event_types]], None where it has none."""

    @classmethod
    def load(cls, env: Mapping[str, str], toml: Path | None = None) -> Settings:
        """Settings out of the environment and a TOML file (`toml`, or the one that HEADWATER_CONFIG names).

        Raises SettingsError with a sentence for each mistake.
        """
        mistakes: list[str] = []
        given = _from_file(toml or _config_file(env), mistakes)
        given |= _from_environment(env, mistakes)
        table = given.pop(EVENT_TYPES, (None, ""))[0]
        parsed: dict[str, Any] = {}
        for each in fields(cls):
            if each.name in given:
                raw, where = given[each.name]
                shown = "***" if each.metadata["secret"] else repr(raw)
                try:
                    parsed[each.name] = each.metadata["parse"](values.as_text(raw))
                except ValueError as exc:
                    mistakes.append(f"{where} is {shown}: {exc}.")
        settings = cls(**parsed, event_table=table)
        if parsed.keys() == given.keys():
            mistakes += settings._contradictions()
        mistakes += settings._event_type_mistakes()
        if mistakes:
            raise SettingsError("\n".join(mistakes))
        return settings

    def _contradictions(self) -> list[str]:
        """Settings that are fine one by one but not together."""
        found = []
        if self.interest_half_life_short_s >= self.interest_half_life_long_s:
            found.append(
                f"interest_half_life_short_s is {self.interest_half_life_short_s:g} and interest_half_life_long_s "
                f"{self.interest_half_life_long_s:g}: make the short one smaller than the long one."
            )
        sasl = ("sasl_mechanism", "sasl_username", "sasl_password")
        named = [name for name in sasl if getattr(self, name)]
        if self.security_protocol.startswith("SASL_") and len(named) < len(sasl):
            lacking = " and ".join(PREFIX + name.upper() for name in sasl if name not in named)
            found.append(f"security_protocol is {self.security_protocol}: set {lacking} too.")
        if named and not self.security_protocol.startswith("SASL_"):
            found.append(
                f"{named[0]} is set but security_protocol is {self.security_protocol}: "
                "set HEADWATER_SECURITY_PROTOCOL to SASL_SSL or SASL_PLAINTEXT, or leave the sasl_ settings out."
            )
        if self.ssl_cafile is not None and not self.security_protocol.endswith("SSL"):
            found.append(
                f"ssl_cafile is set but security_protocol is {self.security_protocol}: "
                "set HEADWATER_SECURITY_PROTOCOL to SSL or SASL_SSL, or leave HEADWATER_SSL_CAFILE out."
            )
        return found

    def _event_type_mistakes(self) -> list[str]:
        try:
            _ = self.event_types
        except SettingsError as exc:
            return [f"{exc}."]
        return []

    @cached_property
    def event_types(self) -> EventTypes:
        """The configured table of event types, or the default one."""
        from streamer.core.event_types import EventTypes

        return EventTypes.DEFAULT if self.event_table is None else EventTypes.from_table(self.event_table)

    def topic(self, name: str) -> str:
        """Full name of one of the protocol's topics."""
        return self.topic_prefix + name

    def kafka_options(self) -> dict[str, Any]:
        """What aiokafka's clients need beside `bootstrap_servers` to be let in."""
        options: dict[str, Any] = {}
        if self.security_protocol == "PLAINTEXT":
            return options
        options["security_protocol"] = self.security_protocol
        if self.security_protocol.endswith("SSL"):
            import ssl

            options["ssl_context"] = ssl.create_default_context(
                cafile=None if self.ssl_cafile is None else str(self.ssl_cafile)
            )
        if self.security_protocol.startswith("SASL_"):
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password,
            }
        return options

    def environment(self) -> dict[str, str]:
        """The variables that make another process load these settings. The event table stays with HEADWATER_CONFIG."""
        pairs = ((each.name, getattr(self, each.name)) for each in fields(self) if each.name != "event_table")
        return {PREFIX + name.upper(): values.as_text(value) for name, value in pairs if value is not None}

    def redacted(self) -> dict[str, str]:
        """Every setting as text, fit for the log: secrets are stars."""
        shown = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "event_table":
                shown[EVENT_TYPES] = ",".join(self.event_types.by_name)
            else:
                shown[each.name] = "***" if each.metadata["secret"] and value else values.as_text(value)
        return shown


NAMES = tuple(each.name for each in fields(Settings) if each.name != "event_table")
"""Every setting that a variable can set."""

Given = dict[str, tuple[Any, str]]
"""Setting → (its raw value, where it stands as the start of a sentence)."""


def _config_file(env: Mapping[str, str]) -> Path | None:
    return Path(env["HEADWATER_CONFIG"]) if env.get("HEADWATER_CONFIG") else None


def _from_environment(env: Mapping[str, str], mistakes: list[str]) -> Given:
    given: Given = {}
    known = {PREFIX + name.upper(): name for name in NAMES}
    for variable in sorted(env):
        if variable in known:
            if env[variable]:
                given[known[variable]] = (env[variable], variable)
        elif variable.startswith(PREFIX) and variable not in NOT_SETTINGS:
            close = _closest(variable.removeprefix(PREFIX), (*NAMES, "config", "data"))
            hint = f"did you mean {PREFIX}{close.upper()}?" if close else "unset it."
            mistakes.append(f"{variable} is no setting of Headwater: {hint}")
    return given


def _from_file(path: Path | None, mistakes: list[str]) -> Given:
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        mistakes.append(
            f"The settings file {path} cannot be read ({exc.strerror}): correct HEADWATER_CONFIG or unset it."
        )
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        mistakes.append(f"The settings file {path} is not TOML: {exc}.")
        return {}
    given: Given = {}
    for name, value in table.items():
        where = f"{name} in {path}"
        if name == EVENT_TYPES and not _is_table_array(value):
            mistakes.append(f"{where} is {value!r}: write one [[event_types]] table per event type.")
        elif name == EVENT_TYPES:
            given[name] = (tuple(value), where)
        elif name in NAMES:
            given[name] = (value, where)
        else:
            close = _closest(name, (*NAMES, EVENT_TYPES))
            hint = f"did you mean {close}?" if close else "remove it."
            mistakes.append(f"{where} is no setting of Headwater: {hint}")
    return given


def _is_table_array(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _closest(name: str, known: tuple[str, ...]) -> str | None:
    found = difflib.get_close_matches(name.lower(), known, n=1)
    return found[0] if found else None
