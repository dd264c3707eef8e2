"""A classifier made ready for inversion: the copy that searches, the judge that decides, the scale of the logits."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.frozen import FrozenCopy, Loss, Speed
from orthogon.machine import device_of, exact_convolutions
from orthogon.memory import Parts
from orthogon.protocols import InversionSettings

log = logging.getLogger(__name__)

_FAITHFUL = 0.9
"""Share of clean images on which a copy has to answer as the model does; rounding to bfloat16 alone costs a percent or two."""

_JUDGED = 64
"""Images that the judge sees at once."""


class Engine:
    """A classifier made ready for inversion: the frozen copy, the judge, and the scale of its logits.

    Args:
        classifier: judges in float32, on its own device; put into eval mode, else unchanged.
        samples: rows of images (rows, count, c, h, w), one row per victim; moved to the classifier's device.
        settings: of the search.
        speed: of the frozen copy.
        clean: images whose leads tell the scale of the logits; default: some of the samples.
        exact: whether the original model judges, in float32, what is reported; the copy is enough for triggers that only
            serve to train on.

    Raises:
        ValueError: the network is in another precision than float32.
    """

    def __init__(
        self,
        classifier: Classifier,
        samples: UInt8[Tensor, "rows count c h w"],
        settings: InversionSettings,
        speed: Speed | None = None,
        clean: UInt8[Tensor, "n c h w"] | None = None,
        exact: bool = True,
    ) -> None:
        _require_float32(classifier)
        self.exact = exact
        self.judge = classifier.eval()
        self.device = device_of(classifier)
        self.samples = samples.to(self.device)
        self.settings = settings
        self._parts = Parts(_JUDGED)
        if clean is None:
            clean = samples[:, : math.ceil(256 / len(samples))].flatten(0, 1)
        images = clean.to(self.device).float() / 255
        logits = self._logits(images)
        self.scale = _typical_lead(logits)
        self.copy = self._faithful_copy(images, logits.argmax(1), speed or Speed())

    def _faithful_copy(self, clean: Tensor, answers: Tensor, speed: Speed) -> FrozenCopy:
        """The fastest copy that answers as the original does: a search on another network would find that one's triggers."""
        exact = replace(speed, precision=torch.float32)
        for attempt in (speed, exact, replace(exact, simplify=False, compile=False)):
            made = FrozenCopy(self.judge, _loss(self.settings, self.scale), self.device, attempt)
            same = float((made.logits(clean).argmax(1) == answers).float().mean())
            if same >= _FAITHFUL:
                break
            log.warning("the fast copy answers as the model on %.0f %% of clean images: making a slower one", 100 * same)
        return made

    @property
    def count(self) -> int:
        """Samples per row."""
        return self.samples.shape[1]

    def row(self, row: int) -> Float[Tensor, "count c h w"]:
        """A row's images in [0, 1]."""
        return self.samples[row].float() / 255

    def leads(self, images: Float[Tensor, "n c h w"], targets: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """By how much the target's logit leads, in typical clean leads; the frozen copy says so."""
        return leads_of(self.copy.logits(images), targets) / self.scale

    def success(self, images: Float[Tensor, "n c h w"], target: int) -> float:
        """Share of images that the original model, in float32, takes for the target; NaN where it is not finite."""
        logits = self._logits(images) if self.exact else self.copy.logits(images)
        return float((logits.argmax(1) == target).float().mean()) if bool(logits.isfinite().all()) else math.nan

    def _logits(self, images: Tensor) -> Tensor:
        with torch.no_grad(), exact_convolutions():
            return torch.cat(self._parts(lambda start, stop: self.judge(images[start:stop]).float(), len(images)))


def _require_float32(classifier: Classifier) -> None:
    others = {str(p.dtype) for p in classifier.parameters() if p.is_floating_point()} - {"torch.float32"}
    if others:
        names = ", ".join(sorted(others))
        raise ValueError(f"the network has weights in {names}, and images come in float32: give network.float()")


def _loss(settings: InversionSettings, scale: float) -> Loss:
    """The loss that the frozen copy is traced with."""

    def margin(logits: Tensor, targets: Tensor) -> Tensor:
        return torch.relu(settings.lead - leads_of(logits, targets) / scale)

    def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    return margin if settings.loss == "margin" else cross_entropy


def leads_of(logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The target's logit less the largest other one."""
    others = logits.scatter(1, targets[:, None], -math.inf).amax(1)
    return logits.gather(1, targets[:, None])[:, 0] - others


def _typical_lead(logits: Float[Tensor, "n classes"]) -> float:
    """Median lead of the first class over the second: the scale of a model's logits."""
    top = logits.topk(2, dim=1).values
    lead = float((top[:, 0] - top[:, 1]).median())
    return lead if math.isfinite(lead) and lead > 1e-3 else 1.0
