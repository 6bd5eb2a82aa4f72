from __future__ import annotations

import math

import pytest
import torch

from model_export import losses

N, ITEMS, DIM = 40, 50, 8


def inputs(seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(N, DIM, generator=generator, requires_grad=True)
    vectors = torch.randn(ITEMS, DIM, generator=generator, requires_grad=True)
    bias = torch.randn(ITEMS, generator=generator, requires_grad=True)
    target = torch.randint(ITEMS, (N,), generator=generator)
    weight = torch.rand(N, generator=generator)
    hidden = torch.rand(N, ITEMS, generator=generator) < 0.3
    hidden[torch.arange(N), target] = False
    return query, vectors, bias, target, weight, hidden


@pytest.mark.parametrize(("smoothing", "share"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.5), (0.1, 0.7)])
def test_block_by_block_is_the_loss_and_gradient_of_the_whole(
    smoothing: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK", 16 * ITEMS)  # 40 targets: two blocks and a half
    query, vectors, bias, target, weight, hidden = inputs()
    taught = torch.softmax(torch.randn(N, ITEMS).masked_fill(hidden, -torch.inf), dim=1)
    found = losses.full_softmax(
        query,
        vectors,
        bias,
        target,
        weight,
        lambda first, last: hidden[first:last],
        smoothing=smoothing,
        further=[lambda first, last, p: p.lerp(taught[first:last], share)] if share else [],
    )
    log_p = torch.log_softmax((query @ vectors.T + bias).masked_fill(hidden, -torch.inf), 1).masked_fill(
        hidden, 0
    )
    wanted = smoothing * (~hidden) / (~hidden).sum(1, keepdim=True)
    wanted[torch.arange(N), target] += 1 - smoothing
    wanted = (1 - share) * wanted + share * taught
    expected = -((wanted * log_p).sum(1) * weight).sum()
    torch.testing.assert_close(found, expected)
    parts = query, vectors, bias
    for mine, theirs in zip(
        torch.autograd.grad(3 * found, parts), torch.autograd.grad(3 * expected, parts), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_sampled_softmax_with_every_item_drawn_once_is_the_full_one() -> None:
    query, vectors, bias, target, _, _ = inputs()
    logits = query @ vectors.T + bias
    hidden = torch.arange(ITEMS) == target[:, None]
    positive = logits.gather(1, target[:, None])[:, 0]
    found = losses.sampled_softmax(positive, logits, torch.zeros(ITEMS), hidden)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, target, reduction="none"))


def test_the_correction_makes_the_sum_unbiased_whatever_is_drawn() -> None:
    """Mean of Σ exp(logit - log Q) over many draws from a skewed distribution: the sum over all items."""
    torch.manual_seed(0)
    logits = torch.randn(ITEMS)
    draw = torch.softmax(torch.randn(ITEMS), 0)
    drawn = torch.multinomial(draw, 400_000, replacement=True)
    log_q = torch.log(draw[drawn] * len(drawn))
    far_below = torch.full((1,), -1e4)
    loss = losses.sampled_softmax(
        far_below, logits[drawn][None], log_q, torch.zeros(1, len(drawn), dtype=torch.bool)
    )
    assert (loss + far_below).item() == pytest.approx(torch.logsumexp(logits, 0).item(), abs=0.02)


def test_gbce_with_all_negatives_is_binary_cross_entropy() -> None:
    """α = 1 gives β = 1; ln 2 for each logit of 0 that is not hidden."""
    hidden = torch.tensor([[False, False, True]])
    found = losses.gbce(torch.zeros(1), torch.zeros(1, 3), hidden, items=4)
    assert found.item() == pytest.approx(3 * math.log(2))


def test_gbce_weighs_the_positive_less_where_fewer_negatives_are_drawn() -> None:
    """α = 1/10, t = 3/4: β = α (t (1 - 1/α) + 1/α) = 0.1 (0.75 · -9 + 10) = 0.325."""
    found = losses.gbce(
        torch.zeros(1), torch.full((1, 1), -100.0), torch.zeros(1, 1, dtype=torch.bool), items=11
    )
    assert found.item() == pytest.approx(0.325 * math.log(2))


def test_later_items_share_what_is_learned() -> None:
    """Half to the target, a quarter each to the two later ones that may still be recommended; none where there are none."""
    hidden = torch.tensor([[False, False, False, False, True], [False] * 5])
    later = torch.tensor([[1, 2, 4], [-1, -1, -1]])
    change = losses.later_items(later, 0.5, lambda first, last: hidden[first:last])
    wanted = change(0, 2, torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]))
    assert wanted.tolist() == [[0.5, 0.25, 0.25, 0, 0], [0, 1, 0, 0, 0]]
