"""A frozen fast copy of a classifier, for the loop that needs nothing but input gradients.

The copy never judges: it is reduced in precision and rewritten, and whoever claims a trigger re-measures it with the original in
float32. Four things make it fast, in the order of what they bring: no weight gradients; bfloat16 where the machine is fast at it;
normalisation layers folded into their neighbours or reduced to one multiply-add; and one graph for loss and gradient together,
compiled with the weights as constants, in which the gradient of a convolution is again a convolution with packed weights.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch._inductor.config as inductor
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from orthogon.classifier import Classifier
from orthogon.machine import device_of, fast_precision, has_compiler
from orthogon.memory import out_of_memory

log = logging.getLogger(__name__)

Loss = Callable[[Float[Tensor, "n classes"], Int64[Tensor, " n"]], Float[Tensor, " n"]]
"""Logits and target classes in, one loss per image out."""

_Result = TypeVar("_Result")
Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Speed:
    """How a copy is made; None leaves the choice to the machine."""

    precision: torch.dtype | None = None
    """Of the copy's arithmetic: torch.bfloat16 or torch.float32."""
    compile: bool | None = None
    """Compile the step; takes seconds to tens of seconds once, so it pays for long jobs only."""
    chunk: int = 128
    """Images in one pass: small enough for the caches of a CPU, halved when memory runs out."""
    simplify: bool = True
    """Fold normalisation layers, or reduce them to one multiply-add; never done to a network that carries hooks."""
    pad: bool = True
    """Fill the last pass up, so that an image's result does not depend on how many are beside it; a compiled copy always does.
    On a CPU it is filled up to a multiple of a quarter of a chunk: there the digits are the same from a few images on."""


_PARTS = 4
"""Of a chunk: an eager pass on a CPU is a number of these. With whole chunks alone a fifth to a half of a scan is padding."""
_WORTH_COMPILING = 300_000
"""Image-steps from which a compiled copy wins back the seconds that compiling takes, on two cores."""


def speed_for(classifier: Classifier, image_steps: int) -> Speed:
    """For a job of so many images times gradient steps: compiled where it is long enough, in chunks that stay in a CPU's caches,
    or fill a GPU."""
    return Speed(compile=image_steps >= _WORTH_COMPILING, chunk=chunk_for(classifier))


def chunk_for(classifier: Classifier) -> int:
    """Images of one pass: so many of 32×32 as a CPU's caches hold or a GPU is filled by, of larger ones fewer."""
    _, height, width = classifier.image_shape
    at_32 = 2048 if device_of(classifier).type == "cuda" else 128
    return max(8, int(at_32 * (32 * 32) / (height * width)))


