from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.signal import convolve2d
from torch import Tensor

from orthogon.triggers.decoder import (
    FILE,
    UPSAMPLINGS,
    WEIGHTS,
    Decoder,
    DecoderFacts,
    open_decoder,
    placed,
    read_decoder,
    write_decoder,
)
from orthogon.triggers.encoder import Encoder, open_encoder

ONE, TWO = ((4, 6),), ((4, 6), (5, 8))


def drawn_encoder(layer: str = "pool1") -> Encoder:
    drawn = torch.Generator().manual_seed(2)
    sizes = {0: (3, 4), 2: (4, 6), 5: (6, 5), 7: (5, 8)}
    weights = {f"features.{k}.weight": torch.randn(o, i, 3, 3, generator=drawn) for k, (i, o) in sizes.items()}
    weights |= {f"features.{k}.bias": torch.randn(o, generator=drawn) for k, (_, o) in sizes.items()}
    return Encoder(weights, "drawn", layer)


def drawn_decoder(upsampling: str = "random", widths: tuple[tuple[int, int], ...] = ONE) -> Decoder:
    drawn = torch.Generator().manual_seed(3)
    decoder = Decoder(widths, upsampling, [torch.rand(second, generator=drawn) + 0.5 for _, second in widths])
    for parameter in decoder.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=drawn)
    return decoder.requires_grad_(False).eval()


def facts_of(encoder: Encoder, upsampling: str = "random") -> DecoderFacts:
    return DecoderFacts(encoder.described(), encoder.network_digest(), encoder.widths, upsampling, {"seed": 0})


def arguments(
    decoder: Decoder, encoder: Encoder, images: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, list[Tensor]]:
    features = encoder(images)
    n, _, h, w = features.shape
    return features, decoder.draw_noise(n, h, w, generator), encoder.switches(images)


