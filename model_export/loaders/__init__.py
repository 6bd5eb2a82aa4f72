"""Readers of the logs that people have: each recognises its files and adds items, events and friends to a builder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model_export.interactions import InteractionsBuilder
from model_export.loaders import amazon, lastfm, mind, movielens, online_retail, recbole, yoochoose


@dataclass(frozen=True)
class Format:
    """A layout of files with its reader."""

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, InteractionsBuilder], None]


FORMATS = (
    Format("Last.fm-2K", lastfm.recognises, lastfm.read),
    Format("MIND", mind.recognises, mind.read),
    Format("YooChoose", yoochoose.recognises, yoochoose.read),
    Format("MovieLens", movielens.recognises, movielens.read),
    Format("RecBole", recbole.recognises, recbole.read),
    Format("Online Retail", online_retail.recognises, online_retail.read),
    Format("Amazon reviews", amazon.recognises, amazon.read),
)


def format_of(path: Path) -> Format | None:
    """The format whose files lie at `path`, None for a table of events that explains itself or needs a column map."""
    return next((form for form in FORMATS if form.recognises(path)), None)
