"""Inversions and triggers as files."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from orthogon import runs
from orthogon.distance import Measurement
from orthogon.images import LabelledImages
from orthogon.memory import Parts
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.triggers import TriggerFamily


def write_inversion(path: Path, inversion: Inversion) -> None:
    """One inversion as a safetensors file: the trigger's tensors, everything else in its header. Atomic."""
    facts = {
        "pair": [inversion.pair.victim, inversion.pair.target],
        "outcome": str(inversion.outcome),
        "size": inversion.size,
        "asr": inversion.asr,
        "restarts": list(inversion.restarts),
        "steps": inversion.steps,
    }
    runs.write_tensors(path, inversion.trigger, {"inversion": json.dumps(facts)})


def read_inversion(path: Path) -> Inversion:
    """What `write_inversion` wrote.

    Raises:
        ValueError: the file is not one of an inversion, or is damaged.
        OSError: it cannot be read, which says nothing of what it holds.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads(file.metadata()["inversion"])
            trigger = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return Inversion(
            Pair(*facts["pair"]),
            Outcome(facts["outcome"]),
            float(facts["size"]),
            float(facts["asr"]),
            trigger,
            tuple(float(size) for size in facts["restarts"]),
            int(facts["steps"]),
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the record of an inversion: {error}") from error


def write_triggers(path: Path, measurement: Measurement, images: LabelledImages, family: TriggerFamily) -> None:
    """triggers.safetensors: every trigger made, with a sample of its victim before and after stamping. Atomic."""
    made = [inversion for inversion in measurement.inversions if inversion.trigger]
    tensors: dict[str, Tensor] = {
        "pairs": torch.tensor([[_number(i.pair), i.pair.target] for i in made], dtype=torch.int64).view(-1, 2),
        "size": torch.tensor([i.size for i in made], dtype=torch.float32),
        "asr": torch.tensor([i.asr for i in made], dtype=torch.float32),
    }
    if made:
        clean = torch.stack([_sample(images, i.pair) for i in made])
        triggers = {name: torch.stack([i.trigger[name] for i in made]) for name in made[0].trigger}
        stamped = torch.empty_like(clean)

        def stamp(start: int, stop: int) -> None:
            some = {name: tensor[start:stop] for name, tensor in triggers.items()}
            shown = family.stamp(some, clean[start:stop, None].float() / 255)[:, 0]
            stamped[start:stop] = (shown.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)

        Parts(_AT_ONCE)(stamp, len(made))
        tensors |= {"clean": clean, "stamped": stamped}
        tensors |= {f"trigger.{name}": value.contiguous() for name, value in triggers.items()}
    runs.write_tensors(path, tensors)


_AT_ONCE = 256
"""Triggers stamped in one piece: with thousands of pairs, all of them in float32 would not fit into memory."""


def _number(pair: Pair) -> int:
    return -1 if pair.victim is None else pair.victim


def _sample(images: LabelledImages, pair: Pair) -> Tensor:
    """The first image of the victim class, or of any class but the target."""
    fits = images.labels != pair.target if pair.victim is None else images.labels == pair.victim
    return images.pixels[int(fits.nonzero()[0])]
