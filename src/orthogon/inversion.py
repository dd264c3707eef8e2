"""The one inversion loop: for many (victim, target) pairs at once, the smallest trigger that works.

Every pair searches from several random starts in one batch. A search minimises a classification loss plus a weight times the
trigger's size (MOTH, Eq. 1), or what its family has in the size's place; the weight rises while the trigger works on enough
samples and falls while it does not. Searches that fall behind are dropped from stage to stage. What distinguishes the loop
from the authors' is said where it happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from orthogon.engine import Engine, leads_of
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.protocols import Stage
from orthogon.triggers import Notes, Seen, Trigger, TriggerFamily


@dataclass(frozen=True, eq=False)
class Request:
    """One inversion to make."""

    pair: Pair
    row: int
    """Of the engine's samples: the victim's images."""
    seed: int
    """Of all random draws of this inversion."""
    start: Trigger | None = None
    """A trigger, without a leading dimension, from which the first search starts."""
    weight: float | None = None
    """Of the size against the loss at the start; None: the settings' one."""


def invert(
    engine: Engine,
    family: TriggerFamily,
    requests: Sequence[Request],
    on_progress: Callable[[float], None] | None = None,
) -> list[Inversion]:
    """Search the smallest triggers of some pairs together, and have the original model judge them in float32.

    A pair's result depends on its own seed and samples, not on the pairs beside it.

    Args:
        engine: the prepared model with its samples.
        family: of the triggers.
        requests: one per pair.
        on_progress: told the share of the work done, 0 to 1, now and then.

    Returns:
        One inversion per request, in their order.
    """
    search = _Search(engine, family, requests)
    settings, total, done = engine.settings, engine.settings.image_steps, 0
    for stage in settings.stages:
        search.keep(stage.restarts)
        for step in range(stage.steps):
            if stage.accept_every and step % stage.accept_every == 0:
                search.accept(stage)
            if search.done:
                break
            search.step(stage, step)
            done += stage.restarts * stage.batch
            if on_progress is not None and step % 8 == 0:
                on_progress(min(1.0, done / total))
    return search.results()


