"""Image-steps per second of a search for pervasive triggers, beside what its convolutions alone would allow.

An image-step is one sample through everything that a step does with it: Γ, the encoder, the regions' convolutions, the decoder,
the encoder again, the model, and all gradients. The limit is the sum of what each convolution of these takes by itself, forward,
its input gradient, and for those of the regions, which are searched, the weights' gradient too; in the precision and the chunk of
the search. SSIM, smoothing, copies, Adam and Python are not in it.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

import torch
from torch import Tensor, nn

from common import Record, add_subject, balanced, clock, device_of, pairs_of, parser, show, subject
from limit import convolution_limit
from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.frozen import speed_for
from orthogon.inversion import Request
from orthogon.protocols import SCREEN, Stage
from orthogon.triggers import Pervasive
from orthogon.triggers.decoder import Decoder, open_decoder
from orthogon.triggers.encoder import Encoder, open_encoder
from throughput import TICK, steps


def seconds_by_part(
    classifier: Classifier, encoder: Encoder, decoder: Decoder, precision: torch.dtype, chunk: int, batch: int, seconds: float
) -> dict[str, float]:
    """Seconds that the convolutions of each part take for one image-step, of a chunk of searches with so many images each."""
    image = torch.zeros(1, *classifier.image_shape, device=device_of(classifier))
    with torch.no_grad():
        features = encoder(image)
    height, width = features.shape[2:]

    def one_image(network: nn.Module, values: Tensor) -> float:
        return 1 / convolution_limit(network, values, precision, chunk, seconds).images_per_second

    z, m = Pervasive.regions, Pervasive.kernel
    searches = max(1, chunk // batch)
    groups, channels = searches * z * z, encoder.channels
    regions = nn.Conv2d(groups * channels, groups * channels, m, padding=m // 2, groups=groups, bias=False).to(image.device)
    cut = torch.zeros(1, groups * channels, height // z, width // z, device=image.device)
    blocks = list(decoder.blocks.children())[::-1]  # each works on twice the rows and columns
    sides = [(channels, height * 2**n, width * 2**n) for n, (_, channels) in enumerate(reversed(decoder.widths), 1)]
    upsampled = [torch.zeros(1, *side, device=image.device) for side in sides]
    of_regions = convolution_limit(regions, cut, precision, batch, seconds, weights=True).images_per_second
    return {
        "encoder, twice": 2 * one_image(encoder, image),
        "regions": 1 / (of_regions * searches),
        "decoder": sum(one_image(block, values) for block, values in zip(blocks, upsampled, strict=True)),
        "model": one_image(classifier, image),
    }


def rate(engine: Engine, family: Pervasive, requests: list[Request], ticks: int) -> float:
    """Image-steps per second from the first step to the last."""
    stamps: list[float] = []
    steps(engine, family, requests, ticks, lambda: stamps.append(clock(engine.device)))
    return TICK * ticks * len(requests) * engine.settings.stages[0].batch / (stamps[-1] - stamps[0])


def main() -> None:
    """Time the search and the convolutions, and write both."""
    words = parser(__doc__, "pervasive-limit")
    add_subject(words)
    words.add_argument("--encoder", default="embedded", help="as orthogon measure takes it (default: %(default)s)")
    words.add_argument("--decoder", default="packaged", help="as orthogon measure takes it (default: %(default)s)")
    words.add_argument("--rounds", type=int, default=5, help="turns (default: %(default)s)")
    words.add_argument("--ticks", type=int, default=1, help="eight steps each, per turn (default: %(default)s)")
    words.add_argument("--tasks", type=int, help="searches at once (default: 24; 256 on a GPU)")
    words.add_argument("--batch", type=int, default=10, help="samples per search and step (default: %(default)s)")
    words.add_argument("--seconds", type=float, default=0.5, help="for each convolution (default: %(default)s)")
    args = words.parse_args()
    args.fresh = True  # a rate is one process's: never taken up again
    classifier, images = subject(args)
    device = device_of(classifier)
    images = balanced(images, 50, args.seed)
    encoder = open_encoder(args.encoder)
    decoder = open_decoder(encoder, args.decoder)
    every = pairs_of("all", classifier, args.seed)
    tasks = args.tasks or (24 if device.type == "cpu" else 256)
    pairs = [every[n * 7 % len(every)] for n in range(tasks)]
    samples = torch.stack([images.of_class(c).pixels for c in range(len(classifier.classes))])
    stage = Stage(restarts=1, steps=1, batch=args.batch, rates=(0.1, 0.1), accept_every=10**9)
    engine = Engine(classifier, samples, replace(SCREEN.settings, stages=(stage,)), speed_for(classifier, 10**6))
    requests = [Request(pair, pair.victim or 0, n) for n, pair in enumerate(pairs)]
    family = Pervasive(networks=(encoder, decoder))
    rate(engine, family, requests, 1)
    precision, chunk = engine.copy.precision, engine.copy.chunk
    rates, limits = [], []
    for _ in range(args.rounds):
        rates.append(rate(engine, family, requests, args.ticks))
        limits.append(
            seconds_by_part(classifier, encoder.to(device), decoder.to(device), precision, chunk, args.batch, args.seconds)
        )
    parts = {name: statistics.median(limit[name] for limit in limits) for name in limits[0]}
    ours, limit = statistics.median(rates), 1 / sum(parts.values())
    summary = {
        **{"image_steps_per_second": ours, "convolution_limit": limit, "share_of_limit": ours / limit},
        "copy": f"{precision}, chunk {chunk}, {'compiled' if engine.copy.compiled else 'eager'}",
    }
    record = Record(args)
    record.parts.update({"turns": rates, "microseconds_of_convolutions": {n: 1e6 * s for n, s in parts.items()}})
    show("a search for pervasive triggers", ["figure", "value"], list(summary.items()))
    show("its convolutions, µs per image-step", ["part", "µs"], [[n, 1e6 * s] for n, s in parts.items()])
    record.finish(**summary)


if __name__ == "__main__":
    main()
