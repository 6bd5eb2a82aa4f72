"""Plain events out of the JSON of many records, without an object for any of them.

*Plain* is what nearly every good event is: its known fields once each, ids of up to 64 bytes and texts without escapes, a
`value` of up to 15 digits without an exponent. Whatever else stands in a record is skipped, if it is JSON (RFC 8259). Of a
record that is not plain, nothing is said but that: the careful decoder looks at it.

A word of the grammar takes the text, where to read and where the record ends; it returns where what follows begins, NOT_PLAIN
where it finds something else.

Axes: n records.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.compiled import compiled, fixed

NOT_PLAIN = -1
NO_EVENT = 0
"""Code of a request for a fresh list."""
MAX_ID_BYTES = 64
MAX_TEXT_BYTES = 8 * 1024
MAX_DIGITS = 15
"""Of a number that a double holds exactly, as it does ten to the number of its decimals: their quotient is rounded once."""
MAX_DEPTH = 60
"""Of what is skipped."""

EVENT_ID, USER_ID, TYPE, TIMESTAMP_MS, ITEM_ID, TARGET_USER_ID, VALUE, TEXT, SESSION_ID = range(9)
FIELDS = (
    b"event_id", b"user_id", b"type", b"timestamp_ms", b"item_id", b"target_user_id", b"value", b"text", b"session_id"
)  # fmt: skip
_REQUIRED = 1 << EVENT_ID | 1 << USER_ID | 1 << TYPE | 1 << TIMESTAMP_MS
_NAMES = fixed(np.frombuffer(b"".join(FIELDS), np.uint8))
_FIELDS = np.array([[len(b"".join(FIELDS[: at + 1])), at] for at in range(len(FIELDS))])

NO_PARTITIONER, MURMUR2, CRC32 = range(3)
PARTITIONERS = {"off": NO_PARTITIONER, "murmur2": MURMUR2, "crc32": CRC32}

_SPACE, _TAB, _LINE, _RETURN, _QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _PLUS, _POINT = b' \t\n\r"\\,:-+.'
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST, _ZERO, _NINE, _SMALL_E, _LARGE_E = b"{}[]09eE"
_TRUE, _FALSE, _NULL = (fixed(np.frombuffer(word, np.uint8)) for word in (b"true", b"false", b"null"))
_AFTER_BACKSLASH = fixed(np.isin(np.arange(256), list(b'"\\/bfnrt')))
"""An escaped code point is not plain: half of a pair may be none."""
_POWERS = fixed(10.0 ** np.arange(MAX_DIGITS + 1))


def _crc_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0xEDB88320), table >> 1).astype(np.uint32)
    return fixed(table)


_CRC_TABLE = _crc_table()


_IV = fixed(
    np.array(
        [0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
         0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179], np.uint64
    )
)  # fmt: skip
_SIGMA = fixed(
    np.array(
        [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
         [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4], [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
         [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13], [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
         [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11], [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
         [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5], [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0]], np.int64
    )
)  # fmt: skip
_LENGTH_8 = np.uint64(0x01010008)
"""First word of the parameters: a digest of 8 bytes, no key."""


# ---------------------------------------------------------------------- the grammar
@compiled
def _space(text: Any, at: int, end: int) -> int:
    while at < end and (text[at] == _SPACE or text[at] == _LINE or text[at] == _TAB or text[at] == _RETURN):
        at += 1
    return at


@compiled
def _string(text: Any, at: int, end: int, escapes: bool) -> int:
    """From its first quote on."""
    if at >= end or text[at] != _QUOTE:
        return NOT_PLAIN
    at += 1
    while at < end:
        each = text[at]
        if each == _QUOTE:
            return at + 1
        if each < _SPACE:
            return NOT_PLAIN
        if each == _BACKSLASH:
            if not escapes or at + 1 >= end or not _AFTER_BACKSLASH[text[at + 1]]:
                return NOT_PLAIN
            at += 1
        at += 1
    return NOT_PLAIN


@compiled
def _digits(text: Any, at: int, end: int) -> int:
    start = at
    while at < end and _ZERO <= text[at] <= _NINE:
        at += 1
    return at if at > start else NOT_PLAIN


@compiled
def _number(text: Any, at: int, end: int) -> int:
    if at < end and text[at] == _MINUS:
        at += 1
    start = at
    at = _digits(text, at, end)
    if at == NOT_PLAIN or (text[start] == _ZERO and at > start + 1):
        return NOT_PLAIN
    if at < end and text[at] == _POINT:
        at = _digits(text, at + 1, end)
        if at == NOT_PLAIN:
            return NOT_PLAIN
    if at < end and (text[at] == _SMALL_E or text[at] == _LARGE_E):
        at += 1
        if at < end and (text[at] == _PLUS or text[at] == _MINUS):
            at += 1
        return _digits(text, at, end)
    return at


@compiled
def _word(text: Any, at: int, end: int, word: Any) -> int:
    if at + len(word) > end:
        return NOT_PLAIN
    for place in range(len(word)):
        if text[at + place] != word[place]:
            return NOT_PLAIN
    return at + len(word)


@compiled
def _scalar(text: Any, at: int, end: int) -> int:
    if at >= end:
        return NOT_PLAIN
    if text[at] == _QUOTE:
        return _string(text, at, end, True)
    if text[at] == _NULL[0]:
        return _word(text, at, end, _NULL)
    if text[at] == _TRUE[0]:
        return _word(text, at, end, _TRUE)
    if text[at] == _FALSE[0]:
        return _word(text, at, end, _FALSE)
    return _number(text, at, end)


@compiled
def _name(text: Any, at: int, end: int) -> int:
    """A member's name, which may hold escapes, and its colon."""
    at = _string(text, at, end, True)
    if at == NOT_PLAIN:
        return NOT_PLAIN
    at = _space(text, at, end)
    return at + 1 if at < end and text[at] == _COLON else NOT_PLAIN


