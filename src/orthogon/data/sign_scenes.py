"""What is around a synthetic sign: backgrounds, light, blur and noise, for a batch of images at once.

All draws are per image; images are float32 (n, 3, size, size), about [0, 1] until `expose` clamps them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_PALETTE = torch.tensor(
    [
        [[0.10, 0.22, 0.08], [0.45, 0.58, 0.25]],  # foliage
        [[0.05, 0.12, 0.06], [0.30, 0.38, 0.20]],  # forest
        [[0.22, 0.22, 0.23], [0.55, 0.55, 0.54]],  # asphalt, concrete
        [[0.45, 0.60, 0.80], [0.85, 0.90, 0.95]],  # sky
        [[0.60, 0.62, 0.66], [0.90, 0.90, 0.90]],  # overcast
        [[0.35, 0.18, 0.12], [0.62, 0.40, 0.30]],  # brick
        [[0.40, 0.32, 0.20], [0.75, 0.66, 0.48]],  # soil, sand
        [[0.05, 0.05, 0.08], [0.30, 0.28, 0.30]],  # dusk
    ]
)
"""Dark and light colour of a surface."""


class Draws:
    """Uniform numbers for `n` images, of shape (n, 1, 1), from one generator."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator = n, generator

    def uniform(self, low: float, high: float) -> Float[Tensor, "n 1 1"]:
        """Between `low` and `high`."""
        return torch.rand(self.n, 1, 1, generator=self.generator) * (high - low) + low

    def chance(self, probability: float) -> Float[Tensor, "n 1 1"]:
        """1 with the probability, else 0."""
        return (torch.rand(self.n, 1, 1, generator=self.generator) < probability).float()

    def grid(self, channels: int, cells: int, size: int) -> Float[Tensor, "n channels size size"]:
        """Smooth noise in [-1, 1]: a random grid of `cells`² values, enlarged."""
        values = torch.rand(self.n, channels, cells, cells, generator=self.generator) * 2 - 1
        return F.interpolate(values, size=(size, size), mode="bilinear", align_corners=True)


def plane(size: int) -> tuple[Float[Tensor, "size size"], Float[Tensor, "size size"]]:
    """x and y of the pixels' centres in [-1, 1], y down."""
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    return axis.expand(size, size), axis[:, None].expand(size, size)


def background(draws: Draws, size: int) -> Float[Tensor, "n 3 size size"]:
    """Two surfaces that meet at a slanted edge, with noise at five scales and a few blurred bars in front."""
    x, y = plane(size)
    angle = draws.uniform(-0.5, 0.5) + draws.chance(0.3) * 1.57
    edge = x * angle.sin() + y * angle.cos() - draws.uniform(-1.2, 1.2)
    upper = torch.sigmoid(edge * draws.uniform(2.0, 40.0))[:, None]
    image = _surface(draws, size) * upper + _surface(draws, size) * (1 - upper)
    for _ in range(2):
        image = _bar(draws, image, x, y)
    return image


def _surface(draws: Draws, size: int) -> Float[Tensor, "n 3 size size"]:
    dark, light = _PALETTE[torch.randint(len(_PALETTE), (draws.n,), generator=draws.generator)].unbind(1)
    rough = draws.uniform(0.1, 0.55)[:, None] * draws.grid(1, 2, 4)
    for cells in (4, 8, 16, 32):  # each enlarged with what is coarser: cheaper than each to the full size
        rough = rough + draws.uniform(0.05, 0.5)[:, None] * draws.grid(1, cells, cells)
        rough = F.interpolate(rough, size=size if cells == 32 else 2 * cells, mode="bilinear", align_corners=True)
    tint = draws.grid(3, 3, size) * 0.06
    return torch.lerp(dark[:, :, None, None], light[:, :, None, None], (0.5 + 0.5 * rough).clamp(-0.2, 1.2)) + tint


def _bar(draws: Draws, image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A post, branch or house edge of any colour across the picture, in half of the images."""
    angle = draws.chance(0.6) * 1.57 + draws.uniform(-0.4, 0.4)
    distance = (x * angle.sin() + y * angle.cos() - draws.uniform(-1.1, 1.1)).abs() - draws.uniform(0.02, 0.25)
    cover = torch.sigmoid(-distance * draws.uniform(10.0, 60.0)) * draws.chance(0.5) * draws.uniform(0.3, 1.0)
    colour = torch.cat([draws.uniform(0.02, 0.95) for _ in range(3)], 1)[..., None]
    grey = colour.mean(1, keepdim=True)
    return torch.lerp(image, grey + (colour - grey) * draws.uniform(0.0, 0.9)[:, None], cover[:, None])


def expose(draws: Draws, image: Float[Tensor, "n 3 size size"]) -> Float[Tensor, "n 3 size size"]:
    """Uneven light, haze, the camera's gain, tint and gamma, blur and noise; clamped to [0, 1]."""
    size = image.shape[-1]
    x, y = plane(size)
    light = 1 + draws.uniform(-0.3, 0.3) * x + draws.uniform(-0.3, 0.3) * y
    light = light * (1 - draws.chance(0.3) * draws.uniform(0.15, 0.45) * _shadow(draws, x, y))
    tint = torch.cat([draws.uniform(0.88, 1.12) for _ in range(3)], 1)[..., None]
    image = torch.lerp(image, torch.tensor(0.65), draws.uniform(0.0, 0.25)[:, None])
    image = image * (light * draws.uniform(0.6, 1.25))[:, None] * tint
    image = image.clamp(0, 1) ** draws.uniform(0.75, 1.4)[:, None]
    image = blur(image, draws.uniform(0.2, 0.85).flatten() * size / 32)
    noise = torch.randn(image.shape, generator=draws.generator)
    return (image + noise * draws.uniform(0.0, 0.045)[:, None]).clamp(0, 1)


def _shadow(draws: Draws, x: Tensor, y: Tensor) -> Float[Tensor, "n size size"]:
    angle = draws.uniform(0.0, 6.28)
    return torch.sigmoid((x * angle.cos() + y * angle.sin() - draws.uniform(-0.6, 0.6)) * draws.uniform(8.0, 40.0))


def blur(image: Float[Tensor, "n c h w"], sigma: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Gaussian blur, each image with its own sigma (pixels); edges are repeated."""
    reach = max(1, int(2.5 * float(sigma.max())))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma[:, None].clamp(min=0.05)) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).view(len(image), -1, 1, 1, 1).unbind(1)
    h, w = image.shape[2:]
    padded = F.pad(image, (0, 0, reach, reach), mode="replicate")
    image = _weighted([padded[:, :, k : k + h] for k in range(len(weights))], weights)
    padded = F.pad(image, (reach, reach, 0, 0), mode="replicate")
    return _weighted([padded[:, :, :, k : k + w] for k in range(len(weights))], weights)


def _weighted(shifted: list[Tensor], weights: tuple[Tensor, ...]) -> Tensor:
    total = shifted[0] * weights[0]
    for part, weight in zip(shifted[1:], weights[1:], strict=True):
        total.addcmul_(part, weight)
    return total
