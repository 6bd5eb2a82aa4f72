"""JSON texts of `profiles` and `recommendations`, byte after byte into one buffer.

A small vocabulary: each word takes the buffer and where to write, and returns where the next one is to. Elements of a
list end in a comma, and what closes the list takes the last one back. A text is copied by SLACK bytes at a time, so there must
be as many behind the last one, in its table as in the buffer.

Axes: n records, k list elements, C labels of all tasks, T event types. Tables: see json_texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamer.core.compiled import compiled
from streamer.core.json_texts import SLACK, Texts

_MINUS, _ZERO, _COMMA, _POINT = b"-"[0], b"0"[0], b","[0], b"."[0]
_LARGEST = 9e12
_MICRO = 1_000_000
TOP = 5
"""Labels listed per kind of interest."""
STEPS = 10_000
"""Shares and probabilities are written in steps of 1/10,000."""


# ---------------------------------------------------------------------- the vocabulary
@compiled
def _put(out: Any, at: int, text: Any) -> int:
    """A constant, or an array of bytes."""
    there = out[at:]
    for place in range(len(text)):
        there[place] = text[place]
    return at + len(text)


@compiled
def _put_from(out: Any, at: int, table: Any, number: Any) -> int:
    text, starts = table
    start, length = starts[number], starts[number + 1] - starts[number]
    for part in range(0, length, SLACK):
        there, here = out[at + part : at + part + SLACK], text[start + part : start + part + SLACK]
        for place in range(SLACK):
            there[place] = here[place]
    return at + int(length)


@compiled
def _put_digits(out: Any, at: int, value: Any, digits: int) -> int:
    """A value that is not negative, with zeros before it."""
    there, rest, ten = out[at : at + digits], np.uint64(value), np.uint64(10)
    for place in range(digits - 1, -1, -1):
        higher = rest // ten  # unsigned: twice as fast
        there[place] = np.uint64(_ZERO) + (rest - higher * ten)
        rest = higher
    return at + digits


@compiled
def _put_whole(out: Any, at: int, value: Any) -> int:
    if value < 0:
        out[at] = _MINUS
        at, value = at + 1, -value
    digits, limit = 1, 10
    while value >= limit and digits < 18:
        digits, limit = digits + 1, limit * 10
    if value >= limit:
        digits += 1
    return _put_digits(out, at, value, digits)


@compiled
def _put_decimal(out: Any, at: int, value: float) -> int:
    """To six decimals; what is not finite, or beyond 9e12, becomes 0 or ±9e12."""
    safe = 0.0 if np.isnan(value) else min(max(value, -_LARGEST), _LARGEST)
    scaled = np.int64(np.rint(safe * _MICRO))
    if scaled < 0:
        out[at] = _MINUS
        at, scaled = at + 1, -scaled
    at = _put_whole(out, at, scaled // _MICRO)
    out[at] = _POINT
    return _put_digits(out, at + 1, scaled % _MICRO, 6)


@compiled
def _close(out: Any, at: int) -> int:
    """Take the last element's comma back."""
    return at - 1 if out[at - 1] == _COMMA else at


# ---------------------------------------------------------------------- what both have in common
@compiled
def _put_first(out: Any, at: int, stamp: Any, record: int) -> int:
    users, version, revision, watermark, _, _, _, model, _ = stamp
    at = _put(out, at, b'{"user_id":')
    at = _put_from(out, at, users, record)
    at = _put(out, at, b',"version":')
    at = _put_whole(out, at, version[record])
    at = _put(out, at, b',"revision":')
    at = _put_whole(out, at, revision[record])
    at = _put(out, at, b',"as_of_ms":')
    at = _put_whole(out, at, watermark[record])
    at = _put(out, at, b',"model_version":')
    return _put_from(out, at, model, 0)


@compiled
def _put_last(out: Any, at: int, stamp: Any, record: int) -> int:
    _, _, _, _, topic, partition, offset, _, topics = stamp
    at = _put(out, at, b',"source":{"topic":')
    at = _put_from(out, at, topics, topic[record])
    at = _put(out, at, b',"partition":')
    at = _put_whole(out, at, partition[record])
    at = _put(out, at, b',"offset":')
    at = _put_whole(out, at, offset[record])
    return _put(out, at, b"}}")


