"""`orthogon trojai`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from orthogon.cli.poison import Settings
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Json, Seed


@dataclass(frozen=True)
class TrojAI(Command):
    """The probability that one model has a backdoor, by the interface of TrojAI's containers (round 4).

    Examples:
      orthogon trojai --model_filepath id-00000000/model.pt --result_filepath result.txt --scratch_dirpath scratch \\
          --examples_dirpath id-00000000/clean_example_data

    The result file gets one number from 0 to 1 and nothing else. It is the calibrated probability where the scanner is
    calibrated; else a number that grows with the scanner's score and is 0.5 at its threshold, of which standard error says so.
    Both stay within 0.01 and 0.99. Without a score it is 0.5. The scratch folder gets all that `orthogon scan` writes.
    """

    model_filepath: Annotated[Path, tyro.conf.arg(metavar="F")]
    """The network: model.pt, read as every checkpoint is, without running code of the file."""
    result_filepath: Annotated[Path, tyro.conf.arg(metavar="F")]
    """Where the number goes."""
    scratch_dirpath: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Where results may go; a finished scan of the same model, examples, settings and seed is read again, one that was killed
    begins anew."""
    examples_dirpath: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Clean example images, class_0_example_0.png and so on."""
    scanner: Annotated[str, tyro.conf.arg(metavar="NAME")] = "distance"
    """As in `orthogon scan`, which lists them (`orthogon scan list`)."""
    settings: Settings = ()
    """Of the scanner, such as samples=20."""
    seed: Seed = 0
    device: Device = "auto"
    json: Json = False

    def run(self, screen: Screen) -> Result:
        """Scan the model and write the number."""
        from orthogon.cli.scanning_trojai import scan_and_tell

        return scan_and_tell(self, screen)
