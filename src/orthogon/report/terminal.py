"""Words around the terminal's tables: rich reads markup in a title or caption that is a string, and none in a Text."""

from __future__ import annotations

from rich.text import Text

from orthogon.printing import printable_lines


def title(words: str) -> Text:
    """Words above a table, shown as they stand."""
    return Text(printable_lines(words), style="table.title")


def caption(words: str) -> Text:
    """Words below a table, shown as they stand."""
    return Text(printable_lines(words), style="table.caption")
