"""Peak memory of a command: the resident set of the largest process among it and its children.

python benchmarks/memory.py --name memory-fast -- orthogon measure --model F --data D
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Record, parser, show

PROBE = """
import pathlib, resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
pathlib.Path(sys.argv[1]).write_text(f"{code} {peak}")
"""
"""Runs the command from a small process: Linux counts what the parent held when it began a child as the child's own."""


def run(command: list[str]) -> tuple[int, float]:
    """Exit code and peak in GiB of a command, which keeps its standard streams."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        subprocess.run([sys.executable, "-c", PROBE, str(told), *command], check=True)
        code, peak = told.read_text().split()
    return int(code), int(peak) / (2**30 if sys.platform == "darwin" else 2**20)  # bytes on macOS, KiB elsewhere


def main() -> None:
    """Run the command that is given, and write the peak memory of its largest process."""
    words = parser(__doc__, "memory")
    words.add_argument("command", nargs=argparse.REMAINDER, help="after --: the command with its words")
    args = words.parse_args()
    args.fresh = True  # a measurement is one process: never taken up again
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        words.error("give a command after --")
    began = time.perf_counter()
    code, gib = run(command)
    seconds = time.perf_counter() - began
    show("peak memory", ["GiB", "seconds", "exit code"], [(gib, seconds, code)])
    Record(args).finish(peak_gib=gib, seconds=seconds, exit_code=code)
    sys.exit(code)


if __name__ == "__main__":
    main()
