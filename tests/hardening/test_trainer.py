"""One update against its formula, BatchNorm's two ways, the moving average, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthogon.hardening.adversaries import Nobody
from orthogon.hardening.trainer import Trainer

from .conftest import classifier_of, network, same, small, state_of

RATE = 0.1


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fast bfloat16, so that formulas can be compared."""
    monkeypatch.setattr("orthogon.hardening.trainer.fast_precision", lambda device: torch.float32)


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(12, 3, 16, 16, generator=generator), torch.arange(12) % 3, torch.rand(12, generator=generator)


def updated(trainer: Trainer, seed: int = 0) -> float:
    images, labels, weights = batch(seed)
    return float(trainer.update(images, labels, weights, RATE, Nobody(), clean=images[:8], seed=0))


def test_an_update_is_nesterov_s_step_on_the_weighted_mean_of_the_losses() -> None:
    """From rest, Nesterov's momentum moves by (1 + momentum) times the gradient; only matrices decay."""
    original = classifier_of(network())
    trainer = Trainer(original, small("moth", momentum=0.8, weight_decay=0.3, average=0.0, distillation=0.0))
    loss = updated(trainer)
    reference = classifier_of(network()).train()
    images, labels, weights = batch()
    losses = F.cross_entropy(reference(images), labels, reduction="none")
    expected = (losses * weights).sum() / weights.sum()
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    now = dict(trainer.classifier.named_parameters())
    for name, parameter in reference.named_parameters():
        assert parameter.grad is not None
        decay = 0.3 * parameter if parameter.ndim > 1 else 0.0
        torch.testing.assert_close(now[name], parameter - RATE * 1.8 * (parameter.grad + decay), atol=1e-6, rtol=1e-4)


def test_the_original_teaches_what_it_says_of_the_clean_images() -> None:
    """Hinton et al. 2015: T² KL(teacher ‖ student), both softened by T, from the second update on more than nothing."""
    original = classifier_of(network())
    settings = small("moth", batch_norm="freeze", average=0.0, distillation=0.6, temperature=3.0)
    trainer, alone = Trainer(original, settings), Trainer(original, replace(settings, distillation=0.0))
    images, labels, weights = batch()
    clean = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(4))  # before the adversary: others than trained on
    told, without = (float(t.update(images, labels, weights, RATE, Nobody(), clean=clean, seed=0)) for t in (trainer, alone))
    with torch.no_grad():
        lesson, answer = ((original(x) / 3.0).softmax(1).double() for x in (clean, images[:8]))
    expected = 0.6 * 9.0 * (lesson * (lesson / answer).log()).sum(1).mean()
    assert told - without == pytest.approx(float(expected), abs=5e-7)  # a difference of two float32 numbers
    assert not same(state_of(trainer.classifier), state_of(alone.classifier))


def test_the_model_given_is_not_changed() -> None:
    original = classifier_of(network())
    before = state_of(original)
    updated(trainer := Trainer(original, small("moth")))
    assert same(state_of(original), before)
    assert not same(state_of(trainer.classifier), before)
    assert all(p.grad is None for p in original.parameters())


@pytest.mark.parametrize("batch_norm", ["update", "freeze"])
def test_batch_norm_learns_its_statistics_or_keeps_them(batch_norm: str) -> None:
    trainer = Trainer(classifier_of(network()), small("moth", batch_norm=batch_norm))
    before = {name: buffer.clone() for name, buffer in trainer.classifier.network.named_buffers()}
    weight = trainer.classifier.network[1].weight.clone()
    updated(trainer)
    kept = {name: torch.equal(buffer, before[name]) for name, buffer in trainer.classifier.network.named_buffers()}
    assert set(kept) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert set(kept.values()) == {batch_norm == "freeze"}
    assert not torch.equal(trainer.classifier.network[1].weight, weight)  # its scale learns either way


def test_the_moving_average_is_its_formula() -> None:
    trainer = Trainer(classifier_of(network()), small("moth", average=0.7))
    mean = state_of(trainer.classifier)
    for seed in range(3):
        updated(trainer, seed)
        for name, now in trainer.classifier.state_dict().items():
            mean[name] = 0.7 * mean[name] + 0.3 * now if now.is_floating_point() else now.clone()
    judged = trainer.judged
    assert not judged.training
    for name, tensor in judged.state_dict().items():
        torch.testing.assert_close(tensor, mean[name])
    assert not same(state_of(judged), state_of(trainer.classifier))


def test_without_an_average_the_weights_themselves_are_judged() -> None:
    trainer = Trainer(classifier_of(network()), small("moth", average=0.0))
    updated(trainer)
    assert trainer.judged is trainer.classifier
    assert not trainer.judged.training


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_a_restored_trainer_goes_on_as_if_nothing_had_been(average: float) -> None:
    """Momentum and average come back too; a state from before the first update takes the momentum away."""
    settings = small("moth", average=average)
    first = Trainer(classifier_of(network()), settings)
    fresh = {name: tensor.clone() for name, tensor in first.tensors().items()}
    updated(first, 0)
    after_one = {name: tensor.clone() for name, tensor in first.tensors().items()}
    updated(first, 1)
    other = Trainer(classifier_of(network()), settings)
    updated(other, 5)
    other.restore(after_one)
    updated(other, 1)
    assert same(dict(other.tensors()), dict(first.tensors()))
    other.restore(fresh)
    updated(other, 0)
    assert same(dict(other.tensors()), after_one)


@pytest.mark.parametrize("half", [True, False])
def test_half_precision_or_not_weights_stay_float32_and_learn(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: Callable[[torch.device], torch.dtype] = lambda device: torch.bfloat16 if half else torch.float32  # noqa: E731
    monkeypatch.setattr("orthogon.hardening.trainer.fast_precision", chosen)
    trainer = Trainer(classifier_of(network()), small("moth", average=0.0, distillation=0.0))
    losses = [updated(trainer) for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]
    assert {p.dtype for p in trainer.classifier.parameters()} == {torch.float32}


def test_what_layers_draw_by_themselves_hangs_on_the_seed_alone() -> None:
    def after(seed: int) -> dict[str, Tensor]:
        module = nn.Sequential(network()[:-1], nn.Dropout(0.5), network()[-1])
        trainer = Trainer(classifier_of(module), small("moth", average=0.0, distillation=0.0))
        images, labels, weights = batch()
        trainer.update(images, labels, weights, RATE, Nobody(), clean=images[:8], seed=seed)
        return state_of(trainer.classifier)

    torch.manual_seed(11)
    one, known = after(3), torch.get_rng_state()
    torch.manual_seed(12)
    assert same(after(3), one)
    assert not same(after(4), one)
    torch.manual_seed(11)
    after(9)
    assert torch.equal(torch.get_rng_state(), known)