# ---------------------------------------------------------------------- recommendations
@compiled
def write_recommendations(
    out: Any,
    ends: Any,
    first: int,
    stamp: Any,
    strategy: Any,
    scores: Any,
    item: Any,
    reason: Any,
    signal: Any,
    strategies: Any,
    items: Any,
    reasons: Any,
    signals: Any,
) -> None:
    """Fill `ends` (m,) with where each record ends in `out`, of the m records from `first` on.

    strategy (n,), item (n, k; 0 = no more), reason (n, k), signal (n, k) or (n, 0): numbers in the tables; scores (n, k) f64.
    """
    at = 0
    for number in range(len(ends)):
        record = first + number
        at = _put_first(out, at, stamp, record)
        at = _put(out, at, b',"strategy":')
        at = _put_from(out, at, strategies, strategy[record])
        at = _put(out, at, b',"items":[')
        for place in range(item.shape[1]):
            if item[record, place] == 0:
                continue
            at = _put_from(out, at, items, item[record, place])
            at = _put_decimal(out, at, scores[record, place])
            at = _put_from(out, at, reasons, reason[record, place])
            if signal.shape[1]:
                at = _put_from(out, at, signals, signal[record, place])
            at = _put(out, at, b"},")
        at = _put(out, _close(out, at), b"]")
        ends[number] = at = _put_last(out, at, stamp, record)


# ---------------------------------------------------------------------- profiles
@compiled
def write_profiles(
    out: Any,
    ends: Any,
    first: int,
    stamp: Any,
    shares: Any,
    category: Any,
    probability: Any,
    splits: Any,
    counts: Any,
    codes: Any,
    categories: Any,
    tasks: Any,
    labels: Any,
    types: Any,
    steps: Any,
) -> None:
    """Fill `ends` (m,) with where each record ends in `out`, of the m records from `first` on.

    shares (n, 2, S) f32 of the short and the long memory in category (n, S), numbers in `categories`; probability (n, C) f32,
    that of task t in columns splits[t] to splits[t + 1], labels (C,); counts (n, 3, 32) by window and type code, codes (T,) in
    the order of `types`.
    """
    of_column = np.arange(probability.shape[1])
    order = np.empty(TOP, np.int64)
    at = 0
    for number in range(len(ends)):
        record = first + number
        at = _put_first(out, at, stamp, record)
        at = _put(out, at, b',"interests":{"short_term":[')
        at = _put_top(out, at, shares[record, 0], category[record], categories, steps, order)
        at = _put(out, at, b'],"long_term":[')
        at = _put_top(out, at, shares[record, 1], category[record], categories, steps, order)
        for task in range(len(splits) - 1):
            start, stop = splits[task], splits[task + 1]
            at = _put_from(out, at, tasks, task)
            at = _put_top(
                out, at, probability[record, start:stop], of_column[start:stop], labels, steps, order
            )
        at = _put(out, at, b']},"activity":{"1h":{')
        at = _put_counts(out, at, counts[record, 0], codes, types)
        at = _put(out, at, b'},"24h":{')
        at = _put_counts(out, at, counts[record, 1], codes, types)
        at = _put(out, at, b'},"7d":{')
        at = _put_counts(out, at, counts[record, 2], codes, types)
        at = _put(out, at, b"}}")
        ends[number] = at = _put_last(out, at, stamp, record)


@compiled
def _put_top(out: Any, at: int, p: Any, label: Any, labels: Any, steps: Any, order: Any) -> int:
    """The TOP largest of p (C,), of equal ones the first; what rounds to 0 is left out. order (TOP,): room to work in."""
    n = 0
    for column in range(len(p)):
        if n == TOP and not p[column] > p[order[TOP - 1]]:
            continue
        place = n = min(n, TOP - 1)
        while place > 0 and p[column] > p[order[place - 1]]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = column
        n += 1
    for place in range(n):
        step = np.int64(np.rint(p[order[place]] * np.float32(STEPS)))
        if step > 0:
            at = _put_from(out, at, labels, label[order[place]])
            at = _put_from(out, at, steps, min(step, STEPS))
            at = _put(out, at, b"},")
    return _close(out, at)


@compiled
def _put_counts(out: Any, at: int, counts: Any, codes: Any, types: Any) -> int:
    """counts (32,) by type code; types without any are left out."""
    for number in range(len(codes)):
        count = counts[codes[number]]
        if count > 0:
            at = _put_from(out, at, types, number)
            at = _put_whole(out, at, count)
            at = _put(out, at, b",")
    return _close(out, at)


def warm_up() -> None:
    text = Texts([b"", b""]).table
    ends, none, zero = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, 1), np.int64)
    out, share = np.zeros(512, np.uint8), np.zeros((1, 2, 1), np.float32)
    stamp = (text, *[none] * 6, text, text)
    lists = (none, np.zeros((1, 1)), zero, zero, zero, text, text, text, text)
    write_recommendations(out, ends, 0, stamp, *lists)
    counts = np.zeros((1, 3, 32), np.int64)
    write_profiles(
        out, ends, 0, stamp, share, zero, share[0, :1], np.array([0, 1]), counts, none, *[text] * 5
    )
