"""CLP: prune the channels that a small change of the image can move most; needs no image at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.layers import met
from orthogon.ranges import require
from orthogon.removal.remover import Remover, Work


@dataclass(frozen=True)
class CLP(Remover):
    """Silence, layer by layer, each channel whose Lipschitz bound stands out of its layer's; one shot, no training.

    A layer is a BatchNorm with the convolution before it. In a pre-activation network some BatchNorms normalise a sum; such
    a one is paired with the convolution that an image met last (the release: with the last one in the order of definition).
    Only channels that stand out by more than `deviations` go: of n channels none can by more than (n - 1)/√n, which is 3.75
    for 16 channels and 2.85 for 10, so that narrow layers are hardly ever touched.
    """

    deviations: float = 3.0
    """u: how many standard deviations above its layer's mean a bound must be (3 for CIFAR-10)."""

    name: ClassVar[str] = "clp"
    takes_layers: ClassVar[bool] = True
    source: ClassVar[str] = "Zheng et al. 2022, Data-free Backdoor Removal based on Channel Lipschitzness"

    def __post_init__(self) -> None:
        require(self, positive=("deviations",))

    def check(self, classifier: Classifier) -> None:
        """Raise ValueError where no BatchNorm comes after a convolution."""
        pairs(classifier)

    def remove(self, work: Work) -> Classifier:
        """Pruned; which channels, the notes tell.

        Raises:
            ValueError: the model has no pair of convolution and BatchNorm, or the user names a layer that is none.
        """
        chosen = _chosen(pairs(work.classifier), work.layers)
        total = 0
        for number, (norm, convolution) in enumerate(chosen.items(), start=1):
            out = self._prune(work.classifier, norm, convolution)
            total += len(out)
            work.on_progress(number / len(chosen), norm)
            if out:
                work.notes.append(f"{norm} (after {convolution}): pruned channels {', '.join(map(str, out))}")
        if not total:
            work.notes.append(
                f"no channel's bound is {self.deviations:g} standard deviations above its layer's mean: nothing pruned"
            )
        work.look(work.classifier, "pruning", total)
        return work.classifier

    def _prune(self, classifier: Classifier, norm: str, convolution: str) -> list[int]:
        """Silence the channels of one layer that stand out; which."""
        layer = classifier.network.get_submodule(norm)
        before = classifier.network.get_submodule(convolution)
        assert isinstance(layer, nn.BatchNorm2d)
        assert isinstance(before, nn.Conv2d)
        out = outliers(bounds(before, layer), self.deviations)
        with torch.no_grad():
            layer.weight[out] = 0
            layer.bias[out] = 0
        return out.nonzero().flatten().tolist()


def pairs(classifier: Classifier) -> dict[str, str]:
    """BatchNorms by name, in the order in which an image meets them, each with the convolution that is met last before it.

    Left out are those of another number of channels than that convolution gives (they normalise what several gave), and those
    that have no scale to prune or no statistics of their own.

    Raises:
        ValueError: there is none.
    """
    found: dict[str, str] = {}
    last = None
    for name, _ in met(classifier):
        module = classifier.network.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            last = name, module.out_channels
        elif isinstance(module, nn.BatchNorm2d) and last is not None and _prunable(module) and last[1] == module.num_features:
            found.setdefault(name, last[0])
    if not found:
        raise ValueError(
            f"{type(classifier.network).__name__} has no BatchNorm after a convolution: CLP measures channels by both together"
        )
    return found


def bounds(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Float[Tensor, " channels"]:
    """Upper bound of each channel's Lipschitz constant, up to a factor that a layer's channels share.

    The largest singular value of the channel's kernel as a matrix (inputs × positions), times |γ|/√(variance + ε). The release
    leaves ε out, by which a channel that never changes would have an infinite bound.
    """
    variance = norm.running_var
    assert variance is not None
    with torch.no_grad():
        kernels = convolution.weight.flatten(2).float()
        return torch.linalg.matrix_norm(kernels, ord=2) * norm.weight.abs() * torch.rsqrt(variance + norm.eps)


def outliers(values: Float[Tensor, " n"], deviations: float) -> Bool[Tensor, " n"]:
    """Which values are more than so many (sample) standard deviations above the mean; of a single one: none."""
    if len(values) < 2:
        return torch.zeros_like(values, dtype=torch.bool)
    return values > values.mean() + deviations * values.std()


def _prunable(norm: nn.BatchNorm2d) -> bool:
    return norm.affine and norm.running_var is not None


def _chosen(found: dict[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """The pairs of the layers that the user names, by BatchNorm or convolution; all where none is named."""
    if not names:
        return found
    known = found.keys() | set(found.values())
    if strangers := [name for name in names if name not in known]:
        raise ValueError(f"{strangers[0]!r} is no BatchNorm after a convolution; there are {', '.join(list(found)[:8])}, …")
    return {norm: convolution for norm, convolution in found.items() if norm in names or convolution in names}
