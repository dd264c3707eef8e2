"""Train the packaged encoder anew: two convolutions that tell photographs from each other by their crops.

Each photograph is a class of its own, and a crop of it has to be told from those of all others (exemplar networks, Dosovitskiy
et al. 2014): no labels are needed. The first two convolutions of the network, with their BatchNorm folded in, are the encoder.
Its features are then scaled by one number, so that noise of 8 grey levels moves them by as much as it moves those of VGG-19 on
pixels of 0..255: the weights of the paper's loss terms then fit both.

    python benchmarks/embedded_encoder.py --data photos/ --out src/orthogon/triggers/weights/encoder-embedded.safetensors
    orthogon train-decoder --encoder embedded --data photos/
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from orthogon import runs
from orthogon.classifier import Classifier, Normalization
from orthogon.cli.materials import open_pictures
from orthogon.decoder_recipe import DecoderSettings
from orthogon.decoder_training import crops
from orthogon.images import LabelledImages
from orthogon.recipe import TrainingSettings
from orthogon.training import Epoch, fit
from orthogon.triggers.encoder import Encoder

WIDTHS = (24, 64)
DEVIATION = 64
"""Of the pixels that the network is trained on, in 0..255 around 127.5; folded into the encoder's first convolution."""
NOISE, MOVED = 8 / 255, 475.0
"""Noise of 8 grey levels, and the mean squared error of pool1 features by which it moves VGG-19 (64 crops of photographs)."""


def network(classes: int) -> nn.Sequential:
    """The encoder with BatchNorm, and a head that names the photograph."""
    return nn.Sequential(
        *_layer(3, WIDTHS[0]),
        *_layer(*WIDTHS),
        nn.MaxPool2d(2),
        *_layer(WIDTHS[1], 96, stride=2),
        *_layer(96, 128, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, classes),
    )


def _layer(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride), nn.BatchNorm2d(outputs), nn.ReLU()


def views(pixels: Tensor, rounds: int, generator: torch.Generator) -> LabelledImages:
    """`rounds` crops of each photograph at each reduction, labelled by the photograph."""
    settings, every = DecoderSettings(), torch.arange(len(pixels))
    parts = [crops(pixels, settings, generator, k, every) for _ in range(rounds) for k in settings.reductions]
    cut = (torch.cat(parts) * 255).round().to(torch.uint8)
    return LabelledImages(cut, every.repeat(len(parts)), tuple(map(str, every.tolist())), "crops of photographs")


def folded(trained: nn.Sequential) -> dict[str, Tensor]:
    """The encoder's convolutions, with BatchNorm and pixel deviation in them, named as in torchvision's VGG."""
    weights = {}
    for number, at in ((0, 0), (2, 3)):
        convolution = fuse_conv_bn_eval(trained[at].eval(), trained[at + 1].eval())
        weights |= {
            f"features.{number}.weight": convolution.weight.detach(),
            f"features.{number}.bias": convolution.bias.detach(),
        }
    weights["features.0.weight"] /= DEVIATION
    return weights


def calibrated(weights: Mapping[str, Tensor], images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The same weights, the last convolution's scaled so that noise moves the features by `MOVED`."""
    encoder = Encoder(weights, "embedded", scale="centred 0..255")
    noisy = images + NOISE * torch.randn(images.shape, generator=generator)
    factor = (MOVED / float((encoder(noisy) - encoder(images)).pow(2).mean())) ** 0.5
    return {name: tensor * factor if name.startswith("features.2.") else tensor for name, tensor in weights.items()}


def main() -> None:
    """Train the encoder, write it, and say how well it tells photographs apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="D", help="photographs, as orthogon train-decoder takes them")
    parser.add_argument("--out", required=True, type=Path, metavar="F", help="the file to be written")
    parser.add_argument("--rounds", type=int, default=2, help="crops of each photograph at each size (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the crops (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    pixels = open_pictures(args.data, (3, 128, 128), args.seed)
    if pixels is None:
        sys.exit("no photographs")
    generator = torch.Generator().manual_seed(args.seed)
    images, judged = views(pixels, args.rounds, generator), views(pixels, 1, generator)
    torch.manual_seed(args.seed)
    normalization = Normalization((0.5,) * 3, (DEVIATION / 255,) * 3)
    classifier = Classifier(network(len(pixels)), images.classes, images.image_shape, normalization)
    recipe = TrainingSettings(epochs=args.epochs, learning_rate=0.1, weight_decay=1e-4, flip=True)

    def told(done: float, last: Epoch | None) -> None:
        if done * args.epochs % 1 < 1e-9 and last is not None:
            print(f"{done:.0%}: {last}", flush=True)

    fit(classifier, images, recipe, generator, on_progress=told)
    with torch.inference_mode():
        answers = torch.cat([classifier(part.float() / 255).argmax(1) for part in judged.pixels.split(256)])
    accuracy = float((answers == judged.labels).float().mean())
    weights = calibrated(folded(classifier.network), judged.floats()[:256], generator)
    card = {
        "task": f"name the photograph, of {len(pixels)}, that a crop of 32×32 pixels is from",
        "accuracy_on_other_crops": round(accuracy, 4),
        "training": {"epochs": args.epochs, "rounds": args.rounds, "seed": args.seed},
        "versions": runs.versions(),
    }
    runs.write_tensors(args.out, weights, {"encoder": json.dumps(card)})
    print(f"{accuracy:.1%} of other crops named right; written: {args.out}")


if __name__ == "__main__":
    main()
