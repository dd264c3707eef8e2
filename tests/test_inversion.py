"""The inversion loop on problems whose smallest trigger can be written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.frozen import FrozenCopy, Speed
from orthogon.inversion import Request, invert
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.protocols import InversionSettings, Stage
from orthogon.triggers import Patch, Trigger

SHAPE = (3, 8, 8)
SAMPLES = 20
EXACT = Speed(torch.float32, compile=False, chunk=256)
SEARCH = InversionSettings(
    (Stage(2, 20, 10, (0.3, 0.15)), Stage(1, 100, 20, (0.15, 0.02), accept_every=5)),
    weight=2.0,
)
SHORT = InversionSettings((Stage(2, 6, 5, (0.3, 0.2)), Stage(1, 14, 5, (0.2, 0.05), accept_every=2)), weight=2.0)


def _linear(weights: dict[tuple[int, int, int], float], bias: float, classes: int = 2) -> Classifier:
    """Class 1 wins where the weighted pixels exceed -bias; further classes never win."""
    layer = nn.Linear(math.prod(SHAPE), classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        row = torch.zeros(SHAPE)
        for place, weight in weights.items():
            row[place] = weight
        layer.weight[1] = row.flatten()
        layer.bias[1] = bias
        layer.bias[2:] = -1000.0
    return Classifier(nn.Sequential(nn.Flatten(), layer), [f"class {i}" for i in range(classes)], SHAPE)


ONE_PIXEL = {(0, 2, 3): 10.0}


def _greys(low: int = 10, high: int = 70, rows: int = 1) -> Tensor:
    """Rows of images whose pixels all have one value, evenly spread from low to high."""
    values = torch.linspace(low, high, SAMPLES).round().to(torch.uint8)
    return values.view(1, -1, 1, 1, 1).expand(rows, SAMPLES, *SHAPE).contiguous()


def _network(seed: int = 0, classes: int = 4) -> Classifier:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, classes)]
    return Classifier(nn.Sequential(*layers), [str(i) for i in range(classes)], SHAPE)


def _noise(rows: int) -> Tensor:
    return torch.randint(0, 256, (rows, SAMPLES, *SHAPE), generator=torch.Generator().manual_seed(2)).to(torch.uint8)


def _engine(
    classifier: Classifier, samples: Tensor | None = None, settings: InversionSettings = SEARCH, speed: Speed = EXACT
) -> Engine:
    return Engine(classifier, _greys() if samples is None else samples, settings, speed)


ONE_TO_ANOTHER = Pair(0, 1)


def _invert(engine: Engine, pair: Pair = ONE_TO_ANOTHER, seed: int = 0, start: Trigger | None = None) -> Inversion:
    return invert(engine, Patch(), [Request(pair, 0, seed, start)])[0]


def _remeasured(classifier: Classifier, samples: Tensor, inversion: Inversion) -> tuple[float, float]:
    """The share of samples that a trigger turns, and its size, by Eq. 1 and 2 written plainly."""
    mask, pattern = inversion.trigger["mask"], inversion.trigger["pattern"]
    with torch.no_grad():
        said = classifier((1 - mask) * samples.float() / 255 + mask * pattern).argmax(1)
    return float((said == inversion.pair.target).float().mean()), float(mask.sum() * SHAPE[0])


def _same(one: Inversion, other: Inversion) -> bool:
    facts = [(i.pair, i.outcome, repr(i.size), repr(i.asr), repr(i.restarts), i.steps) for i in (one, other)]
    return facts[0] == facts[1] and all(torch.equal(one.trigger[k], other.trigger[k]) for k in one.trigger)


def _hardest_value(samples: Tensor, asr: float) -> float:
    """The darkest of the grey images that have to be turned."""
    values = samples[0, :, 0, 0, 0].double().sort(descending=True).values / 255
    return float(values[math.ceil(asr * SAMPLES) - 1])


def test_the_smallest_trigger_of_one_pixel_is_found() -> None:
    """With δ = 1, a pixel of value v exceeds one half from m = (1/2 - v) / (1 - v) on."""
    v = _hardest_value(_greys(), 0.9)
    smallest = 3 * (0.5 - v) / (1 - v)
    found = _invert(_engine(_linear(ONE_PIXEL, -5.0)))
    assert found.outcome is Outcome.FOUND
    assert found.asr == pytest.approx(0.9)
    assert smallest * (1 - 1e-5) <= found.size <= smallest * 1.05
    assert found.trigger["mask"].shape == (1, 8, 8)
    assert int(found.trigger["mask"].argmax()) == 2 * 8 + 3
    assert float(found.trigger["pattern"][0, 2, 3]) > 0.95


def test_the_strongest_pixels_are_used_first() -> None:
    """Weights of 4, 3, 2, 1 that must come to 5.5: one whole pixel and part of the next cost least."""
    weights, samples = {(0, 1, 1): 4.0, (1, 3, 3): 3.0, (2, 5, 5): 2.0, (0, 6, 6): 1.0}, _greys(0, 20)
    v = _hardest_value(samples, 0.9)
    smallest = 3 * (1 + ((5.5 - 10 * v) / (1 - v) - 4) / 3)
    found = _invert(_engine(_linear(weights, -5.5), samples))
    assert found.outcome is Outcome.FOUND
    assert smallest * (1 - 1e-5) <= found.size <= smallest * 1.06


def test_a_shared_mask_pays_for_three_channels_and_uses_them_all() -> None:
    """The same weight on all three channels of a pixel: a pattern of white needs what one channel needs."""
    v = _hardest_value(_greys(), 0.9)
    smallest = 3 * (0.5 - v) / (1 - v)
    found = _invert(_engine(_linear({(channel, 2, 3): 10.0 for channel in range(3)}, -15.0)))
    assert smallest * (1 - 1e-5) <= found.size <= smallest * 1.05
    assert (found.trigger["pattern"][:, 2, 3] > 0.9).all()


def test_neural_cleanse_s_settings_find_it_too() -> None:
    """At 99 %, that is on every sample."""
    settings = InversionSettings(
        (Stage(1, 600, 10, (0.1, 0.1), accept_every=3),),
        asr=0.99,
        loss="cross entropy",
        spare=0.0,
        focus=False,
        raise_by=1.5,
        lower_by=1.5**1.5,
        weight_patience=5,
        check_every=3,
    )
    v = _hardest_value(_greys(), 1.0)
    smallest = 3 * (0.5 - v) / (1 - v)
    found = _invert(_engine(_linear(ONE_PIXEL, -5.0), settings=settings))
    assert found.asr == 1.0
    assert smallest * (1 - 1e-5) <= found.size <= smallest * 1.1


def test_what_is_found_holds_in_float32_by_the_original() -> None:
    classifier, samples = _network(), _noise(1)
    found = _invert(_engine(classifier, samples, SHORT, Speed(torch.bfloat16, compile=False)), Pair(0, 2))
    assert found.outcome is Outcome.FOUND
    rate, size = _remeasured(classifier, samples[0], found)
    assert found.asr == pytest.approx(rate)
    assert rate >= 0.9 - 1e-6
    assert found.size == pytest.approx(size, rel=1e-5)
    assert min(found.restarts) == found.size


def test_the_copy_never_judges() -> None:
    """A copy of an easier model takes every trigger for good; the original refuses them all."""
    engine = _engine(_linear(ONE_PIXEL, -1000.0), settings=SHORT)
    engine.copy = FrozenCopy(_linear(ONE_PIXEL, 1000.0), lambda logits, targets: logits[:, 0], engine.device, EXACT)
    result = _invert(engine)
    assert result.outcome is Outcome.ASR
    assert result.asr == 0.0


def test_a_model_that_ignores_its_images_has_no_distance() -> None:
    result = _invert(_engine(_linear({}, -1.0), settings=SHORT))
    assert result.outcome is Outcome.ASR
    assert math.isnan(result.size)
    assert result.asr == 0.0
    assert result.restarts == ()
    assert math.isnan(result.spread)
    assert result.steps == SHORT.steps
    assert set(result.trigger) == {"mask", "pattern"}


def test_a_trigger_that_turns_too_few_has_no_distance_but_says_how_many() -> None:
    """A search that hardly moves, from a mask of almost nothing: it turns the half that is on the other side already."""
    samples = _greys(10, 70)
    samples[0, ::2] = 250
    settings = InversionSettings((Stage(2, 4, 10, (1e-9, 1e-9), accept_every=2),))
    engine = _engine(_linear(ONE_PIXEL, -5.0), samples, settings)
    result = invert(engine, Patch(start=0.01), [Request(Pair(0, 1), 0, 0)])[0]
    assert result.outcome is Outcome.ASR
    assert result.asr == 0.5
    assert math.isnan(result.size)


def _not_a_number(where: str) -> Classifier:
    classifier = _linear(ONE_PIXEL, -5.0, classes=3)
    layer = classifier.network[1]
    with torch.no_grad():
        if where == "weights":
            layer.weight.fill_(math.nan)
        elif where == "target's bias":
            layer.bias[1] = math.nan
        else:
            layer.bias[2] = math.nan
    return classifier


@pytest.mark.parametrize("where", ["weights", "target's bias", "another bias"])
def test_a_model_that_is_not_finite_has_no_distance(where: str) -> None:
    result = _invert(_engine(_not_a_number(where), settings=SHORT))
    assert result.outcome is Outcome.NOT_FINITE
    assert math.isnan(result.size)
    assert math.isnan(result.asr)


def test_a_pair_does_not_depend_on_the_pairs_beside_it() -> None:
    engine = _engine(_network(), _noise(3), SHORT)
    requests = [Request(Pair(row, 3), row, 100 + row) for row in range(3)]
    together = invert(engine, Patch(), requests)
    alone = invert(engine, Patch(), requests[1:2])[0]
    assert [i.pair for i in together] == [r.pair for r in requests]
    assert together[1].outcome is alone.outcome is Outcome.FOUND
    assert _same(alone, together[1])


@pytest.mark.parametrize("settings", [SHORT, replace(SHORT, jitter=0.01), replace(SHORT, focus=False)])
def test_a_seed_decides_everything(settings: InversionSettings) -> None:
    engine = _engine(_network(), _noise(1), settings)
    once, again, other = (_invert(engine, Pair(0, 2), seed) for seed in (5, 5, 6))
    assert _same(once, again)
    assert not torch.equal(once.trigger["mask"], other.trigger["mask"])


def _good_start() -> Trigger:
    mask, pattern = torch.zeros(1, 8, 8), torch.ones(3, 8, 8)
    mask[0, 2, 3] = 0.5
    return {"mask": mask, "pattern": pattern}


@pytest.mark.parametrize("first_accepts", [True, False])
def test_a_warm_start_is_never_made_worse(first_accepts: bool) -> None:
    """The start works on all samples with a size of 1.5; a short search of its own finds nothing near it."""
    first, last = SHORT.stages
    settings = replace(SHORT, stages=(replace(first, accept_every=3 if first_accepts else 0), last))
    engine = _engine(_linear(ONE_PIXEL, -5.0), settings=settings)
    cold, warm = _invert(engine), _invert(engine, start=_good_start())
    assert not cold.size <= 3.0
    assert warm.outcome is Outcome.FOUND
    assert warm.size <= 1.5 + 0.01


def _batches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each step, as the copy is given them."""
    seen: list[int] = []
    gradient = engine.copy.gradient

    def counted(images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(images))
        return gradient(images, targets, weights)

    monkeypatch.setattr(engine.copy, "gradient", counted)
    return seen


