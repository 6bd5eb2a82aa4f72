"""Headwater's nouns: what flows (`core`), what scores (`serving`), what carries (`transport`)."""

__version__ = "0.1.0"
