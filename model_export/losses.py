"""Losses of the next item: over the whole catalogue, or over sampled negatives where it is too large for that.

Sources
- Full softmax: Klenitskiy & Vasilev 2023, arXiv:2309.07602. Its logits are never held as a whole: blocks that stay in the
  processor's cache are turned into gradients at once, as fast on a CPU and in less memory (as in Liger, Hsu et al. 2024,
  arXiv:2410.10989).
- Sampled softmax with log-Q correction: Bengio & Senécal 2008, doi:10.1109/TNN.2007.912312; Yi et al. 2019,
  doi:10.1145/3298689.3346996.
- gBCE: Petrov & Macdonald 2023, arXiv:2308.07192.
- Items taken later as targets, too: PinnerFormer's all-action loss, Pancha et al. 2022, arXiv:2205.04507.
- Label smoothing: Szegedy et al. 2016, arXiv:1512.00567. Distillation: Hinton et al. 2015, arXiv:1503.02531.

Axes: n targets, D item vector, N items, K negatives. Losses are per target (n), in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256 * 1024
"""Logits that are held at a time: 1 MiB."""
GBCE_CALIBRATION = 0.75
"""t of gBCE: 0 trusts the sampled probabilities, 1 undoes the sampling entirely."""

Excluded = Callable[[int, int], Tensor]
"""(first, last) → (last - first, N) bool, true where an item must not be recommended to these targets."""
Wanted = Callable[[int, int, Tensor], Tensor]
"""(first, last, p) → p (last - first, N), the probabilities to be learned for these targets, changed in place or anew."""


class _SoftmaxLoss(torch.autograd.Function):
    """Cross-entropy of softmax(query @ vectors.T + bias), its gradients made on the way forward, block by block."""

    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        vectors: Tensor,
        bias: Tensor,
        target: Tensor,
        weight: Tensor,
        excluded: Excluded,
        smoothing: float,
        further: Sequence[Wanted],
    ) -> Tensor:
        """The weighted sum of the losses ()."""
        n, items = len(query), len(vectors)
        losses = query.new_empty(n)
        to_query, to_vectors, to_bias = (torch.zeros_like(each) for each in (query, vectors, bias))
        rows = max(16, BLOCK // items)
        for first in range(0, n, rows):
            block = slice(first, min(first + rows, n))
            hidden = excluded(block.start, block.stop)
            wanted = _wanted(target[block], hidden, smoothing, further, block)
            logits = torch.addmm(bias, query[block], vectors.T).masked_fill_(hidden, -torch.inf)
            log_p = functional.log_softmax(logits, dim=1)
            if wanted is None:
                losses[block] = -log_p.gather(1, target[block, None])[:, 0]
                slope = log_p.exp_()
                slope[torch.arange(len(slope)), target[block]] -= 1
            else:
                losses[block] = -(wanted * log_p.masked_fill(hidden, 0)).sum(1)
                slope = log_p.exp_().sub_(wanted)
            slope.mul_(weight[block, None])
            torch.mm(slope, vectors, out=to_query[block])
            to_vectors.addmm_(slope.T, query[block])
            to_bias.add_(slope.sum(0))
        context.save_for_backward(to_query, to_vectors, to_bias)
        return (losses * weight).sum()

    @staticmethod
    def backward(context: Any, slope: Tensor) -> Any:
        to_query, to_vectors, to_bias = context.saved_tensors
        return to_query * slope, to_vectors * slope, to_bias * slope, None, None, None, None, None


def _wanted(
    target: Tensor, hidden: Tensor, smoothing: float, further: Sequence[Wanted], block: slice
) -> Tensor | None:
    """The distribution to be learned (n, N); None stands for the targets alone."""
    if not smoothing and not further:
        return None
    wanted = (~hidden).to(torch.float32)
    wanted *= smoothing / wanted.sum(1, keepdim=True)
    wanted[torch.arange(len(target)), target] += 1 - smoothing
    for change in further:
        wanted = change(block.start, block.stop, wanted)
    return wanted


def later_items(items: Tensor, share: float, excluded: Excluded) -> Wanted:
    """`share` of what is learned are the items that the user takes later, each alike: items (n, L), negative where none.

    What may not be recommended any more is left out; a target without any later item keeps its own probability.
    """

    def change(first: int, last: int, wanted: Tensor) -> Tensor:
        rows = items[first:last]
        allowed = (rows >= 0) & ~excluded(first, last).gather(1, rows.clamp(min=0))
        some = allowed.any(1, keepdim=True)
        each = share * allowed / allowed.sum(1, keepdim=True).clamp(min=1)
        wanted.mul_(1 - share * some.to(wanted.dtype))
        return wanted.scatter_add_(1, rows.clamp(min=0), each.to(wanted.dtype))

    return change


def full_softmax(
    query: Tensor,
    vectors: Tensor,
    bias: Tensor,
    target: Tensor,
    weight: Tensor,
    excluded: Excluded,
    *,
    smoothing: float = 0.0,
    further: Sequence[Wanted] = (),
) -> Tensor:
    """Weighted sum of the losses (): query (n, D), vectors (N, D), bias (N), target (n) i64 rows, weight (n) → ().

    `smoothing` of the probability goes to all items that may be recommended, then `further` change what is to be learned.
    A target must not be excluded.
    """
    apply: Any = _SoftmaxLoss.apply  # untyped in torch
    full = query.float(), vectors.float(), bias.float()  # under mixed precision, too
    with torch.autocast(query.device.type, enabled=False):
        loss: Tensor = apply(*full, target, weight, excluded, smoothing, further)
    return loss


def sampled_softmax(positive: Tensor, negative: Tensor, log_q: Tensor, hidden: Tensor) -> Tensor:
    """positive (n) and negative (n, K) logits, log_q (K) log expected number of draws of each negative → losses (n).

    The correction makes it an unbiased estimate of the whole sum, whatever the negatives were drawn by. `hidden` (n, K):
    negatives that are the target or must not be recommended.
    """
    corrected = (negative - log_q).masked_fill(hidden, -torch.inf)
    return torch.logsumexp(torch.cat([positive[:, None], corrected], dim=1), dim=1) - positive


def gbce(positive: Tensor, negative: Tensor, hidden: Tensor, items: int) -> Tensor:
    """Binary cross-entropy with its positive part raised to β, which undoes the overconfidence of sampling: losses (n).

    β = α (t (1 - 1/α) + 1/α) for a sampling rate α = K / (N - 1).
    """
    rate = min(negative.shape[1] / max(items - 1, 1), 1.0)
    beta = rate * (GBCE_CALIBRATION * (1 - 1 / rate) + 1 / rate)
    apart = functional.softplus(negative).masked_fill(hidden, 0.0).sum(dim=1)
    return beta * functional.softplus(-positive) + apart
