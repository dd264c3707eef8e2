"""Peak memory of a command: the resident set of the largest process among it and its children.

python benchmarks/memory.py --name memory-fast -- orthogon measure --model F --data D
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from common import Record, parser, show


def main() -> None:
    words = parser(__doc__, "memory")
    words.add_argument("command", nargs=argparse.REMAINDER, help="after --: the command with its words")
    args = words.parse_args()
    args.fresh = True  # a measurement is one process: never taken up again
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        words.error("give a command after --")
    began = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    gib = peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB elsewhere
    show("peak memory", ["GiB", "seconds", "exit code"], [(gib, seconds, code)])
    Record(args).finish(peak_gib=gib, seconds=seconds, exit_code=code)
    sys.exit(code)


if __name__ == "__main__":
    main()
