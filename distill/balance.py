"""How hard distillation may pull at the student, beside the detection loss.

Losses of different methods have units of their own: the same coefficient is a whisper for one pair of networks and drowns the
detection loss for another. What counts for the student is the gradient that arrives at its neck, so that is what is set,
limited and reported here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cfg import UserError, is_number, nearest
from distill.gradients import gradient_products

DECAYS = ("none", "cosine")
FAINTEST = 1e-3  # of distillation when its warm-up starts: AdamW's steps do not shrink with it, so that adapters learn
WINDOW = 8  # measurements over which a group's gain is settled, and then follows


class Balance(nn.Module):
    """Gains of the distillation terms, a limit on their gradient, their end, and the shares that are reported.

    A term's *share* is the Euclidean length of its gradient at the student's neck outputs (all levels together) over that
    of the detection loss. Terms that share an adaptive weight form a group and get one gain.

    Differs from the papers, which give each loss a fixed coefficient: by default gains follow the gradients, so that the
    groups of a method pull with `share` together, each with an equal part, from the first step to the last. A coefficient that
    was right at the start is not later: while the detection loss's gradient falls, that of a feature loss may grow (from a
    tenth to four times the detection loss's within three epochs, see benchmarks/neu-det.md). `hold=False` settles gains at
    the start only, `share=None` keeps the methods' own coefficients.

    Adaptive weights multiply on top of that, and parts add up as vectors do: the share of all is at most the sum of theirs.

    Args:
        groups: distillation term -> group, without the terms that train the method itself.
        portions: group -> its part of its method's share; 1 where left out.
        strengths: group -> factor on its share (or, without one, on its loss); 1 where left out.
        share: of each method, or None.
        hold: whether gains go on following the gradients after the first `WINDOW` measurements.
        cap: largest share of all terms together, at every step; None: no limit. Every step then measures: one more backward
            pass per term through the neck's coarser levels, and through the head with float16 or learned weights.
        warmup: fraction of training over which distillation comes up to its share. Adapters start from random weights: what
            they ask of the student at first is noise.
        until: fraction of training after which distillation is off.
        decay: `cosine` lets it fade from full strength at the start to nothing at `until`, `none` keeps it up.
        every: steps between two measurements, once gains are settled and where no cap needs one at every step.

    Raises:
        UserError: a value out of its range.
    """

    gains: Tensor
    shares: Tensor

    def __init__(
        self,
        groups: Mapping[str, str],
        portions: Mapping[str, float] | None = None,
        strengths: Mapping[str, float] | None = None,
        share: float | None = 0.3,
        hold: bool = True,
        cap: float | None = None,
        warmup: float = 0.0,
        until: float = 1.0,
        decay: str = "none",
        every: int = 10,
    ) -> None:
        super().__init__()
        check_balance({"kd_share": share, "kd_cap": cap, "kd_hold": hold, "kd_warmup": warmup, "kd_until": until,
                       "kd_decay": decay, "kd_every": every})  # fmt: skip
        self.terms, self.names = list(groups), list(dict.fromkeys(groups.values()))
        self.share, self.hold, self.cap, self.every = share, hold, cap, every
        self.warmup, self.until, self.decay = warmup, until, decay
        members = torch.tensor([[float(groups[t] == name) for t in self.terms] for name in self.names])
        strength, portion = (
            torch.tensor([float((given or {}).get(name, 1.0)) for name in self.names]) for given in (strengths, portions)
        )
        self.register_buffer("members", members.view(len(self.names), len(self.terms)), persistent=False)
        self.register_buffer("aims", strength * portion * (share or 0.0), persistent=False)  # of each group's share
        self.register_buffer("strengths", strength, persistent=False)
        self.register_buffer("gains", strength.clone())
        self.register_buffer("lengths", torch.zeros(2, len(self.names)))  # running means of gradients: detection's, group's
        self.register_buffer("measured", torch.zeros(len(self.names), dtype=torch.long))  # times with a gradient
        self.register_buffer("shares", torch.zeros(len(self.terms) + 1))  # last measured, of each term and of all together
        self.register_buffer("limit", torch.ones(()))  # what the cap leaves of the distillation terms
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.settling = share is not None

    def fade(self, progress: float) -> float:
        """What the schedule leaves of distillation at `progress` (0..1) of training."""
        if progress >= self.until:
            return 0.0
        decayed = (1 + math.cos(math.pi * progress / self.until)) / 2 if self.decay == "cosine" else 1.0
        return decayed * max(progress / self.warmup, FAINTEST) if progress < self.warmup else decayed

    def rest(self) -> None:
        """Note that distillation did nothing in this step."""
        self.shares.zero_()

    def gained(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Terms times their groups' gains, as the student is trained on; those without a group as they are."""
        return self._times(self.gains, terms)

    def plain(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Terms times their groups' strengths, as they are reported: gains move, and what moves with them says nothing."""
        return self._times(self.strengths, terms)

    def _times(self, factors: Tensor, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        by_term = dict(zip(self.terms, self.members.T @ factors)) if self.terms else {}
        return {name: term * by_term[name] if name in by_term else term for name, term in terms.items()}

    def due(self, terms: Mapping[str, Tensor]) -> bool:
        """Whether this step, with these terms, is to be measured; counts the step.

        A group whose gain is not settled is measured as soon as its method switches it on.
        """
        if not self.terms:
            return False
        self.steps += 1
        if int(self.steps) % self.every == 1 % self.every or self.cap is not None:
            return True
        if not self.settling:
            return False
        values = torch.stack([terms[name].detach().float().abs() for name in self.terms])
        found = ((self.measured < WINDOW) & (self.members @ values > 0)).any().float()
        if _distributed():  # all measure, or none: a process whose images have no boxes may have nothing to settle
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def measure(
        self, detection: Tensor, terms: Mapping[str, Tensor], weights: Mapping[str, Tensor], feats: Sequence[Tensor],
        fade: float = 1.0,
    ) -> None:
        """Settle gains, and note shares and limit, from the gradients of one step.

        Args:
            detection: 0-d, all detection terms with their weights.
            terms: the method's terms before gains and weights, 0-d.
            weights: adaptive weight by group.
            feats: the student's neck outputs, in the graph of all of these.
            fade: of this step.
        """
        products = gradient_products([detection, *(terms[name] for name in self.terms)], feats)
        if _distributed():  # every process must come to the same gains
            dist.all_reduce(products)
            products /= dist.get_world_size()
        finite = bool(products.isfinite().all())
        detection_length, products = products[0, 0].sqrt(), products[1:, 1:]
        if not finite or not detection_length > 0:
            return  # without boxes detection may have none, and gradients that are no numbers say nothing
        self._settle(detection_length, products)
        group = torch.stack([weights[name].detach().to(self.gains) for name in self.names]) * self.gains * fade
        factors = self.members.T @ group
        total = (factors @ products @ factors).clamp(min=0).sqrt() / detection_length
        self.limit.fill_(min(1.0, self.cap / float(total)) if self.cap is not None and total > 0 else 1.0)
        each = factors * products.diagonal().sqrt() / detection_length
        self.shares.copy_(torch.cat((each, total[None])) * self.limit)

    def _settle(self, detection_length: Tensor, products: Tensor) -> None:
        """Gain by which each group's mean gradient of late is its share of the detection loss's."""
        if self.share is None:
            return
        lengths = (self.members @ products @ self.members.T).diagonal().clamp(min=0).sqrt()
        open_ = (lengths > 0) & ((self.measured < WINDOW) | self.hold)
        self.measured += open_
        latest = torch.stack((detection_length.expand_as(lengths), lengths))
        self.lengths += (latest - self.lengths) * open_ / self.measured.clamp(1, WINDOW)
        self.settling = bool((self.measured < WINDOW).any())
        ratio = self.lengths[0] / self.lengths[1].clamp(min=torch.finfo(torch.float32).tiny)
        self.gains.copy_(torch.where(self.measured > 0, self.aims * ratio, self.gains))

    def as_items(self) -> dict[str, Tensor]:
        """Shares for progress lines and tables: `share_<term>`, and `share_all` of their sum."""
        names = [term.removesuffix("_loss") for term in self.terms] + ["all"]
        return {f"share_{name}": share.clone() for name, share in zip(names, self.shares)} if self.terms else {}


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def check_balance(given: Mapping[str, object]) -> None:
    """Raise `UserError` for an argument of the balance (by its name on the command line) that is out of range."""
    rules = {
        "kd_share": (lambda v: v is None or is_number(v) and v > 0, "a number above 0 as 0.3, or None"),
        "kd_cap": (lambda v: v is None or is_number(v) and v > 0, "a number above 0 as 0.5, or None"),
        "kd_hold": (lambda v: isinstance(v, bool), "True or False"),
        "kd_warmup": (lambda v: is_number(v) and 0 <= v < 1, "a fraction of training, 0 or more and below 1"),
        "kd_until": (lambda v: is_number(v) and 0 < v <= 1, "a fraction of training above 0, at most 1"),
        "kd_every": (lambda v: is_number(v) and v == int(v) and v >= 1, "a whole number of steps, 1 or more"),
    }
    for name, (holds, wanted) in rules.items():
        if name in given and not holds(given[name]):
            raise UserError(f"{name}: expected {wanted}, got {given[name]!r}; correct it or leave it out")
    decay = given.get("kd_decay", "none")
    if decay not in DECAYS:
        raise UserError(f"kd_decay: expected {' or '.join(DECAYS)}, got {decay!r}{nearest(str(decay), DECAYS)}")
