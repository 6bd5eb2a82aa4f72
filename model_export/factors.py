"""Collaborative filtering: item factors of implicit ALS, from which item vectors may start.

Hu, Koren & Volinsky 2008, doi:10.1109/ICDM.2008.22, as the package `implicit` computes it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from model_export.interactions import NONE, Interactions
from model_export.network import UserModel
from streamer.errors import DataError

F32 = NDArray[np.float32]

CONFIDENCE = 10.0
REGULARISATION = 0.05
ITERATIONS = 15
SPREAD = 0.5
"""Standard deviation of the started vectors, about that of vectors from texts."""
TEXT_SHARE = 0.2
"""What of the texts' start is left beside the factors."""


def item_factors(data: Interactions, dim: int, seed: int) -> F32:
    """(N, dim), zeros for items without events. Raises DataError where `implicit` is not installed."""
    try:
        from implicit.als import AlternatingLeastSquares
        from scipy.sparse import coo_matrix
    except ImportError as error:
        raise DataError(
            "items from iALS need the package implicit: pip install 'headwater[train]'"
        ) from error
    taken = data.item != NONE
    counts = coo_matrix(
        (np.ones(int(taken.sum()), np.float32), (data.user[taken], data.item[taken])),
        shape=(len(data.users), len(data.items)),
    ).tocsr()
    counts.data[:] = 1
    model = AlternatingLeastSquares(
        factors=dim,
        regularization=REGULARISATION,
        alpha=CONFIDENCE,
        iterations=ITERATIONS,
        random_state=seed,
        num_threads=1,
    )
    model.fit(counts, show_progress=False)
    factors = np.ascontiguousarray(model.item_factors, np.float32)
    factors[np.diff(counts.tocsc().indptr) == 0] = 0
    return factors


def start_from(model: UserModel, factors: F32) -> None:
    """Item vectors = factors (N, D), scaled, plus a little of their texts."""
    scaled = factors * (SPREAD / max(float(factors.std()), 1e-9))
    with torch.no_grad():
        model.id_embedding.copy_(torch.from_numpy(scaled))
        model.content_vector.weight.mul_(TEXT_SHARE)
