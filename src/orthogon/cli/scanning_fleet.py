"""Scans of several models: a process each, so that a bad one harms nobody else, and a folder each, so that none is done twice."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from orthogon import runs
from orthogon.cli.scan import BACKDOORED, FAILED, INCONCLUSIVE, Scan
from orthogon.cli.scanning import CHILD, CODES, RECORD, settings_to_keep, short_name, words_of_one
from orthogon.cli.scanning_inputs import Inputs
from orthogon.cli.scanning_models import Named
from orthogon.cli.screen import Result, Screen
from orthogon.cli.words import ModelWords, default_folder
from orthogon.fleet import Ended, Job, Terms, run_here, run_on_ray
from orthogon.machine import cores, free_gib
from orthogon.naming import named, settings_of
from orthogon.printing import printable, sound
from orthogon.report import write_report
from orthogon.report.scanned_sarif import sarif
from orthogon.report.scanned_words import fleet_table
from orthogon.runs import Run
from orthogon.scanning import SCANNERS

TABLE = "scans.json"
_PAGE = "report.html"
"""Written last by a scan's process, after its record: without it the process is started again, and only writes it."""
_REFUSED = {2: "cannot be scanned", 3: "near chance", 4: "other settings"}
"""Outcomes by the exit code of `orthogon scan` of one model, where that has no verdict and no other attempt would bring one."""
_FAILED = {**_REFUSED, 5: "out of memory or disk"}
"""The same, with the outcomes that another attempt may change."""
_GIB = 2.0
"""Free memory for each model that is scanned at once, where nobody says how many."""
_TIMEOUT = 3600.0
"""Seconds that a model may take, where nobody says how many."""
_NAME_BYTES = 100
"""Of a model's name in that of its folder: file systems take 255 in all."""
_MATTERS = ("timeout", "retries", "force", "device")
"""Words on which a failure depends and a verdict does not."""
_KEPT = ("verdict", "probability", "score", "pairs", "reasons", "accuracy", "seconds", "hashes")


def scan_fleet(words: Scan, found: Named, screen: Screen) -> Result:
    """A verdict or another outcome for each model, in scans.json and report.html; what is finished already is read again.

    Raises:
        OtherSettings: the folder holds another run.
        ImportError, ConnectionError: --ray, and there is no Ray, or no cluster at its address.
        ValueError, OSError: whatever is wrong with the words or the folder.
    """
    scanner = named(SCANNERS, "scanner", words.scanner, words.settings)
    common = settings_to_keep(words, ModelWords("", words.arch, words.normalization), scanner)
    common.pop("model")
    asked = [*words.models, *words.more]
    folder = words.out or default_folder("scan", f"{words.scanner}-models", {**common, "models": asked})
    with Run.open(folder, "scan", common, inputs={"scanner": settings_of(scanner)}, fresh=words.fresh) as run:
        screen.say(f"{'going on with' if run.resumed else 'results go to'} {run.folder}")
        began = time.monotonic()
        rows = _Fleet(words, common, Inputs(words, scanner), run, screen).rows(found.models)
        spent = {"seconds": round(time.monotonic() - began, 1), "where": words.ray or "here", "at_once": at_once(words)}
        record = {"scanner": words.scanner, "models": rows, "counts": counts_of(rows), "not_scanned": list(found.passed)}
        record |= {"command": spent}
        runs.write_json(run.path(TABLE), record | {"versions": runs.versions()})
        page = write_report(run.folder)
    if words.sarif:
        return Result(sarif(rows), code=code_of(rows))
    shown = [fleet_table(rows), f"results: {folder / TABLE}", f"report: {page}"]
    return Result(record | {"run": str(run.folder), "report": str(page)}, shown, code_of(rows))


def counts_of(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many have which outcome."""
    outcomes = [row["outcome"] for row in rows]
    return {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}


def code_of(rows: Iterable[dict[str, Any]]) -> int:
    """The exit code of them all."""
    outcomes = {row["outcome"] for row in rows}
    if "backdoored" in outcomes:
        return BACKDOORED
    if outcomes - set(CODES):
        return FAILED
    return INCONCLUSIVE if "inconclusive" in outcomes else 0


def at_once(words: Scan) -> int | None:
    """How many models: --jobs; else one per GPU, or per core as far as the memory goes; None on a cluster: what it holds."""
    if words.jobs is not None or words.ray is not None:
        return words.jobs
    return len(gpus(words.device)) or max(1, min(cores(), int(free_gib(torch.device("cpu")) / _GIB)))


def gpus(device: str) -> tuple[str, ...]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them; none where they are not to be used."""
    if device == "cpu" or not torch.cuda.is_available():
        return ()
    named_there = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named_there.split(",") if named_there else map(str, range(torch.cuda.device_count())))


