"""Which class pairs to harden next: MOTH's K-arm scheduler (section IV-C), every pair in turn, or pairs drawn at random."""

from __future__ import annotations

import base64
import math
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.pairs import Pair

Arm: TypeAlias = tuple[Pair, ...]
"""The directions that are hardened together: (a→b, b→a); one direction; or one of victim None."""


class Schedule(Protocol):
    """Chooses arms, and is told what came of it."""

    def choose(self, count: int) -> list[Arm]:
        """`count` different arms for the next iteration; fewer only if there are fewer."""
        ...

    def report(self, arm: Arm, growth: float) -> None:
        """Relative change of the arm's distance since it was last chosen, summed over its directions; NaN: no trigger found."""
        ...

    def state(self) -> dict[str, Any]:
        """What JSON can hold, enough to go on as if never interrupted; its size does not depend on the number of arms."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a schedule that was made with the same arguments; the generator is set, too."""
        ...


class Arms(ABC):
    """The arms of some classes: numbered, computed when asked for, never held.

    Raises:
        ValueError: a class is named twice or negative.
    """

    def __init__(self, classes: Sequence[int] | int) -> None:
        self.classes = tuple(range(classes)) if isinstance(classes, int) else tuple(classes)
        if len(set(self.classes)) < len(self.classes) or min(self.classes, default=0) < 0:
            raise ValueError(f"classes {self.classes}: each must be named once, by a number from 0")
        self._places: dict[int | None, int] = {c: place for place, c in enumerate(self.classes)}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sums(self, matrix: Float[Tensor, "n n"]) -> Float[Tensor, "arms"]:
        """Of the entries (victim, target) of each arm's directions; None stands for the mean over the victims."""

    @abstractmethod
    def _arm(self, number: int) -> Arm: ...

    @abstractmethod
    def _number(self, pair: Pair) -> int:
        """Of the arm whose first direction this is."""

    def __getitem__(self, number: int) -> Arm:
        if not 0 <= number < len(self):
            raise IndexError(f"arm {number} of {len(self)}")
        return self._arm(number)

    def index(self, arm: Arm) -> int:
        """The number of an arm.

        Raises:
            ValueError: it is none of these.
        """
        try:
            number = self._number(arm[0])
            found = self[number] == arm
        except (KeyError, IndexError):
            number, found = -1, False
        if not found:
            raise ValueError(f"{arm} is none of the {len(self)} arms, such as {self[0] if len(self) else 'none'}")
        return number

    def _among(self, matrix: Tensor) -> Tensor:
        chosen = torch.tensor(self.classes, dtype=torch.long, device=matrix.device)
        return matrix[chosen][:, chosen]


class _Symmetric(Arms):
    def __len__(self) -> int:
        return math.comb(len(self.classes), 2)

    def sums(self, matrix: Float[Tensor, "n n"]) -> Float[Tensor, "arms"]:
        own = self._among(matrix)
        return (own + own.T)[*torch.tril_indices(*own.shape, offset=-1)]

    def _arm(self, number: int) -> Arm:
        later = (1 + math.isqrt(1 + 8 * number)) // 2  # the classes before it have later·(later-1)/2 arms
        a, b = self.classes[number - math.comb(later, 2)], self.classes[later]
        return Pair(a, b), Pair(b, a)

    def _number(self, pair: Pair) -> int:
        return math.comb(self._places[pair.target], 2) + self._places[pair.victim]


class _Directed(Arms):
    def __len__(self) -> int:
        return math.perm(len(self.classes), 2)

    def sums(self, matrix: Float[Tensor, "n n"]) -> Float[Tensor, "arms"]:
        return self._among(matrix)[~torch.eye(len(self.classes), dtype=torch.bool)]

    def _arm(self, number: int) -> Arm:
        victim, other = divmod(number, len(self.classes) - 1)
        return (Pair(self.classes[victim], self.classes[other + (other >= victim)]),)

    def _number(self, pair: Pair) -> int:
        victim, target = self._places[pair.victim], self._places[pair.target]
        return victim * (len(self.classes) - 1) + target - (target > victim)


class _Universal(Arms):
    def __len__(self) -> int:
        return len(self.classes) if len(self.classes) > 1 else 0

    def sums(self, matrix: Float[Tensor, "n n"]) -> Float[Tensor, "arms"]:
        others = ~torch.eye(len(self.classes), dtype=torch.bool)
        return self._among(matrix).T[others].view(len(self), -1).mean(1)

    def _arm(self, number: int) -> Arm:
        return (Pair(None, self.classes[number]),)

    def _number(self, pair: Pair) -> int:
        return self._places[pair.target]


def symmetric_arms(classes: Sequence[int] | int) -> Arms:
    """Every two of the classes, both directions together: MOTH's K = n(n-1)/2 arms."""
    return _Symmetric(classes)


