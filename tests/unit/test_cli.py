from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from streamer import __main__, cli
from streamer.errors import DataError


def headwater(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamer", *argv],
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "120"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def imported_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has after `code`."""
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(shown.stdout.split())


def test_help_lists_every_command() -> None:
    shown = headwater("--help")
    assert shown.returncode == 0
    for name in [command.name for command in cli.COMMANDS] + list(cli.TRAINER):
        assert f"  {name} " in shown.stdout


def test_help_imports_no_heavy_library() -> None:
    heavy = {"aiokafka", "faust", "onnxruntime", "torch", "rocksdict", "tokenizers"}
    assert heavy.isdisjoint(imported_by("from streamer import cli, __main__; cli.parser_for(['--help'])"))


@pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: headwater {command}" in capsys.readouterr().out


def test_a_mistake_in_the_settings_is_a_sentence_and_exit_code_2() -> None:
    shown = headwater("topics", "describe", HEADWATER_PARTITIONS="none")
    assert shown.returncode == 2
    assert shown.stderr == (
        "headwater: HEADWATER_PARTITIONS is 'none': a whole number from 1 to 10000 is wanted.\n"
    )


def test_debug_shows_the_traceback() -> None:
    shown = headwater("topics", "describe", "--debug", HEADWATER_PARTITIONS="none")
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr
    assert shown.stderr.endswith("is wanted.\n")


def test_an_absent_broker_is_one_sentence_without_a_log() -> None:
    shown = headwater("topics", "create", HEADWATER_BROKERS="127.0.0.1:1")
    assert shown.returncode == 2
    assert shown.stderr.startswith("headwater: no broker answers at 127.0.0.1:1 ")
    assert shown.stderr.count("\n") == 1


def test_settings_shows_variables_without_secrets() -> None:
    shown = headwater(
        "settings",
        HEADWATER_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        HEADWATER_SASL_MECHANISM="PLAIN",
        HEADWATER_SASL_USERNAME="somebody",
        HEADWATER_SASL_PASSWORD="geheim",
    )
    assert shown.returncode == 0
    assert "HEADWATER_INTEREST_HALF_LIFE_SHORT_S" in shown.stdout
    assert "somebody" in shown.stdout
    assert "geheim" not in shown.stdout


def test_no_command_is_a_usage_error() -> None:
    assert headwater().returncode == 2


class Trainer:
    """In place of model_export.commands."""

    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[list[str]] = []
        self._error = error

    def main(self, argv: Sequence[str]) -> int:
        self.seen.append(list(argv))
        if self._error:
            raise self._error
        return 7


def install(monkeypatch: pytest.MonkeyPatch, trainer: Trainer) -> None:
    monkeypatch.setitem(sys.modules, "model_export.commands", SimpleNamespace(main=trainer.main))


def test_trainer_commands_are_handed_over_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer()
    install(monkeypatch, trainer)
    assert __main__.main(["train", "--seed", "3", "--debug", "log"]) == 7
    assert trainer.seen == [["train", "--seed", "3", "log"]]


def test_errors_of_the_trainer_are_sentences_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, Trainer(DataError("the log is empty")))
    assert __main__.main(["train"]) == 2
    assert capsys.readouterr().err == "headwater: the log is empty\n"


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, Trainer(ModuleNotFoundError("No module named 'torch'", name="torch.nn")))
    assert __main__.main(["evaluate"]) == 2
    assert "pip install 'headwater[train]'" in capsys.readouterr().err


def test_a_missing_module_of_our_own_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Trainer(ModuleNotFoundError("No module named 'streamer.x'", name="streamer.x")))
    with pytest.raises(ModuleNotFoundError):
        __main__.main(["evaluate"])
