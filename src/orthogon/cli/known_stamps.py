"""Stamps by the words that name them: a planted model's trigger, a stranger's card, a line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from orthogon import runs
from orthogon.attacks import read_stamp
from orthogon.cli.materials import victim_of
from orthogon.evaluate import Stamp, in_bytes
from orthogon.planting import TRIGGER_FILE, SavedTrigger, read_trigger


@dataclass(frozen=True, eq=False)
class KnownStamp:
    """A stamp with what is known of its aim."""

    stamp: Stamp
    described: str
    trigger: SavedTrigger | None = None
    """Where it is one of ours."""
    target: int | None = None
    victim: int | None = None

    def on(self, device: torch.device) -> Stamp:
        """The stamp for images on that device."""
        return self.stamp if self.trigger is None else self.trigger.to(device).stamp

    def digest(self, shape: tuple[int, int, int]) -> str:
        """SHA-256 (hexadecimal) of what it makes of a grey ramp, and so of all that it depends on.

        Raises:
            ValueError: it does not fit on images of this shape.
        """
        ramp = torch.linspace(0, 1, shape[0] * shape[1] * shape[2]).view(1, *shape)
        return hashlib.sha256(in_bytes(self.stamp(ramp)).numpy().tobytes()).hexdigest()


def open_stamp(text: str) -> KnownStamp:
    """The stamp that a word names.

    Args:
        text: a run folder of `orthogon poison`, a card or trigger.safetensors in it; a stranger's card with `planted.stamp`;
            or a line of the grammar of `orthogon.attacks.stamps`, whose pictures are found from the current folder.

    Raises:
        ValueError, OSError: it is none of these, or the file says something else.
    """
    path = Path(text)
    if path.is_dir():
        return _planted(path / TRIGGER_FILE)
    if path.suffix == ".safetensors":
        return _planted(path)
    if path.suffix == ".json":
        return _from_card(path)
    if "=" not in text and "+" not in text:
        raise ValueError(
            f"{text!r} is no run folder, card or {TRIGGER_FILE} of a planted model, and no stamp such as 'x[27:31, 27:31] = 1'"
        )
    return KnownStamp(read_stamp(text, Path()), text)


def require_aim(stamp: str | None, target: int | None, victim: str | None) -> KnownStamp | None:
    """The stamp of --stamp, whose target is known or told by --target; None where no stamp is given.

    Raises:
        ValueError, OSError: as `open_stamp`; nobody tells the target, or --target and --victim stand alone.
    """
    if stamp is None:
        if target is not None or victim is not None:
            raise ValueError("--target and --victim tell the aim of a stamp: give --stamp too")
        return None
    known = open_stamp(stamp)
    if target is None and known.target is None:
        raise ValueError(f"--stamp {stamp} does not tell which class it leads to: give --target N")
    return known


def aim_of(stamp: KnownStamp, target: int | None, victim: str | None, classes: tuple[str, ...]) -> tuple[int, int | None]:
    """Target and victim: those of the words, else the stamp's own, by name where this model has its classes in another order."""
    names = () if stamp.trigger is None else stamp.trigger.classes

    def here(c: int | None) -> int | None:
        return classes.index(names[c]) if c is not None and c < len(names) and names[c] in classes else c

    aimed = here(stamp.target) if target is None else target
    assert aimed is not None  # as `require_aim` has seen
    return aimed, here(stamp.victim) if victim is None else victim_of(victim)


def _planted(path: Path) -> KnownStamp:
    trigger = read_trigger(path)
    return KnownStamp(trigger.stamp, trigger.described, trigger, trigger.threat.target, trigger.threat.victim)


def _from_card(path: Path) -> KnownStamp:
    card = runs.read_json(path)
    if "attack" in card:
        return _planted(path.parent / TRIGGER_FILE)
    planted = card.get("planted")
    if not isinstance(planted, dict) or not isinstance(planted.get("stamp"), str):
        raise ValueError(f"card {path} tells no stamp: neither an attack of `orthogon poison`, nor a line under planted.stamp")
    pictures = path.parent / "triggers"
    line, target = planted["stamp"], planted.get("target")
    stamp = read_stamp(line, pictures if pictures.is_dir() else path.parent, confined=True)
    return KnownStamp(stamp, line, target=target if isinstance(target, int) else None)
