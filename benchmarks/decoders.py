"""The decoders of DECK's ablation (Table X): one for each upsampling, trained alike, judged on photographs held out.

python benchmarks/decoders.py --encoder vgg19_caffe.safetensors --data photos/ --out decoders/vgg19

Each is trained as by `orthogon train-decoder`, in its own folder of --out, which is then what --decoder of the other commands
takes: `--decoder decoders/vgg19 --upsampling zero`. The settings are those of that command but for the upsampling and the
number of updates, so that all see the same crops in the same order. A training that was interrupted goes on where it stopped,
one that is finished is read. --layers pool1 pool2 adds the decoders of the second pooling, which are seven times as large;
Table X asks for the random one.

Writes results/NAME.json, and beside it NAME.png: crops of photographs held out, then their reconstructions by each upsampling
of the first layer, and in the same order the differences (grey: none; four times as strong).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import RESULTS, Record, parser, show
from orthogon.cli.materials import open_pictures
from orthogon.cli.screen import Screen
from orthogon.cli.subject import generator
from orthogon.cli.train_decoder import TrainDecoder
from orthogon.cli.training_decoder import train_and_write
from orthogon.decoder_recipe import DecoderSettings
from orthogon.decoder_training import crops, reconstruct, split_photographs
from orthogon.triggers.decoder import FILE, UPSAMPLINGS, read_decoder
from orthogon.triggers.encoder import open_encoder
from pictures import difference, write_rows

SHOWN = 8
"""Photographs in the picture."""


def words() -> argparse.ArgumentParser:
    """The command's words."""
    made = parser(__doc__, "decoders")
    made.add_argument("--encoder", required=True, help="as orthogon train-decoder takes it")
    made.add_argument("--data", required=True, metavar="D", help="photographs")
    made.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a folder for each decoder is made in it")
    made.add_argument("--layers", nargs="+", choices=["pool1", "pool2"], default=["pool1"], help="(default: pool1)")
    made.add_argument("--upsamplings", nargs="+", choices=UPSAMPLINGS, default=list(UPSAMPLINGS), help="(default: all)")
    made.add_argument("--steps", type=int, default=4000, help="updates of each (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0)
    return made


def trained(args: argparse.Namespace, layer: Any, upsampling: Any, screen: Screen) -> dict[str, Any]:
    """Train a decoder, or go on with it, or read it; what its run says of it."""
    recipe = DecoderSettings(steps=args.steps, upsampling=upsampling)
    out = folder_of(args, layer, upsampling)
    screen.say(f"{layer}, {upsampling}")
    began = time.process_time()
    asked = TrainDecoder(args.data, args.encoder, encoder_layer=layer, recipe=recipe, seed=args.seed, out=out, fresh=args.fresh)
    data = train_and_write(asked, screen).data
    told = {**data["held_out"], "digest": data["digest"], "bytes": (out / FILE).stat().st_size}
    return {**told, "cpu_seconds": time.process_time() - began}


def folder_of(args: argparse.Namespace, layer: str, upsampling: str) -> Path:
    """Where one decoder lies in --out."""
    return args.out / f"{layer}-{upsampling}"


def shown(args: argparse.Namespace) -> list[Tensor]:
    """Rows of pictures in [0, 1]: crops of photographs held out, their reconstructions, and the differences."""
    encoder, recipe = open_encoder(args.encoder, args.layers[0]), DecoderSettings()
    pixels = open_pictures(args.data, (3, 128, 128), args.seed)
    assert pixels is not None
    _, held_out = split_photographs(pixels, recipe.held_out, args.seed)
    first = crops(held_out, recipe, generator(args.seed), max(recipe.reductions), torch.arange(min(SHOWN, len(held_out))))
    decoders = [read_decoder(folder_of(args, args.layers[0], upsampling) / FILE) for upsampling in args.upsamplings]
    decoded = [reconstruct(encoder, decoder, first, args.seed) for decoder in decoders]
    return [first, *decoded, *(difference(each, first) for each in decoded)]


def main() -> None:
    """Measure what is asked for and is not in the result file yet."""
    args = words().parse_args()
    record, screen = Record(args), Screen()
    asked = [(layer, upsampling) for layer in args.layers for upsampling in args.upsamplings]
    for layer, upsampling in asked:
        key = f"{layer}, {upsampling}"
        if key not in record.parts or not (folder_of(args, layer, upsampling) / FILE).exists():
            record.add(key, trained(args, layer, upsampling, screen))
    columns = ("decoder", "MSE of 255²", "PSNR, dB", "features, RMSE", "bytes", "CPU seconds")
    keys = ("mse", "psnr", "feature_rmse", "bytes", "cpu_seconds")
    rows = [(name, *(part[key] for key in keys)) for name, part in record.parts.items()]
    show(f"Photographs held out, after {args.steps:,} updates", columns, rows)
    write_rows(RESULTS / f"{args.name}.png", shown(args))
    encoders = {layer: open_encoder(args.encoder, layer).described() for layer in args.layers}
    record.finish(encoders=encoders, bytes=sum(part["bytes"] for part in record.parts.values()))


if __name__ == "__main__":
    main()