@compiled
def _anything(text: Any, at: int, end: int) -> int:
    """Any JSON, however nested."""
    depth, objects = 0, np.uint64(0)  # the lowest bit: whether the innermost is an object, not a list
    one = np.uint64(1)
    while True:
        at = _space(text, at, end)
        if at >= end:
            return NOT_PLAIN
        first = text[at]
        if first in (_OPEN, _OPEN_LIST):
            closing = _CLOSE if first == _OPEN else _CLOSE_LIST
            inner = _space(text, at + 1, end)
            if inner < end and text[inner] == closing:
                at = inner + 1
            else:
                depth += 1
                if depth > MAX_DEPTH:
                    return NOT_PLAIN
                objects = objects << one
                at = inner
                if first == _OPEN:
                    objects |= one
                    at = _name(text, at, end)
                    if at == NOT_PLAIN:
                        return NOT_PLAIN
                continue
        else:
            at = _scalar(text, at, end)
            if at == NOT_PLAIN:
                return NOT_PLAIN
        while depth:  # what follows a value
            at = _space(text, at, end)
            if at >= end:
                return NOT_PLAIN
            inside = (objects & one) == one
            if text[at] == _COMMA:
                at += 1
                if inside:
                    at = _name(text, _space(text, at, end), end)
                    if at == NOT_PLAIN:
                        return NOT_PLAIN
                break
            if text[at] != (_CLOSE if inside else _CLOSE_LIST):
                return NOT_PLAIN
            at, depth, objects = at + 1, depth - 1, objects >> one
        if not depth:
            return at


# ---------------------------------------------------------------------- a record
@compiled
def _alike(text: Any, first: int, last: int, other: Any, start: int, end: int) -> bool:
    if last - first != end - start:
        return False
    same = True
    for place in range(last - first):
        same &= text[first + place] == other[start + place]
    return same


