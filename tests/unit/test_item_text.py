"""One string per item, for trainer and worker alike."""

from __future__ import annotations

from streamer.core.item_text import item_text
from streamer.core.protocol import ItemRecord


def test_parts_are_joined() -> None:
    record = ItemRecord("i", " Heat (1995) ", text="A thief and a detective.", categories=["Crime", "Action"])
    assert item_text(record) == "Heat (1995). Action, Crime. A thief and a detective."


def test_absent_parts_leave_no_trace() -> None:
    assert item_text(ItemRecord("i", "Heat")) == "Heat"
    assert item_text(ItemRecord("i", "", categories=["Crime"])) == "Crime"
    assert item_text(ItemRecord("i", "")) == ""


def test_the_order_of_categories_does_not_matter() -> None:
    assert item_text(ItemRecord("i", "t", categories=["b", "a"])) == item_text(
        ItemRecord("i", "t", categories=["a", "b"])
    )