def test_stages_drop_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = (Stage(4, 5, 6, (0.3, 0.2)), Stage(2, 4, 8, (0.2, 0.1)), Stage(1, 12, 9, (0.1, 0.05), accept_every=2))
    engine = _engine(_network(), _noise(1), InversionSettings(stages))
    seen = _batches(engine, monkeypatch)
    result = _invert(engine, Pair(0, 2))
    assert seen == [4 * 6] * 5 + [2 * 8] * 4 + [9] * 12
    assert len(result.restarts) == 1
    assert result.steps == engine.settings.steps == len(seen)
    assert engine.settings.image_steps == sum(seen)


def test_every_search_kept_to_the_end_is_told() -> None:
    stages = (Stage(4, 5, 6, (0.3, 0.2)), Stage(3, 30, 10, (0.2, 0.05), accept_every=2))
    result = _invert(_engine(_network(), _noise(1), InversionSettings(stages)), Pair(0, 2))
    assert len(result.restarts) == 3
    assert list(result.restarts) == sorted(result.restarts)
    assert result.size == result.restarts[0]
    assert result.spread == pytest.approx(float(torch.tensor(result.restarts).std()))


def test_a_batch_takes_no_more_samples_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _engine(_network(), _noise(1), InversionSettings((Stage(2, 4, 500, (0.3, 0.2), accept_every=2),)))
    seen = _batches(engine, monkeypatch)
    _invert(engine, Pair(0, 2))
    assert seen == [2 * SAMPLES] * 4


