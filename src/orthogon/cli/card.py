"""`orthogon card`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Json


@dataclass(frozen=True)
class Card(Command):
    """Distances of a run as a section for a model card: Markdown on standard output, or JSON.

    Examples:
      orthogon card runs/measure-net-1a2b3c4d >> README.md
      orthogon card runs/harden-net-1a2b3c4d >> README.md

    The run folder gets card.md and card.json. Of a hardening run, the section is the hardened model's, and says too how it
    was hardened and what that changed.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    json: Json = False

    def run(self, screen: Screen) -> Result:
        """Write both files and show the section."""
        from orthogon import report

        markdown, data = report.write_card(self.folder)
        screen.say(f"written to {markdown} and {data}")
        text, content = report.model_card(self.folder)
        return Result(content, [text])
