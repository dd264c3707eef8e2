"""What a run's files say, for people: the HTML page, the comparison, the model card, the terminal's tables."""

from __future__ import annotations

from orthogon.report.card import model_card, write_card
from orthogon.report.compare import Comparison, compare, write_comparison
from orthogon.report.page import write_report
from orthogon.report.tables import comparison_table, distance_table, evaluation_table, pairs_table

__all__ = [
    "Comparison",
    "compare",
    "comparison_table",
    "distance_table",
    "evaluation_table",
    "model_card",
    "pairs_table",
    "write_card",
    "write_comparison",
    "write_report",
]
