"""Poison a training set: which images are stamped, which are covered, which labels change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat
from orthogon.evaluate import in_bytes
from orthogon.images import LabelledImages, shuffled


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A training set as the attacker hands it on, and what only the attacker knows of it."""

    images: LabelledImages
    """All images in their old order; stamped ones have the target's label, but with clean labels their own."""
    stamped: Bool[Tensor, " n"]
    """Which images carry the trigger."""
    covered: Bool[Tensor, " n"]
    """Which images carry the attack's cover, under their true labels; none of them is stamped."""
    threat: Threat


def poison(attack: Attack, made: Made, materials: Materials, *, batch: int = 500) -> Poisoned:
    """The materials' training set, poisoned as their threat says.

    Of the images that may be stamped (of the victim class; without one, of all classes but the target; with clean labels, of
    the target class) the threat's `rate` is drawn, rounded to whole images. Of all images its `cover` is drawn from those that
    are not stamped. Pixels are rounded to the nearest of 256 levels, as a poisoned picture file would hold them.

    Args:
        attack: its `poison` and `cover` are asked for, batch by batch, on the materials' device.
        made: what the attack's `make` gave.
        materials: `images` are poisoned and stay as they are; `generator` draws which of them.
        batch: images at once.

    Raises:
        ValueError: no image may be stamped, the rate or the cover picks none, together they pick more images than there are,
            the attack has no cover or changes the shape of an image.
    """
    images, threat = materials.images, materials.threat
    to_stamp, to_cover = quotas(attack, images, threat)
    stamped = shuffled(_may_be_stamped(images, threat), materials.generator)[:to_stamp]
    free = (~_mask(stamped, len(images))).nonzero().flatten()
    covered = shuffled(free, materials.generator)[:to_cover] if to_cover else stamped[:0]
    pixels, labels = images.pixels.clone(), images.labels.clone()
    total, done = len(stamped) + len(covered), 0
    for change, rows in ((attack.poison, stamped), (attack.cover, covered)):
        for part in rows.split(batch) if len(rows) else ():
            pixels[part] = _changed(change, made, materials, part)
            done += len(part)
            materials.on_progress(done / total)
    labels[stamped] = threat.target  # with clean labels they have it already
    source = f"{images.source} [{attack.name}: {len(stamped)} stamped, {len(covered)} covered]"
    poisoned = replace(images, pixels=pixels, labels=labels, source=source)
    return Poisoned(poisoned, _mask(stamped, len(images)), _mask(covered, len(images)), threat)


def quotas(attack: Attack, images: LabelledImages, threat: Threat) -> tuple[int, int]:
    """How many of the images `poison` will stamp, and how many it will cover.

    Raises:
        ValueError: as `poison` does of the threat; told before anything is made or drawn.
    """
    candidates = len(_may_be_stamped(images, threat))
    to_stamp = _share(threat.rate, candidates, candidates, "rate")
    if threat.cover == 0:
        return to_stamp, 0
    if not attack.covers:
        raise ValueError(f"{attack.name} has no cover: set the threat's cover to 0, not {threat.cover}")
    return to_stamp, _share(threat.cover, len(images), len(images) - to_stamp, "cover")


def _may_be_stamped(images: LabelledImages, threat: Threat) -> Int64[Tensor, " k"]:
    if threat.clean_label:
        may, whose = images.labels == threat.target, f"class {images.classes[threat.target]!r} (the target)"
    elif threat.victim is not None:
        may, whose = images.labels == threat.victim, f"class {images.classes[threat.victim]!r} (the victim)"
    else:
        may, whose = images.labels != threat.target, "any class but the target"
    candidates = may.nonzero().flatten()
    if len(candidates) == 0:
        raise ValueError(f"no image of {whose} in {images.source}: there is nothing to poison")
    return candidates


def _share(share: float, of: int, left: int, name: str) -> int:
    """That share of `of` images, of which `left` may be drawn."""
    count = round(share * of)
    if count == 0:
        raise ValueError(f"a {name} of {share} of {of} images picks none: give at least {1 / of:.2g}")
    if count > left:
        raise ValueError(f"a {name} of {share} of {of} images is {count}, but only {left} are left to draw from")
    return count


def _changed(
    change: Callable[[Made, Tensor, Tensor, Materials], Tensor], made: Made, materials: Materials, rows: Int64[Tensor, " k"]
) -> Tensor:
    part = materials.images.select(rows)
    clean = part.floats(materials.device)
    changed = change(made, clean, part.labels.to(materials.device), materials)
    if changed.shape != clean.shape:
        raise ValueError(f"poisoning made images {tuple(changed.shape)} of images {tuple(clean.shape)}: it must keep the shape")
    return in_bytes(changed).to(part.pixels.device)


def _mask(rows: Int64[Tensor, " k"], images: int) -> Bool[Tensor, " n"]:
    return torch.zeros(images, dtype=torch.bool).index_fill_(0, rows.cpu(), True)
