"""Kernels of the features: what the blend sees of each candidate, one user's after the other, a row of candidates per feature.

Axes: B users, C candidates, F features, H half-lives, W remembered items.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled, compiled_sum

Rows = NDArray[np.int64]
Ints = NDArray[np.int32]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

NONE = -1
NEVER = np.iinfo(np.int64).min
NEVER_TAKEN = 10_000
"""As in pool_kernels: a constant of another module would not renew the compiled kernels when it changes."""
HALF_LIVES, KINDS = 4, 4
_STEEP = np.float32(1 / 1e-3)
LOG_SCALE = np.float32(1 / math.log1p(1 / 1e-3))
TICKS = np.float32(1 / 12)
"""log1p of 160,000 average intervals is about 12."""
EVENTS = np.float32(1 / 12)
TIMES = np.float32(1 / 5)
_TINY = np.float32(1e-20)
NOTHING = np.float32(1e-12)
"""Shares below are 0: a few that are no normal numbers, or become none by a product, cost as much as all others together."""
_LN_2 = np.float32(math.log(2))
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1), np.float32(2)
_QUARTER, _SIXTH, _TWENTIETH = np.float32(1 / 4), np.float32(1 / 6), np.float32(1 / 20)
_PER_LN_2, _LEAST = np.float32(1 / math.log(2)), np.float32(math.log(1e-12))
_THIRD, _FIFTH, _SEVENTH, _NINTH = np.float32(1 / 3), np.float32(1 / 5), np.float32(1 / 7), np.float32(1 / 9)
_ROOT_HALF = np.int32(np.float32(math.sqrt(0.5)).view(np.int32))


@compiled
def _logarithms(values: F32, scale: Any, exponent: Ints) -> None:
    """values (n,), positive and normal → their natural logarithms times `scale`, in place, to 2e-7; exponent (≥ n,) is used.

    x = m 2^e with m in [√½, √2), and ln m = 2 artanh s for s = (m - 1) / (m + 1), |s| < 0.172, as a series up to s^9.
    """
    bits = values.view(np.int32)
    for at in range(len(values)):
        above = bits[at] - _ROOT_HALF
        exponent[at] = above >> 23
        bits[at] = (above & 0x7FFFFF) + _ROOT_HALF
    for at in range(len(values)):
        s = (values[at] - _ONE) / (values[at] + _ONE)
        z = s * s
        series = _ONE + z * (_THIRD + z * (_FIFTH + z * (_SEVENTH + z * _NINTH)))
        values[at] = (_TWO * s * series + np.float32(exponent[at]) * _LN_2) * scale


@compiled
def _share(value: Any) -> Any:
    return value if value > NOTHING else np.float32(0)


@compiled
def _exponentials(values: F32, power: Ints) -> None:
    """values (n,) of at most 0 → e to their power, in place, to 5e-6 of it, 0 below NOTHING; power (≥ n,) is used.

    e^x = 2^n e^r with r in [-ln 2 / 2, ln 2 / 2], and e^r as its series up to r^5.
    """
    bits = values.view(np.int32)
    for at in range(len(values)):
        x = max(values[at], _LEAST)
        n = np.int32(x * _PER_LN_2 - _HALF)
        r = x - np.float32(n) * _LN_2
        series = _ONE + r * (
            _ONE + r * (_HALF + r * (_SIXTH + r * (_SIXTH * _QUARTER + r * _SIXTH * _TWENTIETH)))
        )
        power[at] = n << 23
        values[at] = series if values[at] >= _LEAST else np.float32(0)
    for at in range(len(values)):
        bits[at] = bits[at] + power[at] if bits[at] else 0


@compiled_sum
def _sum(values: F32) -> Any:
    total = np.float32(0)
    for at in range(len(values)):
        total += values[at]
    return total


@compiled_sum
def _spread(values: F32, mean: Any) -> Any:
    total = np.float32(0)
    for at in range(len(values)):
        total += (values[at] - mean) * (values[at] - mean)
    return total


@compiled
def _standard(scores: F32, out: F32, share: F32, power: Ints) -> None:
    """Scores (n,) of a model, whatever their scale: standardised, and as a softmax's share of its maximum."""
    count = np.float32(max(len(scores), 1))
    mean, highest = _sum(scores) / count, np.float32(-np.inf)
    for at in range(len(scores)):
        highest = max(highest, scores[at])
    per_deviation = _QUARTER / np.float32(math.sqrt(_spread(scores, mean) / count) + 1e-6)
    for at in range(len(scores)):
        out[at] = min(max((scores[at] - mean) * per_deviation, -_ONE), _ONE)
        share[at] = scores[at] - highest
    _exponentials(share, power)