def test_shuffled_batches_come_round_to_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without focus, an epoch is a walk through all samples, each once."""
    settings = InversionSettings((Stage(1, 8, 5, (1e-9, 1e-9), accept_every=100),), focus=False, spare=0.0)
    samples = _greys(0, 255)
    engine = _engine(_linear(ONE_PIXEL, -5.0), samples, settings)
    seen: list[Tensor] = []
    gradient = engine.copy.gradient

    def kept(images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(images[:, 0, 0, 0])
        return gradient(images, targets, weights)

    monkeypatch.setattr(engine.copy, "gradient", kept)
    _invert(engine)
    for epoch in (seen[:4], seen[4:]):
        assert len(torch.cat(epoch).unique()) == SAMPLES
    assert not torch.equal(seen[0], seen[4])


def test_pairs_that_stop_to_improve_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is ever taken for class 2: that pair leaves at its twentieth test, and the other goes on without it."""
    stage = Stage(1, 600, 10, (0.15, 0.02), accept_every=5, patience=20)
    engine = _engine(_linear(ONE_PIXEL, -5.0, classes=3), settings=InversionSettings((stage,), weight=2.0))
    seen = _batches(engine, monkeypatch)
    found, hopeless = invert(engine, Patch(), [Request(Pair(0, 1), 0, 0), Request(Pair(0, 2), 0, 1)])
    assert (found.outcome, hopeless.outcome) == (Outcome.FOUND, Outcome.ASR)
    assert hopeless.steps == 5 * 19
    assert hopeless.steps < found.steps == len(seen) < stage.steps
    assert seen == [20] * 95 + [10] * (len(seen) - 95)


