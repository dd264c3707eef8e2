"""What is told of a hardening, and back from JSON."""

from __future__ import annotations

import json
import math

import pytest

from orthogon.hardening import Check, History, Restart
from orthogon.pairs import Inversion, Outcome, Pair


def test_a_history_comes_back_from_json() -> None:
    checks = [Check(6, 1.25, 0.9, 3.5, 0.7, True), Check(12, 2.5, 0.4, None, 1.1, False)]
    history = History(checks, [Restart(8, "the loss was not finite")])
    history.pick(3, Inversion(Pair(None, 2), Outcome.FOUND, 4.56789, 0.95, {}))
    history.spend("training", 1.25)
    record = json.loads(json.dumps(history.to_json(), allow_nan=False))
    again = History.from_json(record)
    assert again.checks == checks
    assert again.restarts == history.restarts
    assert again.picks == {"step": [3], "victim": [None], "target": [2], "size": [4.568]}
    assert again.to_json() == history.to_json()


@pytest.mark.parametrize("outcome", [Outcome.ASR, Outcome.NOT_FINITE])
def test_only_a_found_trigger_has_a_size(outcome: Outcome) -> None:
    history = History()
    history.pick(1, Inversion(Pair(0, 1), outcome, math.nan, 0.5, {}))
    assert history.picks == {"step": [1], "victim": [0], "target": [1], "size": [None]}


def test_seconds_add_up_over_the_parts() -> None:
    history = History()
    for part, seconds in (("inversion", 1.5), ("training", 2.0), ("inversion", 0.25)):
        history.spend(part, seconds)
    assert history.seconds == {"inversion": 1.75, "training": 2.0}
    assert history.total_seconds == 3.75
    assert history.to_json()["seconds"] == {"total": 3.8, "inversion": 1.8, "training": 2.0}
