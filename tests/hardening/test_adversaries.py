"""Attacks on the clean images of an update."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.hardening.adversaries import PGD, Nobody, UniversalPerturbation, adversary
from orthogon.hardening.trainer import Trainer

from .conftest import Subject, classifier_of, network, same, small, state_of

BOUND = 0.05


def batch(subject: Subject) -> tuple[Tensor, Tensor]:
    return subject.training.floats()[:40], subject.training.labels[:40]


def losses(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(classifier.eval()(images), labels, reduction="none")


def test_pgd_stays_within_its_bound_and_raises_the_loss_beyond_what_noise_does(subject: Subject) -> None:
    images, labels = batch(subject)
    pgd = PGD(subject.classifier, small("adversarial", bound=BOUND, adversary_steps=5), 64)
    attacked = pgd.perturb(subject.classifier, images, labels, torch.Generator().manual_seed(0))
    assert (attacked - images).abs().max() <= BOUND + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    noise = (images + BOUND * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()).clamp(0, 1)
    clean, noisy, hard = (losses(subject.classifier, x, labels).mean() for x in (images, noise, attacked))
    assert hard > 2 * max(clean, noisy) + 0.1


def test_pgd_attacks_the_model_as_it_is_now_and_leaves_it_alone(subject: Subject) -> None:
    """The copy was made of another model; its weights are taken over before the attack."""
    images, labels = batch(subject)
    settings = small("adversarial", bound=BOUND)
    now = subject.classifier.train()
    before = state_of(now)
    late, early = (PGD(made_of, settings, 64) for made_of in (classifier_of(network(9)), now))
    one, other = (pgd.perturb(now, images, labels, torch.Generator().manual_seed(0)) for pgd in (late, early))
    torch.testing.assert_close(one, other)
    assert now.training
    assert same(state_of(now), before)


def test_pgd_s_start_is_the_generator_s(subject: Subject) -> None:
    pgd = PGD(subject.classifier, small("adversarial", bound=BOUND), 64)
    one, again, other = (
        pgd.perturb(subject.classifier, *batch(subject), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def universal_gradient(classifier: Classifier, images: Tensor, labels: Tensor, perturbation: Tensor) -> Tensor:
    """Of the mean loss in training mode."""
    moved = perturbation.clone().requires_grad_()
    loss = F.cross_entropy(classifier.train()((images + moved).clamp(0, 1)), labels)
    return torch.autograd.grad(loss, moved)[0]


def test_a_universal_perturbation_takes_one_sign_step_per_update_and_stays_in_its_ball(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shafahi et al. 2020: δ ← clip(δ + ε sign(∇), -ε, ε), from the training step's own gradient."""
    monkeypatch.setattr("orthogon.hardening.trainer.fast_precision", lambda device: torch.float32)
    settings = small("universal-adversarial", bound=BOUND, batch_norm="update", average=0.0)
    classifier = classifier_of(network())  # untrained: its gradients are far from rounding
    trainer, attack = Trainer(classifier, settings), UniversalPerturbation(classifier, settings)
    images, labels = batch(subject)
    expected = torch.zeros(3, 16, 16)
    assert torch.equal(attack.perturb(trainer.classifier, images, labels, torch.Generator()), images)
    for _ in range(4):
        reference = Trainer(trainer.classifier, settings).classifier  # a copy from before the update
        gradient = universal_gradient(reference, images, labels, expected)
        perturbed = attack.perturb(trainer.classifier, images, labels, torch.Generator())
        torch.testing.assert_close(perturbed, (images + expected).clamp(0, 1))
        trainer.update(perturbed, labels, torch.ones(len(labels)), 0.5, attack, clean=images, seed=0)
        sure = gradient.abs() > 1e-6  # below, the sign is rounding's
        assert sure.float().mean() > 0.9
        expected = torch.where(sure, (expected + BOUND * gradient.sign()).clamp(-BOUND, BOUND), attack.tensors()["perturbation"])
        torch.testing.assert_close(attack.tensors()["perturbation"], expected)
        assert expected.abs().max() == pytest.approx(BOUND)
    before = attack.tensors()["perturbation"].clone()
    attack.learn()  # no gradient has come since
    assert torch.equal(attack.tensors()["perturbation"], before)


def test_a_universal_perturbation_comes_back_from_its_checkpoint(subject: Subject) -> None:
    settings = small("universal-adversarial", bound=BOUND)
    images, labels = batch(subject)
    attack, other = (UniversalPerturbation(subject.classifier, settings) for _ in range(2))
    perturbed = attack.perturb(subject.classifier, images, labels, torch.Generator())
    Trainer(subject.classifier, settings).update(perturbed, labels, torch.ones(len(labels)), 0.1, attack, clean=images, seed=0)
    other.restore({name: tensor.clone() for name, tensor in attack.tensors().items()})
    assert other.tensors()["perturbation"].any()
    one, two = (a.perturb(subject.classifier, images, labels, torch.Generator()) for a in (attack, other))
    assert torch.equal(one, two)
    assert two.requires_grad  # it can learn on


@pytest.mark.parametrize(("name", "kind"), [("none", Nobody), ("pgd", PGD), ("universal perturbation", UniversalPerturbation)])
def test_the_settings_name_the_adversary(subject: Subject, name: str, kind: type) -> None:
    made = adversary(subject.classifier, small("moth", adversary=name), 64)
    assert type(made) is kind
    if kind is Nobody:
        images, labels = batch(subject)
        assert made.perturb(subject.classifier, images, labels, torch.Generator()) is images
        assert made.tensors() == {}
