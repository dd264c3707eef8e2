"""Whole measurements of a small model: resumed, short of samples, short of memory, drawn several times."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orthogon import distance, frozen
from orthogon.classifier import Classifier
from orthogon.distance import Measurement, Progress, measure
from orthogon.frozen import Speed
from orthogon.images import LabelledImages
from orthogon.pairs import Inversion, Outcome, Pair, choose_pairs
from orthogon.protocols import InversionSettings, Protocol, Stage
from orthogon.triggers import Patch, Trigger
from orthogon.triggers.family import Notes

NAN = math.nan
SHAPE = (3, 8, 8)
CLASSES = 4
EXACT = Speed(torch.float32, compile=False, chunk=256)
TINY = Protocol(
    "tiny",
    10,
    InversionSettings((Stage(2, 10, 6, (0.3, 0.2)), Stage(1, 20, 10, (0.2, 0.05), accept_every=4)), weight=2.0),
)


def _classifier() -> Classifier:
    """The class whose own pixel is brightest wins; random weights elsewhere make the pairs differ."""
    generator = torch.Generator().manual_seed(4)
    layer = nn.Linear(math.prod(SHAPE), CLASSES)
    weight = torch.randn(CLASSES, *SHAPE, generator=generator) * 0.1
    for c in range(CLASSES):
        weight[c, :, 2 * c, c] += 8.0 - c
    with torch.no_grad():
        layer.weight.copy_(weight.flatten(1))
        layer.bias.zero_()
    return Classifier(nn.Sequential(nn.Flatten(), layer), [f"class {c}" for c in range(CLASSES)], SHAPE)


def _images(counts: Sequence[int] = (12, 12, 12, 12)) -> LabelledImages:
    generator = torch.Generator().manual_seed(5)
    labels = torch.tensor([c for c, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
    pixels = torch.randint(0, 100, (len(labels), *SHAPE), generator=generator)
    for n, c in enumerate(labels.tolist()):
        pixels[n, :, 2 * c, c] += 120
    names = tuple(f"class {c}" for c in range(len(counts)))
    return LabelledImages(pixels.to(torch.uint8), labels, names, "made up")


def _measured(images: LabelledImages | None = None, **options: Any) -> Measurement:
    options = {"protocol": TINY, "speed": EXACT} | options
    return measure(_classifier(), _images() if images is None else images, **options)


@pytest.fixture(scope="module")
def everything() -> Measurement:
    return _measured()


def _same_inversion(one: Inversion, other: Inversion) -> bool:
    facts = [(i.pair, i.outcome, repr(i.size), repr(i.asr), repr(i.restarts), i.steps) for i in (one, other)]
    return facts[0] == facts[1] and all(torch.equal(one.trigger[k], other.trigger[k]) for k in one.trigger)


def _by_pair(measurement: Measurement) -> dict[Pair, Inversion]:
    return {inversion.pair: inversion for inversion in measurement.inversions}


def test_the_matrix_is_the_inversions(everything: Measurement) -> None:
    matrix = everything.matrix
    assert [i.pair for i in everything.inversions] == choose_pairs("all", CLASSES, torch.Generator())
    for inversion in everything.inversions:
        victim, target = inversion.pair.victim, inversion.pair.target
        assert inversion.outcome is Outcome.FOUND
        assert matrix.outcomes[victim][target] == "found"
        assert float(matrix.values[victim, target]) == pytest.approx(inversion.size)
        assert float(matrix.asr[victim, target]) == pytest.approx(inversion.asr)
    assert matrix.values.diagonal().isnan().all()
    assert all(matrix.outcomes[c][c] is None for c in range(CLASSES))
    assert (matrix.unit, matrix.protocol, matrix.family) == (Patch().unit, "tiny", "patch")
    assert matrix.classes == _classifier().classes


def test_the_triggers_turn_the_victims_that_they_were_made_for(everything: Measurement) -> None:
    """Ten of the twelve images were judged on, so at the worst nine minus none of twelve are turned."""
    classifier, images = _classifier(), _images()
    for inversion in everything.inversions:
        mask, pattern = inversion.trigger["mask"], inversion.trigger["pattern"]
        victims = images.of_class(inversion.pair.victim).floats()
        with torch.no_grad():
            said = classifier((1 - mask) * victims + mask * pattern).argmax(1)
        assert int((said == inversion.pair.target).sum()) >= 9
        assert inversion.size == pytest.approx(float(3 * mask.sum()), rel=1e-5)


def test_the_facts_tell_how(everything: Measurement) -> None:
    facts = dict(everything.matrix.facts)
    assert facts.pop("seconds") > 0
    assert facts == {"samples": 10, "draws": 1, "seed": 0}
    assert _measured(pairs=[Pair(0, 1)], samples=6, seed=9).matrix.facts | {"seconds": 0} == {
        "samples": 6,
        "draws": 1,
        "seed": 9,
        "seconds": 0,
    }


def test_a_seed_decides_everything(everything: Measurement) -> None:
    again, other = _measured(), _measured(seed=1)
    assert all(map(_same_inversion, everything.inversions, again.inversions))
    assert not any(map(_same_inversion, everything.inversions, other.inversions))


def test_pairs_not_asked_for_are_not_measured() -> None:
    measured = _measured(pairs=[Pair(2, 1), Pair(0, 3)])
    assert [i.pair for i in measured.inversions] == [Pair(2, 1), Pair(0, 3)]
    named = {(v, t) for v in range(CLASSES) for t in range(CLASSES) if measured.matrix.outcomes[v][t] is not None}
    assert named == {(2, 1), (0, 3)}
    assert int(measured.matrix.values.isfinite().sum()) == 2


@pytest.mark.parametrize("pair", [Pair(0, 1), Pair(2, 3)])
def test_a_pair_does_not_depend_on_the_pairs_measured_with_it(pair: Pair, everything: Measurement) -> None:
    alone = _measured(pairs=[pair]).inversions[0]
    together = _by_pair(everything)[pair]
    assert _same_inversion(alone, together)


@pytest.mark.parametrize("kept", [1, 7, 12])
def test_an_interruption_changes_nothing(kept: int, everything: Measurement) -> None:
    told: list[Inversion] = []
    finished = {i.pair: i for i in everything.inversions[:kept]}
    resumed = _measured(finished=finished, on_finished=told.append)
    assert [i.pair for i in told] == [i.pair for i in everything.inversions[kept:]]
    assert all(map(_same_inversion, resumed.inversions, everything.inversions))
    assert all(resumed.inversions[n] is everything.inversions[n] for n in range(kept))


def test_finished_pairs_that_were_not_asked_for_stay_out(everything: Measurement) -> None:
    measured = _measured(pairs=[Pair(0, 1)], finished=_by_pair(everything))
    assert measured.inversions == [_by_pair(everything)[Pair(0, 1)]]


def test_whether_to_compile_does_not_hang_on_what_is_left(everything: Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled and eager copies differ in their last bits: a resumed run has to choose as the first one did."""
    asked: list[bool | None] = []

    def engine(classifier: Classifier, samples: Tensor, settings: InversionSettings, speed: Speed, *_: Any) -> Any:
        asked.append(speed.compile)
        raise KeyboardInterrupt

    monkeypatch.setattr(distance, "Engine", engine)
    monkeypatch.setattr(frozen, "_WORTH_COMPILING", TINY.settings.image_steps * 12)
    for finished in ({}, {i.pair: i for i in everything.inversions[:8]}):
        with pytest.raises(KeyboardInterrupt):
            _measured(speed=None, finished=finished)
    assert asked == [True, True]