class _Search:
    """All searches of one call: a batch of free parameters with their Adam state, weights and latest results."""

    def __init__(self, engine: Engine, family: TriggerFamily, requests: Sequence[Request]) -> None:
        self.engine, self.family, self.settings = engine, family, engine.settings
        self.fast = family.at(engine.copy.precision)
        self.notes = _noted(engine, family)
        self.requests = list(requests)
        self.left: dict[int, list[_Attempt]] = {}
        self.taken = 0
        starts = self.settings.stages[0].restarts
        self.owner = [i for i in range(len(self.requests)) for _ in range(starts)]
        self.generators = [
            torch.Generator().manual_seed(request.seed * 1009 + n) for request in self.requests for n in range(starts)
        ]
        self._begin(starts)
        self._place()

    def _begin(self, starts: int) -> None:
        """Everything that a search knows, before its first step."""
        device, count = self.engine.device, self.engine.count
        channels, height, width = self.engine.samples.shape[2:]
        row_of = [self.requests[i].row for i in self.owner]
        draws = [self.family.draw(self.engine.row(row), g) for row, g in zip(row_of, self.generators, strict=True)]
        for i, request in enumerate(self.requests):
            if request.start is not None:
                start = {k: v[None].cpu() for k, v in request.start.items()}
                draws[i * starts] = self.family.free(self.family.carried(start, self.engine.row(request.row)))
        tasks = len(draws)
        self.free = {name: torch.cat([d[name] for d in draws]).to(device) for name in draws[0]}
        self.first = {name: torch.zeros_like(value) for name, value in self.free.items()}
        self.second = {name: torch.zeros_like(value) for name, value in self.free.items()}
        self.best = self._now()
        self.best_size = torch.full((tasks,), math.inf, device=device)
        self.best_rate = torch.zeros(tasks, device=device)
        weight = self.settings.weight * 1e-3 * 1024 / self.family.typical((channels, height, width))
        self.weight = torch.full((tasks,), weight, device=device)
        for i, request in enumerate(self.requests):
            if request.weight is not None:
                self.weight[i * starts : (i + 1) * starts] = request.weight
        self.lead = torch.zeros(tasks, count, device=device)
        self.seen = torch.zeros(tasks, count, dtype=torch.bool, device=device)
        self.streak = torch.zeros(tasks, device=device)
        self.score = torch.zeros(tasks, device=device)
        self.stale = torch.zeros(tasks, device=device)
        self._confirm(starts)

    def _confirm(self, starts: int) -> None:
        """A given trigger that works is what its search has to better."""
        for i, request in enumerate(self.requests):
            if request.start is None:
                continue
            n, one = i * starts, _one(self.best, i * starts)
            shown = self._shown(one, request.row)
            rate = self.engine.success(shown.stamped[0], request.pair.target)
            if rate >= self.settings.asr - _EXACT:
                self.best_size[n], self.best_rate[n] = self.family.size(one, shown)[0], rate

    def _now(self) -> Trigger:
        """The triggers that all searches stand at, as they would be kept."""
        return self.family.stored(self.family.realise(self.free))

    def _shown(self, one: Trigger, row: int, family: TriggerFamily | None = None) -> Seen:
        """One trigger on all images of a row, by the family or another arithmetic of it."""
        images, notes = self.engine.row(row)[None], {name: value[row][None] for name, value in self.notes.items()}
        return Seen(images, (family or self.family).stamp(one, images, notes), notes)

    @property
    def done(self) -> bool:
        """Whether every pair has left."""
        return not self.owner

    def _place(self) -> None:
        """Rows of samples and target classes of the searches that are left."""
        requests, device = [self.requests[i] for i in self.owner], self.engine.device
        self.rows = torch.tensor([r.row for r in requests], dtype=torch.int64, device=device)
        self.targets = torch.tensor([r.pair.target for r in requests], dtype=torch.int64, device=device)
        self.keys: Tensor | None = None

    def keep(self, restarts: int) -> None:
        """Drop all but the most promising `restarts` searches of each pair."""
        score = torch.where(self.best_size.isfinite(), self.best_size, self.score).nan_to_num(math.inf).tolist()
        chosen: list[int] = []
        for i in sorted(set(self.owner)):
            chosen += sorted(sorted(self._searches_of(i), key=lambda n: score[n])[:restarts])
        if len(chosen) < len(self.owner):
            self._select(chosen)

    def _searches_of(self, i: int) -> list[int]:
        return [n for n, owner in enumerate(self.owner) if owner == i]

    def _select(self, chosen: list[int]) -> None:
        index = torch.tensor(chosen, dtype=torch.int64, device=self.engine.device)
        for name in ("free", "first", "second", "best"):
            setattr(self, name, {key: value[index] for key, value in getattr(self, name).items()})
        for name in ("weight", "lead", "seen", "streak", "score", "best_size", "best_rate", "stale"):
            setattr(self, name, getattr(self, name)[index])
        self.owner = [self.owner[n] for n in chosen]
        self.generators = [self.generators[n] for n in chosen]
        self._place()

    def step(self, stage: Stage, step: int) -> None:
        """One gradient step of every search."""
        batch = min(stage.batch, self.engine.count)
        given_up, active = self._state_of_samples()
        chosen = self._choose(batch, active, step)
        share = self._shares(given_up, active, chosen)
        width = self._at_once(batch)
        parts = [slice(start, start + width) for start in range(0, len(self.owner), width)]
        leads, sizes, gradients = zip(*(self._pull(part, chosen[part], share[part]) for part in parts), strict=True)
        self.lead.scatter_(1, chosen, torch.cat(leads))
        self.seen.scatter_(1, chosen, True)
        self._descend({name: torch.cat([g[name] for g in gradients]) for name in self.free}, stage, step)
        self._steer(torch.cat(sizes), stage, step)

    def _at_once(self, batch: int) -> int:
        """Searches of one pull: of a family with networks, as many as have the pixels there of a chunk for the model."""
        if not self.family.on_samples:
            return len(self.owner)
        channels, height, width = self.engine.samples.shape[2:]
        pixels = batch * self.family.pixels((channels, height, width))
        return max(1, self.engine.copy.chunk * height * width // pixels)

    def _pull(
        self, part: slice, chosen: Int64[Tensor, "some batch"], share: Float[Tensor, "some batch"]
    ) -> tuple[Float[Tensor, "some batch"], Float[Tensor, " some"], Trigger]:
        """Leads, sizes and gradients of some searches on their chosen samples."""
        batch, places = chosen.shape[1], (self.rows[part][:, None], chosen)
        images, notes = self.engine.samples[places].float() / 255, {k: v[places] for k, v in self.notes.items()}
        targets = self.targets[part].repeat_interleave(batch)
        free = {name: value[part].detach().requires_grad_() for name, value in self.free.items()}
        trigger = self.fast.realise(free)
        stamped = self.fast.stamp(trigger, images, notes)
        size, penalty = self.fast.measured(trigger, Seen(images, stamped, notes))
        logits, pull = self.engine.copy.gradient(stamped.detach().flatten(0, 1), targets, share.flatten())
        pulls = [pull.view_as(stamped).float(), self.weight[part]]
        gradients = torch.autograd.grad([stamped, penalty], list(free.values()), pulls, materialize_grads=True)
        leads = leads_of(logits, targets) / self.engine.scale
        return leads.view(-1, batch), size.detach(), dict(zip(free, gradients, strict=True))

    def _state_of_samples(self) -> tuple[Bool[Tensor, "tasks count"], Bool[Tensor, "tasks count"]]:
        """Which samples are given up, and which of the others are not safely turned yet, by their latest results."""
        settings, count = self.settings, self.engine.count
        given_up = torch.zeros_like(self.seen)
        spared = int(settings.spare * (1 - settings.asr) * count + 1e-6)
        if spared:
            known = torch.where(self.seen, self.lead, math.inf)
            hardest = known.kthvalue(spared, dim=1, keepdim=True).values
            given_up = self.seen & (self.lead <= hardest) & (self.lead < 0)
        return given_up, ~given_up & (~self.seen | (self.lead < settings.lead))

    def _choose(self, batch: int, active: Bool[Tensor, "tasks count"], step: int) -> Int64[Tensor, "tasks batch"]:
        """The samples of this step: those that pull come first; without focus, a window of a shuffle of all."""
        count = self.engine.count
        windows = 1 if self.settings.focus else max(1, count // batch)
        row = step // windows % _DRAWN
        if self.keys is None or (row == 0 and step % windows == 0):
            draws = [torch.rand(_DRAWN, count, generator=g) for g in self.generators]
            self.keys = torch.stack(draws).to(self.engine.device)
        keys = self.keys[:, row]
        if self.settings.focus:
            return (keys + active).topk(batch, dim=1).indices
        return keys.argsort(dim=1)[:, step % windows * batch :][:, :batch]

    def _shares(
        self, given_up: Bool[Tensor, "tasks count"], active: Bool[Tensor, "tasks count"], chosen: Tensor
    ) -> Float[Tensor, "tasks batch"]:
        """What each chosen sample weighs in the loss, so that the batch stands for all samples."""
        pulls = active.gather(1, chosen)
        if not self.settings.focus:
            return (~given_up.gather(1, chosen)).float() / chosen.shape[1]
        stands_for = active.sum(1, keepdim=True) / pulls.sum(1, keepdim=True).clamp(min=1)
        share = torch.where(pulls, stands_for, 1.0) / self.engine.count
        return share.masked_fill(given_up.gather(1, chosen), 0.0)

    def _descend(self, gradients: Trigger, stage: Stage, step: int) -> None:
        """One step of Adam, each search with its own state."""
        self.taken += 1
        (b1, b2), (start, end) = self.settings.betas, stage.rates
        rate = start * (end / start) ** (step / max(1, stage.steps - 1))
        for name, gradient in gradients.items():
            first = self.first[name].lerp_(gradient, 1 - b1)
            second = self.second[name].mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
            scale = (second / (1 - b2**self.taken)).sqrt_().add_(1e-12)
            self.free[name].addcdiv_(first, scale, value=-rate / (1 - b1**self.taken))
        self.family.confine(self.free)

    def _steer(self, size: Float[Tensor, " tasks"], stage: Stage, step: int) -> None:
        """Move the size's weight by the rule of patience, and keep the score by which searches are dropped."""
        settings = self.settings
        rate = ((self.lead > 0) & self.seen).sum(1) / self.seen.sum(1)
        if step >= 0.7 * stage.steps:
            score = size * (1 + 2 * (settings.asr - rate).clamp(min=0))
            self.score = torch.where(self.score > 0, self.score.lerp(score, 0.2), score)
        if (step + 1) % settings.check_every:
            return
        ahead = rate >= settings.asr - _EXACT
        turned = torch.where(ahead, 1.0, -1.0)
        self.streak = turned + torch.where(self.streak.sign() == turned, self.streak, 0.0)
        due = self.streak.abs() >= settings.weight_patience
        factor = torch.where(ahead, settings.raise_by, 1 / settings.lower_by)
        self.weight = torch.where(due, self.weight * factor, self.weight)
        self.streak = torch.where(due, 0.0, self.streak)

    def accept(self, stage: Stage) -> None:
        """Test every search on all samples of its pair: the copy looks, and the judge decides what is smaller than before.

        A search with nothing confirmed yet eases its weight. This reads results back, once in `accept_every` steps.
        """
        trigger = self._now()
        self.lead, size = self._looks(trigger)
        rates = (self.lead > 0).float().mean(1)
        smaller = size < _WORTH_JUDGING * self.best_size
        if self.engine.exact:
            hopeful, rates = smaller & (rates >= self.settings.asr - 0.02), torch.zeros_like(rates)
            for n in hopeful.nonzero()[:, 0].tolist():
                one, request = _one(trigger, n), self.requests[self.owner[n]]
                shown = self._shown(one, request.row)
                rates[n] = self.engine.success(shown.stamped[0], request.pair.target)
                if self.family.on_samples:
                    size[n] = self.family.size(one, shown)[0]
        rates = torch.where(smaller, rates, 0.0)
        better = rates >= self.settings.asr - _EXACT
        self.best_rate = torch.where(better, rates, self.best_rate)
        self.seen.fill_(True)
        self.stale = torch.where(better, 0.0, self.stale + 1)
        self.best_size = torch.where(better, size, self.best_size)
        self.best = {name: torch.where(_wide(better, value), trigger[name], value) for name, value in self.best.items()}
        self.weight = torch.where(self.best_size.isfinite(), self.weight, self.weight / self.settings.ease)
        if self.settings.jitter:
            self._shake(better)
        if stage.patience:
            self._leave(stage.patience)

    def _looks(self, trigger: Trigger) -> tuple[Float[Tensor, "tasks count"], Float[Tensor, " tasks"]]:
        """Leads, as the copy sees them, and sizes of every search on all its samples; measured ones in the copy's precision."""
        if not self.family.on_samples:
            size = self.family.size(trigger)
            return self._leads(trigger), size
        leads, sizes = [], []
        for n, target in enumerate(self.targets):
            one = _one(trigger, n)
            shown = self._shown(one, self.requests[self.owner[n]].row, self.fast)
            leads.append(self.engine.leads(shown.stamped[0], target.expand(self.engine.count)))
            sizes.append(self.fast.size(one, shown)[0])
        return torch.stack(leads), torch.stack(sizes)

    def _leads(self, trigger: Trigger) -> Float[Tensor, "tasks count"]:
        """By how much the target leads on every sample of every search, as the copy sees it."""
        if not self.engine.exact:  # all at once: there, a pair's digits may depend on the pairs beside it
            stamped = self.family.stamp(trigger, self.engine.samples[self.rows].float() / 255)
            targets = self.targets.repeat_interleave(self.engine.count)
            return self.engine.leads(stamped.flatten(0, 1), targets).view(len(self.owner), -1)
        count = (self.engine.count,)
        each = [self.engine.leads(self._stamped(trigger, n), t.expand(count)) for n, t in enumerate(self.targets)]
        return torch.stack(each)

    def _stamped(self, trigger: Trigger, n: int) -> Float[Tensor, "count c h w"]:
        """All samples of a search's victim, stamped with its trigger."""
        return self._shown(_one(trigger, n), self.requests[self.owner[n]].row).stamped[0]

    def _shake(self, improved: Bool[Tensor, " tasks"]) -> None:
        """Algorithm 1, lines 18-19: noise on what has just improved."""
        noisy = self.family.jitter(self.family.realise(self.free), self.settings.jitter, self.generators)
        moved = self.family.free(noisy)
        self.free = {k: torch.where(_wide(improved, v), moved[k], v) for k, v in self.free.items()}

    def _leave(self, patience: int) -> None:
        """Pairs whose searches have all stopped to improve leave the batch."""
        waits = (self.stale < patience).tolist()
        alive = {owner for owner, wait in zip(self.owner, waits, strict=True) if wait}
        for i in set(self.owner) - alive:
            self.left[i] = self._attempts(i)
        if len(alive) < len(set(self.owner)):
            self._select([n for n, owner in enumerate(self.owner) if owner in alive])

    def _attempts(self, i: int) -> list[_Attempt]:
        """What each search of a pair has to show: its smallest confirmed trigger, else where it stands now."""
        now, attempts = self._now(), []
        for n in self._searches_of(i):
            found = bool(self.best_size[n].isfinite())
            trigger = {k: v[n].clone() for k, v in (self.best if found else now).items()}
            size, rate, weight = (float(t[n]) for t in (self.best_size, self.best_rate, self.weight))
            turned = float((self.lead[n] > 0).float().mean())
            attempts.append(_Attempt(found, size, rate, trigger, self.taken, weight, turned))
        return attempts

    def results(self) -> list[Inversion]:
        """Each pair's smallest confirmed trigger, after a last test of those that are still searched."""
        if not self.done:
            self.accept(replace(self.settings.stages[-1], patience=0))
        attempts = {**self.left, **{i: self._attempts(i) for i in set(self.owner)}}
        return [self._result(request, attempts[i]) for i, request in enumerate(self.requests)]

    def _result(self, request: Request, attempts: list[_Attempt]) -> Inversion:
        pair = request.pair
        found = sorted((a for a in attempts if a.found), key=lambda a: a.size)
        if found:
            best, sizes = found[0], tuple(a.size for a in found)
            trigger = _on_cpu(best.trigger)
            return Inversion(pair, Outcome.FOUND, best.size, best.rate, trigger, sizes, best.steps, best.weight)
        failed = max(attempts, key=lambda a: a.turned)
        one = {k: v[None] for k, v in failed.trigger.items()}
        shown = self._shown(one, request.row)
        stamped = shown.stamped[0]
        finite = bool(stamped.isfinite().all())
        rate = self.engine.success(stamped, pair.target) if finite else math.nan
        if rate >= self.settings.asr - _EXACT:  # the copy, which had not thought so, may differ on a few samples
            size, trigger = float(self.family.size(one, shown)[0]), _on_cpu(failed.trigger)
            return Inversion(pair, Outcome.FOUND, size, rate, trigger, (size,), failed.steps, failed.weight)
        outcome = Outcome.ASR if math.isfinite(rate) else Outcome.NOT_FINITE
        return Inversion(pair, outcome, math.nan, rate, _on_cpu(failed.trigger), (), failed.steps, failed.weight)


@dataclass(frozen=True, eq=False)
class _Attempt:
    """What one search has come to."""

    found: bool
    size: float
    rate: float
    trigger: Trigger
    steps: int
    weight: float
    turned: float
    """Share of the samples that it turns now, as the copy sees it."""


_DRAWN = 64
"""Steps for which sample orders are drawn at once, per search, so that a pair's draws are its own."""
_WORTH_JUDGING = 0.995
"""A trigger has to be so much smaller than the last confirmed one before the judge is asked again."""
_EXACT = 1e-6
"""Slack against the rounding of a share."""


def _noted(engine: Engine, family: TriggerFamily) -> Notes:
    """What the family notes of the engine's samples, (rows, count, ...): once, for all searches and all their steps."""
    if not family.on_samples:
        return {}
    rows = [family.notes(engine.row(row)) for row in range(len(engine.samples))]
    return {name: torch.stack([notes[name] for notes in rows]) for name in rows[0]}


def _one(trigger: Trigger, n: int) -> Trigger:
    """The n-th of some triggers."""
    return {name: value[n : n + 1] for name, value in trigger.items()}


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.dim() - 1))


def _on_cpu(trigger: Trigger) -> Trigger:
    return {name: value.detach().cpu() for name, value in trigger.items()}
