"""One self-contained HTML page of a finished scan."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from orthogon.printing import printable
from orthogon.report.page import PairCard, Picture, drawing_words, drawn
from orthogon.report.pictures import image_uri
from orthogon.report.reading import model_name
from orthogon.report.rendering import render
from orthogon.report.scanned import ScannedRun, SuspectPictures
from orthogon.report.scanned_words import HEAD, figures, headline, pair_rows, pair_words, rule_words
from orthogon.report.summary import shown_groups
from orthogon.report.words import command_line, counted, lone_number, percent


def scan_page(run: ScannedRun) -> str:
    """The HTML of a scan."""
    record = run.record
    cards = [_card(pair, run.pictures.get(i)) for i, pair in enumerate(record["pairs"])]
    return render(
        "scan.html.j2",
        title=printable(model_name(record)),
        verdict=record["verdict"],
        subtitle=_subtitle(run),
        sentences=headline(record),
        figures=figures(record),
        reasons=[printable(str(reason)) for reason in record["reasons"]],
        cards=cards,
        drawing=drawing_words(picture for card in cards for picture in card.pictures),
        head=HEAD,
        draws=[
            {
                "score": lone_number(draw["score"]),
                "rows": pair_rows(draw["suspects"]),
                "features": [(printable(name), lone_number(value)) for name, value in draw["features"].items()],
            }
            for draw in record["draws"]
        ],
        rule=rule_words(record),
        provenance=_provenance(run),
        command=_command(run),
    )


def _command(run: ScannedRun) -> str | None:
    """The command that made the run; None where settings.json does not tell."""
    settings = run.started.get("settings")
    if not isinstance(settings, Mapping):
        return None
    line = command_line({**run.started, "settings": {name: value for name, value in settings.items() if name != "set"}})
    repeated = [word for value in settings.get("set") or () for word in ("--set", str(value))]
    return line and printable(f"{line} {shlex.join(repeated)}".rstrip())


def _subtitle(run: ScannedRun) -> str:
    started = run.started.get("started")
    parts = [f"scanned by {printable(str(run.record['scanner']))}", counted(len(run.record["classes"]), "class")]
    return " · ".join([*parts, printable(started[:16].replace("T", " "))] if isinstance(started, str) else parts)


def _card(pair: Mapping[str, Any], pictures: SuspectPictures | None) -> PairCard:
    victim, _, target = pair_words(pair).partition(" → ")
    size, judged = pair.get("size"), pair.get("judged")
    share = (judged or pair).get("success_rate")
    shown: tuple[Picture, ...] = () if pictures is None else drawn(pictures.first, victim, target)
    if pictures is not None:
        words = f"another sample with the trigger to {target} on it"
        shown += tuple(Picture(image_uri(stamped), "stamped", words) for stamped in pictures.others)
    return PairCard(
        victim,
        target,
        lone_number(size),
        "",
        (percent(float(share)) if share is not None else "–") + (f" of {judged['images']:,} images" if judged else ""),
        _kind(pair) + f"score {lone_number(pair['score'])}",
        printable(str(pair.get("outcome") or ("no trigger was searched" if size is None else "found"))),
        shown,
    )


def _kind(pair: Mapping[str, Any]) -> str:
    """The family of a pair's trigger, and what its size counts; nothing where no trigger was searched."""
    unit = f" ({printable(str(pair['unit']))})" if pair.get("unit") else ""
    return f"{printable(str(pair['family']))}{unit}, " if pair.get("family") else ""


def _provenance(run: ScannedRun) -> list[tuple[str, list[tuple[str, str]]]]:
    record = run.record
    scanner = {"name": record["scanner"], "source": record.get("source")} | dict(record.get("settings") or {})
    groups: list[tuple[str, Any]] = [
        ("Scanner", scanner),
        ("Images", {"data": record["data"]} if record.get("data") else None),
        ("Model", record.get("model")),
        ("Calibration", record.get("calibration")),
        ("Hashes", record.get("hashes")),
        ("Versions", record.get("versions")),
    ]
    return shown_groups(groups)
