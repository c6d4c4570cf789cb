"""How strong distillation is beside the detection loss: gradient ratios, a limit, and compensation of detection.

Losses of different methods have different scales: the same coefficient is far too small for one pair of networks and far too
large for another. What the student learns depends on the gradients at the parameters that distillation and detection share,
those of backbone and neck (the trunk). So their ratio is set, limited and reported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cfg import UserError, is_number, is_whole, nearest
from distill.base import Term, portions_of
from distill.gradients import GradientProducts
from distill.schedule import DECAYS, Schedule

LATEST = 0.5  # weight of a measurement in the running mean that a gain follows
FASTEST = math.log(4.0)  # largest change of that mean by one measurement: in some batches a loss has hardly a gradient
SETTLED = 6  # measurements after which a gain stays, without `hold`


class Balance(nn.Module):
    """Gains of the distillation terms, a limit on their gradient, and the compensation of detection.

    A term's *share* is its gradient ratio: the Euclidean norm of its gradient at the parameters of the student's trunk over that
    of the detection loss. Terms with one adaptive weight form a group and get one gain. Between two measurements only the schedule
    changes what is applied.

    Differs from the papers, which give each loss a fixed coefficient: by default gains follow the gradients, so that the
    groups of a method have the ratio `share` together, each an equal part, from the first step to the last. A coefficient that
    was right at the start is not later: while the detection loss's gradient falls, that of a feature loss may grow (from a
    tenth to four times the detection loss's within three epochs, see benchmarks/neu-det.md). `hold=False` sets gains at
    the start only, `share=None` keeps the methods' own coefficients. Ratios are not measured at the neck's feature maps: a
    gradient that is equal at every cell (a shift of a channel's mean, a divergence over all cells) adds up in the parameters.

    Differs from the papers also in `project`: where the sum D of all distillation terms opposes the detection loss L, the
    student is trained on (1 + c) L + D with c = max(0, -<g_D, g_L> / |g_L|^2), so that at the trunk the component of D
    that opposes L is cancelled (as PCGrad, Yu et al. 2020, does with two tasks' gradients).

    Adaptive weights multiply the gains. Gradients add up as vectors: the ratio of all terms is at most the sum of theirs.

    Args:
        terms: of the method; those that train the method itself are ignored. A group's `portion` is its part of its
            method's share, its `strength` a factor on its share or, without one, on its loss.
        share: gradient ratio of each method, or None.
        hold: whether gains follow the gradients after the first `SETTLED` measurements.
        cap: largest ratio of all terms together; None: no limit.
        project: whether the detection loss is compensated as above.
        warmup, until, decay: of `Schedule`.
        every: steps between two measurements, each of which costs a backward pass per term. At the start, where gradients change
            quickly, steps 1, 2, 4, 8 ... are measured too.

    Raises:
        UserError: a value out of its range.
    """

    members: Tensor
    aims: Tensor
    strengths: Tensor
    gains: Tensor
    trusts: Tensor
    ratios: Tensor
    measured: Tensor
    shares: Tensor
    cosines: Tensor
    together: Tensor
    steps: Tensor

    def __init__(
        self,
        terms: Sequence[Term],
        share: float | None = 0.3,
        hold: bool = True,
        cap: float | None = None,
        project: bool = True,
        warmup: float = 0.0,
        until: float = 1.0,
        decay: str = "none",
        every: int = 50,
    ) -> None:
        super().__init__()
        check_balance({"kd_share": share, "kd_cap": cap, "kd_hold": hold, "kd_project": project, "kd_warmup": warmup,
                       "kd_until": until, "kd_decay": decay, "kd_every": every})  # fmt: skip
        acting, portions = [term for term in terms if not term.own], portions_of(terms)
        self.terms, self.names = [term.name for term in acting], list(portions)
        self.share, self.hold, self.cap, self.project, self.every = share, hold, cap, project, every
        self.schedule = Schedule(warmup, until, decay)
        members = torch.tensor([[float(term.weight == name) for term in acting] for name in self.names])
        strengths = {term.weight: term.strength for term in acting}
        strength = torch.tensor([float(strengths[name]) for name in self.names])
        portion = torch.tensor([float(portions[name]) for name in self.names])
        self.register_buffer("members", members.view(len(self.names), len(self.terms)), persistent=False)
        self.register_buffer("aims", strength * portion * (share or 0.0), persistent=False)  # of each group's share
        self.register_buffer("strengths", strength, persistent=False)
        # A group whose gradient was never measured does nothing: its loss has no known unit.
        self.register_buffer("gains", strength.clone() if share is None else torch.zeros_like(strength))
        self.register_buffer("trusts", torch.ones_like(strength), persistent=False)  # of each group in this step, see `trust`
        self.register_buffer("ratios", torch.zeros(len(self.names)))  # running mean of log(detection's length / group's)
        self.register_buffer("measured", torch.zeros(len(self.names), dtype=torch.long))  # times with a gradient
        self.register_buffer("shares", torch.zeros(len(self.terms) + 1))  # last measured, of each term and of all together
        self.register_buffer("cosines", torch.zeros(len(self.terms) + 1))  # likewise, with the detection loss
        self.register_buffer("together", torch.zeros(()))  # ratio of all terms where the schedule leaves them whole, before the cap
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def rest(self) -> None:
        """Note that distillation did nothing in this step."""
        self.shares.zero_()
        self.cosines.zero_()

    def trust(self, given: Mapping[str, float]) -> None:
        """Set the part of its gradient ratio that each group has in this step, 0 to 1, by weight; 1 where left out."""
        self.trusts.copy_(torch.tensor([given.get(name, 1.0) for name in self.names]))

    def limit(self, left: float) -> Tensor:
        """What the cap leaves of all distillation terms, 0-d, 0 to 1, when the schedule leaves `left` of them."""
        if self.cap is None:
            return torch.ones_like(self.together)
        return (self.cap / (self.together * left).clamp(min=torch.finfo(torch.float32).tiny)).clamp(max=1.0)

    def given_back(self, left: float) -> Tensor:
        """c, 0-d: what is added to the detection loss's weight when the schedule leaves `left` of the terms."""
        return (-self.cosines[-1] * self.together * left * self.limit(left)).clamp(min=0) * self.project

    def gained(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Terms times their groups' gains and trust, as the student is trained on; those without a group as they are."""
        return self._times(self.gains * self.trusts, terms)

    def plain(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Terms times their groups' strengths, as they are reported: gains change, so gained losses would not compare between epochs."""
        return self._times(self.strengths, terms)

    def _times(self, factors: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        by_term = dict(zip(self.terms, self.members.T @ factors)) if self.terms else {}
        return {name: term * by_term[name] if name in by_term else term for name, term in terms.items()}

    def due(self) -> bool:
        """Whether this step is to be measured. Counts the step."""
        self.steps += 1
        count = int(self.steps)
        doubled = count < self.every and count & (count - 1) == 0
        return bool(self.terms) and (doubled or count % self.every == 1 % self.every)

    def update(self, products: GradientProducts, weights: Mapping[str, Tensor], left: float = 1.0) -> None:
        """Set gains, and note ratios and cosines, by which limit and compensation go, from the gradients of one step.

        Args:
            products: of all detection terms with their weights, and of the method's terms before gains and weights.
            weights: adaptive weight by group.
            left: factor of the schedule in this step, above 0, at most 1.
        """
        if not products.known:
            return
        self._settle(products)
        group = torch.stack([weights[name].detach().to(self.gains) for name in self.names]) * self.gains * self.trusts * left
        factors = self.members.T @ group
        factors = torch.cat((factors.diag(), factors[None]))  # of each term, and of all together
        shares, cosines = products.lengths(factors) / products.detection, products.cosines(factors)
        self.together.copy_(shares[-1] / left)
        self.shares.copy_(shares * self.limit(left))
        self.cosines.copy_(cosines)

    def _settle(self, products: GradientProducts) -> None:
        """Set the gains by which each group has its gradient ratio, by a running mean of the measurements."""
        if self.share is None:
            return
        lengths = products.lengths(self.members)
        open_ = (lengths > 0) & ((self.measured < SETTLED) | self.hold)
        moved = (products.detection / lengths.clamp(min=torch.finfo(torch.float32).tiny)).log() - self.ratios
        moved = torch.where(self.measured == 0, moved, LATEST * moved.clamp(-FASTEST, FASTEST))
        self.ratios += torch.where(open_, moved, 0.0)
        self.measured += open_
        self.gains.copy_(torch.where(self.measured > 0, self.aims * self.ratios.exp(), self.gains))

    def as_items(self) -> dict[str, Tensor]:
        """`share_<term>` and `cos_<term>` for progress lines and tables, and `share_all`, `cos_all` of their sum."""
        names = [term.removesuffix("_loss") for term in self.terms] + ["all"] if self.terms else []
        noted = (("share", self.shares), ("cos", self.cosines))
        return {f"{kind}_{name}": value.clone() for kind, values in noted for name, value in zip(names, values)}


def check_balance(given: Mapping[str, object]) -> None:
    """Raise `UserError` for an argument of the balance (by its name on the command line) that is out of range."""
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "kd_share": (lambda v: v is None or (is_number(v) and v > 0), "a number above 0 as 0.3, or None"),
        "kd_cap": (lambda v: v is None or (is_number(v) and v > 0), "a number above 0 as 0.5, or None"),
        "kd_hold": (lambda v: isinstance(v, bool), "True or False"),
        "kd_project": (lambda v: isinstance(v, bool), "True or False"),
        "kd_warmup": (lambda v: is_number(v) and 0 <= v < 1, "a fraction of training, 0 or more and below 1"),
        "kd_until": (lambda v: is_number(v) and 0 < v <= 1, "a fraction of training above 0, at most 1"),
        "kd_every": (is_whole, "a whole number of steps, 1 or more"),
    }
    for name, (holds, wanted) in rules.items():
        if name in given and not holds(given[name]):
            raise UserError(f"{name}: expected {wanted}, got {given[name]!r}; correct it or leave it out")
    warmup, until = given.get("kd_warmup", 0.0), given.get("kd_until", 1.0)
    if is_number(warmup) and is_number(until) and 0 < warmup >= until:
        raise UserError(f"kd_warmup: expected less than kd_until, {until}, got {warmup}: distillation would end before it has its whole ratio")
    decay = given.get("kd_decay", "none")
    if decay not in DECAYS:
        raise UserError(f"kd_decay: expected {' or '.join(DECAYS)}, got {decay!r}{nearest(str(decay), DECAYS)}")
