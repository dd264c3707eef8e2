"""Putting weights into a network: every name, every shape, every number checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from orthogon.models.errors import CheckpointError, listed

_COUNTER = "num_batches_tracked"
_MOST_REPEATED = 64 * 2**20
"""Bytes by which all tensors of a checkpoint may exceed what they store."""


def fill(network: nn.Module, weights: Mapping[str, Tensor], source: str, arch: str) -> None:
    """Copy the weights into the network, in place, in the network's precision.

    `num_batches_tracked` alone may be missing: it counts training batches, is read only by a BatchNorm that averages
    over its whole past (momentum=None), and files from before PyTorch 0.4.1 or from other frameworks do not have it.

    Raises:
        CheckpointError: names missing, left over or of another shape (they are listed), or a NaN or infinity.
    """
    expected = network.state_dict()
    problems = _differences(expected, weights)
    if problems:
        raise CheckpointError(f"{source} does not fit {arch}: {'; '.join(problems)}")
    check_finite(weights, source)
    network.load_state_dict(dict(weights), strict=False)


def check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError naming the tensors that hold a NaN or an infinity, or claim far more numbers than the file holds."""
    larger = {name: tensor.nbytes - tensor.untyped_storage().nbytes() for name, tensor in weights.items()}
    if sum(max(0, more) for more in larger.values()) > _MOST_REPEATED:  # strides of 0: kilobytes that become gigabytes
        repeated = [name for name, more in larger.items() if more > 0]
        raise CheckpointError(f"{source}: refused: {len(repeated)} tensors repeat what they store: {listed(repeated)}")
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"{source} has NaN or infinite numbers in {len(bad)} tensors: {listed(bad)}")


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in expected if name not in found and not name.endswith(_COUNTER)]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} is {tuple(found[name].shape)}, needed {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
    return [f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds if names]


def class_count(construct: Callable[[int], nn.Module], weights: Mapping[str, Tensor]) -> int | None:
    """How many classes the weights were made for, told by the tensors whose shape depends on the class count.

    Args:
        construct: makes the architecture for a class count.
        weights: of the checkpoint.

    Returns:
        The count, or None if the architecture's shapes do not depend on it or the weights do not have the layer.
    """
    with torch.random.fork_rng(devices=[]):  # the two networks are thrown away; their draws shall not be felt
        two, three = (construct(count).state_dict() for count in (2, 3))
    for name in two:
        if name in weights and two[name].shape != three.get(name, two[name]).shape:
            return _changed(two[name], three[name], weights[name])
    return None


def _changed(two: Tensor, three: Tensor, found: Tensor) -> int | None:
    """The size of the found tensor along the one dimension that went from 2 to 3."""
    changed = [i for i, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b]
    return found.shape[changed[0]] if len(changed) == 1 and found.ndim == two.ndim else None
