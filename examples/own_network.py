"""Measure a network that is a Python object, here one that is trained on the built-in signs first.

python examples/own_network.py [FOLDER]

Takes a minute or two on two processor cores, needs no network, and leaves a report in FOLDER (runs/own-network).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import orthogon
from orthogon import runs
from orthogon.models import build

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own-network")
generator = torch.Generator().manual_seed(0)

# Any nn.Module that turns normalised images into logits: put your own here.
torch.manual_seed(0)
network = build("resnet20", 5, (3, 32, 32))

# The classifier takes images in [0, 1] and normalises inside, so nothing after this line has to know how.
training = orthogon.open_images("signs:classes=5,per_class=200", split="train")
normalization = orthogon.Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
classifier = orthogon.Classifier(network, training.classes, training.image_shape, normalization)
orthogon.fit(classifier, training, orthogon.TrainingSettings(epochs=6), generator)

# Distances of a model that guesses mean nothing, so its accuracy comes first.
images = orthogon.open_images("signs:classes=5,per_class=60")
clean = orthogon.accuracy(classifier, images)
print(f"accuracy {clean.accuracy:.1%}")
if reason := orthogon.near_chance(clean):
    sys.exit(reason)

# Six of the twenty pairs, with the quick protocol; without `pairs` all of them, without `protocol` the default one.
pairs = orthogon.choose_pairs("random:6", len(classifier.classes), generator)
measurement = orthogon.measure(classifier, images, pairs=pairs, protocol="screen")
for inversion in measurement.inversions:
    victim, target = (classifier.classes[c] for c in (inversion.pair.victim or 0, inversion.pair.target))
    print(f"{victim} -> {target}: {inversion.outcome}, size {inversion.size:.1f}, turns {inversion.asr:.0%}")

# The same files that `orthogon measure` writes; `orthogon compare` and `orthogon card` read them too.
matrix = measurement.matrix
runs.write_json(folder / "distances.json", {**matrix.to_json(), "accuracy": clean.accuracy, "data": images.source})
orthogon.write_triggers(folder / "triggers.safetensors", measurement, images, orthogon.FAMILIES[matrix.family])
print(f"mean {matrix.mean():.1f} ({matrix.unit}), report: {orthogon.write_report(folder)}")