def directed_arms(classes: Sequence[int] | int) -> Arms:
    """Every victim and target of the classes by itself: asymmetric hardening (MOTH, section IV-B)."""
    return _Directed(classes)


def universal_arms(classes: Sequence[int] | int) -> Arms:
    """Every target of the classes, with all the others as victims."""
    return _Universal(classes)


class _Drawn:
    """What the schedules share: arms, a CPU generator of their own or shared, and its state.

    Raises:
        ValueError: there is no arm.
    """

    def __init__(self, arms: Sequence[Arm] | Arms, generator: torch.Generator) -> None:
        if len(arms) == 0:
            raise ValueError("the schedule runs dry: it has 0 arms; give two classes or more")
        self._arms, self._generator = arms, generator

    def report(self, arm: Arm, growth: float) -> None:
        """Takes no notice."""

    def state(self) -> dict[str, Any]:
        """The generator's, and how many arms there are."""
        packed = zlib.compress(self._generator.get_state().numpy().tobytes())
        return {"arms": len(self._arms), "generator": base64.b64encode(packed).decode()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a schedule made with the same arguments.

        Raises:
            ValueError: that one had another number of arms.
        """
        if state["arms"] != len(self._arms):
            raise ValueError(f"the state is of a schedule of {state['arms']} arms, this one has {len(self._arms)}")
        packed = bytearray(zlib.decompress(base64.b64decode(state["generator"])))
        self._generator.set_state(torch.frombuffer(packed, dtype=torch.uint8))

    def _wanted(self, count: int) -> int:
        if count < 1:
            raise ValueError(f"{count} arms were asked for; ask for 1 or more")
        return min(count, len(self._arms))


class RandomArms(_Drawn):
    """Arms drawn uniformly, none twice in a call."""

    def choose(self, count: int) -> list[Arm]:
        """`count` different arms; fewer only if there are fewer."""
        taken: list[int] = []
        for place in torch.rand(self._wanted(count), dtype=torch.float64, generator=self._generator).tolist():
            taken.append(_other(place, len(self._arms), taken))
        return [self._arms[number] for number in taken]


class RoundRobin(_Drawn):
    """Every arm in turn, each round in a new order: Pairwise, and with universal arms Universal (MOTH, section V-A)."""

    def __init__(self, arms: Sequence[Arm] | Arms, generator: torch.Generator) -> None:
        super().__init__(arms, generator)
        self._begin(None, [])

    def choose(self, count: int) -> list[Arm]:
        """`count` different arms; fewer only if there are fewer."""
        taken: list[int] = []
        for _ in range(self._wanted(count)):
            if self._position == len(self._order):
                self._begin(int(torch.randint(2**53, (), generator=self._generator)), taken)
            taken.append(int(self._order[self._position]))
            self._position += 1
        return [self._arms[number] for number in taken]

    def state(self) -> dict[str, Any]:
        """The round by its seed, and the position in it."""
        return {**super().state(), "seed": self._seed, "last": self._last, "position": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a schedule made with the same arguments."""
        super().restore(state)
        self._begin(state["seed"], state["last"])
        self._position = state["position"]

    def _begin(self, seed: int | None, last: Sequence[int]) -> None:
        """A round; `last` are the arms that the same call has had from the round before: they come last in this one."""
        self._seed, self._last, self._position = seed, list(last), 0
        size = 0 if seed is None else len(self._arms)
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed or 0))
        late = torch.isin(order, torch.tensor(self._last, dtype=torch.long))
        self._order = torch.cat([order[~late], order[late]])


