"""DECK as removal: MOTH's hardening with pervasive triggers of the user's networks, checked before any work."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.methods import METHODS, PervasiveSettings
from orthogon.naming import named
from orthogon.removal import REMOVERS, remove
from orthogon.removal.deck import Deck
from orthogon.triggers import family_of


def test_settings_are_moths_schedule_with_the_networks_named() -> None:
    words = ["steps=90", "encoder=net.safetensors", "encoder_layer=pool2", "encoder_resolution=64", "decoder=runs", "regions=2"]
    made = named(REMOVERS, "method", "deck", words)
    assert isinstance(made, Deck)
    pervasive = PervasiveSettings("net.safetensors", "pool2", "own", 64, "runs", regions=2)
    changed = {"steps": 90, "max_accuracy_loss": 0.03, "shift": 0.1, "flip": True, "check_every": 20, "pervasive": pervasive}
    assert made.settings(0.03, 0.1, True) == replace(METHODS["deck"], **changed)
    with pytest.raises(ValueError, match="regions must be at least 1"):
        Deck(regions=0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Deck(steps=0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Deck(), "4×4 regions do not divide the features of 20×20 images, 10×10; give regions=1 or 2 or 5 or 10"),
        (Deck(encoder="absent.safetensors"), "absent.safetensors is no encoder"),
        (Deck(decoder="absent"), "there is no decoder absent"),
    ],
)
def test_what_does_not_suit_is_told_before_any_work(
    wrong: Deck, told: str, poisoned: Classifier, clean: LabelledImages, draws: torch.Generator
) -> None:
    with pytest.raises(ValueError, match=told):
        remove(poisoned, clean, wrong, draws)


def test_the_notes_tell_the_networks(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    done = remove(poisoned, clean, Deck(steps=7, check_every=7, regions=2), draws)
    described = family_of("pervasive", PervasiveSettings(regions=2)).described()
    (note,) = (note for note in done.notes if "encoder" in note)
    assert "the encoder embedded (pool1, pixels centred 0..255" in note
    assert all(described[name]["digest"][:12] in note for name in ("encoder", "decoder"))
    assert any("the bound is" in other for other in done.notes)
    assert done.to_json()["settings"]["encoder"] == "embedded"
    assert done.to_json()["hardened_by"] == described
