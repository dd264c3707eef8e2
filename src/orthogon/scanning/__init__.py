"""Scanners: is there a backdoor in this model? One file each, and one verdict for all."""

from orthogon.scanning.calibration import Calibration, fit, fit_scans, shipped
from orthogon.scanning.ensemble import MEMBERS, Ensemble
from orthogon.scanning.evidence import Evidence, Suspect
from orthogon.scanning.harness import looked, scan
from orthogon.scanning.scanner import Scanner
from orthogon.scanning.verdict import Decision, Verdict, judged

SCANNERS: dict[str, type[Scanner]] = {**MEMBERS, Ensemble.name: Ensemble}
"""Every scanner that the command line can name."""

__all__ = [
    "SCANNERS",
    "Calibration",
    "Decision",
    "Evidence",
    "Scanner",
    "Suspect",
    "Verdict",
    "fit",
    "fit_scans",
    "judged",
    "looked",
    "scan",
    "shipped",
]
