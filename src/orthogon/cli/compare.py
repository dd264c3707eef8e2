"""`orthogon compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Json


@dataclass(frozen=True)
class Compare(Command):
    """Two runs side by side, such as one model before and after hardening, or hardened in two ways.

    Examples:
      orthogon compare runs/measure-before runs/measure-after
      orthogon compare runs/harden-net-1a2b3c4d runs/harden-net-5e6f7a8b

    Of a hardening run, the distances are those of the hardened model.
    """

    before: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_A")]
    """Folder of the first run."""
    after: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_B")]
    """Folder of the second run."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="PAGE", help_behavior_hint="(default: RUN_B/comparison-with-RUN_A.html)")
    ] = None
    """Where the page goes."""
    json: Json = False

    def run(self, screen: Screen) -> Result:
        """Compare and write the page."""
        from orthogon import report

        comparison = report.compare(self.before, self.after)
        page = self.out or self.after / f"comparison-with-{self.before.resolve().name}.html"
        report.write_comparison(comparison, page)
        data = {**comparison.to_json(), "page": str(page)}
        return Result(data, [report.comparison_table(comparison), f"page: {page}"])
