"""The protocols hold the papers' figures."""

from __future__ import annotations

import pytest

from orthogon.protocols import FAST, NEURAL_CLEANSE, PAPER, PROTOCOLS, SCREEN, Protocol


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS.items())
def test_every_protocol_is_found_under_its_name(name: str, protocol: Protocol) -> None:
    assert protocol.name == name
    assert protocol.samples >= 1


def test_the_command_line_s_words() -> None:
    assert set(PROTOCOLS) == {"fast", "paper", "screen", "neural-cleanse"}


def test_paper_asks_what_the_paper_asks() -> None:
    """MOTH, section V-A: 100 samples, 90 %, 1000 epochs, best of 3 searches."""
    assert PAPER.samples == 100
    assert PAPER.settings.asr == 0.9
    assert PAPER.settings.stages[-1].restarts == 3
    assert PAPER.settings.steps == 1000


def test_fast_asks_the_same_of_the_same_samples() -> None:
    assert (FAST.samples, FAST.settings.asr) == (PAPER.samples, PAPER.settings.asr)


def test_each_costs_what_its_name_says() -> None:
    assert SCREEN.settings.image_steps * 4 < FAST.settings.image_steps
    assert FAST.settings.image_steps * 4 < PAPER.settings.image_steps


def test_neural_cleanse_is_neural_cleanse() -> None:
    """Wang et al. 2019 and their release: cross entropy on every sample alike, 99 %, cost factors 1.5 and 1.5^1.5."""
    settings = NEURAL_CLEANSE.settings
    assert (settings.loss, settings.asr, settings.spare, settings.focus) == ("cross entropy", 0.99, 0.0, False)
    assert settings.lower_by == pytest.approx(settings.raise_by**1.5)
    assert settings.betas == (0.5, 0.9)