def test_a_class_of_too_few_images_has_an_outcome_and_the_others_go_on() -> None:
    measured = _measured(_images((12, 4, 12, 0)))
    outcomes = measured.matrix.outcomes
    for victim in range(CLASSES):
        for target in set(range(CLASSES)) - {victim}:
            expected = "too few samples" if victim in (1, 3) else "found"
            assert outcomes[victim][target] == expected
    assert int(measured.matrix.values.isfinite().sum()) == 6
    assert all(not i.trigger for i in measured.inversions if i.pair.victim in (1, 3))


def test_nothing_but_too_few_images_is_a_matrix_too() -> None:
    measured = _measured(samples=13)
    assert math.isnan(measured.matrix.mean())
    assert {i.outcome for i in measured.inversions} == {Outcome.SAMPLES}


def test_universal_pairs_are_told_beside_the_matrix() -> None:
    measured = _measured(_images((12, 3, 2, 3)), pairs=[Pair(None, 1), Pair(None, 0), Pair(0, 1)])
    universal = measured.matrix.facts["universal"]
    found = measured.inversions[0]
    assert [u["target"] for u in universal] == [1, 0]
    assert universal[0] == {"target": 1, "value": found.size, "asr": found.asr, "outcome": "found"}
    assert universal[1] == {"target": 0, "value": None, "asr": None, "outcome": "too few samples"}
    assert int(measured.matrix.values.isfinite().sum()) == 1
    json.dumps(measured.matrix.to_json(), allow_nan=False)


def test_the_samples_of_a_universal_pair_are_about_as_many_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    given_samples: list[Tensor] = []
    engine = distance.Engine

    def watched(classifier: Classifier, samples: Tensor, *rest: Any) -> distance.Engine:
        given_samples.append(samples)
        return engine(classifier, samples, *rest)

    monkeypatch.setattr(distance, "Engine", watched)
    images = _images()
    _measured(images, pairs=[Pair(None, 3)])
    lookup = {tuple(p.flatten().tolist()): int(c) for p, c in zip(images.pixels, images.labels, strict=True)}
    drawn = [lookup[tuple(p.flatten().tolist())] for p in given_samples[0][0]]
    assert sorted(drawn.count(c) for c in range(CLASSES)) == [0, 3, 3, 4]
    assert drawn.count(3) == 0


