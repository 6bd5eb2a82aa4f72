"""Profiles of many users at once, out of their states and the model's heads.

Axes: n users, C labels of a task. Everything numeric is done on arrays; per user remain the slices of flat lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamer.core.event_types import EventTypes
from streamer.core.protocol import Label, Profile, Source
from streamer.core.rolling_counts import LEVELS
from streamer.core.user_state import StateView, UserStates

TOP = 5
"""Labels listed per kind of interest."""
_DECIMALS = 4


def profiles(
    states: UserStates | StateView,
    users: NDArray[np.int64],
    user_ids: Sequence[str],
    sources: Sequence[Source],
    *,
    model_version: str,
    tasks: Mapping[str, tuple[Sequence[str], NDArray[np.float32]]],
    label_names: Mapping[int, str],
    types: EventTypes,
) -> list[Profile]:
    """Profiles of `users` (n,), rows of `states`, with their ids and sources.

    tasks: per head of the model its labels and softmax output (n, C). label_names: from category hash to name; categories
    without a name (gone from the catalogue) are left out. Interests are shares of all the user's interests, largest first.
    """
    interests = _category_interests(states, users, label_names)
    for task, (labels, probabilities) in tasks.items():
        interests[task] = _top(probabilities, None, labels)
    activity = _activity(states.activity(users), {each.code: each.name for each in types})
    kinds = list(interests)
    heads = states.heads
    return [
        Profile(
            user_id,
            version,
            revision,
            watermark,
            model_version,
            dict(zip(kinds, rows, strict=True)),
            counts,
            source,
        )
        for user_id, version, revision, watermark, counts, source, *rows in zip(
            user_ids,
            heads["version"][users].tolist(),
            heads["revision"][users].tolist(),
            heads["watermark"][users].tolist(),
            activity,
            sources,
            *interests.values(),
            strict=True,
        )
    ]


def _category_interests(
    states: UserStates | StateView, users: NDArray[np.int64], label_names: Mapping[int, str]
) -> dict[str, list[list[Label]]]:
    hashes, short, long = states.interests(users)
    distinct, inverse = np.unique(hashes, return_inverse=True)
    index = inverse.reshape(hashes.shape)
    names = [label_names.get(each) for each in distinct.tolist()]
    named = np.array([name is not None for name in names], np.bool_)[index] & (hashes != 0)
    texts = [name or "" for name in names]
    result = {}
    for kind, weights in (("short_term", short), ("long_term", long)):
        weights = np.where(named, weights, 0).astype(np.float64)
        total = weights.sum(axis=1, keepdims=True)
        result[kind] = _top(weights / np.where(total > 0, total, 1), index, texts)
    return result


def _top(p: NDArray[np.floating], index: NDArray[np.int64] | None, names: Sequence[str]) -> list[list[Label]]:
    """The TOP largest of `p` (n, C) as labels; what rounds to 0 is left out.

    Column c is called names[c], or where there is an `index` (n, C), names[index[:, c]].
    """
    order = np.argsort(-p, axis=1, kind="stable")[:, :TOP]
    top = np.take_along_axis(p, order, 1).astype(np.float64).round(_DECIMALS)
    kept = top > 0
    chosen = (order if index is None else np.take_along_axis(index, order, 1))[kept]
    flat = list(map(Label, [names[each] for each in chosen.tolist()], top[kept].tolist()))
    ends = np.cumsum(kept.sum(axis=1)).tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _activity(counts: NDArray[np.int64], type_names: Mapping[int, str]) -> list[dict[str, dict[str, int]]]:
    """From counts (n, 3, 32) to {window: {type: n}}; a type that is no longer configured is left out."""
    counts = counts.copy()
    counts[:, :, [code for code in range(counts.shape[2]) if code not in type_names]] = 0
    user, level, code = np.nonzero(counts)
    windows: list[dict[str, int]] = [{} for _ in range(len(counts) * len(LEVELS))]
    names = [type_names[each] for each in code.tolist()]
    cells = (user * len(LEVELS) + level).tolist()
    for cell, name, n in zip(cells, names, counts[user, level, code].tolist(), strict=True):
        windows[cell][name] = n
    per_level = [windows[at :: len(LEVELS)] for at in range(len(LEVELS))]
    return [dict(zip(LEVELS, each, strict=True)) for each in zip(*per_level, strict=True)]
