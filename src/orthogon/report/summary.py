"""A run in a few sentences and numbers, for somebody who has to decide whether to ship the model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from orthogon.printing import printable
from orthogon.report.reading import MeasuredRun, PairRow, failures, pair_name, pair_rows, universal_rows
from orthogon.report.standing import planted_sentences
from orthogon.report.words import count_words, counted, decimals, duration, exact_percent, flat, number, percent


def headline(run: MeasuredRun) -> list[str]:
    """The result in plain sentences: the mean, the closest pair, what could not be measured; what the model's card says was
    planted, and where that stands; then the universal triggers."""
    rows, universal = pair_rows(run.matrix), universal_rows(run.record)
    pairs = _pair_sentences(run, rows) if rows or not universal else []
    return [*pairs, *planted_sentences(run), *_universal_sentences(run, universal)]


def subtitle(run: MeasuredRun) -> str:
    """Family, number of classes, when and how long."""
    parts = [f"{printable(run.matrix.family)} triggers", counted(len(run.matrix.classes), "class")]
    started = run.started.get("started")
    if isinstance(started, str):
        parts.append(f"measured {printable(started[:16].replace('T', ' '))}")
    seconds = run.record.get("seconds")
    if isinstance(seconds, int | float):
        parts.append(f"took {duration(float(seconds))}")
    return " · ".join(parts)


def figures(run: MeasuredRun) -> list[tuple[str, str, str]]:
    """The few numbers that matter, as (name, number, what it means)."""
    accuracy = run.record.get("accuracy")
    known = isinstance(accuracy, int | float)
    return [*trigger_figures(run), *([("Accuracy", exact_percent(accuracy), "on clean images")] if known else [])]


def trigger_figures(run: MeasuredRun) -> list[tuple[str, str, str]]:
    """Those of `figures` that tell of triggers: of the pairs, and of the universal ones where there are any."""
    rows, universal = pair_rows(run.matrix), universal_rows(run.record)
    return [*(_pair_figures(run, rows) if rows or not universal else []), *_universal_figures(run, universal)]


def _pair_figures(run: MeasuredRun, rows: Sequence[PairRow]) -> list[tuple[str, str, str]]:
    values = [row.value for row in rows if row.found]
    places = decimals(values)
    mean, least = (run.matrix.mean(), values[0]) if values else (math.nan, math.nan)
    median = statistics.median(values) if values else 0.0
    below = f"{percent(least / median)} of the median" if median > 0 else ""
    return [
        ("Mean distance", number(mean, places), run.size.patch(mean)),
        ("Smallest distance", number(least, places), below),
        ("Pairs with a distance", f"{len(values):,}", f"of {len(rows):,} measured"),
    ]


def _universal_figures(run: MeasuredRun, rows: Sequence[PairRow]) -> list[tuple[str, str, str]]:
    if not rows:
        return []
    found = [row for row in rows if row.found]
    least, target = (found[0].value, f"to {printable(run.matrix.classes[found[0].target])}") if found else (math.nan, "")
    return [
        ("Smallest universal trigger", number(least, decimals(row.value for row in found)), target),
        ("Universal triggers", f"{len(found):,}", f"of {len(rows):,} searched"),
    ]


def provenance(run: MeasuredRun) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was measured with what: titled groups of (name, value)."""
    record = run.record
    what = {"unit": record["unit"], "protocol": record["protocol"], "family": record["family"]}
    groups: list[tuple[str, Any]] = [
        ("Measurement", what | ({"samples": record["data"]} if record.get("data") else {})),
        ("Encoder and decoder", record.get("measured_by")),
        ("Model", record.get("model")),
        ("Settings", record.get("settings") or run.started.get("settings")),
        ("Versions", record.get("versions") or run.started.get("versions")),
        ("Hashes", record.get("hashes")),
    ]
    return shown_groups(groups)


def shown_groups(groups: Sequence[tuple[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titled JSON-like settings and facts as titled rows of words; groups without any are left out."""
    return [(title, [(printable(k), _shown(v)) for k, v in flat(rows).items()]) for title, rows in groups if rows]


def _pair_sentences(run: MeasuredRun, rows: Sequence[PairRow]) -> list[str]:
    found = [row for row in rows if row.found]
    if not found:
        return ["No pair of classes has a distance.", _completeness(rows)]
    return [_mean_sentence(run), _closest_sentence(run, found[0]), _completeness(rows), *_unmeasured(run, rows)]


def _universal_sentences(run: MeasuredRun, rows: Sequence[PairRow]) -> list[str]:
    """The smallest universal trigger, and how many searches found none."""
    if not rows:
        return []
    if not rows[0].found:
        return [f"No universal trigger was found: {count_words(failures(rows))}."]
    target = printable(run.matrix.classes[rows[0].target])
    told = [
        f"The smallest universal trigger makes any other class {target}: {run.size.words(rows[0].value)} turns "
        f"{percent(rows[0].asr)} of the samples of all other classes into it."
    ]
    failed = failures(rows)
    count = sum(failed.values())
    missing = f"Of {counted(len(rows), 'universal trigger')} searched, {count:,} {'was' if count == 1 else 'were'} not found"
    return [*told, f"{missing}: {count_words(failed)}."] if failed else told


def _mean_sentence(run: MeasuredRun) -> str:
    mean = run.matrix.mean()
    share = run.size.share(mean)
    return f"On average, {run.size.words(mean)}{share and f' ({share})'} makes the model take one class for another."


def _closest_sentence(run: MeasuredRun, row: PairRow) -> str:
    victim, target = printable(run.matrix.classes[row.victim]), printable(run.matrix.classes[row.target])
    samples = f"{percent(row.asr)} of the {victim} samples" if math.isfinite(row.asr) else f"{victim} samples"
    return f"The closest pair is {pair_name(run.matrix.classes, row)}: {run.size.words(row.value)} turns {samples} into {target}."


def _unmeasured(run: MeasuredRun, rows: Sequence[PairRow]) -> list[str]:
    """That some pairs were not asked for: the mean and the closest pair are those of the others."""
    others = len(run.matrix.classes) * (len(run.matrix.classes) - 1) - len(rows)
    return [f"{counted(others, 'other pair')} {'was' if others == 1 else 'were'} not measured."] if others else []


def _completeness(rows: Sequence[PairRow]) -> str:
    failed = failures(rows)
    if not rows:
        return "No pair was measured."
    if not failed:
        return f"All {counted(len(rows), 'pair')} measured have a distance." if len(rows) > 1 else "One pair was measured."
    count = sum(failed.values())
    have = "has no distance and counts" if count == 1 else "have no distance and count"
    return f"Of {counted(len(rows), 'pair')}, {count:,} {have} in no mean: {count_words(failed)}."


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(str(k)).replace('_', ' ')} {_shown(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(v, Mapping) for v in value) else ", ").join(_shown(v) for v in value)
    return printable(str(value))
