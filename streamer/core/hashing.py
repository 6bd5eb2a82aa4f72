"""The hashes that stand for strings in state records. They are stored: none of them may ever change.

0 means "none" in every record, so no string hashes to it.
"""

from __future__ import annotations

import hashlib
import zlib


def item_hash(item_id: str) -> int:
    """64 bits (u8). Items are kept by hash, never by row: vocabularies differ by version and worker."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little") or 1


def user_hash(user_id: str) -> int:
    """64 bits (u8) of a user who stands where an item could: who is followed, or met."""
    return item_hash(f"user:{user_id}")


def event_hash(event_id: str) -> int:
    """32 bits (u4): enough to tell the events of one window apart."""
    return zlib.crc32(event_id.encode()) or 1


def label_hash(category: str) -> int:
    """32 bits (u4) of a category's name."""
    return zlib.crc32(category.encode()) or 1


def model_number(version: str) -> int:
    """32 bits (u4) of a model's version: which model computed a user's state."""
    return zlib.crc32(version.encode()) or 1