def test_of_more_classes_than_samples_other_ones_are_seen_by_other_seeds() -> None:
    images = _images()
    lookup = {tuple(p.flatten().tolist()): int(c) for p, c in zip(images.pixels, images.labels, strict=True)}

    def seen(seed: int) -> frozenset[int]:
        pixels, _ = distance._Samples(images, 2, 1, seed).rows([Pair(None, 3)])
        return frozenset(lookup[tuple(p.flatten().tolist())] for p in pixels[0])

    assert {seen(seed) for seed in range(30)} == {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2))}
    assert seen(5) == seen(5)
    gone = images.select((images.labels != 1).nonzero().flatten())
    pixels, _ = distance._Samples(gone, 2, 1, 0).rows([Pair(None, 3)])
    assert {lookup[tuple(p.flatten().tolist())] for p in pixels[0]} == {0, 2}, "a class without images is none of them"


def test_several_draws_are_one_distance_with_a_spread() -> None:
    pair = Pair(0, 1)
    measured = _measured(pairs=[pair, Pair(2, 3)], draws=3)
    inversion = measured.inversions[0]
    assert len(inversion.restarts) == 3
    assert len(set(inversion.restarts)) == 3
    assert inversion.size == pytest.approx(sum(inversion.restarts) / 3)
    assert float(measured.matrix.values[0, 1]) == pytest.approx(inversion.size)
    assert float(measured.matrix.spread[0, 1]) == pytest.approx(float(torch.tensor(inversion.restarts).std()))
    assert inversion.asr >= 0.9 - 1e-6
    assert measured.matrix.facts["draws"] == 3
    assert float(3 * inversion.trigger["mask"].sum()) == pytest.approx(min(inversion.restarts), rel=1e-5)


def test_the_first_of_several_draws_is_the_only_one_of_one(everything: Measurement) -> None:
    drawn = _measured(pairs=[Pair(0, 1)], draws=2).inversions[0]
    assert any(size == pytest.approx(_by_pair(everything)[Pair(0, 1)].size, rel=1e-3) for size in drawn.restarts)


def test_progress_grows_to_the_whole() -> None:
    told: list[Progress] = []
    _measured(on_progress=told.append, memory=1e-9)
    shares = [progress.done for progress in told]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1.0
    assert told[-1].pairs_done == told[-1].pairs == 12
    assert [p.pairs_done for p in told] == sorted(p.pairs_done for p in told)


def test_little_memory_means_one_pair_at_a_time(everything: Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    invert = distance.invert

    def watched(engine: Any, family: Any, requests: Sequence[Any], *rest: Any) -> list[Inversion]:
        groups.append(len(requests))
        return invert(engine, family, requests, *rest)

    monkeypatch.setattr(distance, "invert", watched)
    little = _measured(memory=1e-9)
    assert groups == [1] * 12
    assert all(map(_same_inversion, little.inversions, everything.inversions))
    _measured(memory=8.0)
    assert groups[12:] == [12]


class _Heavy(Patch):
    """Patches of which few can be stamped at once."""

    def stamp(self, trigger: Trigger, images: Tensor, notes: Notes | None = None) -> Tensor:
        if len(images) > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 patches")
        return super().stamp(trigger, images)


def test_a_search_too_large_for_memory_goes_on_with_fewer_pairs(
    everything: Measurement, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Pair] = []
    heavy = _measured(family=_Heavy(), on_finished=lambda inversion: told.append(inversion.pair))
    assert told == [i.pair for i in everything.inversions]
    assert all(map(_same_inversion, heavy.inversions, everything.inversions))
    assert [r.getMessage() for r in caplog.records if "memory" in r.getMessage()] == [
        "out of memory: going on with 6 at once",
        "out of memory: going on with 3 at once",
    ]


def test_the_classifier_is_left_as_it_was() -> None:
    classifier = _classifier().train()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    measure(classifier, _images(), pairs=[Pair(0, 1)], protocol=TINY, speed=EXACT)
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())


def test_a_protocol_goes_by_its_name() -> None:
    assert _measured(protocol="screen", samples=13).matrix.protocol == "screen"


def _other_shape() -> LabelledImages:
    images = _images()
    return LabelledImages(images.pixels[:, :, :7], images.labels, images.classes, images.source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "slow"}, "protocol 'slow' is not one of fast, paper, screen"),
        ({"images": _images((12, 12))}, "the classifier has 4 classes, but made up has 2"),
        ({"images": _other_shape()}, r"of \(3, 8, 8\), but made up has \(3, 7, 8\)"),
        ({"images": _images((0, 0, 0, 0))}, "no images in made up"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"pairs": [Pair(0, 4)]}, "0 to 3"),
        ({"pairs": [Pair(7, 1)]}, "0 to 3"),
        ({"pairs": [Pair(2, 2)]}, "same victim and target"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _measured(**options)
