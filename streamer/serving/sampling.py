"""What an index or half precision is measured with, and what an export says of it."""

from __future__ import annotations

import numpy as np

from streamer.core.manifest import IndexSpec
from streamer.serving import ivf
from streamer.serving.exact import F32
from streamer.serving.ivf import Lists
from streamer.serving.model import Model

SAMPLE_USERS, SAMPLE_EVENTS = 256, 20


def sample_states(model: Model, users: int = SAMPLE_USERS) -> F32:
    """States (users, H) after random events with the model's items, to measure with where no real users are at hand."""
    rng = np.random.default_rng(0)
    shape = (users, SAMPLE_EVENTS)
    item = model.item_vectors[rng.integers(0, len(model.item_ids), shape)]
    zeros = np.zeros(shape, np.float32)
    lengths = rng.integers(1, SAMPLE_EVENTS + 1, users)
    return model.replay(item, rng.integers(1, 4, shape), zeros, zeros, lengths)


def spec_of(model: Model, state: F32) -> tuple[Lists, IndexSpec]:
    """Lists of the model's own items, and what they find for `state` (B, H): what an export writes down."""
    lists = ivf.train(model.item_vectors, model.item_bias)
    return lists, ivf.measured(model.query, state, model.item_vectors, model.item_bias, lists)