def test_the_last_pair_may_leave_before_the_end() -> None:
    stage = Stage(2, 100, 10, (0.15, 0.02), accept_every=2, patience=3)
    result = _invert(_engine(_linear({}, -1.0), settings=InversionSettings((stage,))))
    assert result.outcome is Outcome.ASR
    assert result.steps == 4


def test_a_universal_trigger_turns_the_samples_of_every_class() -> None:
    samples = torch.cat([_greys(10, 40)[:, :10], _greys(40, 70)[:, :10]], 1)
    classifier = _linear(ONE_PIXEL, -5.0)
    found = _invert(_engine(classifier, samples), Pair(None, 1))
    assert found.pair == Pair(None, 1)
    assert found.outcome is Outcome.FOUND
    assert _remeasured(classifier, samples[0], found)[0] == pytest.approx(found.asr)
    assert found.asr >= 0.9 - 1e-6


def test_jitter_moves_the_search_but_not_the_judgement() -> None:
    classifier, samples = _network(), _noise(1)
    still = _invert(_engine(classifier, samples, SHORT), Pair(0, 2))
    shaken = _invert(_engine(classifier, samples, replace(SHORT, jitter=0.05)), Pair(0, 2))
    assert shaken.outcome is Outcome.FOUND
    assert not torch.equal(still.trigger["mask"], shaken.trigger["mask"])
    assert _remeasured(classifier, samples[0], shaken)[0] == pytest.approx(shaken.asr)


def test_progress_grows_to_the_whole() -> None:
    told: list[float] = []
    engine = _engine(_network(), _noise(1), SHORT)
    invert(engine, Patch(), [Request(Pair(0, 2), 0, 0)], told.append)
    assert told == sorted(told)
    assert 0 < told[0] < 0.5 < told[-1] <= 1


def test_samples_and_weights_stay_as_they_are() -> None:
    classifier, samples = _network(), _noise(1)
    weights, pixels = {k: v.clone() for k, v in classifier.state_dict().items()}, samples.clone()
    _invert(_engine(classifier, samples, SHORT), Pair(0, 2))
    assert torch.equal(samples, pixels)
    assert all(torch.equal(value, weights[key]) for key, value in classifier.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())


def test_triggers_are_told_on_the_cpu_without_gradients() -> None:
    for value in _invert(_engine(_network(), _noise(1), SHORT), Pair(0, 2)).trigger.values():
        assert value.device.type == "cpu"
        assert not value.requires_grad
        assert 0 <= value.min() <= value.max() <= 1


