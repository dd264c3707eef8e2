"""The machine's limit for a network: how many images per second its convolutions alone would allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import clock


@dataclass(frozen=True, eq=False)
class Limit:
    """The convolutions' time for a chunk of images, forward and input gradient."""

    images_per_second: float
    rows: list[dict[str, Any]]
    """For each kind of convolution: how often it occurs, its shapes, and the milliseconds of one forward and one back."""


def convolution_limit(
    network: nn.Module,
    one: Tensor,
    precision: torch.dtype,
    chunk: int,
    seconds: float = 0.1,
    weights: bool = False,
) -> Limit:
    """Time every convolution of a network by itself, on `chunk` images, for about `seconds` each.

    Args:
        network: in evaluation mode, on its device.
        one: a batch of one image; tells the shapes.
        precision: of the timed convolutions.
        chunk: images.
        seconds: for each convolution.
        weights: whether the weights' gradients count too.
    """
    kinds: Counter[tuple[Any, ...]] = Counter()
    examples: dict[tuple[Any, ...], nn.Conv2d] = {}
    device = one.device

    def seen(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if isinstance(module, nn.ConvTranspose2d):
            module = _as_convolution(module)
        if isinstance(module, nn.Conv2d):
            key = (*inputs[0].shape[1:], *module.weight.shape, module.stride, module.padding, module.groups)
            kinds[key] += 1
            examples[key] = module

    convolutions = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [module.register_forward_hook(seen) for module in convolutions]
    with torch.no_grad():
        network(one)
    for hook in hooks:
        hook.remove()
    rows, total = [], 0.0
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        for key, count in kinds.items():
            shape = (chunk, *key[:3])
            forward, back = (_fastest(ways, device, seconds) for ways in _ways(examples[key], shape, precision, device))
            if weights:
                back += _timed(_weight_gradient(examples[key], shape, precision, device), device, seconds)
            total += count * (forward + back)
            facts = {"count": count, "input": list(key[:3]), "weight": list(key[3:7]), "stride": list(key[7])}
            rows.append({**facts, "forward_ms": round(forward * 1e3, 4), "back_ms": round(back * 1e3, 4)})
    return Limit(chunk / total, rows)


def _as_convolution(transposed: nn.ConvTranspose2d) -> nn.Conv2d:
    """The convolution of the same shapes and cost.

    Raises:
        ValueError: its stride is not 1.
    """
    if set(transposed.stride) != {1}:
        raise ValueError(f"the limit of a transposed convolution is known for stride 1 alone, got {transposed.stride}")
    sizes = zip(transposed.kernel_size, _numbers(transposed), strict=True)
    padding = tuple(k - 1 - p for k, p in sizes)
    made = nn.Conv2d(transposed.in_channels, transposed.out_channels, transposed.kernel_size, padding=padding)  # pyright: ignore[reportArgumentType]
    return made.to(transposed.weight.device)


def _weight_gradient(conv: nn.Conv2d, shape: tuple[int, ...], precision: torch.dtype, device: torch.device) -> Callable[[], Any]:
    """PyTorch's call for the gradient of a convolution's weights."""
    last = torch.channels_last
    images = torch.rand(shape, device=device).to(precision).contiguous(memory_format=last)
    weight = conv.weight.detach().to(precision).contiguous(memory_format=last)
    stride, padding, dilation = list(conv.stride), _numbers(conv), list(conv.dilation)
    gradient = F.conv2d(images, weight, None, stride, padding, dilation, conv.groups).contiguous(memory_format=last)
    numbers = (stride, padding, dilation, False, [0, 0], conv.groups)
    return lambda: torch.ops.aten.convolution_backward(gradient, images, weight, None, *numbers, [False, True, False])


def _ways(
    conv: nn.Conv2d, shape: tuple[int, ...], precision: torch.dtype, device: torch.device
) -> tuple[list[Callable[[], Tensor]], list[Callable[[], Tensor]]]:
    """The ways to compute a convolution, and its input gradient."""
    last = torch.channels_last
    images = torch.rand(shape, device=device).to(precision).contiguous(memory_format=last)
    weight = conv.weight.detach().to(precision).contiguous(memory_format=last)
    stride, dilation, groups = conv.stride, conv.dilation, conv.groups
    padding = _numbers(conv)
    gradient = F.conv2d(images, weight, None, stride, padding, dilation, groups).contiguous(memory_format=last)
    forward = _plain_and_packed(images, weight, stride, padding, dilation, groups)
    rims = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
    if groups == 1 and set(stride) == {1} and min(rims) >= 0:
        turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=last)
        return forward, _plain_and_packed(gradient, turned, stride, rims, dilation, 1)
    sizes = zip(shape[2:], gradient.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True)
    more = [size - ((out - 1) * s - 2 * p + d * (k - 1) + 1) for size, out, s, p, d, k in sizes]
    return forward, [lambda: F.conv_transpose2d(gradient, weight, None, stride, padding, more, groups, dilation)]


def _plain_and_packed(images: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> list:
    """PyTorch's own call, and on a CPU the one that a compiler makes: weights laid out for the machine beforehand."""
    ways: list[Callable[[], Tensor]] = [lambda: F.conv2d(images, weight, None, stride, padding, dilation, groups)]
    if images.device.type == "cpu" and torch.backends.mkldnn.is_available():
        mkldnn, numbers = torch.ops.mkldnn, (list(padding), list(stride), list(dilation), groups)
        try:
            packed = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *numbers, list(images.shape))
            run = lambda: mkldnn._convolution_pointwise(images, packed, None, *numbers, "none", [], "")  # noqa: E731
            run()
            ways.append(run)
        except (AttributeError, RuntimeError, TypeError):  # these calls are PyTorch's internal ones and may change
            print("no packed convolution here: the limit is that of plain calls")
    return ways


def _numbers(conv: nn.Conv2d | nn.ConvTranspose2d) -> list[int]:
    if not isinstance(conv.padding, str):
        return list(conv.padding)
    sides = [d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    return sides if conv.padding == "same" else [0, 0]


def _fastest(ways: list[Callable[[], Tensor]], device: torch.device, seconds: float) -> float:
    """Seconds of one call of the fastest way: the median of five blocks of calls."""
    return min(_timed(way, device, seconds) for way in ways)


def _timed(run: Callable[[], Any], device: torch.device, seconds: float) -> float:
    for _ in range(3):
        run()
    began = clock(device)
    run()
    once = max(clock(device) - began, 1e-6)
    calls = max(1, round(seconds / 5 / once))
    blocks = []
    for _ in range(5):
        began = clock(device)
        for _ in range(calls):
            run()
        blocks.append((clock(device) - began) / calls)
    return sorted(blocks)[2]
