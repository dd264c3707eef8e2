"""The hardening loop: what it trains on, what it keeps, how it goes on after a kill, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.distance import measure
from orthogon.evaluate import accuracy
from orthogon.frozen import Speed
from orthogon.hardening import Hardening, HardeningDiverged, HardeningProgress, HardeningSettings, harden, loop, phases
from orthogon.hardening.pool import TriggerPool
from orthogon.hardening.trainer import Trainer
from orthogon.images import LabelledImages
from orthogon.pairs import Inversion, Pair
from orthogon.protocols import InversionSettings, Protocol, Stage

from .conftest import CORNERS, Subject, classifier_of, network, same, small, state_of


def hardened(subject: Subject, settings: HardeningSettings, **words: Any) -> Hardening:
    return harden(subject.classifier, subject.training, subject.held_out, settings, **words)


def told(result: Hardening) -> dict[str, Any]:
    """Everything of a history but its times."""
    record = result.history.to_json()
    del record["seconds"]
    for check in record["checks"]:
        del check["seconds"]
    return record


SEARCH = InversionSettings((Stage(2, 40, 10, (0.3, 0.2)), Stage(1, 60, 20, (0.2, 0.03), accept_every=5)), weight=2.0)


def test_the_smallest_triggers_grow_and_clean_accuracy_stays(subject: Subject) -> None:
    """Before, one white pixel turns any class into another. After, it takes a good part of the faint pattern."""

    def mean_distance(classifier: Classifier) -> float:
        speed = Speed(torch.float32, compile=False, chunk=20)
        pairs = [Pair(0, 1), Pair(1, 2), Pair(2, 0)]
        protocol = Protocol("tiny", 20, SEARCH)
        return measure(classifier, subject.held_out, pairs=pairs, protocol=protocol, speed=speed).matrix.mean()

    before = mean_distance(subject.classifier)
    assert before < 6  # two pixels, three channels
    settings = small("moth", steps=160, check_every=20, learning_rate=0.03, average=0.9, stamped=24, max_accuracy_loss=0.05)
    result = hardened(subject, settings, seed=4)
    assert mean_distance(result.classifier) > 1.5 * before
    assert result.accuracy_after >= 0.95
    swapped = subject.held_out.pixels.clone()
    for c, (row, column) in enumerate(CORNERS):  # every image has the white pixel of the class after its own
        swapped[:, :, row, column] = 128
        swapped[subject.held_out.labels == (c - 1) % 3, :, row, column] = 255
    shown = replace(subject.held_out, pixels=swapped)
    assert accuracy(result.classifier, shown).accuracy > accuracy(subject.classifier, shown).accuracy + 0.2


class _Batches:
    """What the trainer is given, and what the pool stamps, written down on the way through the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[tuple[Tensor, Tensor]] = []
        self.stamped: list[tuple[list[Pair], Tensor, Tensor]] = []
        recorder = self

        class RecordingTrainer(Trainer):
            def update(self, images: Tensor, labels: Tensor, *others: Any) -> Tensor:
                recorder.trained.append((images.detach().clone(), labels.clone()))
                return super().update(images, labels, *others)

        class RecordingPool(TriggerPool):
            def stamped(self, pairs: Any, images: Tensor) -> Tensor:
                triggers = [self.known[pair].trigger for pair in pairs]
                mask, pattern = (torch.stack([t[name] for t in triggers])[:, None] for name in ("mask", "pattern"))
                recorder.stamped.append((list(pairs), images.clone(), (1 - mask) * images + mask * pattern))
                return super().stamped(pairs, images)

        monkeypatch.setattr(loop, "Trainer", RecordingTrainer)
        monkeypatch.setattr(loop, "TriggerPool", RecordingPool)


