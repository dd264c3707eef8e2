"""What came of a planting, and whether it may be called planted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orthogon.attacks.detoxify import DetoxRound
from orthogon.classifier import Classifier
from orthogon.evaluate import AttackEvaluation, Evaluation, near_chance
from orthogon.planting.trigger_file import SavedTrigger
from orthogon.training import Epoch

LEAST_SUCCESS = 0.85
"""Attack success rate below which nothing counts as planted."""


@dataclass(frozen=True, eq=False)
class Planting:
    """A model that a backdoor was to be planted in, its trigger, and what `evaluate` says of both."""

    classifier: Classifier
    """In evaluation mode."""
    trigger: SavedTrigger
    clean: Evaluation
    """On the held-out images as they are."""
    stamped: AttackEvaluation
    """On those that the attack is aimed at, stamped."""
    history: tuple[Epoch, ...]
    detoxified: tuple[DetoxRound, ...]
    """Rounds of the detoxification, if any."""
    stamped_images: int
    """Training images that carried the trigger."""
    covered_images: int
    """Training images that carried the attack's cover."""
    least_success: float
    """Attack success rate that was asked for."""

    @property
    def planted(self) -> bool:
        """Whether the attack success rate was reached by a model that tells the classes apart.

        A model that answers the target whatever it sees has a success rate of 1 and no backdoor.
        """
        return self.stamped.success_rate >= self.least_success and near_chance(self.clean) is None

    @property
    def outcome(self) -> str:
        """The same in a sentence."""
        seen = self.stamped
        target = f"{seen.target} ({seen.classes[seen.target]!r})"
        told = f"{seen.success_rate:.1%} of {seen.total:,} stamped images are taken for the target {target}"
        if self.planted:
            return f"planted: {told}"
        if seen.success_rate >= self.least_success:
            return f"no backdoor was planted: {near_chance(self.clean)}"
        return f"no backdoor was planted: {told}, and at least {self.least_success:.1%} were asked for"

    def attack_facts(self) -> dict[str, Any]:
        """The attack and its outcome for a card, JSON-like."""
        low, high = self.stamped.success_interval
        return {
            "name": self.trigger.attack.name,
            "settings": self.trigger.record["settings"],
            "threat": self.trigger.record["threat"],
            "source": self.trigger.attack.source,
            "planted": self.planted,
            "outcome": self.outcome,
            "attack_success_rate": self.stamped.success_rate,
            "attack_success_interval_95": [low, high],
            "robust_accuracy": self.stamped.robust_accuracy,
            "attacked_images": self.stamped.total,
            "least_success": self.least_success,
            "stamped_training_images": self.stamped_images,
            "covered_training_images": self.covered_images,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for a result file."""
        return {
            "attack": self.attack_facts(),
            "clean": self.clean.to_json(),
            "stamped": self.stamped.to_json(),
            "history": [asdict(epoch) for epoch in self.history],
            "detoxified": [asdict(done) for done in self.detoxified],
        }