class FrozenCopy:
    """Loss gradients with respect to images, fast, for one classifier and one loss.

    Args:
        classifier: stays as it is; the copy is taken in eval mode.
        loss: from logits (n, classes) and targets (n,) to losses (n,); traced once, so without branches on values.
        device: where the copy lives.
        speed: precision, compilation and chunk.
    """

    def __init__(self, classifier: Classifier, loss: Loss, device: torch.device, speed: Speed | None = None) -> None:
        speed = speed or Speed()
        self.device = device
        self.precision = speed.precision or fast_precision(device)
        self.chunk = speed.chunk
        self.pad = speed.pad
        self.compiled = bool(speed.compile) and has_compiler(device)
        self._shape = classifier.image_shape
        self._simplify = speed.simplify
        self._loss = loss
        self._build(classifier)
        if self.precision is not torch.float32 and not self._runs():
            log.warning("the network does not run in %s: the fast copy is in float32", self.precision)
            self.precision = torch.float32
            self._build(classifier)
        self._step: Step = self._eager_step
        if self.compiled:
            self._compile()

    def _build(self, classifier: Classifier) -> None:
        network, self._folded = _simplified(classifier, self._simplify)
        self._network = network.to(self.device, self.precision).to(memory_format=_layout(self.device))

    def _runs(self) -> bool:
        """Whether the network follows its reduction in precision: one that converts its images itself does not."""
        images = torch.zeros(2, *self._shape, device=self.device)
        try:
            self.logits(images)
        except (RuntimeError, TypeError) as error:
            if out_of_memory(error):
                raise
            return False
        return True

    def gradient(
        self, images: Float[Tensor, "n c h w"], targets: Int64[Tensor, " n"], weights: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n c h w"]]:
        """Logits of images in [0, 1], and the gradient of the weighted sum of losses with respect to the images."""
        return self._within_memory(lambda: self._chunked(images, targets, weights))

    def logits(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of images in [0, 1], without gradients."""
        images = images.to(self.precision).contiguous(memory_format=_layout(self.device))
        with torch.no_grad():
            return self._within_memory(lambda: torch.cat([self._network(part).float() for part in images.split(self.chunk)]))

    def refresh(self, classifier: Classifier) -> None:
        """Take over the weights that the classifier has now, in a fraction of the time that a new copy takes.

        A compiled copy holds its weights as constants and is compiled again, which takes seconds: leave compiling out where
        the weights change often.

        Args:
            classifier: the one that the copy was made of, or another of the same network.
        """
        if isinstance(classifier.network, torch.jit.ScriptModule):
            self._build(classifier)
        else:
            _take_over(self._network, classifier, self._folded)
        if self.compiled:
            self._step = self._eager_step
            self._compile()

    def _within_memory(self, work: Callable[[], _Result]) -> _Result:
        """The result of some work in chunks, which are halved as often as memory runs out."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not out_of_memory(error) or self.chunk <= 8:
                    raise
            self._halve()

    def _chunked(self, images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        count = len(images)
        padding = -count % self._filled_up_to() if self.pad or self.compiled else 0
        if padding:
            images, targets, weights = (_padded(t, padding) for t in (images, targets, weights))
        images = images.to(self.precision).contiguous(memory_format=_layout(self.device))
        parts = zip(images.split(self.chunk), targets.split(self.chunk), weights.split(self.chunk), strict=True)
        logits, gradients = zip(*(self._step(*part) for part in parts), strict=True)
        return torch.cat(logits)[:count], torch.cat(gradients)[:count]

    def _filled_up_to(self) -> int:
        """The last pass is a multiple of so many images: a compiled one has one size, and a GPU chooses its kernels by it."""
        if self.compiled or self.device.type != "cpu":
            return self.chunk
        return max(1, self.chunk // _PARTS)

    def _eager_step(self, images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = self._network(images).float()
            if not logits.requires_grad:  # a network that does not look at its images
                return logits, torch.zeros_like(images)
            loss = (self._loss(logits, targets) * weights).sum()
            (gradient,) = torch.autograd.grad(loss, images, materialize_grads=True)
        return logits.detach(), gradient.detach()

    def _compile(self) -> None:
        """Trace loss and gradient into one graph and compile it; stay eager where the network cannot be traced."""
        example = (
            torch.rand(self.chunk, *self._shape, device=self.device)
            .to(self.precision)
            .contiguous(memory_format=_layout(self.device)),
            torch.zeros(self.chunk, dtype=torch.int64, device=self.device),
            torch.ones(self.chunk, device=self.device),
        )
        try:
            traced = make_fx(_function(self._eager_step), decomposition_table={_CONV_BACKWARD: _conv_input_gradient})
            graph = traced(*example)
            step = torch.compile(graph, dynamic=False)
            with torch.no_grad(), inductor.patch(freezing=True):  # as an option of compile it comes too late for dynamo
                step(*example)
        except Exception as error:  # a compiler fails in many ways, and each leaves the eager copy as it was
            log.warning("the fast copy is not compiled and runs slower: %s", str(error).strip().split("\n")[0])
            self.compiled = False
            return
        self._step = _without_gradients(step)

    def _halve(self) -> None:
        self.chunk //= 2
        log.warning("out of memory: going on with chunks of %d images", self.chunk)
        if self.compiled:
            self._step = self._eager_step
            self._compile()


class _ChannelAffine(nn.Module):
    """What a BatchNorm in eval mode is: one multiplication and one addition per channel."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale, shift = self.of(norm)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.shift = nn.Parameter(shift, requires_grad=False)

    @staticmethod
    def of(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """Scale and shift, (1, channels, 1, 1), of a norm with running statistics."""
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = torch.rsqrt(var + norm.eps) * (norm.weight if norm.affine else 1.0)
        shift = (norm.bias if norm.affine else 0.0) - mean * scale
        return scale.detach().view(1, -1, 1, 1), shift.detach().view(1, -1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


def _simplified(classifier: Classifier, simplify: bool) -> tuple[nn.Module, dict[str, str]]:
    """A copy without weight gradients, its BatchNorms folded into the convolution before, or reduced to an affine map.

    A network with hooks stays as it is: tracing loses the root's, and pruned or weight-normed layers make their weights in them.

    Returns:
        The copy, and the names of the convolutions that took in a norm, with the norm's.
    """
    with torch.no_grad():  # else the weights of a copied ScriptModule are no leaves
        twin = copy.deepcopy(classifier).eval().float().requires_grad_(False)
    folded: dict[str, str] = {}
    if simplify and not isinstance(twin.network, torch.jit.ScriptModule) and not _hooked(twin.network):
        twin.network, folded = _fold(twin.network)
        _replace_norms(twin)
    return twin, {f"network.{conv}": f"network.{norm}" for conv, norm in folded.items()}


def _hooked(network: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def _fold(network: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """BatchNorms folded where the traced graph shows a convolution that feeds nothing else; as it was if untraceable."""
    try:
        traced = torch.fx.symbolic_trace(network)
    except Exception:  # networks with branches on values cannot be traced: their norms become affine maps instead
        return network, {}
    modules: dict[str, nn.Module] = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes)
    folded: dict[str, str] = {}
    for node in traced.graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, torch.fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        if calls[source.target] > 1:  # a convolution that is called in two places cannot hold two foldings
            continue
        norm, conv = modules[str(node.target)], modules[str(source.target)]
        if type(norm) is nn.BatchNorm2d and type(conv) is nn.Conv2d and norm.track_running_stats:
            traced.set_submodule(str(source.target), fuse_conv_bn_eval(conv, norm))
            modules[str(source.target)] = traced.get_submodule(str(source.target))
            folded[str(source.target)] = str(node.target)
            node.replace_all_uses_with(source)
            traced.graph.erase_node(node)
    traced.recompile()
    return traced.requires_grad_(False), folded


def _replace_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d and child.track_running_stats:
            setattr(module, name, _ChannelAffine(child))
        else:
            _replace_norms(child)


def _take_over(copied: nn.Module, original: nn.Module, folded: Mapping[str, str]) -> None:
    """Write the original's weights into a simplified copy of it, folded and reduced as the copy's are."""
    sources = dict(original.named_modules())
    with torch.no_grad():
        for name, module in copied.named_modules():
            source = sources.get(name)
            new: dict[str, Tensor]
            if isinstance(module, _ChannelAffine):
                scale, shift = _ChannelAffine.of(cast(nn.BatchNorm2d, source))
                new = {"scale": scale, "shift": shift}
            elif name in folded:
                conv, norm = cast(nn.Conv2d, source), cast(nn.BatchNorm2d, sources[folded[name]])
                mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
                weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
                new = {"weight": weight, "bias": bias}
            else:
                new = _own_tensors(source) if source is not None else {}
            for key, tensor in _own_tensors(module).items():
                tensor.copy_(new[key])


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module, without those of its children."""
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


_CONV_BACKWARD: Any = torch.ops.aten.convolution_backward.default


def _conv_input_gradient(
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradient with respect to the images as a forward convolution, so that a compiler can fuse and pack it."""
    if transposed or groups > 1 or mask != [True, False, False]:
        return torch.ops.aten.convolution_backward(
            gradient, images, weight, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, mask
        )
    if all(s == 1 for s in stride):
        turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        rims = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
        if min(rims) >= 0:
            return (
                torch.ops.aten.convolution(gradient, turned, None, stride, rims, dilation, False, [0, 0], 1),
                None,
                None,
            )
    missing = [
        size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
        for size, out, s, p, d, k in zip(
            images.shape[2:], gradient.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
        )
    ]
    return torch.ops.aten.convolution(gradient, weight, None, stride, padding, dilation, True, missing, 1), None, None


def _function(step: Step) -> Step:
    """A bound method as a plain function, the only kind that make_fx counts the arguments of rightly."""

    def run(images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return step(images, targets, weights)

    return run


def _without_gradients(step: Step) -> Step:
    def run(images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return step(images, targets, weights)

    return run


def _layout(device: torch.device) -> torch.memory_format:
    return torch.channels_last if device.type in ("cpu", "cuda") else torch.contiguous_format


def _padded(tensor: Tensor, count: int) -> Tensor:
    return torch.cat([tensor, tensor[:1].expand(count, *tensor.shape[1:])])