def _inexact(classifier: Classifier, samples: Tensor | None = None, settings: InversionSettings = SHORT) -> Engine:
    return Engine(classifier, _greys() if samples is None else samples, settings, EXACT, exact=False)


def test_without_exactness_the_copy_judges() -> None:
    """The original refuses every trigger, and the copy of an easier model takes them all."""
    engine = _inexact(_linear(ONE_PIXEL, -1000.0))
    engine.copy = FrozenCopy(_linear(ONE_PIXEL, 1000.0), lambda logits, targets: logits[:, 0], engine.device, EXACT)
    result = _invert(engine)
    assert result.outcome is Outcome.FOUND
    assert result.asr == 1.0


def test_without_exactness_the_smallest_trigger_is_found_all_the_same() -> None:
    v = _hardest_value(_greys(), 0.9)
    smallest = 3 * (0.5 - v) / (1 - v)
    classifier = _linear(ONE_PIXEL, -5.0)
    found = _invert(_inexact(classifier, settings=SEARCH))
    assert found.outcome is Outcome.FOUND
    assert smallest * (1 - 1e-4) <= found.size <= smallest * 1.05
    rate, size = _remeasured(classifier, _greys()[0], found)
    assert (found.asr, found.size) == (pytest.approx(rate), pytest.approx(size, rel=1e-5))


@pytest.mark.parametrize("start", [None, _good_start()])
def test_the_weight_asked_for_is_where_the_size_s_weight_starts(start: Trigger | None) -> None:
    """No step moves it here, and it comes back with the result; without one it is the settings', which the test knows."""
    settings = InversionSettings((Stage(1, 4, 10, (1e-9, 1e-9), accept_every=9),), weight=2.0, ease=1.0, check_every=99)
    engine = _engine(_linear(ONE_PIXEL, -5.0), settings=settings)
    given, default = invert(engine, Patch(), [Request(ONE_TO_ANOTHER, 0, 0, start, 0.7), Request(ONE_TO_ANOTHER, 0, 0, start)])
    assert given.weight == pytest.approx(0.7)
    assert default.weight == pytest.approx(2.0 * 1e-3 * 1024 / 64)


@pytest.mark.parametrize(("ease", "expected"), [(1.0, 0.7), (2.0, 0.7 / 4)])
def test_a_search_with_nothing_confirmed_eases_its_weight_at_every_test(ease: float, expected: float) -> None:
    """One test at the first step and one at the end; the model takes nothing for the target."""
    settings = InversionSettings((Stage(1, 4, 10, (1e-9, 1e-9), accept_every=9),), ease=ease, check_every=99)
    (result,) = invert(_engine(_linear({}, -1.0), settings=settings), Patch(), [Request(ONE_TO_ANOTHER, 0, 0, weight=0.7)])
    assert result.outcome is Outcome.ASR
    assert result.weight == pytest.approx(expected)


LAST = Stage(1, 10, 10, (0.1, 0.05), accept_every=5)


def _settings(stages: Sequence[Stage] = (LAST,), **others: float | str) -> Callable[[], InversionSettings]:
    return lambda: replace(InversionSettings((LAST,)), stages=tuple(stages), **others)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_settings(()), "accept_every"),
        (_settings((replace(LAST, accept_every=0),)), "accept_every"),
        (_settings(asr=0.0), "asr must be above 0 and at most 1, got 0.0"),
        (_settings(asr=1.1), "got 1.1"),
        (_settings(loss="hinge"), "'hinge'"),
        (_settings((LAST, replace(LAST, restarts=2))), r"never grow.*\[1, 2\]"),
        (_settings((LAST, replace(LAST, restarts=0))), "at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], InversionSettings], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_trigger_that_the_copy_alone_doubts_is_found_all_the_same() -> None:
    class Doubting(Engine):
        def leads(self, images: Tensor, targets: Tensor) -> Tensor:
            leads = super().leads(images, targets)
            return torch.where(torch.arange(leads.numel()).view(leads.shape) % SAMPLES < 3, -1.0, leads)

    classifier = _linear(ONE_PIXEL, -5.0)
    result = _invert(Doubting(classifier, _greys(), SHORT, EXACT))
    rate, size = _remeasured(classifier, _greys()[0], result)
    assert result.outcome is Outcome.FOUND
    assert result.asr == rate >= 0.9
    assert result.size == pytest.approx(size)
