"""The weights of the model that is hardened: one update, their moving average, and what a checkpoint holds of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orthogon.classifier import Classifier
from orthogon.hardening.adversaries import Adversary
from orthogon.machine import device_of, fast_precision
from orthogon.methods import HardeningSettings
from orthogon.randomness import layer_draws
from orthogon.training import sgd


class Trainer:
    """SGD on a copy of a classifier, which the original goes on teaching.

    Args:
        classifier: is not changed; in evaluation mode. It is the teacher, too.
        settings: of the hardening.
    """

    def __init__(self, classifier: Classifier, settings: HardeningSettings) -> None:
        self.classifier = copy.deepcopy(classifier).requires_grad_(True)
        self.settings = settings
        self._teacher = copy.deepcopy(classifier).requires_grad_(False).eval() if settings.distillation else None
        self.device = device_of(classifier)
        network = self.classifier.network
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self._teacher is not None:
            self._teacher.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._average = copy.deepcopy(self.classifier).requires_grad_(False).eval() if settings.average else None
        self._optimizer = sgd(network, settings.learning_rate, settings.momentum, settings.weight_decay)
        self._half = fast_precision(self.device) is torch.bfloat16

    @property
    def judged(self) -> Classifier:
        """The model that is judged and kept: the average of the weights, or the weights themselves."""
        return (self.classifier if self._average is None else self._average).eval()

    def update(
        self,
        images: Float[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
        weights: Float[Tensor, " n"],
        learning_rate: float,
        adversary: Adversary,
        clean: Float[Tensor, "k c h w"],
        seed: int,
    ) -> Float[Tensor, ""]:
        """One step on the weighted mean of the images' cross entropies, and on what the original says of the clean ones.

        Args:
            images: to train on, in [0, 1].
            labels: their true classes.
            weights: of their cross entropies.
            learning_rate: of this step.
            adversary: learns from the same pass.
            clean: the first k images as they were before the adversary; the teacher sees these.
            seed: of what the network draws by itself, such as Dropout's masks.

        Returns:
            The loss, still on the device.
        """
        self._set_mode()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        with layer_draws(self.device, seed):
            logits = self._logits(self.classifier, images)
        losses = F.cross_entropy(logits, labels, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        if self._teacher is not None:
            with torch.no_grad():
                taught = self._logits(self._teacher, clean)
            loss = loss + self.settings.distillation * divergence(logits[: len(clean)], taught, self.settings.temperature)
        loss.backward()
        adversary.learn()
        self._optimizer.step()
        if self._average is not None:
            self._follow(self._average)
        return loss.detach()

    def _logits(self, classifier: Classifier, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            logits = classifier(images.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def _set_mode(self) -> None:
        """Training mode; BatchNorm in evaluation mode where it is frozen."""
        self.classifier.train()
        if self.settings.batch_norm == "freeze":
            for module in self.classifier.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def _follow(self, average: Classifier) -> None:
        with torch.no_grad():
            for mean, now in zip(_tensors_of(average), _tensors_of(self.classifier), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - self.settings.average)
                else:
                    mean.copy_(now)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, their average and their momentum, by name; they are the trainer's own, not copies."""
        tensors = {f"network.{name}": t for name, t in self.classifier.network.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average.{name}": t for name, t in self._average.network.state_dict().items()}
        for name, parameter in self.classifier.network.named_parameters():
            momentum = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        for name, parameter in self.classifier.network.named_parameters():
            state = self._optimizer.state[parameter]
            state.pop("momentum_buffer", None)
            if (momentum := tensors.get(f"momentum.{name}")) is not None:
                state["momentum_buffer"] = momentum.to(self.device, copy=True)
        for prefix, network in (("network", self.classifier.network), ("average", self._average and self._average.network)):
            if network is not None:
                network.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in network.state_dict()})


def divergence(logits: Float[Tensor, "n classes"], taught: Float[Tensor, "n classes"], temperature: float) -> Float[Tensor, ""]:
    """Mean KL divergence of the softened answers from the teacher's, times the squared temperature (Hinton et al. 2015,
    section 2: so its gradient does not shrink with the temperature)."""
    answers, lessons = (F.log_softmax(x / temperature, dim=1) for x in (logits, taught))
    return F.kl_div(answers, lessons, log_target=True, reduction="batchmean") * temperature**2


def _tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
