"""What the K-arm scheduler costs per iteration (choose arms, report each), and that more classes do not make it dearer.

Prior and growths are drawn; nothing is hardened. Time is the processor's, so that other work on the machine does not count.
Making the schedule (sorting the prior) stands apart.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from common import Record, parser, show
from orthogon.schedule import KArm, symmetric_arms


def cost(classes: int, iterations: int, count: int, seed: int) -> dict[str, Any]:
    """Microseconds per iteration, seconds to make the schedule, and how it ended."""
    generator = torch.Generator().manual_seed(seed)
    prior = 5 * torch.rand(classes, classes, generator=generator)
    growths = (0.2 * torch.randn(iterations, count, generator=generator)).tolist()
    began = time.process_time()
    arms = symmetric_arms(classes)
    schedule = KArm(arms, prior, generator)
    seconds = time.process_time() - began
    times, reported = [], set()
    for growth in growths:
        began = time.process_time()
        chosen = schedule.choose(count)
        for arm, change in zip(chosen, growth, strict=True):
            schedule.report(arm, change)
        times.append(1e6 * (time.process_time() - began))
        reported.update(chosen)
    last = times[-len(times) // 10 :]
    figures = {"mean_us": statistics.mean(times), "median_us": statistics.median(times), "last_tenth_us": statistics.mean(last)}
    return {"classes": classes, "arms": len(arms), "reported": len(reported), **figures, "setup_s": seconds}


def main() -> None:
    """Time steps of the scheduler for each number of classes, and write them."""
    words = parser(__doc__, "scheduler")
    words.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000], help="(default: %(default)s)")
    words.add_argument("--iterations", type=int, default=4000, help="(default: %(default)s)")
    words.add_argument("--count", type=int, default=4, help="arms per iteration (default: %(default)s)")
    words.add_argument("--seed", type=int, default=0, help="of prior, growths and choices (default: %(default)s)")
    args = words.parse_args()
    args.fresh = True  # a rate is one process's: never taken up again
    cost(10, 200, args.count, args.seed)
    record = Record(args)
    rows = [cost(classes, args.iterations, args.count, args.seed) for classes in args.classes]
    for row in rows:
        record.add(f"{row['classes']} classes", row)
    columns = ["classes", "arms", "arms reported", "mean µs", "median µs", "last tenth µs", "set-up s"]
    show(f"an iteration: choose {args.count}, report {args.count}", columns, [list(row.values()) for row in rows])
    record.finish(dearest_over_cheapest=max(row["mean_us"] for row in rows) / min(row["mean_us"] for row in rows))


if __name__ == "__main__":
    main()