def test_stamped_images_are_the_victims_with_the_trigger_and_keep_their_own_labels(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _Batches(monkeypatch)
    settings = small("moth", warm_up="none", schedule="round robin", steps=8, check_every=8)
    hardened(subject, settings)
    labels_of = {row.numpy().tobytes(): int(c) for row, c in zip(subject.training.pixels, subject.training.labels, strict=True)}

    def true_labels(images: Tensor) -> list[int]:
        return [labels_of[image.contiguous().numpy().tobytes()] for image in (images * 255).round().to(torch.uint8)]

    assert len(seen.trained) == len(seen.stamped) == settings.steps
    for (batch, labels), (pairs, victims, expected) in zip(seen.trained, seen.stamped, strict=True):
        each = settings.stamped // 4  # two arms of two directions
        assert sorted((p.victim, p.target) for p in pairs) == sorted((p.target, p.victim) for p in pairs)
        own = [pair.victim for pair in pairs for _ in range(each)]
        assert true_labels(victims.flatten(0, 1)) == own
        assert labels[: settings.batch].tolist() == true_labels(batch[: settings.batch])
        assert labels[settings.batch :].tolist() == own
        torch.testing.assert_close(batch[settings.batch :], expected.flatten(0, 1))
        assert (expected - victims).abs().amax((1, 2, 3, 4)).min() > 0.05  # the triggers are seen


def test_a_few_stamped_images_are_at_least_one_of_each_direction(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _Batches(monkeypatch)
    settings = small("moth", warm_up="none", schedule="round robin", steps=4, check_every=4, stamped=3)
    hardened(subject, settings)
    assert [len(labels) - settings.batch for _, labels in seen.trained] == [4] * 4


def test_where_one_direction_fails_the_other_s_growth_still_counts(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, told = list[float](), list[float]()

    class Pool(TriggerPool):
        def keep(self, inversion: Inversion) -> float:
            super().keep(inversion)
            kept.append(math.nan if len(kept) % 3 == 0 else 0.25)
            return kept[-1]

    monkeypatch.setattr(loop, "TriggerPool", Pool)
    monkeypatch.setattr(phases.Phases, "report", lambda self, arm, growth: told.append(growth))
    hardened(subject, small("moth", warm_up="none", schedule="round robin", steps=6))
    arms = list(zip(kept[::2], kept[1::2], strict=True))
    assert {sum(map(math.isnan, arm)) for arm in arms} == {0, 1}
    assert told == [0.5 if not any(map(math.isnan, arm)) else 0.25 for arm in arms]


def test_the_given_model_keeps_its_mode(subject: Subject) -> None:
    subject.classifier.train()
    hardened(subject, small("moth", warm_up="none", schedule="round robin", steps=2))
    assert subject.classifier.training


@pytest.mark.parametrize(("method", "directions"), [("moth", 2), ("asymmetric", 1), ("universal", 1)])
def test_what_a_pick_searches(subject: Subject, method: str, directions: int) -> None:
    """Both directions of a symmetric arm in every pick; else one; universal arms have no victim."""
    settings = small(method, steps=10, warm_up="none", schedule="round robin", arms_per_pick=1)
    picks = hardened(subject, settings).history.picks
    searched: dict[int, list[tuple[int | None, int]]] = {}
    for step, victim, target in zip(picks["step"], picks["victim"], picks["target"], strict=True):
        searched.setdefault(step, []).append((victim, target))
    assert sorted(searched) == [0, 2, 4, 6, 8]
    for pairs in searched.values():
        assert len(pairs) == directions
        assert {victim is None for victim, _ in pairs} == {method == "universal"}
        if directions == 2:
            assert pairs[0] == tuple(reversed(pairs[1]))


def test_distances_are_compared_on_the_pairs_that_were_known_before(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """While new pairs are picked, the mean of all falls, though each has grown; one that has shrunk counts."""
    known = iter(
        [
            {Pair(0, 1): 8.0},
            {Pair(0, 1): 9.0, Pair(1, 0): 2.0},
            {Pair(0, 1): 9.0, Pair(1, 0): 1.8, Pair(2, 0): 1.0},
            {Pair(0, 1): 8.0, Pair(1, 0): 2.0, Pair(2, 0): 1.0},
            {Pair(1, 0): 2.1, Pair(2, 0): 1.0},
        ]
    )
    monkeypatch.setattr(TriggerPool, "sizes", lambda _: next(known, {Pair(0, 1): 1.0}))
    monkeypatch.setattr(TriggerPool, "mean_distance", lambda _: 1.0)
    result = hardened(subject, small("moth", steps=10, check_every=2, learning_rate=1e-6), min_accuracy=0.0)
    assert [check.kept for check in result.history.checks[:5]] == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("then", "now", "growth"),
    [
        ({Pair(0, 1): 4.0, Pair(2, 1): 6.0}, {Pair(0, 1): 8.0, Pair(2, 1): 6.0, Pair(1, 0): 1.0}, 1.4),
        ({Pair(0, 1): 4.0}, {Pair(1, 0): 1.0}, 1.0),
        ({}, {Pair(1, 0): 1.0}, 1.0),
    ],
)
def test_growth_is_that_of_common_pairs(then: dict[Pair, float], now: dict[Pair, float], growth: float) -> None:
    assert loop._growth(then, now) == pytest.approx(growth)


def test_the_original_stays_where_nothing_within_the_bound_is_found(subject: Subject) -> None:
    result = hardened(subject, small("moth", learning_rate=1e-9, average=0.0, max_accuracy_loss=0.0), min_accuracy=None)
    assert result.accuracy_after >= result.floor == result.accuracy_before
    ruined = hardened(subject, small("moth", learning_rate=50.0, average=0.0, momentum=0.0, max_accuracy_loss=0.0))
    assert not any(check.kept for check in ruined.history.checks)
    assert (ruined.best_step, ruined.accuracy_after) == (0, ruined.accuracy_before)
    assert same(state_of(ruined.classifier.network), state_of(subject.classifier.network))


def test_a_floor_of_its_own_counts_beside_the_bound(subject: Subject) -> None:
    result = hardened(subject, small("moth", steps=8, max_accuracy_loss=0.5), min_accuracy=0.9)
    assert result.floor == 0.9
    assert accuracy(result.classifier, subject.held_out).accuracy >= 0.9


class Interruption:
    """Ctrl-C at the first update of a phase after so many looks."""

    def __init__(self, looks: int, phase: str = "hardening") -> None:
        self.looks, self.phase = looks, phase
        self.step = -1

    def __call__(self, progress: HardeningProgress) -> None:
        if progress.phase == self.phase and progress.check and progress.check.step >= 4 * self.looks:
            self.step = progress.step
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("settings", "interruption"),
    [
        (small("moth", steps=20, check_every=4), Interruption(2)),
        (small("moth", steps=20, check_every=4, arms_per_pick=1, updates_per_pick=4), Interruption(1, "warm-up")),
        (small("pairwise", steps=12, check_every=4, reuse=False), Interruption(1)),
        (small("universal-adversarial", steps=12, check_every=4), Interruption(1)),
        (small("adversarial", steps=12, check_every=4), Interruption(1)),
    ],
    ids=["k-arm", "warm-up", "pairwise", "universal perturbation", "pgd"],
)
def test_an_interrupted_hardening_ends_with_the_same_weights(
    subject: Subject, tmp_path: Path, settings: HardeningSettings, interruption: Interruption
) -> None:
    whole = hardened(subject, settings)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        hardened(subject, settings, checkpoint=path, on_progress=interruption)
    assert 0 < interruption.step < settings.steps
    steps: list[int] = []
    again = hardened(subject, settings, checkpoint=path, on_progress=lambda progress: steps.append(progress.step))
    assert 1 < steps[0] <= interruption.step  # it went on, and did not begin again
    assert same(state_of(again.classifier), state_of(whole.classifier))
    assert told(again) == told(whole)
    for name in ("stopped", "step", "best_step", "accuracy_before", "accuracy_after", "floor", "notes"):
        assert getattr(again, name) == getattr(whole, name)


def test_the_perturbation_is_in_the_checkpoint(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    hardened(subject, small("universal-adversarial", steps=4, check_every=4), checkpoint=path)
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("adversary.perturbation").any()


def test_a_checkpoint_of_another_hardening_is_refused_with_the_differences(subject: Subject, tmp_path: Path) -> None:
    path, settings = tmp_path / "checkpoint.safetensors", small("moth", steps=8, check_every=4)
    hardened(subject, settings, checkpoint=path)
    content = path.read_bytes()
    fewer = subject.training.subset("first:150", torch.Generator())
    for images, other, words, difference in (
        (subject.training, replace(settings, momentum=0.5), {}, r"settings\.momentum: 0\.9 -> 0\.5"),
        (subject.training, settings, {"seed": 3}, "seed: 0 -> 3"),
        (subject.training, settings, {"minutes": 2.0}, r"minutes: null -> 2\.0"),
        (fewer, settings, {}, f'images: "{subject.training.digest()}" -> "{fewer.digest()}"'),
    ):
        with pytest.raises(ValueError, match=difference):
            harden(subject.classifier, images, subject.held_out, other, checkpoint=path, **words)
    assert path.read_bytes() == content


def test_a_checkpoint_of_another_model_is_refused(subject: Subject, tmp_path: Path) -> None:
    path, settings = tmp_path / "checkpoint.safetensors", small("adversarial", steps=2, check_every=1)
    hardened(subject, settings, checkpoint=path)
    with pytest.raises(ValueError, match="another hardening"):
        hardened(untrained(subject), settings, checkpoint=path)


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: b"", lambda content: b"x" * 999])
def test_a_damaged_checkpoint_is_refused(subject: Subject, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path, settings = tmp_path / "checkpoint.safetensors", small("adversarial", steps=2, check_every=1)
    hardened(subject, settings, checkpoint=path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"not a hardening's checkpoint.*remove it"):
        hardened(subject, settings, checkpoint=path)


class Switch:
    """Shared by all copies of a network that has it."""

    def __init__(self) -> None:
        self.on = False

    def __deepcopy__(self, memo: object) -> Switch:
        return self


class Poisoned(nn.Module):
    """A network that sees no numbers in training while its switch is on."""

    def __init__(self, inner: nn.Module, switch: Switch) -> None:
        super().__init__()
        self.inner, self.switch = inner, switch

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images * math.nan if self.training and self.switch.on else images)


def poisoned(subject: Subject) -> tuple[Subject, Switch]:
    switch = Switch()
    return replace(subject, classifier=classifier_of(Poisoned(subject.classifier.network, switch))), switch


@pytest.mark.parametrize("method", ["moth", "universal-adversarial"])
def test_a_loss_that_is_not_finite_goes_back_and_halves_the_rate(
    subject: Subject, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    class RecordingTrainer(Trainer):
        def update(self, *arguments: Any) -> Tensor:
            rates.append(arguments[3])
            return super().update(*arguments)

    monkeypatch.setattr(loop, "Trainer", RecordingTrainer)
    sick, switch = poisoned(subject)
    settings = small(method, steps=24, check_every=6)
    at: list[int] = []

    def poison(progress: HardeningProgress) -> None:
        at.append(progress.step)
        switch.on = at.count(8) == 1 and at[-1] in (8, 9)  # two updates, the first time that they come

    result = hardened(sick, settings, on_progress=poison)
    (restart,) = result.history.restarts
    assert restart.step == 12
    assert "from step 6 with half the learning rate" in restart.reason
    assert at == [*range(1, 13), *range(7, 25)]
    first, second = rates[6:12], rates[12:18]
    assert second == pytest.approx([rate / 2 for rate in first])
    assert [check.step for check in result.history.checks] == [6, 12, 18, 24]
    assert all(math.isfinite(check.loss) for check in result.history.checks)
    assert all(tensor.isfinite().all() for tensor in state_of(result.classifier).values())


def test_a_loss_that_stays_not_finite_ends_it_and_names_a_rate(subject: Subject) -> None:
    sick, switch = poisoned(subject)
    switch.on = True
    with pytest.raises(HardeningDiverged, match=f"6 times; try a learning rate of {0.01 / 2**7:.2g}"):
        hardened(sick, small("universal-adversarial", steps=8, check_every=2))


def test_a_class_without_training_images_is_told_and_the_others_are_hardened(subject: Subject) -> None:
    kept = (subject.training.labels != 1).nonzero().flatten()
    result = harden(subject.classifier, subject.training.select(kept), subject.held_out, small("moth", max_accuracy_loss=1.0))
    assert result.notes == ("without training images, so not hardened: classes 1",)
    picks = result.history.picks
    assert {(v, t) for v, t in zip(picks["victim"], picks["target"], strict=True)} == {(None, 0), (None, 2), (0, 2), (2, 0)}


def only_class_0(subject: Subject) -> Subject:
    return replace(subject, training=subject.training.of_class(0))


def unlike(subject: Subject) -> Subject:
    pixels = subject.training.pixels[:, :, :8, :8].contiguous()
    return replace(subject, training=LabelledImages(pixels, subject.training.labels, subject.training.classes, "smaller"))


def as_it_is(subject: Subject) -> Subject:
    return subject


def untrained(subject: Subject) -> Subject:
    return replace(subject, classifier=classifier_of(network(5)))


@pytest.mark.parametrize(
    ("change", "settings", "words", "message"),
    [
        (untrained, {}, {"min_accuracy": 0.95}, r"below the 95\.00%.*lower the bound"),
        (as_it_is, {}, {"minutes": 0.0}, "minutes must be above 0, got 0"),
        (as_it_is, {}, {"minutes": -1.0}, "minutes must be above 0, got -1"),
        (only_class_0, {}, {}, "at least two classes, got 1"),
        (as_it_is, {"steps": 4}, {}, "4 steps end within the warm-up, which takes 4"),
        (unlike, {}, {}, "smaller has"),
    ],
)
def test_what_is_refused(
    subject: Subject, change: Callable[[Subject], Subject], settings: dict[str, Any], words: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        hardened(change(subject), small("moth", **settings), **words)


def test_minutes_that_end_within_the_warm_up_are_told(subject: Subject) -> None:
    result = hardened(subject, small("moth", arms_per_pick=1), minutes=1e-6)
    assert result.stopped == "minutes"
    assert result.step < 24
    assert len(result.history.checks) == 1
    assert any("within the warm-up" in note for note in result.notes)


def test_progress_is_told_after_every_update(subject: Subject) -> None:
    seen: list[HardeningProgress] = []
    settings = small("moth", steps=9, check_every=4)
    hardened(subject, settings, on_progress=seen.append)
    assert [p.step for p in seen] == list(range(1, 10))
    assert [p.done for p in seen] == pytest.approx([n / 9 for n in range(1, 10)])
    assert [p.phase for p in seen] == ["warm-up"] * 4 + ["hardening"] * 5
    assert [p.check and p.check.step for p in seen] == [None] * 4 + [4] * 4 + [8]
    assert all(1 <= len(p.arms) <= settings.arms_per_pick for p in seen)
    assert math.isfinite(seen[-1].distance)


def test_the_rate_falls_to_zero_at_the_last_update(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    class RecordingTrainer(Trainer):
        def update(self, *arguments: Any) -> Tensor:
            rates.append(arguments[3])
            return super().update(*arguments)

    monkeypatch.setattr(loop, "Trainer", RecordingTrainer)
    settings = small("universal-adversarial", steps=8, learning_rate=0.08)
    result = hardened(subject, settings)
    assert rates == pytest.approx([0.08 * (1 - n / 8) for n in range(8)])
    assert result.stopped == "steps"
    assert asdict(result.history.checks[-1])["step"] == 8
