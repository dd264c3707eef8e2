"""What a planting that was killed goes on from: its trigger, its poisoned images, its checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from safetensors import safe_open
from torch import Tensor

from orthogon import runs
from orthogon.attacks import Made, Materials, Poisoned
from orthogon.planting.trigger_file import TRIGGER_FILE, SavedTrigger, read_parts, write_trigger

CHECKPOINT_FILE = "checkpoint.safetensors"
_POISONED_FILE = "poisoned.safetensors"
_KEY = "poisoned"


def remove_unfinished(folder: Path) -> None:
    """Remove what only an unfinished planting needs; the trigger stays."""
    for name in (CHECKPOINT_FILE, _POISONED_FILE):
        (folder / name).unlink(missing_ok=True)


def pixel_digest(pixels: UInt8[Tensor, "m c h w"]) -> str:
    """SHA-256 (hexadecimal) of pictures."""
    return hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.cpu().contiguous().numpy().tobytes()).hexdigest()


def kept_trigger(folder: Path | None, wanted: SavedTrigger, materials: Materials, seed: int, make: Callable[[], Made]) -> Made:
    """What the attack made, from the folder where it is there, else made now and kept.

    Args:
        folder: None keeps nothing.
        wanted: all but what is made.
        materials: what it is made from.
        seed: of what is drawn.
        make: makes it.

    Raises:
        ValueError: the folder has a trigger of another attack, or made from something else.
    """
    if folder is None:
        return make()
    path, origin = folder / TRIGGER_FILE, _origin(materials, seed)
    if path.exists():
        record, made = read_parts(path)
        _require_same(path, record, {**wanted.record, "origin": origin})
        return {name: tensor.to(materials.device) for name, tensor in made.items()}
    made = make()
    write_trigger(path, replace(wanted, made=made), origin)
    return made


def kept_poison(
    folder: Path | None, trigger: SavedTrigger, materials: Materials, seed: int, poison: Callable[[], Poisoned]
) -> Poisoned:
    """The poisoned set, from the folder where it is there, else poisoned now and kept; arguments and errors as `kept_trigger`.

    Poisoning can take minutes (clean labels attack a network), and what floating-point numbers make of it may differ from
    machine to machine, whereas a training that goes on needs the very same images.
    """
    if folder is None:
        return poison()
    path = folder / _POISONED_FILE
    identity = {**trigger.record, "origin": _origin(materials, seed)}
    if path.exists():
        return _restored(path, identity, materials)
    poisoned = poison()
    rows = (poisoned.stamped | poisoned.covered).nonzero().flatten()
    tensors = {"stamped": poisoned.stamped, "covered": poisoned.covered, "pixels": poisoned.images.pixels[rows]}
    runs.write_tensors(path, tensors, {_KEY: json.dumps(identity), "source": poisoned.images.source})
    return poisoned


def _restored(path: Path, identity: Mapping[str, Any], materials: Materials) -> Poisoned:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        stamped, covered, changed = (file.get_tensor(name) for name in ("stamped", "covered", "pixels"))
    _require_same(path, json.loads(metadata[_KEY]), identity)
    pixels, labels = materials.images.pixels.clone(), materials.images.labels.clone()
    pixels[stamped | covered] = changed.to(pixels.device)
    if not materials.threat.clean_label:
        labels[stamped] = materials.threat.target
    images = replace(materials.images, pixels=pixels, labels=labels, source=metadata["source"])
    return Poisoned(images, stamped, covered, materials.threat)


def _origin(materials: Materials, seed: int) -> dict[str, Any]:
    """What the result depends on besides the attack and the threat."""
    pictures = materials.pictures
    return {
        "data": materials.images.digest(),
        "seed": seed,
        "surrogate": None if materials.surrogate is None else materials.surrogate.digest(),
        "pictures": None if pictures is None else pixel_digest(pictures),
    }


def _require_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    asked = json.loads(json.dumps(wanted))
    if changes := runs.differences(found, asked):
        raise ValueError(f"{path} is of another planting ({'; '.join(changes)}); remove it to start again")