def test_values_stand_top_left_and_the_fill_everywhere_else() -> None:
    values = torch.tensor([[[[5.0, 7.0]]]])
    fill = -torch.arange(8.0).view(1, 1, 2, 4)
    expected = torch.tensor([[[[5.0, -1.0, 7.0, -3.0], [-4.0, -5.0, -6.0, -7.0]]]])
    assert placed(values, fill).equal(expected)
    assert placed(values, None).equal(torch.tensor([[[[5.0, 0.0, 7.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]))
    assert fill[0, 0, 0, 0] == 0  # the fill itself is left alone


def transposed(values: np.ndarray, weight: Tensor, bias: Tensor) -> np.ndarray:
    """A transposed convolution of stride 1 is a true convolution, cut to the old size (scipy)."""
    kernels = weight.double().numpy()
    sums = [sum(convolve2d(v, kernels[i, o], mode="same") for i, v in enumerate(values)) for o in range(kernels.shape[1])]
    return np.stack(sums) + bias.double().numpy()[:, None, None]


def written_out(decoder: Decoder, upsampled: np.ndarray, number: int) -> np.ndarray:
    first, _, last = decoder.blocks[number]
    scaled = upsampled / decoder.sigma[number].double().numpy()[:, None, None]
    return transposed(np.maximum(transposed(scaled, first.weight, first.bias), 0), last.weight, last.bias)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_images_are_those_of_the_written_out_network(upsampling: str, generator: torch.Generator) -> None:
    decoder, encoder = drawn_decoder(upsampling), drawn_encoder()
    images = torch.rand(1, 3, 6, 8, generator=generator)
    features, noise, switches = arguments(decoder, encoder, images, generator)
    values, fill = features[0].double().numpy(), noise[0].double().numpy()
    upsampled = np.zeros((6, 6, 8))
    match upsampling:
        case "random":
            upsampled[:] = fill
            upsampled[:, ::2, ::2] = values
        case "zero":
            upsampled[:, ::2, ::2] = values
        case "nearest":
            upsampled = values.repeat(2, 1).repeat(2, 2)
        case "swwae":
            active = encoder.stages(images)[0][0][0].double().numpy()
            largest = values.repeat(2, 1).repeat(2, 2)
            upsampled = np.where((active == largest) & (active > 0), active, 0)
    expected = written_out(decoder, upsampled, 0) + 0.5
    result = decoder.unclamped(features, noise, switches)
    np.testing.assert_allclose(result[0].numpy(), expected, rtol=1e-3, atol=1e-3)
    assert decoder(features, noise, switches).equal(result.clamp(0, 1))


def test_two_blocks_upsample_twice_with_noise_of_each(generator: torch.Generator) -> None:
    decoder, encoder = drawn_decoder("random", TWO), drawn_encoder("pool2")
    images = torch.rand(1, 3, 8, 8, generator=generator)
    features, noise, _ = arguments(decoder, encoder, images, generator)
    assert noise.shape == (1, 8 + 4 * 6, 4, 4)
    fill = noise[0].double().numpy()
    upsampled = fill[:8].copy()
    upsampled[:, ::2, ::2] = features[0].double().numpy()
    middle = np.maximum(written_out(decoder, upsampled, 1), 0) * decoder.sigma[0].double().numpy()[:, None, None]
    # Four channels of the noise are the four cells of 2×2 blocks at the full size.
    second = fill[8:].reshape(6, 2, 2, 4, 4).transpose(0, 3, 1, 4, 2).reshape(6, 8, 8).copy()
    second[:, ::2, ::2] = middle
    expected = written_out(decoder, second, 0) + 0.5
    np.testing.assert_allclose(decoder.unclamped(features, noise)[0].numpy(), expected, rtol=1e-3, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(UPSAMPLINGS), st.sampled_from([ONE, TWO]), st.integers(1, 3), st.integers(1, 3), st.floats(0.1, 1e3))
def test_images_are_in_range_and_as_large_as_the_stride_says(
    upsampling: str, widths: tuple[tuple[int, int], ...], height: int, width: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    decoder = drawn_decoder(upsampling, widths)
    features = scale * torch.randn(2, decoder.channels, height, width, generator=generator)
    sizes = [(2, second, decoder.stride // 2 ** (k + 1)) for k, (_, second) in enumerate(widths)]
    switches = [torch.zeros(n, c, height * s, width * s, dtype=torch.int64) for n, c, s in sizes]
    images = decoder(features, decoder.draw_noise(2, height, width, generator), switches)
    assert images.shape == (2, 3, height * decoder.stride, width * decoder.stride)
    assert 0 <= images.min() <= images.max() <= 1


def test_gradients_reach_the_features(generator: torch.Generator) -> None:
    decoder = drawn_decoder("random", TWO)
    features = torch.rand(1, 8, 3, 3, generator=generator).requires_grad_()
    decoder(features, decoder.draw_noise(1, 3, 3, generator)).sum().backward()
    assert features.grad is not None
    assert (features.grad != 0).any(0).any(0).all()


def test_noise_has_the_deviations_of_the_encoder() -> None:
    decoder = drawn_decoder("random", TWO)
    noise = decoder.draw_noise(4, 40, 40, torch.Generator().manual_seed(5))
    wanted = torch.cat([decoder.sigma[1], decoder.sigma[0].repeat_interleave(4)])
    torch.testing.assert_close(noise.std((0, 2, 3)), wanted, rtol=0.05, atol=0)
    assert noise.mean((0, 2, 3)).abs().max() < 0.05
    assert noise.equal(decoder.draw_noise(4, 40, 40, torch.Generator().manual_seed(5)))


def test_noise_changes_only_the_random_upsampling(generator: torch.Generator) -> None:
    features = torch.rand(1, 6, 4, 4, generator=generator)
    first, second = (drawn_decoder().draw_noise(1, 4, 4, generator) for _ in range(2))
    assert not drawn_decoder("random")(features, first).equal(drawn_decoder("random")(features, second))
    assert drawn_decoder("zero")(features, first).equal(drawn_decoder("zero")(features))


def test_misuse_is_told(generator: torch.Generator) -> None:
    features = torch.rand(1, 6, 4, 4, generator=generator)
    for call, message in (
        (lambda: drawn_decoder()(features), "draw_noise"),
        (lambda: drawn_decoder()(features, torch.zeros(1, 6, 4, 4)), r"\(1, 6, 8, 8\), got \(1, 6, 4, 4\)"),
        (lambda: drawn_decoder("swwae")(features), "switches"),
        (lambda: drawn_decoder("zero")(features[:, :3]), "6 channels"),
        (lambda: Decoder(ONE, "bilinear", [torch.ones(6)]), "bilinear"),
        (lambda: Decoder(ONE, "zero", [torch.zeros(6)]), "above 0"),
        (lambda: Decoder(ONE, "zero", [torch.ones(5)]), r"\(6,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("layer", ["pool1", "pool2"])
def test_a_written_decoder_is_read_as_it_was(layer: str, tmp_path: Path, generator: torch.Generator) -> None:
    encoder = drawn_encoder(layer)
    decoder = drawn_decoder(widths=encoder.widths)
    write_decoder(tmp_path / FILE, decoder, facts_of(encoder))
    for spec in (tmp_path, tmp_path / FILE):
        read = open_decoder(encoder, str(spec))
        assert read.facts == facts_of(encoder)
        assert read.digest() == decoder.digest()
        assert not any(parameter.requires_grad for parameter in read.parameters())
        features = torch.rand(1, decoder.channels, 2, 2, generator=generator)
        noise = decoder.draw_noise(1, 2, 2, generator)
        assert read(features, noise).equal(decoder(features, noise))


def test_a_decoder_fits_its_encoder_at_every_resolution_and_no_other(tmp_path: Path) -> None:
    encoder = drawn_encoder()
    write_decoder(tmp_path / FILE, drawn_decoder(), facts_of(encoder))
    encoder.resolution = 64
    assert open_decoder(encoder, str(tmp_path)).facts == facts_of(drawn_encoder())
    with pytest.raises(ValueError, match=r"decodes the features of drawn \(pool2, pixels torch\) by random .* drawn \(pool1"):
        open_decoder(drawn_encoder("pool2"), str(tmp_path))
    with pytest.raises(ValueError, match="orthogon train-decoder --encoder"):
        open_decoder(drawn_encoder())


def test_files_that_are_no_decoders_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no decoder"):
        read_decoder(tmp_path / "absent.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("other", "text"):
        with pytest.raises(ValueError, match="train-decoder"):
            read_decoder(tmp_path / f"{name}.safetensors")
    encoder, decoder = drawn_encoder(), drawn_decoder()
    decoder.blocks[0][0].bias.fill_(torch.inf)
    write_decoder(tmp_path / FILE, decoder, facts_of(encoder))
    with pytest.raises(ValueError, match="infinite"):
        read_decoder(tmp_path / FILE)
    write_decoder(tmp_path / FILE, drawn_decoder(widths=((4, 5),)), facts_of(encoder))
    with pytest.raises(ValueError, match="does not hold"):
        read_decoder(tmp_path / FILE)


def test_the_digest_tells_upsamplings_apart() -> None:
    assert len({drawn_decoder(upsampling).digest() for upsampling in UPSAMPLINGS}) == len(UPSAMPLINGS)
    assert drawn_decoder().digest() == drawn_decoder().digest()


def test_packaged_decoders_hold_no_encoder() -> None:
    for path in WEIGHTS.glob("decoder-*.safetensors"):
        assert not any(name.startswith("features") for name in load_file(path))


def test_packaged_decoders_are_few_small_and_told_apart() -> None:
    known = [read_decoder(path).facts for path in WEIGHTS.glob("decoder-*.safetensors")]
    told = [(facts.network_digest, facts.upsampling) for facts in known if facts]
    assert len(set(told)) == len(told) == len(known)
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) < 1_000_000


def reconstruction_error(encoder: Encoder) -> float:
    """Mean squared error (0..255) of smooth pictures with an edge, decoded by the packaged decoder."""
    ramp = torch.linspace(0.2, 0.8, 32)
    images = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), (ramp > 0.5).float().expand(32, 32) * 0.5])[None]
    decoder, features = open_decoder(encoder), encoder(images)
    noise = decoder.draw_noise(1, 16, 16, torch.Generator().manual_seed(0))
    return float((decoder(features, noise) - images).pow(2).mean()) * 255**2


def test_of_a_folder_of_decoders_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    for name, upsampling, layer in (("a", "random", "pool1"), ("b", "zero", "pool1"), ("c", "random", "pool2")):
        encoder = drawn_encoder(layer)
        facts = facts_of(encoder, upsampling)
        (tmp_path / name).mkdir()
        write_decoder(tmp_path / name / FILE, drawn_decoder(upsampling, widths=encoder.widths), facts)
    for upsampling, layer in (("random", "pool1"), ("zero", "pool1"), ("random", "pool2")):
        encoder = drawn_encoder(layer)
        found = open_decoder(encoder, str(tmp_path), upsampling)
        assert (found.upsampling, found.widths) == (upsampling, encoder.widths)
    with pytest.raises(ValueError, match=r"a/decoder.safetensors: drawn \(pool1.*--upsampling nearest"):
        open_decoder(drawn_encoder(), str(tmp_path), "nearest")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / FILE).write_bytes((tmp_path / "a" / FILE).read_bytes())
    with pytest.raises(ValueError, match=r"2 decoders in .* name one"):
        open_decoder(drawn_encoder(), str(tmp_path))


def test_the_packaged_decoder_brings_embedded_features_back() -> None:
    assert reconstruction_error(open_encoder("embedded")) < 400


def test_the_packaged_decoder_brings_vggs_features_back(shared: Path) -> None:
    vgg19 = open_encoder(str(shared / "models" / "vgg19_caffe_conv1_1-conv3_4.safetensors"))
    assert reconstruction_error(vgg19) < 400


def test_opening_networks_is_felt_by_no_other_draw() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    open_decoder(open_encoder("embedded"))
    assert torch.equal(torch.get_rng_state(), before)
