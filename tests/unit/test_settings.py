from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from streamer.errors import SettingsError
from streamer.settings import NAMES, PREFIX, Settings


def load(toml: Path | None = None, /, **variables: str) -> Settings:
    return Settings.load({PREFIX + name.upper(): value for name, value in variables.items()}, toml)


def mistakes(toml: Path | None = None, /, **variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(toml, **variables)
    return str(caught.value).split("\n")


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load()
    assert settings == Settings()
    assert (settings.brokers, settings.partitions, settings.refresh) == ("localhost:9092", 8, "batch")


def test_variables_of_others_are_none_of_our_business() -> None:
    assert Settings.load({"PATH": "/bin", "HEADWATER_DATA": "somewhere"}) == Settings()


def test_every_default_is_a_value_that_its_own_parser_accepts() -> None:
    assert Settings.load(Settings().environment()) == Settings()


def test_the_environment_of_changed_settings_loads_them_again() -> None:
    settings = load(brokers="a:1, b:2", grace_s="0.25", exclude_seen="no", state_dir="elsewhere", window="32")
    assert settings.brokers == "a:1,b:2"
    assert Settings.load(settings.environment()) == settings


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        load().top_k = 3  # type: ignore[misc]


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load(top_k="", brokers="").top_k == Settings().top_k


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("top_k", "ten", "HEADWATER_TOP_K is 'ten': a whole number from 1 to 1000 is wanted."),
        ("top_k", "0", "HEADWATER_TOP_K is '0': it must lie between 1 and 1000."),
        ("grace_s", "nan", "HEADWATER_GRACE_S is 'nan': it must lie between 0 and 31622400."),
        ("signal_snapshot_s", "-1", "HEADWATER_SIGNAL_SNAPSHOT_S is '-1': it must lie between 0 and 86400."),
        (
            "signal_snapshot_s",
            "5 min",
            "HEADWATER_SIGNAL_SNAPSHOT_S is '5 min': a number between 0 and 86400 is wanted.",
        ),
        ("partitioner", "md5", "HEADWATER_PARTITIONER is 'md5': allowed are murmur2, crc32, off."),
        ("exclude_seen", "maybe", "HEADWATER_EXCLUDE_SEEN is 'maybe': true or false is wanted."),
        ("brokers", "kafka", "HEADWATER_BROKERS is 'kafka': 'kafka' is not host:port"),
        ("brokers", "kafka:99999", "HEADWATER_BROKERS is 'kafka:99999': 'kafka:99999' is not host:port"),
        ("brokers", ",", "HEADWATER_BROKERS is ',': at least one host:port is needed"),
        ("topic_prefix", "a/b", "HEADWATER_TOPIC_PREFIX is 'a/b': at most 100 letters"),
        ("ssl_cafile", "/no/such/file", "HEADWATER_SSL_CAFILE is '/no/such/file': there is no such file."),
    ],
)
def test_a_mistake_names_variable_value_and_what_is_allowed(name: str, value: str, said: str) -> None:
    assert mistakes(**{name: value})[0].startswith(said)


def test_every_mistake_gets_its_sentence() -> None:
    found = mistakes(top_k="x", window="y", refresh="z", colour="red")
    assert [re.findall(r"HEADWATER_\w+", each)[0] for each in found] == [
        "HEADWATER_COLOUR",
        "HEADWATER_WINDOW",
        "HEADWATER_REFRESH",
        "HEADWATER_TOP_K",
    ]


def test_a_misspelt_variable_gets_a_hint() -> None:
    assert mistakes(brokres="a:1") == [
        "HEADWATER_BROKRES is no setting of Headwater: did you mean HEADWATER_BROKERS?"
    ]


def test_a_secret_is_never_shown() -> None:
    settings = load(
        security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="u", sasl_password="geheim"
    )
    assert settings.redacted()["sasl_password"] == "***"
    assert "geheim" not in str(settings.redacted())
    assert "geheim" not in repr(settings)
    assert settings.kafka_options()["sasl_plain_password"] == "geheim"


def test_sasl_needs_all_of_its_parts_and_a_protocol() -> None:
    assert mistakes(security_protocol="SASL_SSL", sasl_username="u") == [
        "security_protocol is SASL_SSL: set HEADWATER_SASL_MECHANISM and HEADWATER_SASL_PASSWORD too."
    ]
    assert "security_protocol is PLAINTEXT" in mistakes(sasl_password="geheim")[0]


def test_half_lives_must_be_in_order() -> None:
    assert "make the short one smaller" in mistakes(interest_half_life_short_s="2592000")[0]


def test_plaintext_needs_no_options() -> None:
    assert load().kafka_options() == {}


def write(folder: Path, text: str) -> Path:
    path = folder / "headwater.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_toml_sets_and_the_environment_wins(tmp_path: Path) -> None:
    path = write(tmp_path, 'top_k = 20\nwindow = 48\nexclude_seen = false\nbrokers = ["a:1", "b:2"]\n')
    settings = Settings.load({"HEADWATER_CONFIG": str(path), "HEADWATER_TOP_K": "5"})
    assert (settings.top_k, settings.window, settings.exclude_seen, settings.brokers) == (
        5,
        48,
        False,
        "a:1,b:2",
    )


def test_event_types_come_from_toml(tmp_path: Path) -> None:
    path = write(tmp_path, '[[event_types]]\nname = "view"\ncode = 1\nweight = 0.5\n')
    settings = load(path)
    assert list(settings.event_types.by_name) == ["view"]
    assert "view" in settings.redacted()["event_types"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("top_q = 1\n", "top_q in {path} is no setting of Headwater: did you mean top_k?"),
        ("top_k = true\n", "top_k in {path} is True: a whole number from 1 to 1000 is wanted."),
        ("top_k = [", "The settings file {path} is not TOML"),
        ("event_types = 3\n", "event_types in {path} is 3: write one [[event_types]] table per event type."),
        ('[[event_types]]\nname = "v"\ncode = 99\nweight = 1\n', "event type 'v': code is 99"),
    ],
)
def test_mistakes_in_toml(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    assert mistakes(path)[0].startswith(said.format(path=path))


def test_a_missing_settings_file_is_a_mistake() -> None:
    (sentence,) = mistakes(config="/no/such.toml")
    assert sentence.startswith("The settings file /no/such.toml cannot be read (No such file or directory)")


def test_every_setting_has_a_parser() -> None:
    assert {each.name for each in fields(Settings) if "parse" in each.metadata} == set(NAMES)