@compiled
def described(
    item: Rows,
    filled: Rows,
    neighbour: F32,
    highest: F32,
    lag: Ints,
    taken: Ints,
    now: Rows,
    past: Rows,
    past_ms: Rows,
    length: Rows,
    session: Rows,
    count: F64,
    total: F64,
    top: F64,
    times: Rows,
    again: F64,
    tick: float,
    repeats: bool,
    recent: int,
    gru: F32,
    text: F32,
    exponent: Ints,
    x: F32,
    context: F32,
) -> None:
    """Features x (B, F, C) of the candidates item (B, C), of which the first filled (B,) are there, and context (B, D).

    neighbour (B, 4, C), highest (B, 4), lag and taken (B, C) as pooled; count (N, H), total and top (H,), times (2, N), again
    (N,) of the items; gru and text (B, C) scores of a model, or of no width.
    """
    per_tick = np.float32(1 / tick)
    to_share = 1 / np.maximum(total, 1e-300)
    to_top = 1 / np.maximum(top, 1e-300)
    ever = HALF_LIVES - 1
    for user in range(len(item)):
        m = filled[user]
        mine, rows = item[user], x[user]
        for at in range(m):
            other = mine[at]
            for h in range(HALF_LIVES):
                each = count[other, h]
                rows[2 * h, at] = np.float32(each * to_share[h] * 10) * _STEEP + _ONE
                rows[2 * h + 1, at] = _share(np.float32(each * to_top[h]))
            rows[8, at] = np.float32(count[other, ever]) + _ONE
        for h in range(HALF_LIVES):
            _logarithms(rows[2 * h, :m], LOG_SCALE, exponent)
        _logarithms(rows[8, :m], EVENTS, exponent)
        f = 2 * HALF_LIVES + 1
        for kind in range(KINDS):
            part = _ONE / max(highest[user, kind], _TINY)
            said = neighbour[user, kind]
            for at in range(m):
                rows[f, at] = said[at] * _STEEP + _ONE
                rows[f + 1, at] = _share(said[at] * part)
            _logarithms(rows[f, :m], LOG_SCALE, exponent)
            f += 2
        any_taken = False
        for row in range(f, f + 5):
            rows[row, :m] = 0
        if repeats:
            for at in range(m):
                when = np.int64(lag[user, at])
                if when == NEVER_TAKEN:
                    continue
                any_taken = True
                since = np.float32(max(now[user] - past_ms[user, when], 0)) * per_tick
                rows[f, at] = 1
                rows[f + 1, at] = _ONE / np.float32(1 + when)
                rows[f + 2, at] = np.float32(math.log(since + _ONE)) * TICKS
                rows[f + 3, at] = np.float32(math.log(np.float32(1 + taken[user, at]))) * TIMES
                rows[f + 4, at] = np.float32((again[mine[at]] + 0.1) / (count[mine[at], ever] + 1))
        f += 5
        for at in range(m):
            other = mine[at]
            for end in range(2):
                since = np.float32(max(now[user] - times[end, other], 0)) * per_tick
                rows[f + end, at] = since + _ONE if times[end, other] != NEVER else _ONE
            rows[f + 2, at] = rows[2, at] - rows[4, at]
        for end in range(2):
            _logarithms(rows[f + end, :m], TICKS, exponent)
        for at in range(m):
            if times[0, mine[at]] == NEVER:
                rows[f, at] = 1
                rows[f + 1, at] = 1
        f += 3
        for scores in (gru, text):
            if scores.shape[1]:
                _standard(scores[user, :m], rows[f, :m], rows[f + 1, :m], exponent)
            else:
                rows[f, :m] = 0
                rows[f + 1, :m] = 0
            f += 2
        for row in range(len(rows)):
            rows[row, m:] = 0

        known, liked = 0, np.float64(0)
        for ago in range(min(recent, past.shape[1])):
            each = past[user, ago]
            if each == NONE:
                continue
            known += 1
            share = np.float32(count[each, ever] * to_share[ever])
            liked += np.float32(math.log(share * 10 * _STEEP + _ONE)) * LOG_SCALE
        there = past.shape[1] > 0 and past[user, 0] != NONE
        context[user, 0] = math.log1p(length[user]) / 6
        context[user, 1] = math.log1p(session[user]) / 4
        context[user, 2] = 0
        context[user, 3] = 0
        if there:
            since = np.float32(max(now[user] - past_ms[user, 0], 0)) * per_tick
            context[user, 2] = np.float32(math.log(since + _ONE)) * TICKS
            context[user, 3] = math.log1p(count[past[user, 0], ever]) / 12
        context[user, 4] = liked / max(known, 1)
        context[user, 5] = 1 if any_taken else 0
