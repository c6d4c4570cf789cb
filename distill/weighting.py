"""The weights of the loss terms: fixed, adapted after each epoch, or learned."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from cfg.errors import UserError, nearest

MODES = ("stable", "paper", "none", "uncertainty")
LOWEST, HIGHEST = 0.1, 10.0
PART = -1.0  # instead of a term's first mean: the term existed in a part of the epoch only
LARGEST_RATIO = 2.0  # of a loss to its first epoch: one that spikes tenfold would weigh everything else down to the lowest


class AdaptiveWeights(nn.Module):
    """Weighted sum of named losses, `sum_k weight_k * loss_k` (Zhang et al. 2022, eq. 17).

    All weights start at 1. The modes:

    * `paper`: eq. 18 to the letter. It compounds: see `update`.
    * `stable`: eq. 18 on losses relative to their first epoch. Differs from the paper: L_k is the epoch's mean over
      the first epoch's, w_k is the starting weight 1 (so that nothing compounds), and weights stay in [0.1, 10] with
      sum n.
    * `none`: weights stay 1.
    * `uncertainty`: learned log-variances s_k (Kendall et al. 2018, eq. 10): `sum_k exp(-s_k) loss_k + s_k / 2`.
      Differs from the paper: s_k is bounded smoothly, so that weights stay in [0.1, 10], and rests while its loss is 0.

    Terms that have ended (`end`) have weight 0; the others are weighed among themselves, n being their number.

    The state (`weights`, `first`, `epochs`, and the log-variances) is in `state_dict`.

    Args:
        names: of the terms, in the order of the buffers.
        mode: one of `MODES`; `none` by default, so that a distilled run differs from one of the student alone,
            which has no such weights, by its distillation only.

    Raises:
        UserError: unknown mode.
    """

    weights: Tensor
    first: Tensor
    epochs: Tensor
    ended: Tensor

    def __init__(self, names: Sequence[str], mode: str = "none") -> None:
        super().__init__()
        if mode not in MODES:
            raise UserError(f"adaptive: expected one of {', '.join(MODES)}, got '{mode}'{nearest(mode, MODES)}")
        self.names, self.mode = list(names), mode
        self.register_buffer("weights", torch.ones(len(self.names)))
        self.register_buffer("first", torch.zeros(len(self.names)))  # mean of the first whole epoch, 0 or PART before
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))
        self.register_buffer("ended", torch.zeros(len(self.names), dtype=torch.bool))
        if mode == "uncertainty":
            self.log_variances = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Weigh 0-d losses; return the total to minimise (0-d) and the weighted terms, which sum to it.

        In mode `uncertainty` the total has the penalty `sum_k s_k / 2` on top of the terms.

        Raises:
            ValueError: the names of `losses` are not those given at construction.
        """
        if set(losses) != set(self.names):
            raise ValueError(f"losses: expected the terms {sorted(self.names)}, got {sorted(losses)}")
        weights = self._current()
        terms = {name: weights[i] * losses[name].float() for i, name in enumerate(self.names)}
        total = torch.stack(list(terms.values())).sum()
        if self.mode == "uncertainty":  # a term that has not begun must not have the largest weight when it does
            acting = torch.stack([term.detach() != 0 for term in terms.values()])
            total = total + (self._bounded() * acting).sum() / 2
        return total, terms

    @torch.no_grad()
    def end(self, names: Collection[str]) -> None:
        """These terms are over: the weights of the others are scaled so that their sum is their number. Again: no change."""
        over = torch.tensor([name in names for name in self.names], device=self.ended.device)
        if not (over & ~self.ended).any():
            return
        self.ended |= over
        left = self.weights.masked_fill(self.ended, 0.0)
        self.weights.copy_(left * (~self.ended).sum() / left.sum().clamp(min=torch.finfo(left.dtype).tiny))

    @torch.no_grad()
    def update(self, epoch_means: Mapping[str, float | Tensor]) -> None:
        """Adapt the weights after an epoch to the means of the losses before weights (and before gains that move).

        In `paper` mode a dominant loss multiplies its weight by up to n each epoch, without limit, and a weight that
        reached 0 stays 0. Whatever the mode, an epoch with a mean that is not finite, or a result that is not, changes
        nothing. In a distributed run every process must be given the same means.

        Raises:
            ValueError: a term is missing from `epoch_means` (further entries are ignored).
        """
        missing = [name for name in self.names if name not in epoch_means]
        if missing:
            raise ValueError(f"epoch_means: expected the terms {self.names}, {missing} missing")
        means = torch.tensor([float(epoch_means[name]) for name in self.names], dtype=torch.float64)
        if not means.isfinite().all():
            return
        acting = ~self.ended.cpu()
        first = torch.where(acting, self._yardsticks(means), self.first.double().cpu())
        weights = torch.zeros_like(means)
        weights[acting] = self._updated(means[acting], first[acting], self.weights.double().cpu()[acting])
        if weights.float().isfinite().all():
            self.weights.copy_(weights)
            self.first.copy_(first)
            self.epochs += 1

    def as_items(self) -> dict[str, Tensor]:
        """The weights for progress lines and tables: `w_<name>` -> detached 0-d tensor."""
        return {f"w_{name}": weight.clone() for name, weight in zip(self.names, self._current().detach(), strict=True)}

    def _current(self) -> Tensor:
        """(n,) weights in force."""
        return torch.exp(-self._bounded()).masked_fill(self.ended, 0.0) if self.mode == "uncertainty" else self.weights

    def _bounded(self) -> Tensor:
        """(n,) log-variances s, held within +-log 10; equal to the parameter near 0."""
        limit = math.log(HIGHEST)
        return limit * torch.tanh(self.log_variances / limit)

    def _yardsticks(self, means: Tensor) -> Tensor:
        """(n,) `first` after an epoch. A term that begins later may do so within an epoch: the next one counts."""
        first = self.first.double().cpu()
        found = torch.full_like(means, PART) if self.epochs else means
        return torch.where(first == PART, means, torch.where((first == 0) & (means > 0), found, first))

    def _updated(self, means: Tensor, first: Tensor, weights: Tensor) -> Tensor:
        """(n,) new weights in float64 from this epoch's means, each term's first mean, and the weights in force."""
        if self.mode == "paper":
            return eq18(means, weights)
        if self.mode == "stable":
            return bounded_sum(eq18(_relative(means, first), torch.ones_like(means)))
        return weights


