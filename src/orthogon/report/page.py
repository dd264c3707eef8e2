"""One self-contained HTML page of a finished run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from orthogon.printing import printable
from orthogon.report.heat import distance_map
from orthogon.report.pictures import LONGEST, difference_uri, image_uri, mask_uri, shift_uri
from orthogon.report.plots import distance_plot
from orthogon.report.reading import (
    ColourShift,
    MeasuredRun,
    PairRow,
    TriggerPictures,
    found_values,
    pair_name,
    pair_rows,
    trigger_pictures,
    universal_rows,
    victim_name,
)
from orthogon.report.rendering import render
from orthogon.report.summary import figures, headline, provenance, subtitle
from orthogon.report.words import command_line, decimals, number, percent

FIRST_SHOWN = 12
"""Smallest pairs whose triggers are drawn without unfolding anything."""
MOST_DRAWN = 100
"""Pairs drawn at most."""
MOST_LISTED = 2000
"""Rows of the table of all pairs at most; distances.json has the rest."""
_DRAWN_PIXELS = 40 * LONGEST * LONGEST  # keeps the page of a 224-pixel model at a few megabytes


@dataclass(frozen=True)
class Picture:
    """A data: URI with its caption, and what it shows for those who cannot see it."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class PairCard:
    """A pair with its numbers in words and its pictures (none where the run kept none)."""

    victim: str
    target: str
    distance: str
    spread: str
    asr: str
    patch: str
    outcome: str
    pictures: tuple[Picture, ...]
    shift: tuple[tuple[str, ...], ...] = ()
    """A filter's statistics before and after, as the rows of a table with its head."""


@dataclass(frozen=True)
class ClassRow:
    """How near a class is: as a target (mean of its column) and as a victim (mean of its row)."""

    name: str
    as_target: float
    as_victim: float
    universal: str
    failed: int


def distances_page(run: MeasuredRun) -> str:
    """The HTML of a measured run."""
    return render("report.html.j2", **_content(run))


def _content(run: MeasuredRun) -> dict[str, Any]:
    matrix, rows = run.matrix, pair_rows(run.matrix)
    found = [row for row in rows if row.found]
    places = decimals(row.value for row in found)
    universal = universal_rows(run.record)
    cards, classes = _cards(run, rows, places), _class_rows(run, universal, places)
    universal_cards = _cards(run, universal, decimals(row.value for row in universal))
    return {
        "title": printable(run.model_name),
        "subtitle": subtitle(run),
        "sentences": headline(run),
        "figures": figures(run),
        "unit": printable(matrix.unit),
        "pixel_words": run.size.explanation,
        "heat": distance_map(matrix),
        "cards": cards[:FIRST_SHOWN],
        "change": "sticker that, stamped on" if run.size.pixels(1.0) is not None else "change that, made to all",
        "drawing_words": _drawing_words([*cards, *universal_cards]),
        "more_cards": [card for card in cards[FIRST_SHOWN:] if card.pictures],
        "universal": universal_cards[:FIRST_SHOWN],
        "more_universal": universal_cards[FIRST_SHOWN:MOST_LISTED],
        "all_pairs": cards[:MOST_LISTED],
        "pair_count": len(rows),
        "plot": distance_plot(found, partial(pair_name, matrix.classes)) if found else None,
        "found_count": len(found),
        "spread_words": _spread_words(found, places, run.record.get("draws", 1)),
        "classes": classes,
        "longest": max((v for c in classes for v in (c.as_target, c.as_victim) if v > 0), default=1.0),
        "has_universal": any(c.universal for c in classes),
        "has_failed": any(c.failed for c in classes),
        "number": partial(number, places=places),
        "provenance": provenance(run),
        "command": command_line(run.started),
    }


def _cards(run: MeasuredRun, rows: Sequence[PairRow], places: int) -> list[PairCard]:
    found = [(row.victim, row.target) for row in rows if row.found]
    pictures = trigger_pictures(run.triggers, found[: _drawn_count(run.size.image_shape)])
    return [_card(run, row, places, pictures.get((row.victim, row.target))) for row in rows]


def _drawn_count(shape: tuple[int, int, int] | None) -> int:
    if shape is None:
        return 0
    shrunk = min(1.0, LONGEST / max(shape[1:]))
    return max(FIRST_SHOWN, min(MOST_DRAWN, int(_DRAWN_PIXELS / (shape[1] * shape[2] * shrunk**2))))


