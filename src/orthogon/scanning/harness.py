"""Scan a model: check the images, let the scanner look once or more often, and judge what it has found."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from orthogon.classifier import Classifier, require_match
from orthogon.images import LabelledImages
from orthogon.naming import settings_of
from orthogon.scanning.calibration import Calibration, shipped
from orthogon.scanning.evidence import Evidence
from orthogon.scanning.scanner import Scanner, too_few
from orthogon.scanning.verdict import Verdict, judged


def scan(
    classifier: Classifier,
    images: LabelledImages | None,
    scanner: Scanner,
    generator: torch.Generator,
    *,
    draws: int = 1,
    calibration: Calibration | None = None,
    on_progress: Callable[[float, str], None] = lambda share, note: None,
    on_evidence: Callable[[Evidence], None] = lambda evidence: None,
) -> Verdict:
    """Say whether a model has a backdoor, as far as a scanner can tell.

    Args:
        classifier: on the device where everything happens; put into evaluation mode, else unchanged.
        images: clean, with labels in the order of the model's classes; None for a scanner that needs none.
        scanner: the method.
        generator: every draw comes from it; on the CPU.
        draws: how often the scan is made, each time with other samples and starts; draws that disagree are inconclusive.
        calibration: of this scanner with these settings; None takes the one that comes with the package, if any.
        on_progress: told now and then the share done (0 to 1) and a note.
        on_evidence: told what each draw has found.

    Raises:
        ValueError: no images for a scanner that needs them, images of another shape or other classes than the classifier's, fewer
            draws than one, or a calibration of something else.
    """
    found = looked(classifier, images, scanner, generator, draws=draws, on_progress=on_progress, on_evidence=on_evidence)
    return judged(scanner, found, calibration or shipped(scanner.name, settings_of(scanner)))


def looked(
    classifier: Classifier,
    images: LabelledImages | None,
    scanner: Scanner,
    generator: torch.Generator,
    *,
    draws: int = 1,
    on_progress: Callable[[float, str], None] = lambda share, note: None,
    on_evidence: Callable[[Evidence], None] = lambda evidence: None,
) -> list[Evidence]:
    """What a scanner finds, before anybody judges it: the evidence of each draw. Arguments and errors as for `scan`."""
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if images is None and scanner.needs_images:
        raise ValueError(f"the scanner {scanner.name} has to see clean images; give some, or take one that needs none")
    if images is not None:
        require_match(classifier, images)
    classifier.eval()
    if images is not None and scanner.needs_images and (doubts := too_few(images)):
        return [Evidence(math.nan, doubts=doubts)] * draws
    found = []
    for draw in range(draws):

        def told(share: float, note: str, begun: int = draw) -> None:
            on_progress((begun + share) / draws, note)

        found.append(scanner.scan(classifier, images, generator, told))
        on_evidence(found[-1])
    on_progress(1.0, "done")
    return found