def eq18(losses: Tensor, weights: Tensor) -> Tensor:
    """`W_k = exp(L_k) / sum_j exp(L_j) * n * w_k` for losses and weights (n,) (Zhang et al. 2022, eq. 18)."""
    return torch.softmax(losses, 0) * len(losses) * weights


def bounded_sum(weights: Tensor, lowest: float = LOWEST, highest: float = HIGHEST) -> Tensor:
    """Scale positive weights (n,) by one factor and clamp them to [lowest, highest] so that their sum is n afterwards.

    Clamping and then dividing by the sum would break the one or the other; bisection finds the factor that keeps both.
    """
    logs = weights.clamp(min=weights.max() * 1e-12).log()
    # Log factors at which all are clamped down and all are clamped up.
    low, high = math.log(lowest) - logs.max().item(), math.log(highest) - logs.min().item()
    for _ in range(100):
        middle = (low + high) / 2
        if (logs + middle).exp().clamp(lowest, highest).sum() < len(weights):
            low = middle
        else:
            high = middle
    return (logs + high).exp().clamp(lowest, highest)


def _relative(means: Tensor, first: Tensor) -> Tensor:
    """(n,) means over first means, at most 2; a term that was never positive counts as the average of the others."""
    seen = first > 0
    quotients = (means / torch.where(seen, first, torch.ones_like(first))).clamp(max=LARGEST_RATIO)
    neutral = quotients[seen].mean() if seen.any() else means.new_ones(())
    return torch.where(seen, quotients, neutral)
