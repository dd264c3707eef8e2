"""What several networks share: how fresh weights are drawn."""

from __future__ import annotations

from torch import nn


def he_normal(network: nn.Module) -> None:
    """Draw convolutions and linear layers from He et al. 2015's normal distribution, biases 0, in place.

    Uses torch's global generator, as the constructors of torch.nn do: who wants a seed calls `torch.manual_seed`
    around the building (`torch.random.fork_rng` keeps it from leaking).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