@compiled
def _code(text: Any, first: int, last: int, names: Any, table: Any) -> int:
    """Of a name among names, table (m, 2): where each of them ends, and its code. NOT_PLAIN for any other."""
    start = 0
    for row in range(len(table)):
        if _alike(text, first, last, names, start, table[row, 0]):
            return int(table[row, 1])
        start = table[row, 0]
    return NOT_PLAIN


@compiled
def _whole(text: Any, first: int, last: int) -> Any:
    """The value of digits, NOT_PLAIN for too many, or none, or what else begins with a 0."""
    if last - first > MAX_DIGITS or last == first or (text[first] == _ZERO and last > first + 1):
        return NOT_PLAIN
    value: Any = 0
    for at in range(first, last):
        if not _ZERO <= text[at] <= _NINE:
            return NOT_PLAIN
        value = value * 10 + (np.int64(text[at]) - _ZERO)
    return value


@compiled
def _decimal(text: Any, first: int, last: int) -> Any:
    """The value of a number (checked), NaN where it is not plain."""
    negative = text[first] == _MINUS
    value: Any = 0
    digits, decimals, point = 0, 0, False
    for at in range(first + 1 if negative else first, last):
        if text[at] == _POINT:
            point = True
        elif _ZERO <= text[at] <= _NINE:
            value, digits = value * 10 + (np.int64(text[at]) - _ZERO), digits + 1
            if digits > MAX_DIGITS:
                return np.nan
            if point:
                decimals += 1
        else:
            return np.nan
    if negative and value == 0:
        return np.nan
    return (-value if negative else value) / _POWERS[decimals]


@compiled
def _members(text: Any, at: int, end: int, spans: Any) -> bool:
    """Where the values of a record's known fields are: spans (9, 2), without quotes; from -1 on where there is none."""
    for field in range(len(_FIELDS)):
        spans[field, 0] = spans[field, 1] = NOT_PLAIN
    met = 0
    at = _space(text, at, end)
    if at >= end or text[at] != _OPEN:
        return False
    at = _space(text, at + 1, end)
    while True:
        name = at + 1
        at = _string(text, at, end, False)
        if at == NOT_PLAIN:
            return False
        field = _code(text, name, at - 1, _NAMES, _FIELDS)
        at = _space(text, at, end)
        if at >= end or text[at] != _COLON:
            return False
        at = _space(text, at + 1, end)
        if at >= end:
            return False
        if field == NOT_PLAIN:
            at = _anything(text, at, end)
            if at == NOT_PLAIN:
                return False
        else:
            if met >> field & 1:
                return False
            met |= 1 << field
            first = at
            if text[at] == _NULL[0]:
                at = _word(text, at, end, _NULL)
                if at == NOT_PLAIN or _REQUIRED >> field & 1:
                    return False
            elif field in (VALUE, TIMESTAMP_MS):
                at = _number(text, at, end)
                if at == NOT_PLAIN:
                    return False
                spans[field, 0], spans[field, 1] = first, at
            else:
                at = _string(text, at, end, False)
                if at == NOT_PLAIN:
                    return False
                spans[field, 0], spans[field, 1] = first + 1, at - 1
        at = _space(text, at, end)
        if at >= end:
            return False
        if text[at] == _CLOSE:
            return _space(text, at + 1, end) == end and met & _REQUIRED == _REQUIRED
        if text[at] != _COMMA:
            return False
        at = _space(text, at + 1, end)


@compiled
def _crc32(text: Any, first: int, last: int) -> Any:
    crc = np.uint32(0xFFFFFFFF)
    for at in range(first, last):
        crc = crc >> np.uint32(8) ^ _CRC_TABLE[(crc ^ text[at]) & np.uint32(0xFF)]
    return np.uint32(crc ^ np.uint32(0xFFFFFFFF))


