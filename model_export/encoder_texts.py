"""What the encoder reads in its pre-training: items as they are encoded, their titles alone, reviews and searches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_export.interactions import NONE, Interactions, category_labels, category_targets
from streamer.core.item_text import item_text


def pretraining_texts(data: Interactions, seed: int) -> tuple[list[str], NDArray[np.float32]]:
    """Distinct texts (n,) in random order, and the categories (n, C) of what they are about; zeros where unknown.

    An item's categories stand in its text, so its title and description are read without them, too: those teach.
    """
    categories = category_targets(data.items, category_labels(data.items))
    rows: dict[str, int] = {}
    for row, item in enumerate(data.items):
        bare = ". ".join(filter(None, (item.title.strip(), item.text.strip())))
        for text in (item_text(item), bare):
            if text:
                rows.setdefault(text, row)
    for text, item_row in zip(data.text.tolist(), data.item.tolist(), strict=True):
        if text != NONE:
            rows.setdefault(data.texts[text], item_row)
    texts = list(rows)
    order = np.random.default_rng(seed).permutation(len(texts))
    about = np.array([rows[text] for text in texts], np.int64)[order]
    found = np.where((about != NONE)[:, None], categories[about], np.float32(0)).astype(np.float32)
    return [texts[place] for place in order.tolist()], found