class _Fleet:
    """The models, their folders, and what came of each."""

    def __init__(self, words: Scan, common: dict[str, Any], inputs: Inputs, run: Run, screen: Screen) -> None:
        self._words, self._common, self._inputs, self._run, self._screen = words, common, inputs, run, screen
        self._matters = {name: getattr(words, name) for name in _MATTERS}
        self._rows: dict[str, dict[str, Any]] = {}
        self._asked: dict[Path, str] = {}

    def rows(self, models: Sequence[str]) -> list[dict[str, Any]]:
        """One per model, in their order."""
        self._begin_round()
        meter = self._screen.meter(f"scanning {len(models)} models")
        with meter as update, closing(self._ended(self._jobs(models))) as ended:
            for job, how in ended:
                self._tell(job, how)
                update(len(self._rows) / len(models), f"{len(self._rows)} of {len(models)}")
        return [self._rows[model] for model in models]

    def _begin_round(self) -> None:
        """A command that was interrupted leaves the outcomes of its failures to the next; one that has finished does not."""
        if not self._run.path(TABLE).exists():
            return
        for outcome in self._run.path("models").glob("*.outcome.json"):
            outcome.unlink()
        self._run.path(TABLE).unlink()

    def _jobs(self, models: Iterable[str]) -> Iterator[Job]:
        """Those that are not done; the rows of the others are read on the way."""
        for model in models:
            try:
                job = self._job(model)
                if job.done:
                    self._rows[model] = verdict_row(model, job.folder)
                elif (row := self._failed_before(job)) is not None:
                    self._rows[model] = row
                else:
                    self._asked[job.folder] = model
                    yield job
            except (OSError, ValueError, KeyError) as error:
                reason = sound(str(error)) or type(error).__name__
                self._rows[model] = {"model": sound(model), "outcome": "cannot be read", "reasons": [reason]}
                self._say(self._rows[model])

    def _failed_before(self, job: Job) -> dict[str, Any] | None:
        """The row of a failure that an interrupted command has kept; None where there is none, or on other terms."""
        kept = runs.read_json(_outcome_file(job)) if _outcome_file(job).exists() else {}
        return kept.get("row") if kept.get("terms") == self._matters else None

    def _ended(self, jobs: Iterator[Job]) -> Generator[tuple[Job, Ended], None, None]:
        words = self._words
        terms = Terms(words.timeout or _TIMEOUT, words.retries, frozenset({*CODES.values(), *_REFUSED}))
        if words.ray is not None:
            return run_on_ray(jobs, terms, words.ray, words.jobs, words.device != "cpu")
        return run_here(jobs, terms, at_once(words) or 1, gpus(words.device))

    def _job(self, model: str) -> Job:
        """Its folder is for this very file, what it is scanned with and these settings: a changed file is another scan."""
        key = {**self._common, "model": model, "inputs": self._inputs.of(model)}
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in short_name(model))
        short = name.encode()[:_NAME_BYTES].decode(errors="ignore")
        folder = self._run.folder / "models" / f"{short}-{runs.settings_digest(key)}"
        return Job(("-c", CHILD, *words_of_one(self._words, model), "--json"), folder, _PAGE)

    def _tell(self, job: Job, ended: Ended) -> None:
        """Keep what came of a job, and say it."""
        model = self._asked.pop(job.folder)
        row = _row(model, job, ended, self._words.timeout or _TIMEOUT)
        self._rows[model] = row
        if row["outcome"] not in CODES and ended.how in ("exited", "timed out"):
            runs.write_json(_outcome_file(job), {"row": row, "terms": self._matters})
        self._run.event("model", model=row["model"], outcome=row["outcome"], attempts=ended.attempts, node=ended.node)
        self._say(row)

    def _say(self, row: dict[str, Any]) -> None:
        self._screen.say(printable(f"{row['model']}: {row['outcome']}{_because(row)}"))


def verdict_row(model: str, folder: Path) -> dict[str, Any]:
    """The chief parts of a finished scan.

    Raises:
        ValueError, OSError, KeyError: its record cannot be read.
    """
    record = runs.read_json(folder / RECORD)
    return {"model": sound(model), "folder": str(folder), "outcome": record["verdict"], **{k: record.get(k) for k in _KEPT}}


def _row(model: str, job: Job, ended: Ended, timeout: float) -> dict[str, Any]:
    if ended.how == "exited" and ended.code in CODES.values() and job.done:
        try:
            return verdict_row(model, job.folder)
        except (OSError, ValueError, KeyError) as error:
            return {"model": sound(model), "outcome": "cannot be read", "reasons": [sound(str(error))]}
    outcome, reason = _failed(ended, timeout)
    return {
        "model": sound(model),
        "folder": str(job.folder),
        "outcome": outcome,
        "reasons": [reason],
        "attempts": ended.attempts,
    }


def _failed(ended: Ended, timeout: float) -> tuple[str, str]:
    """The outcome of a model without a verdict, and why."""
    lines = ended.said.splitlines()
    reason = lines[-1] if lines else f"exit code {ended.code}"
    match ended.how:
        case "timed out":
            return "timed out", f"not finished after {timeout:g} seconds"
        case "interrupted":
            return "interrupted", "the command was interrupted"
        case "lost":
            return "lost", reason
        case "not started":
            return "cannot be started", sound(reason)
    if ended.code == -9:  # SIGKILL, a name that Windows lacks
        return "killed", "the system ended the process: most likely it ran out of memory"
    if ended.code < 0:
        return "crashed", f"the process was ended by the signal {-ended.code}: {reason}"
    return _FAILED.get(ended.code, "crashed"), reason.removeprefix("orthogon scan: ")


def _outcome_file(job: Job) -> Path:
    return job.folder.with_name(f"{job.folder.name}.outcome.json")


def _because(row: dict[str, Any]) -> str:
    return "" if row["outcome"] in CODES else f" ({'; '.join(row['reasons'])})"
