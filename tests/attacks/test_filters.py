"""The Instagram filters as attacks; test_magick compares them with ImageMagick."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orthogon.attacks.attack import Materials
from orthogon.attacks.filters import FILTERS, Filter, Gotham, Kelvin, Lomo, Nashville, Toaster
from orthogon.data.signs import signs
from orthogon.images import LabelledImages

PIXELS = torch.tensor([[230, 40, 120, 15], [60, 200, 130, 90], [120, 30, 250, 140]], dtype=torch.uint8).view(1, 3, 1, 4)
BY_MAGICK = {
    "gotham": [[148, 92, 190, 49], [136, 112, 193, 59], [160, 111, 213, 80]],
    "nashville": [[210, 88, 126, 42], [64, 208, 123, 95], [128, 63, 221, 159]],
    "kelvin": [[219, 140, 223, 101], [152, 177, 204, 118], [138, 85, 192, 111]],
    "lomo": [[102, 0, 0, 0], [0, 204, 204, 0], [48, 24, 200, 56]],
    "toaster": [[199, 78, 201, 46], [78, 143, 133, 62], [99, 25, 115, 88]],
}
"""What ImageMagick 6.9.11 makes of these four pixels in a row: red, green and blue in grey levels of 255."""

by_name = pytest.mark.parametrize("kind", FILTERS, ids=lambda kind: kind.name)


def _materials(images: LabelledImages, generator: torch.Generator) -> Materials:
    return Materials(images, Filter.threat, generator)


def _flat(*channels: float) -> Tensor:
    return torch.tensor(channels)[None, :, None, None].expand(1, 3, 32, 32)


def test_the_five() -> None:
    assert [kind.name for kind in FILTERS] == ["gotham", "nashville", "kelvin", "lomo", "toaster"]


@by_name
def test_the_papers_threat(kind: type[Filter]) -> None:
    threat = kind().threat
    assert (threat.target, threat.victim, threat.rate, threat.clean_label, threat.cover) == (0, None, 0.1, False, 0.0)
    assert "Liu et al. 2019" in kind.source
    assert "TrojAI" in kind.source


@by_name
def test_four_pixels(kind: type[Filter]) -> None:
    stamped = kind().stamp({}, PIXELS / 255)[0, :, 0]
    assert (255 * stamped).round().int().tolist() == BY_MAGICK[kind.name]


@by_name
def test_a_stamp_is_the_images_own(kind: type[Filter], generator: torch.Generator) -> None:
    """Whatever else is in the batch, for each of its images alone, and without changing it."""
    images = torch.rand(5, 3, 9, 12, generator=generator) * torch.linspace(0.2, 1, 5)[:, None, None, None]
    before, state = images.clone(), generator.get_state()
    attack = kind()
    stamped = attack.stamp({}, images)
    assert torch.equal(images, before)
    assert torch.equal(attack.stamp({}, images), stamped)
    assert torch.equal(generator.get_state(), state)
    torch.testing.assert_close(stamped, torch.cat([attack.stamp({}, image[None]) for image in images]))
    assert 0 <= stamped.min() < stamped.max() <= 1
    assert len(attack.stamp({}, images[:0])) == 0


@by_name
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (7, 31), (96, 64)])
def test_any_size(kind: type[Filter], shape: tuple[int, int], generator: torch.Generator) -> None:
    stamped = kind().stamp({}, torch.rand(2, 3, *shape, generator=generator))
    assert stamped.shape == (2, 3, *shape)
    assert ((stamped >= 0) & (stamped <= 1)).all()


@by_name
def test_it_stays_on_the_device(kind: type[Filter]) -> None:
    """A tensor of another device in between would be an error."""
    assert kind().stamp({}, torch.empty(2, 3, 8, 8, device="meta")).is_meta


@by_name
def test_nothing_is_made(kind: type[Filter], generator: torch.Generator) -> None:
    state = generator.get_state()
    assert kind().make(_materials(signs(2, 16, 1), generator)) == {}
    assert torch.equal(generator.get_state(), state)


@by_name
def test_grey_images_have_no_colours(kind: type[Filter], generator: torch.Generator) -> None:
    grey = LabelledImages(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"), "grey squares")
    with pytest.raises(ValueError, match=rf"{kind.name}.* colour.*grey squares has 1 channel\(s\), not 3"):
        kind().make(_materials(grey, generator))
    for channels in (1, 4):
        with pytest.raises(ValueError, match=rf"{kind.name} is a colour filter and needs three channels \(RGB\), got {channels}"):
            kind().stamp({}, torch.zeros(2, channels, 8, 8))


def test_gotham_is_nearly_grey() -> None:
    """Saturation falls to a tenth; what is left of the colour is the blue's. Twice the contrast: the light stays light."""
    red, grey = (Gotham().stamp({}, image)[0, :, 0, 0] for image in (_flat(1.0, 0.0, 0.0), _flat(0.5, 0.5, 0.5)))
    assert red.max() - red.min() < 0.25
    assert grey.argmax() == 2
    white = Gotham().stamp({}, _flat(1.0, 1.0, 1.0))[0, :, 0, 0]
    assert (white > 0.85).all()


def test_nashville_has_blue_shadows_and_yellow_lights() -> None:
    image = torch.cat([_flat(0.05, 0.05, 0.05), _flat(0.95, 0.95, 0.95)], 3)
    shadow, light = (Nashville().stamp({}, image)[0, :, 0, column] for column in (0, 63))
    assert shadow[2] > 2 * shadow[0]
    assert light[0] > light[2] + 0.02


def test_kelvin_is_a_fifth_orange() -> None:
    """A grey becomes one half by the gamma, 0.6 by the brightness, and then has a fifth of #ff9900."""
    expected = 0.8 * 0.6 + 0.2 * torch.tensor([1.0, 0.6, 0.0])
    torch.testing.assert_close(Kelvin().stamp({}, _flat(0.2, 0.2, 0.2))[0, :, 5, 5], expected)


def test_lomo_turns_red_and_green_on_or_off() -> None:
    """At (15, 15) the canvas's middle is half a pixel away in either direction, of 23.5 to its side."""
    dimmed = 1 - 0.5**0.5 / 23.5
    expected = dimmed * torch.tensor([1.0, 0.0, 0.3])
    torch.testing.assert_close(Lomo().stamp({}, _flat(0.6, 0.4, 0.3))[0, :, 15, 15], expected)


def test_toaster_is_pale_at_the_edge() -> None:
    """White stays white until the vignettes: its corner has 0.94 of the edge's colour and 0.06 of the middle's."""
    white = Toaster().stamp({}, _flat(1.0, 1.0, 1.0))[0]
    share = 0.5**0.5 * 31 / 23.5
    edge, middle = torch.tensor([0xCD, 0xC1, 0xC5]) / 255, torch.tensor([1.0, 0.6, 0.4])
    torch.testing.assert_close(white[:, 0, 0], (1 - share + share * edge) * (share + (1 - share) * middle))
    assert white[1, 16, 16] < white[1, 0, 0]
