"""What the integration tests share: deployments that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents import kernels
from tests.integration.stream import Deployment


@pytest.fixture(scope="session")
def kept_kernels() -> None:
    """Machine code of the kernels is on disk: no worker has to compile while a test waits for it."""
    kernels.ready()


@pytest.fixture
def deploy(
    kafka: str, topic_prefix: str, artefact: Path, tmp_path: Path, kept_kernels: None
) -> Iterator[Callable[..., Deployment]]:
    """Makes a deployment with settings: topics, a champion and the catalogue are there, no worker is."""
    made: list[Deployment] = []

    def make(**options: str) -> Deployment:
        made.append(Deployment(kafka, topic_prefix, artefact, tmp_path, options))
        return made[-1].begin()

    yield make
    for deployment in made:
        deployment.close()
