"""Fleets of small models: 20 broken or hostile files among 40; two workers against one, here and on Ray; a Ray node killed.

The honest models are the zoo's small ones of signs, each several times with 0.1 % of noise on its weights. Parts can be measured
one by one: a part that is in the result file already is not measured again without --fresh.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from common import Record, parser, show
from hostile_models import MARK, write_all, write_shadow

ZOO = Path(__file__).parents[1] / "zoo"
_VERDICTS = ("clean", "backdoored", "inconclusive")


def write_honest(folder: Path, count: int, seed: int) -> list[Path]:
    """So many models with their cards, no two the same."""
    sources = sorted(ZOO.glob("signs-*/model.safetensors"))
    generator = torch.Generator().manual_seed(seed)
    paths = []
    for number in range(count):
        source = sources[number % len(sources)]
        weights = {
            name: t * (1 + 1e-3 * torch.randn(t.shape, generator=generator)) if t.is_floating_point() else t
            for name, t in load_file(source).items()
        }
        path = folder / f"honest-{number:02d}-{source.parent.name}.safetensors"
        save_file(weights, path)
        path.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
        paths.append(path)
    return paths


class Bench:
    """The words that every part uses, and a folder to work in."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        (folder / "models").mkdir()

    def scan(self, name: str, models: list[Path], steps: int, *more: str) -> subprocess.Popen[bytes]:
        """Start `orthogon scan` of all models, on one core per model, with results in a folder of this name."""
        words = [sys.executable, "-P", "-m", "orthogon", "scan", "--scanner", "mm-bd", "--device", "cpu"]
        words += ["--seed", str(self.args.seed)]
        words += ["--set", "starts=4", "--set", f"steps={steps}", "--timeout", str(self.args.timeout), "--out", name, *more]
        words += ["--model", *(str(path.relative_to(self.folder)) for path in models)]
        log = (self.folder / f"{name}.log").open("wb")
        return subprocess.Popen(words, cwd=self.folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)

    def scanned(self, name: str, models: list[Path], steps: int, *more: str) -> dict[str, Any]:
        """The same, waited for; its scans.json."""
        self.scan(name, models, steps, *more).wait()
        return self.table(name)

    def table(self, name: str) -> dict[str, Any]:
        """The scans.json of a finished scan; a scan that has none ends the benchmark with what it said."""
        path = self.folder / name / "scans.json"
        if not path.exists():
            sys.exit((self.folder / f"{name}.log").read_text()[-2000:])
        return json.loads(path.read_text())

    def honest(self) -> list[Path]:
        """The models of the parts that measure speed."""
        return write_honest(self.folder / "models", self.args.models, self.args.seed)


def hostile(bench: Bench) -> dict[str, Any]:
    """Verdicts on 20 honest models, outcomes of 20 other files, and whether any of these ran code."""
    folder = bench.folder / "models"
    write_shadow(bench.folder)
    bad = write_all(folder, next(ZOO.glob("signs-clean/model.safetensors")))
    models = sorted([*write_honest(folder, 20, bench.args.seed), *bad])
    began = time.monotonic()
    rows = {Path(row["model"]).name: row for row in bench.scanned("hostile", models, 3, "--jobs", "2")["models"]}
    outcomes = {path.name: [rows[path.name]["outcome"], "; ".join(rows[path.name]["reasons"])] for path in bad}
    show("files that are no honest models", ["file", "outcome", "reason"], [(name, *told) for name, told in outcomes.items()])
    return {
        "files": len(models),
        "verdicts_on_honest": sum(row["outcome"] in _VERDICTS for name, row in rows.items() if name not in outcomes),
        "other_outcomes_of_bad": sum(outcome not in _VERDICTS for outcome, _ in outcomes.values()),
        "code_was_run": any(True for _ in bench.folder.rglob(f"*{MARK}*")),
        "seconds": time.monotonic() - began,
        "outcomes": outcomes,
    }


