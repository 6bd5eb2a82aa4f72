"""The one place that says which text stands for an item; worker and trainer encode the same string."""

from __future__ import annotations

from streamer.core.protocol import ItemRecord


def item_text(record: ItemRecord) -> str:
    """Title, categories and text, joined; categories come before the text, which the encoder may cut off.

    Categories are sorted, so that their order in the record does not change the vector.
    """
    parts = (record.title.strip(), ", ".join(sorted(record.categories)), record.text.strip())
    return ". ".join(part for part in parts if part)
