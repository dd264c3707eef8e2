"""What a run's folder gets for people: the page and the model card that fit the kind of run it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.report.card import measured_card
from orthogon.report.fleet_page import fleet_page, is_fleet
from orthogon.report.hardened import read_hardened
from orthogon.report.hardened_card import hardened_card
from orthogon.report.hardened_page import hardening_page
from orthogon.report.page import distances_page
from orthogon.report.reading import is_hardening, read_run
from orthogon.report.removed import is_removal, read_removed
from orthogon.report.removed_page import removal_page
from orthogon.report.scanned import is_scan, read_scanned
from orthogon.report.scanned_page import scan_page


def write_report(run_folder: Path) -> Path:
    """Writes report.html into the folder of a run of measure, harden, remove or scan, from its files alone; returns its path.

    Raises:
        ValueError: the folder is no finished run.
        RunError: the page cannot be written.
    """
    page = run_folder / "report.html"
    runs.write_text(page, _page(run_folder))
    return page


def _page(run_folder: Path) -> str:
    if is_removal(run_folder):
        return removal_page(read_removed(run_folder))
    if is_fleet(run_folder):
        return fleet_page(run_folder)
    if is_scan(run_folder):
        return scan_page(read_scanned(run_folder))
    return hardening_page(read_hardened(run_folder)) if is_hardening(run_folder) else distances_page(read_run(run_folder))


def model_card(run_folder: Path) -> tuple[str, dict[str, Any]]:
    """The section of a model card as (Markdown, JSON-like data); absolute paths are cut to their last part.

    Raises:
        ValueError: the folder is no finished run.
    """
    return hardened_card(read_hardened(run_folder)) if is_hardening(run_folder) else measured_card(read_run(run_folder))


def write_card(run_folder: Path) -> tuple[Path, Path]:
    """Writes card.md and card.json into a run's folder and returns their paths.

    Raises:
        ValueError: the folder is no finished run.
        RunError: the files cannot be written.
    """
    text, data = model_card(run_folder)
    markdown, json = run_folder / "card.md", run_folder / "card.json"
    runs.write_text(markdown, text)
    runs.write_json(json, data)
    return markdown, json
