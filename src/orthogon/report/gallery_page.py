"""What each attack does to a picture (the first figure of DECK), from gallery.json and gallery.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orthogon import runs
from orthogon.printing import printable
from orthogon.report.page import Picture
from orthogon.report.pictures import difference_uri, image_uri
from orthogon.report.planted import aim
from orthogon.report.rendering import render
from orthogon.report.summary import shown_groups
from orthogon.report.words import counted, number


@dataclass(frozen=True)
class AttackCard:
    """One attack with its facts in words and a strip of pictures for each sample."""

    name: str
    about: str
    aim: str
    origin: str
    source: str
    settings: str
    strips: tuple[tuple[Picture, ...], ...]


@dataclass(frozen=True)
class ChangeRow:
    """How much of a picture an attack changes, over its samples."""

    name: str
    pixels: str
    mean: str
    largest: str
    share: float
    """The mean change, as a share of the largest mean of all attacks."""


def write_gallery(folder: Path) -> Path:
    """Writes gallery.html into a folder from its gallery.json and gallery.safetensors, and returns its path.

    Raises:
        ValueError: the folder has no gallery.json, or its files are not what they should be.
        RunError: the page cannot be written.
    """
    path = folder / "gallery.json"
    if not path.exists():
        raise ValueError(f"{folder} has no gallery.json; `orthogon zoo gallery --out {folder}` writes it")
    record = runs.read_json(path)
    try:
        tensors = load_file(folder / "gallery.safetensors")
        page = render("gallery.html.j2", **_content(record, tensors))
    except (KeyError, TypeError, AttributeError, SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{folder} does not hold a gallery: {error!r}") from error
    runs.write_text(folder / "gallery.html", page)
    return folder / "gallery.html"


def _content(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    shown = record["attacks"]
    pairs = {entry["name"]: (tensors[f"clean.{entry['name']}"], tensors[f"stamped.{entry['name']}"]) for entry in shown}
    planted = sum(entry["model"] is not None for entry in shown)
    universal = sum(entry["victim"] is None for entry in shown)
    clean_labels = sum(entry["clean_label"] for entry in shown)
    facts = [
        ("Gallery", {name: record[name] for name in ("data", "seed")}),
        ("Versions", record["versions"]),
        ("Hashes", record["hashes"]),
    ]
    return {
        "count": counted(len(shown), "attack"),
        "data": printable(record["data"]),
        "figures": [
            ("Attacks", f"{len(shown):,}", f"{planted:,} as planted in a model of the zoo"),
            ("Universal", f"{universal:,}", f"{len(shown) - universal:,} of one victim class"),
            ("Clean labels", f"{clean_labels:,}", f"{len(shown) - clean_labels:,} change labels"),
        ],
        "cards": [_card(entry, *pairs[entry["name"]]) for entry in shown],
        "changes": _changes(pairs),
        "missing": [(printable(name), printable(reason)) for name, reason in record["missing"].items()],
        "provenance": shown_groups(facts),
    }


def _card(entry: Mapping[str, Any], clean: UInt8[Tensor, "k c h w"], stamped: UInt8[Tensor, "k c h w"]) -> AttackCard:
    strips = tuple(_strip(one, other, printable(name)) for one, other, name in zip(clean, stamped, entry["samples"], strict=True))
    model = entry["model"]
    success = "" if model is None or model["success"] is None else f", attack success {100 * model['success']:.1f} %"
    origin = "Made anew" if model is None else f"As planted in {printable(model['name'])}{success}"
    settings = ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in entry["settings"].items())
    labels = "clean labels" if entry["clean_label"] else "dirty labels"
    return AttackCard(
        printable(entry["name"]),
        printable(entry["about"]),
        f"{aim(entry['victim'], entry['target'])} · {labels}",
        origin,
        printable(entry["source"]),
        printable(settings),
        strips,
    )


def _strip(clean: UInt8[Tensor, "c h w"], stamped: UInt8[Tensor, "c h w"], name: str) -> tuple[Picture, ...]:
    largest = max(1.0, float(_change(clean, stamped).max()))
    difference = f"difference × {127.5 / largest:.1f}"
    return (
        Picture(image_uri(clean), name, f"a picture of {name}"),
        Picture(image_uri(stamped), "stamped", "the same picture with the trigger"),
        Picture(difference_uri(clean, stamped), difference, "what the trigger changes, grey where nothing"),
    )


def _changes(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[ChangeRow]:
    """The attacks by their mean change, the least first."""
    changes = {name: _change(*pair) for name, pair in pairs.items()}
    means = {name: float(change.mean()) for name, change in changes.items()}
    most = max(means.values(), default=0.0) or 1.0
    return [
        ChangeRow(
            printable(name),
            f"{100 * float((changes[name].amax(1) > 0).float().mean()):.1f} %",
            number(mean),
            f"{int(changes[name].max())}",
            mean / most,
        )
        for name, mean in sorted(means.items(), key=lambda item: item[1])
    ]


def _change(clean: UInt8[Tensor, "*n c h w"], stamped: UInt8[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """In grey levels."""
    return (stamped.to(torch.float32) - clean.to(torch.float32)).abs()


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(_value, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