class KArm(_Drawn):
    """MOTH's scheduler (section IV-C): ε-greedy on W = (1-α)U + αV.

    What a call costs does not depend on the number of classes. Arms that were never reported have W = (1-α)u: the best of them
    come first in the order of U, which is sorted once. Only the reported arms, no more than there were reports, are scanned.
    Of arms of equal W the one of the larger u, then of the lower number, goes first.

    Args:
        arms: of which one is to be chosen.
        prior: U of Eq. 4, (n, n), rows are victims. The diagonal is not read; NaN counts as 0; -inf puts an arm last for as
            long as the prior counts.
        generator: of all draws, on the CPU.
        epsilon: share of the choices that are uniformly random (Eq. 5).
        horizon: calls of `choose` until only V counts (Eq. 7).
        decay: of V per report (Eq. 6).
        warm_up: calls of `choose` before the horizon's first (n in Eq. 7).

    Raises:
        ValueError: there is no arm; the prior has another shape; a setting is out of its range.
    """

    def __init__(
        self,
        arms: Arms,
        prior: Tensor,
        generator: torch.Generator,
        *,
        epsilon: float = 0.3,
        horizon: int = 1000,
        decay: float = 0.5,
        warm_up: int = 0,
    ) -> None:
        super().__init__(arms, generator)
        if prior.ndim != 2 or prior.shape[0] != prior.shape[1] or len(prior) <= max(arms.classes):
            raise ValueError(f"prior of shape {tuple(prior.shape)}: it must be square, with class {max(arms.classes)} in it")
        for name, value in (("epsilon", epsilon), ("decay", decay)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value} is outside 0 to 1")
        if horizon < 1 or warm_up < 0:
            raise ValueError(f"horizon {horizon} must be 1 or more, warm_up {warm_up} 0 or more")
        self._arms: Arms = arms
        self._epsilon, self._horizon, self._decay, self._warm_up = epsilon, horizon, decay, warm_up
        finite = prior.detach().double().cpu().nan_to_num(nan=0.0).clamp(-1e30, 1e30)  # 0·inf in W would be NaN
        sums = arms.sums(finite).numpy()
        self._order = np.argsort(-sums, kind="stable")  # rank → number of the arm; all below is by rank
        self._prior = sums[self._order]
        self._rank = np.empty_like(self._order)
        self._rank[self._order] = np.arange(len(sums))
        self._begin(0)

    def choose(self, count: int) -> list[Arm]:
        """`count` different arms (Eq. 5, drawn one after another); fewer only if there are fewer."""
        wanted = self._wanted(count)
        best, taken = self._best(wanted), list[int]()
        for s, place in torch.rand(wanted, 2, dtype=torch.float64, generator=self._generator).tolist():
            random = s < self._epsilon
            taken.append(_other(place, len(self._order), taken) if random else next(r for r in best if r not in taken))
        self._calls += 1
        return [self._arms[int(self._order[rank])] for rank in taken]

    def report(self, arm: Arm, growth: float) -> None:
        """v ← decay·v + growth (Eq. 6); where the growth is not finite nothing is added, but v decays all the same.

        Raises:
            ValueError: it is none of the arms.
        """
        slot = self._slot(int(self._rank[self._arms.index(arm)]))
        self._v[slot] = self._decay * self._v[slot] + (growth if math.isfinite(growth) else 0.0)

    def state(self) -> dict[str, Any]:
        """The number of calls, and V of the arms that were reported."""
        reported = self._order[np.asarray(self._ranks)].tolist()
        return {**super().state(), "calls": self._calls, "reported": reported, "v": self._v.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a schedule made with the same arguments."""
        super().restore(state)
        self._begin(state["calls"])
        for number, v in zip(state["reported"], state["v"], strict=True):
            self._v[self._slot(int(self._rank[number]))] = v

    def _begin(self, calls: int) -> None:
        self._calls = calls
        self._slots: dict[int, int] = {}  # rank → place in the three arrays of the reported arms
        self._ranks, self._u, self._v = array("q"), array("d"), array("d")
        self._skip: dict[int, int] = {}  # reported rank → a later rank, with none unreported between them

    def _slot(self, rank: int) -> int:
        """The place of an arm among the reported ones; it gets one if it has none."""
        if rank not in self._slots:
            self._slots[rank], self._skip[rank] = len(self._ranks), rank + 1
            self._ranks.append(rank)
            self._u.append(self._prior[rank])
            self._v.append(0.0)
        return self._slots[rank]

    def _best(self, count: int) -> list[int]:
        """Ranks by falling W (Eq. 7): among them the `count` best of the reported and the `count` best of the other arms."""
        alpha = min(max(self._calls - self._warm_up, 0) / self._horizon, 1.0)
        ranks = np.asarray(self._ranks)
        w = (1 - alpha) * np.asarray(self._u) + alpha * np.asarray(self._v)
        if len(w) > count:
            top = w >= np.partition(w, -count)[-count]
            ranks, w = ranks[top], w[top]
        scored = list(zip((-w).tolist(), ranks.tolist(), strict=True))
        rank = self._unreported(0)
        for _ in range(count):
            if rank < len(self._prior):
                scored.append((-(1 - alpha) * float(self._prior[rank]), rank))
                rank = self._unreported(rank + 1)
        return [rank for _, rank in sorted(scored)]

    def _unreported(self, rank: int) -> int:
        """The first such rank from here on; the way there is halved for the next time (as in union-find)."""
        while rank in self._skip:
            beyond = self._skip[rank]
            self._skip[rank] = beyond = self._skip.get(beyond, beyond)
            rank = beyond
        return rank


def _other(place: float, size: int, taken: Sequence[int]) -> int:
    """Of the numbers below `size` that are not taken, the one at `place` in [0, 1)."""
    number = int(place * (size - len(taken)))
    for passed in sorted(taken):
        number += number >= passed
    return number
