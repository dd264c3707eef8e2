"""Pervasive triggers through the one loop, the judge, measuring, files and hardening, on networks of a few channels."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.distance import Measurement, measure
from orthogon.engine import Engine
from orthogon.frozen import Speed
from orthogon.hardening import harden
from orthogon.images import LabelledImages
from orthogon.inversion import Request, invert
from orthogon.matrix import DistanceMatrix, improvement
from orthogon.methods import METHODS
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.protocols import FAST, PAPER, PERVASIVE, PROTOCOLS, SCREEN, InversionSettings, Protocol, Stage, named
from orthogon.results import read_inversion, write_inversion, write_triggers
from orthogon.triggers import FAMILIES, Pervasive, Seen, Trigger
from orthogon.triggers.family import Measured

sys.path.insert(0, str(Path(__file__).parent))
from pervasive_networks import drawn, exact

SHAPE, SAMPLES = (3, 8, 8), 12
EXACT = Speed(torch.float32, compile=False, chunk=16)
SEARCH = InversionSettings((Stage(2, 5, 6, (3.0, 2.0)), Stage(1, 15, 8, (3.0, 0.3), accept_every=5)), weight=2.0)


def _family(seed: int = 0, upsampling: str = "random") -> Pervasive:
    return Pervasive(networks=drawn(seed, upsampling), regions=2)


def _exact_family() -> Pervasive:
    return Pervasive(networks=exact(), regions=2)


def _classifier() -> Classifier:
    """Class 1 is where red exceeds blue by 0.04 on average, class 2 where it is below by as much: 10 grey levels."""
    layer = nn.Linear(math.prod(SHAPE), 3)
    nn.init.zeros_(layer.weight)
    red_over_blue = torch.zeros(SHAPE)
    red_over_blue[0], red_over_blue[2] = 1 / 64, -1 / 64
    with torch.no_grad():
        layer.weight[1], layer.weight[2] = red_over_blue.flatten(), -red_over_blue.flatten()
        layer.bias.copy_(torch.tensor([0.04, 0.0, 0.0]))
    return Classifier(nn.Sequential(nn.Flatten(), layer), ["neither", "red", "blue"], SHAPE)


def _samples(rows: int = 1) -> Tensor:
    """Greyish images of plain 2×2 cells."""
    cells = 90 + 60 * torch.rand(rows, SAMPLES, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    return cells.repeat_interleave(2, 3).repeat_interleave(2, 4).to(torch.uint8)


def _images() -> LabelledImages:
    pixels = _samples(3)
    pixels[1, :, 0] += 80
    pixels[2, :, 2] += 80
    labels = torch.arange(3).repeat_interleave(SAMPLES)
    return LabelledImages(pixels.flatten(0, 1), labels, ("neither", "red", "blue"), "drawn")


def _invert(family: Pervasive, requests: Sequence[Request], exact: bool = True) -> list[Inversion]:
    return invert(Engine(_classifier(), _samples(2), SEARCH, EXACT, exact=exact), family, requests)


def _remeasured(family: Pervasive, inversion: Inversion, row: int) -> tuple[float, float]:
    """Share of samples turned and size, from the stored trigger alone."""
    trigger, images = {key: value[None] for key, value in inversion.trigger.items()}, _samples(2)[row][None].float() / 255
    stamped = family.stamp(trigger, images)
    turned = _classifier()(stamped[0]).argmax(1) == inversion.pair.target
    return float(turned.float().mean()), float(family.size(trigger, Seen(images, stamped)))


REQUESTS = [Request(Pair(0, 1), 0, 3), Request(Pair(0, 2), 1, 4), Request(Pair(None, 1), 1, 5)]


def test_found_triggers_turn_what_they_say_and_are_as_large_as_the_judge_measures() -> None:
    family = _exact_family()
    found = _invert(family, REQUESTS)
    for inversion, request in zip(found, REQUESTS, strict=True):
        assert inversion.outcome is Outcome.FOUND
        rate, size = _remeasured(family, inversion, request.row)
        assert rate == pytest.approx(inversion.asr)
        assert rate >= 0.9
        assert size == pytest.approx(inversion.size, rel=1e-4)
        assert 2 < size < 40  # five levels of red up and of blue down, of six channels, are near 3; what Γ does comes on top
        assert inversion.trigger["kernels"].dtype is torch.float16


def test_a_pair_s_result_does_not_depend_on_the_pairs_beside_it_nor_on_how_many_are_stepped_together() -> None:
    """Chunks of 16 images take two searches of 6 or 8 samples at a time, and one search of 12."""
    family = _exact_family()
    together = _invert(family, REQUESTS)
    for request, beside in zip(REQUESTS, together, strict=True):
        (alone,) = _invert(family, [request])
        assert alone.outcome is beside.outcome
        assert alone.size == pytest.approx(beside.size, rel=1e-3)


def test_a_warm_search_goes_on_from_the_stored_trigger() -> None:
    family = _exact_family()
    (first,) = _invert(family, REQUESTS[:1])
    (again,) = _invert(family, [Request(Pair(0, 1), 0, 9, first.trigger, first.weight)])
    assert again.outcome is Outcome.FOUND
    assert again.size <= first.size * 1.001


def test_hardening_s_triggers_are_judged_by_the_copy_alone() -> None:
    (inversion,) = _invert(_exact_family(), REQUESTS[:1], exact=False)
    assert inversion.outcome is Outcome.FOUND
    assert inversion.size == pytest.approx(_remeasured(_exact_family(), inversion, 0)[1], rel=1e-3)


def test_a_decoder_that_breaks_down_is_an_outcome() -> None:
    encoder, decoder = exact()
    decoder.blocks[0][0].weight.data.fill_(math.nan)  # type: ignore[index]
    for inversion in _invert(Pervasive(networks=(encoder, decoder), regions=2), REQUESTS):
        assert inversion.outcome is Outcome.NOT_FINITE
        assert math.isnan(inversion.size)


def test_names_of_protocols_have_steps_of_their_own_for_pervasive_triggers() -> None:
    assert named("fast") is named("fast", "filter") is FAST
    assert named("paper") is PAPER
    for name, protocol in PERVASIVE.items():
        assert named(name, "pervasive") is protocol
        assert (protocol.name, protocol.samples, protocol.settings.asr) == (name, 100, 0.9)
        assert protocol.settings.image_steps < PROTOCOLS[name].settings.image_steps
    assert named("screen", "pervasive") is SCREEN
    with pytest.raises(ValueError, match="protocol 'slow' is not one of fast, paper"):
        named("slow", "pervasive")


def _measured(family: Pervasive, pairs: Sequence[Pair] = (Pair(0, 1), Pair(1, 0))) -> Measurement:
    protocol = Protocol("short", SAMPLES, replace(SEARCH, stages=(Stage(1, 15, 6, (3.0, 1.0), accept_every=5),)))
    return measure(_classifier(), _images(), pairs=pairs, family=family, protocol=protocol, speed=EXACT)


def test_matrices_tell_what_measured_them_and_are_compared_under_the_same_alone() -> None:
    family = _exact_family()
    matrix = _measured(family).matrix
    assert matrix.facts["measured_by"] == family.described()
    read = DistanceMatrix.from_json(matrix.to_json())
    assert improvement(matrix, read) == pytest.approx(0, abs=1e-6)
    for other, what in (
        (_family(), "encoder name cannot be compared: exact and drawn"),
        (replace(family, regions=1), "regions cannot be compared: 2 and 1"),
        (replace(family, content_weight=0.0), "content_weight cannot be compared: 0.001 and 0.0"),
    ):
        told = replace(matrix, facts={**matrix.facts, "measured_by": other.described()})
        with pytest.raises(ValueError, match=f"distances of different {what}"):
            improvement(matrix, told)
    for change, what in ({"layer": "pool2"}, "layer"), ({"scale": "torch"}, "scale"), ({"resolution": 64}, "resolution"):
        by = family.described()
        told = replace(matrix, facts={**matrix.facts, "measured_by": by | {"encoder": by["encoder"] | change}})
        with pytest.raises(ValueError, match=f"distances of different encoder {what}"):
            improvement(matrix, told)
    by = family.described()
    renamed = replace(matrix, facts={**matrix.facts, "measured_by": by | {"encoder": by["encoder"] | {"name": "other"}}})
    assert improvement(matrix, renamed) == pytest.approx(0, abs=1e-6), "the same network under another name"
    with pytest.raises(ValueError, match="distances of different encoder name cannot be compared: exact and None"):
        improvement(matrix, replace(matrix, facts={}))


def test_images_that_the_regions_do_not_divide_are_refused_before_anything_is_searched() -> None:
    with pytest.raises(ValueError, match=r"3×3 regions do not divide the features of 8×8 images, 4×4; give regions=1 or 2 or 4"):
        _measured(replace(_family(), regions=3))


def test_files_hold_triggers_in_half_precision(tmp_path: Path) -> None:
    family = _exact_family()
    measurement = _measured(family)
    for inversion in measurement.inversions:
        write_inversion(tmp_path / "one.safetensors", inversion)
        read = read_inversion(tmp_path / "one.safetensors").trigger
        assert all(torch.equal(read[key], value) and read[key].dtype is value.dtype for key, value in inversion.trigger.items())
    write_triggers(tmp_path / "all.safetensors", measurement, _images(), family)
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "all.safetensors")
    assert tensors["trigger.kernels"].dtype is torch.float16
    trigger = {key: tensors[f"trigger.{key}"] for key in measurement.inversions[0].trigger}
    stamped = family.stamp(trigger, tensors["clean"][:, None].float() / 255)[:, 0]
    assert torch.equal((stamped * 255).round().to(torch.uint8), tensors["stamped"])


def test_hardening_with_pervasive_triggers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "pervasive", _exact_family())
    short = replace(
        METHODS["moth"],
        family="pervasive",
        **{"steps": 9, "first_inversion": 4, "inversion": 3, "warm_up_inversion": 3, "trigger_samples": 6, "prior_samples": 4},
        **{"batch": 8, "stamped": 8, "check_every": 3, "max_accuracy_loss": 1.0, "arms_per_pick": 2},
    )
    before = _classifier()
    made = harden(before, _images(), _images(), short, seed=0)
    for old, new in zip(before.parameters(), made.classifier.parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)


@pytest.mark.parametrize(("resolution", "at_once"), [(None, 2), (16, 1)])
def test_an_encoder_s_resolution_counts_in_what_is_searched_at_once(
    resolution: int | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the chunk's 16 images of 8×8 pixels, six samples each."""
    seen: list[int] = []
    real = Pervasive.measured

    def measured(self: Pervasive, trigger: Trigger, shown: Seen) -> Measured:
        seen.append(len(shown.images))
        return real(self, trigger, shown)

    monkeypatch.setattr(Pervasive, "measured", measured)
    family = Pervasive(networks=drawn(resolution=resolution), regions=2)
    settings = replace(SEARCH, stages=(Stage(2, 1, 6, (0.1, 0.1), accept_every=1),))
    invert(Engine(_classifier(), _samples(2), settings, EXACT), family, [Request(Pair(0, 1), 0, 1), Request(Pair(0, 2), 1, 2)])
    assert max(seen) == at_once