def workers_here(bench: Bench) -> dict[str, Any]:
    """Two processes at once against one, each on one core."""
    models = bench.honest()
    return _compared(lambda many: bench.scanned(f"here-{many}", models, bench.args.steps, "--jobs", str(many)))


def workers_on_ray(bench: Bench) -> dict[str, Any]:
    """A cluster of two nodes of one core each against one of one node."""
    models = bench.honest()

    def scanned(many: int) -> dict[str, Any]:
        with cluster(many) as made:
            return bench.scanned(f"ray-{many}", models, bench.args.steps, "--ray", made.address)

    return _compared(scanned)


def _compared(scanned: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    tables = {many: scanned(many) for many in (1, 2)}
    seconds = {many: table["command"]["seconds"] for many, table in tables.items()}
    same = _scores(tables[1]) == _scores(tables[2])
    shown = {"models": len(tables[1]["models"]), "seconds_one": seconds[1], "seconds_two": seconds[2]}
    return {**shown, "ratio": seconds[1] / seconds[2], "same_scores": same, "counts": tables[2]["counts"]}


def _scores(table: dict[str, Any]) -> dict[str, Any]:
    return {row["model"]: (row["outcome"], row.get("score")) for row in table["models"]}


def node_killed(bench: Bench) -> dict[str, Any]:
    """One of two nodes is killed in the middle of a scan: what came of all models, and how often each was told."""
    models = bench.honest()
    with cluster(2) as made:
        running = bench.scan("killed", models, bench.args.steps, "--ray", made.address)
        while running.poll() is None and not _told(bench.folder / "killed"):
            time.sleep(0.1)
        time.sleep(5)  # after the first result, so that both nodes are in the middle of a scan
        made.remove_node(made.worker_nodes.copy().pop(), allow_graceful=False)
        running.wait()
    table, told = bench.table("killed"), Counter(event["model"] for event in _told(bench.folder / "killed"))
    repeated = sum(event["attempts"] > 1 for event in _told(bench.folder / "killed"))
    whole = bench.scanned("whole", models, bench.args.steps, "--jobs", "2")
    return {
        "models": len(models),
        "verdicts": sum(row["outcome"] in _VERDICTS for row in table["models"]),
        "told_once": sum(count == 1 for count in told.values()),
        "done_anew_elsewhere": repeated,
        "same_scores_as_here": _scores(table) == _scores(whole),
    }


def _told(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if event["kind"] == "model"]


class cluster:
    """A Ray cluster of so many nodes of one core on this machine."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes

    def __enter__(self) -> Any:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # as willing as the processes without Ray
        from ray.cluster_utils import Cluster

        self.made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(self.nodes - 1):
            self.made.add_node(num_cpus=1)
        return self.made

    def __exit__(self, *_: object) -> None:
        self.made.shutdown()


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "hostile": hostile,
    "workers here": workers_here,
    "workers on ray": workers_on_ray,
    "node killed": node_killed,
}


def main() -> None:
    """Measure what is asked for and is not in the result file yet."""
    words = parser(__doc__, "fleet")
    words.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    words.add_argument("--models", type=int, default=8, help="of the parts that measure speed (default: %(default)s)")
    words.add_argument("--steps", type=int, default=300, help="of their scanner, mm-bd (default: %(default)s)")
    words.add_argument("--timeout", type=float, default=60.0, help="seconds that a scan may take (default: %(default)s)")
    words.add_argument("--seed", type=int, default=0, help="of weights and scans (default: %(default)s)")
    args = words.parse_args()
    chosen, args.parts = args.parts, None  # a part more is no other measurement
    record = Record(args)
    for name in chosen:
        if name in record.parts:
            continue
        with tempfile.TemporaryDirectory(prefix="orthogon-fleet-") as folder:
            load = os.getloadavg()[0]
            record.add(name, {**PARTS[name](Bench(args, Path(folder))), "load_before": load})
        shown = {key: value for key, value in record.parts[name].items() if not isinstance(value, dict)}
        show(name, list(shown), [list(shown.values())])
    record.finish(parts=list(record.parts))


if __name__ == "__main__":
    main()
