"""Which arms come next: a warm-up that looks at every pair once, then the schedule of the method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from orthogon.hardening.pool import TriggerPool
from orthogon.hardening.victims import Victims
from orthogon.methods import HardeningSettings
from orthogon.pairs import Pair
from orthogon.schedule import (
    Arm,
    KArm,
    RandomArms,
    RoundRobin,
    Schedule,
    directed_arms,
    symmetric_arms,
    universal_arms,
)

_MOST_SOURCES = 100
"""Classes whose change of loss is looked at per universal trigger: with more, some are drawn, so that a warm-up's cost grows
with the classes, not with their square."""


class Phases:
    """The warm-up and the schedule after it.

    Args:
        victims: tell which classes can be hardened.
        settings: of the hardening.
        generator: of all draws.
        classes: how many the model has.

    Raises:
        ValueError: fewer than two classes have images, or the steps end in the warm-up.
    """

    def __init__(self, victims: Victims, settings: HardeningSettings, generator: torch.Generator, classes: int) -> None:
        self._victims, self._settings, self._generator = victims, settings, generator
        present = victims.classes
        missing = sorted(set(range(classes)) - set(present))
        listed = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        self.notes: tuple[str, ...] = (f"without training images, so not hardened: classes {listed}",) if missing else ()
        if len(present) < 2:
            raise ValueError(f"hardening needs images of at least two classes, got {len(present)}: add images of the others")
        self._prior = torch.full((classes, classes), torch.nan)
        self._first: Schedule | None = None
        self._left = 0
        self._smallest: list[Any] | None = None  # size and target of the smallest universal trigger
        if settings.warm_up != "none" and settings.arms != "none":
            arms = universal_arms(present) if settings.warm_up == "universal" else symmetric_arms(present)
            self._first, self._left = RoundRobin(arms, generator), len(arms)
            self._require_steps(len(arms))
        self._then: KArm | RoundRobin | RandomArms | None = None

    @property
    def warming(self) -> bool:
        """Whether the warm-up is not over."""
        return self._left > 0

    @property
    def searching(self) -> bool:
        """Whether triggers are still searched after the warm-up."""
        return self._settings.schedule != "once"

    def choose(self, count: int) -> list[Arm]:
        """The arms of the next pick."""
        if self._settings.arms == "none":
            return []
        if self._first is not None and self._left:
            chosen = self._first.choose(min(count, self._left))
            self._left -= len(chosen)
            return chosen
        if self._settings.schedule == "once":
            return self._unlearned()
        return self._main().choose(count)

    def _unlearned(self) -> list[Arm]:
        """The smallest universal trigger of the warm-up, alone (Neural Cleanse, section VI-C)."""
        if self._smallest is None:
            raise ValueError("no universal trigger reached the success rate, so there is nothing to unlearn: use another method")
        return [(Pair(None, self._smallest[1]),)]

    def report(self, arm: Arm, growth: float) -> None:
        """How an arm's distance has grown."""
        if self._then is not None:
            self._then.report(arm, growth)

    def look(self, arm: Arm, pool: TriggerPool) -> None:
        """Rank the pairs that a trigger of the warm-up tells of (Eq. 4)."""
        each = self._settings.prior_samples
        for pair in arm:
            if pair not in pool.known:
                continue
            sources = [pair.victim] if pair.victim is not None else self._sources(pair.target)
            drawn = [self._victims.draw(Pair(source, pair.target), each, self._generator) for source in sources]
            change = pool.loss_change(pair, torch.cat(drawn)).view(len(sources), each).mean(1)
            self._prior[sources, pair.target] = change
            size = pool.known[pair].size
            if pair.victim is None and math.isfinite(size) and (self._smallest is None or size < self._smallest[0]):
                self._smallest = [size, pair.target]

    def state(self) -> dict[str, Any]:
        """JSON-like; enough to go on."""
        schedules = [s and s.state() for s in (self._first, self._then)]
        return {"left": self._left, "smallest": self._smallest, "schedules": schedules}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds beside the state."""
        return {"prior": self._prior}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state` and `tensors` gave."""
        self._left, self._smallest = state["left"], state["smallest"]
        self._prior = tensors["prior"].clone()
        first, then = state["schedules"]
        if self._first is not None and first is not None:
            self._first.restore(first)
        self._then = None
        if then is not None:
            self._main().restore(then)

    def _sources(self, target: int) -> list[int]:
        others = [c for c in self._victims.classes if c != target]
        if len(others) <= _MOST_SOURCES:
            return others
        order = torch.randperm(len(others), generator=self._generator)[:_MOST_SOURCES]
        return [others[i] for i in order.tolist()]

    def _main(self) -> KArm | RoundRobin | RandomArms:
        """The schedule after the warm-up, made when it is first needed."""
        if self._then is None:
            self._then = self._made()
        return self._then

    def _made(self) -> KArm | RoundRobin | RandomArms:
        settings, present = self._settings, self._victims.classes
        makers = {"symmetric": symmetric_arms, "directed": directed_arms, "universal": universal_arms}
        arms = makers[settings.arms](present)
        match settings.schedule:
            case "k-arm":
                prior = self._prior.nan_to_num(float(self._prior.nanmean().nan_to_num()))
                prior = prior / prior.abs().max().clamp(min=1e-6)  # a loss; brought to the scale of relative growth
                return KArm(arms, prior, self._generator, epsilon=settings.epsilon, horizon=settings.horizon)
            case "round robin" | "once":
                return RoundRobin(arms, self._generator)
            case "random":
                return RandomArms(arms, self._generator)

    def _require_steps(self, arms: int) -> None:
        settings = self._settings
        if not settings.train_in_warm_up:
            return
        needed = -(-arms // settings.arms_per_pick) * settings.updates_per_pick
        if settings.steps <= needed:
            raise ValueError(
                f"{settings.steps} steps end within the warm-up, which takes {needed} of them: give more steps, or switch "
                "training in the warm-up off"
            )