def _card(run: MeasuredRun, row: PairRow, places: int, pictures: TriggerPictures | None) -> PairCard:
    victim, target = victim_name(run.matrix.classes, row), printable(run.matrix.classes[row.target])
    return PairCard(
        victim,
        target,
        number(row.value if row.found else math.nan, places),
        f"± {number(row.spread, places)}" if row.found and math.isfinite(row.spread) else "",
        percent(row.asr),
        run.size.patch(row.value) if row.found else "",
        printable(row.outcome),
        drawn(pictures, victim, target) if pictures else (),
        _shift_table(pictures.shift) if pictures and pictures.shift else (),
    )


def drawn(pictures: TriggerPictures, victim: str, target: str) -> tuple[Picture, ...]:
    """A trigger of a pair in pictures, the sample that it is stamped on first."""
    clean = Picture(image_uri(pictures.clean), "sample", f"a sample of {victim}")
    stamped = Picture(image_uri(pictures.stamped), "stamped", f"the same sample with the trigger to {target} on it")
    change = difference_uri(pictures.clean, pictures.stamped)
    difference = Picture(change, "difference", "what the trigger changes, grey where nothing")
    if (shift := pictures.shift) is not None:
        colours = shift_uri(torch.stack([shift.clean_mean, shift.mean]), torch.stack([shift.clean_std, shift.std]))
        words = "mean colour and one deviation above and below it, left of the samples, right as the filter sets them"
        return clean, stamped, Picture(colours, "colours", words), difference
    if pictures.mask is None:
        return clean, stamped, difference
    most = float(pictures.mask.max())
    mask = Picture(mask_uri(pictures.mask), "mask", f"the trigger's mask, up to {most:.2f}, stretched to white")
    return clean, stamped, mask, difference


def drawing_words(pictures: Iterable[Picture]) -> str:
    """How to read triggers in pictures: a patch has a mask, a filter colours, others nothing but what they make."""
    captions = {picture.caption for picture in pictures}
    if captions and not captions & {"mask", "colours"}:
        return "The trigger changes the whole image; the difference is stretched, grey where nothing has changed."
    return "A mask's largest value is drawn white, and the difference is stretched."


def _drawing_words(cards: Sequence[PairCard]) -> str:
    if not any(card.shift for card in cards):
        return drawing_words(picture for card in cards for picture in card.pictures)
    shown = "The colours are the mean and one deviation above and below it, left of the samples, right as the filter sets them."
    return f"{shown} The table has both in levels from 0 (black) to 255 (white). The difference is stretched."


def _shift_table(shift: ColourShift) -> tuple[tuple[str, ...], ...]:
    """In grey levels, a column per channel."""
    count = len(shift.mean)
    names = {1: ("grey",), 3: ("red", "green", "blue")}.get(count, tuple(str(n + 1) for n in range(count)))
    statistics = {"mean": (shift.clean_mean, shift.mean), "deviation": (shift.clean_std, shift.std)}
    rows = [
        (name, *(f"{number(255 * a, 0)} → {number(255 * b, 0)}" for a, b in zip(old.tolist(), new.tolist(), strict=True)))
        for name, (old, new) in statistics.items()
    ]
    return (("", *names), *rows)


def _spread_words(found: Sequence[PairRow], places: int, draws: int) -> str:
    known = [row.spread for row in found if math.isfinite(row.spread)]
    if not known:
        return "This run kept no spread over restarts."
    over, dot = ("restarts", "best restart") if draws == 1 else ("draws of samples", "mean over the draws")
    return (
        f"The bars reach one standard deviation over the {over} of a pair to each side, "
        f"{number(sum(known) / len(known), places)} on average; the dot is the {dot}, which is the distance."
    )


def _class_rows(run: MeasuredRun, triggers: Sequence[PairRow], places: int) -> list[ClassRow]:
    """Classes with anything measured, the easiest target first."""
    values, rows = found_values(run.matrix), pair_rows(run.matrix)
    universal = {row.target: number(row.value, places) if row.found else printable(row.outcome) for row in triggers}
    measured = Counter(k for row in rows for k in (row.victim, row.target))
    failed = Counter(k for row in rows if not row.found for k in (row.victim, row.target))
    classes = [
        ClassRow(
            printable(name),
            float(values[:, k].nanmean()),
            float(values[k].nanmean()),
            universal.get(k, ""),
            failed[k],
        )
        for k, name in enumerate(run.matrix.classes)
        if k in universal or measured[k]
    ]
    return sorted(classes, key=lambda row: row.as_target if math.isfinite(row.as_target) else math.inf)
