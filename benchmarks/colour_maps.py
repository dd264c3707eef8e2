"""How far pervasive attacks are affine maps of colours, which is what triggers of the family `colour` are.

python benchmarks/colour_maps.py --models zoo/cifar10-resnet20-gotham zoo/cifar10-resnet20-lomo --data cifar10

Fits the map with the least squared error to what each model's own stamp does to images of all classes but its target, and tells
the sizes of both, in grey levels, what the map leaves of the stamp, and on how many of the images each succeeds. So it says
which backdoors a search of colour maps can find, and what size it may find at the most; no scanner sees any of it.

Writes results/NAME.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import Record, parser, show
from orthogon.classifier import Classifier
from orthogon.cli.subject import generator, open_subject
from orthogon.cli.words import ImageWords, ModelWords
from orthogon.evaluate import attack_success
from orthogon.images import LabelledImages
from orthogon.planting import TRIGGER_FILE, SavedTrigger, read_trigger
from orthogon.triggers import Colour, Trigger

_LEVELS = 255.0


def fitted(images: Tensor, stamped: Tensor) -> Trigger:
    """The colour map that is nearest to a stamp: x' - x by least squares of (x, 1), over the pixels of images (n, c, h, w)."""
    ones = torch.ones_like(images[:, :1])
    colours, changes = (part.transpose(0, 1).flatten(1).T.double() for part in (torch.cat([images, ones], 1), stamped - images))
    matrix = torch.linalg.lstsq(colours, changes).solution.T.float()
    constants = Colour().constants(images)
    return {"change": matrix[None] @ constants["moments"], **constants}


def compared(classifier: Classifier, images: LabelledImages, trigger: SavedTrigger) -> dict[str, Any]:
    """A stamp beside the map that is nearest to it."""
    family, aim = Colour(), (trigger.threat.target, trigger.threat.victim)
    clean = images.select((images.labels != trigger.threat.target).nonzero().flatten()).floats(torch.device("cpu"))
    planted = trigger.stamp(clean)
    mapped = fitted(clean, planted)

    def by_map(part: Tensor) -> Tensor:
        return family.stamp(mapped, part[None])[0]

    def levels(change: Tensor) -> float:
        return _LEVELS * float(change.square().mean().sqrt())

    return {
        "attack": trigger.described,
        "stamp": levels(planted - clean),
        "stamp_success": attack_success(classifier, images, trigger.stamp, *aim).success_rate,
        "map": float(family.size(mapped)[0]),
        "map_success": attack_success(classifier, images, by_map, *aim).success_rate,
        "left": levels(by_map(clean) - planted),
    }


def main() -> None:
    """Every model, and the table."""
    words = parser(__doc__, "colour-maps")
    words.add_argument(
        "--models", nargs="+", required=True, metavar="D", help="folders of `orthogon poison`, with their triggers"
    )
    words.add_argument("--data", required=True, metavar="D", help="as in `orthogon measure`")
    words.add_argument("--samples", type=int, default=50, help="images of each class, drawn by seed (default: %(default)s)")
    words.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    args = words.parse_args()
    record = Record(args)
    for folder in map(Path, args.models):
        if folder.name not in record.parts:
            model = ModelWords(str(folder / "model.safetensors"))
            classifier, images = open_subject(model, ImageWords(args.data), args.seed)
            images = images.subset(f"per-class:{args.samples}", generator(args.seed))
            with torch.no_grad():
                record.add(folder.name, compared(classifier.eval(), images, read_trigger(folder / TRIGGER_FILE)))
    columns = ["model", "stamp, grey levels", "its success", "nearest map, grey levels", "its success", "what it leaves"]
    keys = ("stamp", "stamp_success", "map", "map_success", "left")
    show(
        "Stamps and the colour maps nearest to them", columns, [[name, *(p[k] for k in keys)] for name, p in record.parts.items()]
    )
    record.finish()


if __name__ == "__main__":
    main()