@compiled
def _murmur2(text: Any, first: int, last: int) -> Any:
    """As `partitioner.murmur2`."""
    m, length = np.uint32(0x5BD1E995), last - first
    h = np.uint32(np.uint32(0x9747B28C) ^ np.uint32(length))
    at = first
    while last - at >= 4:
        k = np.uint32(0)
        for place in range(4):
            k = np.uint32(k | np.uint32(text[at + place]) << np.uint32(8 * place))
        k = np.uint32(k * m)
        k = np.uint32((k ^ k >> np.uint32(24)) * m)
        h = np.uint32(np.uint32(h * m) ^ k)
        at += 4
    if at < last:
        for place in range(last - at):
            h = np.uint32(h ^ np.uint32(text[at + place]) << np.uint32(8 * place))
        h = np.uint32(h * m)
    h = np.uint32((h ^ h >> np.uint32(13)) * m)
    return np.uint32(h ^ h >> np.uint32(15))


@compiled
def _turned(word: Any, bits: int) -> Any:
    return word >> np.uint64(bits) | word << np.uint64(64 - bits)


@compiled
def _mixed(a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> Any:
    a = a + b + x
    d = _turned(d ^ a, 32)
    c = c + d
    b = _turned(b ^ c, 24)
    a = a + b + y
    d = _turned(d ^ a, 16)
    c = c + d
    b = _turned(b ^ c, 63)
    return a, b, c, d


@compiled
def _blake2b(text: Any, first: int, last: int, m: Any) -> Any:
    """The 8-byte digest of up to 128 bytes (RFC 7693), little-endian: `hashing.item_hash` but for 0. m (16,) is filled."""
    for word in range(16):
        m[word] = 0
    for place in range(last - first):
        m[place >> 3] |= np.uint64(text[first + place]) << np.uint64(8 * (place & 7))
    a0, a1, a2, a3 = _IV[0] ^ _LENGTH_8, _IV[1], _IV[2], _IV[3]
    b0, b1, b2, b3 = _IV[4], _IV[5], _IV[6], _IV[7]
    c0, c1, c2, c3 = _IV[0], _IV[1], _IV[2], _IV[3]
    d0, d1, d2, d3 = _IV[4] ^ np.uint64(last - first), _IV[5], ~_IV[6], _IV[7]
    for turn in range(12):
        s = _SIGMA[turn % 10]
        a0, b0, c0, d0 = _mixed(a0, b0, c0, d0, m[s[0]], m[s[1]])
        a1, b1, c1, d1 = _mixed(a1, b1, c1, d1, m[s[2]], m[s[3]])
        a2, b2, c2, d2 = _mixed(a2, b2, c2, d2, m[s[4]], m[s[5]])
        a3, b3, c3, d3 = _mixed(a3, b3, c3, d3, m[s[6]], m[s[7]])
        a0, b1, c2, d3 = _mixed(a0, b1, c2, d3, m[s[8]], m[s[9]])
        a1, b2, c3, d0 = _mixed(a1, b2, c3, d0, m[s[10]], m[s[11]])
        a2, b3, c0, d1 = _mixed(a2, b3, c0, d1, m[s[12]], m[s[13]])
        a3, b0, c1, d2 = _mixed(a3, b0, c1, d2, m[s[14]], m[s[15]])
    return _IV[0] ^ _LENGTH_8 ^ a0 ^ c0


@compiled
def parse(
    text: Any,
    ends: Any,
    keys: Any,
    key_ends: Any,
    latest: Any,
    names: Any,
    types: Any,
    rules: Any,
    partitioner: int,
    partitions: int,
    partition: int,
    longest: int,
    plain: Any,
    time: Any,
    value: Any,
    code: Any,
    item: Any,
    event: Any,
    spans: Any,
) -> None:
    """Records (n,): text is all of their values, ends (n,) where each ends; so are keys. latest (n,): of their times, ms.

    names: of all event types, types (m, 2): where each ends, and its code. rules (codes, 3): the lowest and the highest value,
    and 1 where a target is needed. partitioner, partitions, partition: which kind, of how many, and this one. longest: bytes of a
    record. Fills plain (n,), and of plain events time, value (0: none), code and the hashes of item (0: none) and event id (n,),
    and where target and text are, spans (n, 2, 2), from -1 on where there is none.
    """
    found, words = np.empty((len(_FIELDS), 2), np.int64), np.empty(16, np.uint64)
    start = key_start = 0
    for row in range(len(ends)):
        first, last, key, key_end = start, ends[row], key_start, key_ends[row]
        start, key_start = last, key_end
        plain[row] = False
        if last - first > longest or not _members(text, first, last, found):
            continue
        short = True
        for field in (EVENT_ID, USER_ID, ITEM_ID, TARGET_USER_ID, SESSION_ID):
            length = found[field, 1] - found[field, 0]
            short &= found[field, 0] == NOT_PLAIN or 0 < length <= MAX_ID_BYTES
        short &= found[TEXT, 1] - found[TEXT, 0] <= MAX_TEXT_BYTES
        if not short or not _alike(text, found[USER_ID, 0], found[USER_ID, 1], keys, key, key_end):
            continue
        if partitioner == MURMUR2:
            if (_murmur2(keys, key, key_end) & np.uint32(0x7FFFFFFF)) % partitions != partition:
                continue
        elif partitioner == CRC32 and _crc32(keys, key, key_end) % partitions != partition:
            continue
        its_code = _code(text, found[TYPE, 0], found[TYPE, 1], names, types)
        its_time = _whole(text, found[TIMESTAMP_MS, 0], found[TIMESTAMP_MS, 1])
        if its_code == NOT_PLAIN or its_time == NOT_PLAIN or its_time > latest[row]:
            continue
        its_value = np.nan
        if found[VALUE, 0] != NOT_PLAIN:
            its_value = _decimal(text, found[VALUE, 0], found[VALUE, 1])
            if not rules[its_code, 0] <= its_value <= rules[its_code, 1]:
                continue
        if rules[its_code, 2] > 0:
            target, target_end = found[TARGET_USER_ID, 0], found[TARGET_USER_ID, 1]
            if target == NOT_PLAIN or _alike(text, target, target_end, keys, key, key_end):
                continue
        plain[row], time[row], code[row] = True, its_time, its_code
        value[row] = 0.0 if np.isnan(its_value) or its_code == NO_EVENT else its_value
        event[row] = max(_crc32(text, found[EVENT_ID, 0], found[EVENT_ID, 1]), 1)
        item[row] = 0
        if found[ITEM_ID, 0] != NOT_PLAIN and its_code != NO_EVENT:
            item[row] = max(_blake2b(text, found[ITEM_ID, 0], found[ITEM_ID, 1], words), np.uint64(1))
        for side in range(2):
            spans[row, 0, side] = found[TARGET_USER_ID, side]
            spans[row, 1, side] = found[TEXT, side]


def warm_up() -> None:
    """Compile for the types that are in use."""
    text = fixed(
        np.frombuffer(
            b'{"event_id":"e","user_id":"u","type":"v","timestamp_ms":1,"value":0.5,"item_id":"i","x":[{}]}',
            np.uint8,
        )
    )
    one = np.ones(1, np.int64)
    v, types, rules = fixed(np.frombuffer(b"v", np.uint8)), np.array([[1, 0]]), np.array([[0.0, 1.0, 0.0]])
    parse(
        text, np.array([len(text)]), fixed(np.frombuffer(b"u", np.uint8)), one, one.copy(), v, types, rules, NO_PARTITIONER, 1,
        0, 1000, np.zeros(1, np.bool_), np.zeros(1, np.int64), np.zeros(1, np.float32), np.zeros(1, np.uint8),
        np.zeros(1, np.uint64), np.zeros(1, np.uint32), np.zeros((1, 2, 2), np.int64),
    )  # fmt: skip
