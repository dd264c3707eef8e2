"""The two files for people beside the record of a benchmark: Markdown and a page, made from that record alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from orthogon import runs


def write_bench_files(path: Path, missing: str, kind: str, made: Callable[[dict[str, Any]], tuple[str, str]]) -> Path:
    """Writes both beside the record, under its name; returns the page's path.

    Args:
        path: the record, JSON.
        missing: what to do where it is not there.
        kind: what it is the record of, for errors.
        made: Markdown and page of a record.

    Raises:
        ValueError: there is no record, or it is not what it should be.
        RunError: the files cannot be written.
    """
    if not path.exists():
        raise ValueError(f"{path.parent} has no {path.name}; {missing}: the same command goes on")
    record = runs.read_json(path)
    try:
        markdown, page = made(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of {kind}: {error!r}") from error
    runs.write_text(path.with_suffix(".md"), markdown)
    runs.write_text(path.with_suffix(".html"), page)
    return path.with_suffix(".html")
