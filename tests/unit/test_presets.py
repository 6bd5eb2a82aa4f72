from __future__ import annotations

import errno
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from model_export import presets
from model_export.commands import main
from model_export.training import TrainingConfig
from streamer.core.event_types import EventTypes
from streamer.errors import DataError, SettingsError
from streamer.settings import Settings

DOMAINS = ["ecommerce", "music", "news", "social", "video"]


def test_the_presets_that_are_there() -> None:
    assert presets.names() == DOMAINS


@pytest.mark.parametrize("name", DOMAINS)
def test_a_preset_is_a_training_config_and_a_settings_file(name: str, tmp_path: Path) -> None:
    preset = presets.load(name)
    assert preset.training.keys() <= {each.name for each in fields(TrainingConfig)}
    TrainingConfig(**preset.training)
    file = tmp_path / "headwater.toml"
    file.write_text(preset.settings_toml())
    settings = Settings.load({}, file)
    assert settings.event_types == preset.types
    assert settings.window == preset.window
    assert settings.exclude_seen == (name not in ("music", "news"))
    assert settings.interest_half_life_short_s < settings.interest_half_life_long_s


@pytest.mark.parametrize("name", DOMAINS)
def test_codes_are_those_of_the_default_table(name: str) -> None:
    """So that a state record means the same under every preset."""
    for each in presets.load(name).types:
        assert each.code == EventTypes.DEFAULT.by_name[each.name].code


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "films.toml"
    file.write_text('[training]\nepochs = 2\n[[event_types]]\nname = "seen"\ncode = 1\nweight = 1\n')
    preset = presets.load(str(file))
    assert (preset.name, preset.window, dict(preset.training)) == ("films", None, {"epochs": 2})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[event_types", "preset .* is not TOML"),
        ("[training]\nepochs = 2\n", r"has no \[\[event_types\]\]"),
        ("[models]\n", "'models' is no part of a preset: write description"),
    ],
)
def test_a_wrong_preset_is_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(DataError, match=sentence):
        presets.load(str(tmp_path / "wrong.toml"))


def test_unknown_names_and_fields_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'films' is no preset: take one of ecommerce, music"):
        presets.load("films")
    file = tmp_path / "own.toml"
    file.write_text('[training]\nepoch = 2\n[[event_types]]\nname = "seen"\ncode = 1\nweight = 1\n')
    with pytest.raises(DataError, match="'epoch' is no field of TrainingConfig"):
        main(["train", "--data", "none", "--out", str(tmp_path), "--preset", str(file)])
    file.write_text('[[event_types]]\nname = "seen"\ncode = 99\nweight = 1\n')
    with pytest.raises(SettingsError, match="code is 99"):
        presets.load(str(file))


def test_the_command_prints_a_settings_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preset", "music"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed["window"] == 200
    assert {"play", "skip"} <= {each["name"] for each in printed["event_types"]}


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp_s\n" + "".join(f"{n % 3},{n},{n}\n" for n in range(9)))
    monkeypatch.setattr("model_export.run.train_and_export", full)
    monkeypatch.setattr("model_export.commands.encoder_of", lambda *_: tmp_path)
    with pytest.raises(DataError, match=r"the disk is full .*No space left on device.*--out"):
        main(["train", "--data", str(log), "--out", str(tmp_path / "models")])