@pytest.mark.parametrize("statistics", ["own", "shared"])
def test_a_trigger_carried_to_other_samples_does_the_same_to_an_image(statistics: str) -> None:
    family = replace(_exact_family(), statistics=statistics)
    here, there = (rows.float() / 255 for rows in _samples(2))
    there = 0.5 * there + 0.4  # lighter, with less contrast
    free = family.draw(here, torch.Generator().manual_seed(1))
    trigger = family.realise(free | {"mean": torch.tensor([[9.0, -6.0, 3.0]]), "std": torch.tensor([[-5.0, 4.0, 2.0]])})
    carried = family.carried(trigger, there)
    assert torch.equal(carried["clean_mean"], family.constants(there)["clean_mean"])
    torch.testing.assert_close(family.stamp(carried, here[None]), family.stamp(trigger, here[None]))


def test_a_warm_search_on_other_samples_begins_with_the_change_that_was_found() -> None:
    family = replace(_exact_family(), statistics="own")
    settings = replace(SEARCH, stages=(Stage(1, 1, 6, (1e-9, 1e-9), accept_every=1),))
    samples = torch.cat([_samples(1), _samples(1) // 2 + 90])
    engine = Engine(_classifier(), samples, settings, EXACT)
    (found,) = _invert(family, [Request(Pair(0, 1), 0, 1)])
    (again,) = invert(engine, family, [Request(Pair(0, 1), 1, 1, start=found.trigger)])
    shifts = [one.trigger["mean"] - one.trigger["clean_mean"] for one in (found, again)]
    assert shifts[0].abs().max() > 0.01
    torch.testing.assert_close(shifts[1], shifts[0])
