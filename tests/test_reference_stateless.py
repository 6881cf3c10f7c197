# SPDX-License-Identifier: Apache-2.0
"""The reference's stateless parts: linear, embedding and dropout, the losses, the optimizer steps.

Compared with central differences, with their definitions written as loops, and with PyTorch.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bptt import reference
from differences import EPS, Array, Terms, check_gradient


@pytest.mark.parametrize("lead", [(), (2,), (4, 3), (0, 3)])
def test_linear(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, weight, bias, dy = (rng.standard_normal(shape) for shape in ((*lead, 5), (2, 5), (2,), (*lead, 2)))

    def loss(point: list[Array]) -> Terms:
        y = reference.linear_forward(*point)
        magnitude = np.abs(point[0]) @ np.abs(point[1]).T + np.abs(point[2])
        return float(np.vdot(dy, y)), float(np.vdot(np.abs(dy), magnitude))

    np.testing.assert_array_equal(reference.linear_forward(x, weight), reference.linear_forward(x, weight, 0 * bias))
    check_gradient(loss, [x, weight, bias], reference.linear_backward(x, weight, dy), 6 + dy.size)


@pytest.mark.parametrize("lead", [(), (4, 3), (0, 3)])
def test_embedding(lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    ids, weight, dy = rng.integers(0, 4, lead), rng.standard_normal((5, 2)), rng.standard_normal((*lead, 2))
    expected = np.zeros_like(weight)
    for place in np.ndindex(lead):
        np.testing.assert_array_equal(reference.embedding_forward(ids, weight)[place], weight[ids[place]])
        expected[ids[place]] += dy[place]
    np.testing.assert_array_equal(reference.embedding_backward(ids, dy, 5), expected)


def test_embedding_refuses_ids() -> None:
    for bad in (-1, 5):
        with pytest.raises(ValueError, match=r"embedding_forward: ids has values from -?\d to \d, expected 0 to 4"):
            reference.embedding_forward([2, bad], np.ones((5, 2)))
        with pytest.raises(ValueError, match="embedding_backward: ids has values"):
            reference.embedding_backward([2, bad], np.ones((2, 2)), 5)
    with pytest.raises(TypeError):
        reference.embedding_forward([0.5], np.ones((5, 2)))


def test_dropout() -> None:
    x, keep = np.array([1.0, -2.0, np.inf]), np.array([True, True, False])
    np.testing.assert_array_equal(reference.dropout(x, keep, 0.75), [4.0, -8.0, 0.0])
    np.testing.assert_array_equal(reference.dropout(x, ~keep & ~keep[::-1], 1.0), [0.0, 0.0, 0.0])


MASK = np.array([[True, False, True], [True, True, False], [False, False, True], [False, True, False]])  # [T,B]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_loss_is_its_definition_and_its_gradient_that_of_the_value(name: str, mask: Any, reduction: str) -> None:
    rng = np.random.default_rng(0)
    T, B, C = 4, 3, 5
    z, targets, target = rng.standard_normal((T, B, C)), rng.integers(0, C, (T, B)), rng.standard_normal((T, B, C))
    keep = np.ones((T, B), dtype=bool) if mask is None else mask
    z[~keep], targets[~keep], target[~keep] = np.nan, -1, np.inf  # padding may have any values

    def value(z: Array) -> tuple[float, Array]:
        if name == "mse":
            return reference.mse(z, target, mask, reduction)
        return reference.cross_entropy(z, targets, mask, reduction)

    steps = []
    for t, b in zip(*np.nonzero(keep), strict=True):
        if name == "mse":
            steps.append(sum((z[t, b, j] - target[t, b, j]) ** 2 for j in range(C)) / C)
        else:
            steps.append(-math.log(math.exp(z[t, b, targets[t, b]]) / sum(math.exp(z[t, b, j]) for j in range(C))))
    loss, gradient = value(z)
    expected = sum(steps) / (len(steps) if reduction == "mean" else 1)
    roundings = 3 * C + T * B + 8
    assert loss == pytest.approx(expected, rel=roundings * EPS)
    assert (gradient[~keep] == 0).all()

    def of_kept(point: list[Array]) -> Terms:
        full = z.copy()
        full[keep] = point[0]
        loss = value(full)[0]
        return loss, loss  # a sum of positive terms

    check_gradient(of_kept, [z[keep]], [gradient[keep]], roundings)


def test_cross_entropy_of_one_step_and_of_huge_logits() -> None:
    loss, gradient = reference.cross_entropy([[1e4, 0.0], [0.0, 1e4]], [0, 0], reduction="sum")
    assert loss == 1e4
    np.testing.assert_array_equal(gradient, [[0.0, 0.0], [-1.0, 1.0]])


def test_losses_refuse() -> None:
    z, targets = np.zeros((4, 3, 5)), np.zeros((4, 3), dtype=np.int64)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: reference.cross_entropy(z, targets, MASK & False), "cross_entropy: mask has no True element"),
        (lambda: reference.mse(z, z, MASK & False), "mse: mask has no True element"),
        (lambda: reference.cross_entropy(z[:0], targets[:0]), "cross_entropy: mask has no True element"),
        (lambda: reference.mse(z, z, MASK[:, :1]), r"mse: mask has shape \(4, 1\), expected \(4, 3\)"),
        (lambda: reference.mse(z, z[..., :1]), r"mse: target has shape \(4, 3, 1\), expected \(4, 3, 5\)"),
        (lambda: reference.cross_entropy(z, targets[0]), r"cross_entropy: targets has shape \(3,\), expected \(4, 3\)"),
        (
            lambda: reference.cross_entropy(z, targets + 5),
            "cross_entropy: targets has values from 5 to 5, expected 0 to 4",
        ),
        (lambda: reference.mse(z, z, reduction="none"), "mse: reduction is 'none', expected 'mean' or 'sum'"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_optimizer_steps_by_hand() -> None:
    w, g = 2.0, 0.5
    decayed = g + 0.1 * w
    velocity = 0.9 * 3.0 + decayed
    for nesterov, change in ((False, velocity), (True, decayed + 0.9 * velocity)):
        norm, clipped, w1, v1 = reference.sgd_step(
            [w], [g], [3.0], lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.1
        )
        assert (norm, clipped) == (0.5, False)
        assert (w1.item(), v1.item()) == pytest.approx((w - 0.1 * change, velocity), rel=8 * EPS)

    # step 2, moments 1 and 4, g = 2:  m = 1.5, v = 4;  m' = 1.5 / (1 - 1/4) = 2, v' = 4 / (1 - 9/16) = 64/7
    _, _, w1, m, v = reference.adam_step(
        [3.0], [2.0], [1.0], [4.0], 2, lr=0.1, beta1=0.5, beta2=0.75, eps=1.0, weight_decay=0.5
    )
    expected = 3.0 * (1 - 0.05) - 0.1 * 2.0 / (math.sqrt(64 / 7) + 1.0)
    assert (w1.item(), m.item(), v.item()) == pytest.approx((expected, 1.5, 4.0), rel=8 * EPS)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_agrees_with_pytorch(momentum: float, nesterov: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    w, velocity = rng.standard_normal(7), np.zeros(7)
    theirs = torch.nn.Parameter(torch.tensor(w))
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01)
    for _ in range(4):
        g = rng.standard_normal(7)
        theirs.grad = torch.tensor(g)
        optimizer.step()
        norm, clipped, w, velocity = reference.sgd_step(
            w, g, velocity, lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01
        )
        assert norm == pytest.approx(math.sqrt(sum(g**2)), rel=10 * EPS)
        assert not clipped
    np.testing.assert_allclose(
        w, theirs.detach().numpy(), rtol=0, atol=4 * 8 * EPS * 4
    )  # 4 steps, 8 roundings, |w| < 4


def test_adam_agrees_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    w, m, v = rng.standard_normal(7), np.zeros(7), np.zeros(7)
    theirs = torch.nn.Parameter(torch.tensor(w))
    options = {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.3}
    optimizer = torch.optim.AdamW([theirs], betas=(0.8, 0.95), **options)
    for step in range(1, 5):
        g = rng.standard_normal(7)
        theirs.grad = torch.tensor(g)
        optimizer.step()
        _, clipped, w, m, v = reference.adam_step(w, g, m, v, step, beta1=0.8, beta2=0.95, **options)
        assert not clipped
    np.testing.assert_allclose(
        w, theirs.detach().numpy(), rtol=0, atol=4 * 20 * EPS * 4
    )  # 4 steps, 20 roundings, |w| < 4


@pytest.mark.parametrize(
    ("clip_norm", "clip_value", "expected", "clipped"),
    [
        (None, None, [3.0, -4.0], False),
        (5.0, 4.0, [3.0, -4.0], False),  # at the limits
        (2.5, None, [1.5, -2.0], True),
        (None, 3.5, [3.0, -3.5], True),
        (2.5, 1.75, [1.5, -1.75], True),  # the norm first: the other way round gives [1.75, -1.75]
    ],
)
def test_clipping_scales_the_norm_then_clamps(
    clip_norm: float | None, clip_value: float | None, expected: list[float], clipped: bool
) -> None:
    limits: dict[str, Any] = {"clip_norm": clip_norm, "clip_value": clip_value}
    g, zero = np.array([3.0, -4.0]), np.zeros(2)
    norm, flag, w, v = reference.sgd_step(zero, g, zero, lr=1.0, **limits)
    assert (norm, flag) == (5.0, clipped)
    np.testing.assert_array_equal(v, expected)
    np.testing.assert_array_equal(w, -v)
    norm, flag, _, m, _ = reference.adam_step(zero, g, zero, zero, 1, beta1=0.0, **limits)
    assert (norm, flag) == (5.0, clipped)
    np.testing.assert_array_equal(m, expected)


def test_large_gradients_are_clipped_and_zero_by_zero_is_no_step() -> None:
    norm, clipped, w, _ = reference.sgd_step([0.0, 0.0], [3e307, 4e307], [0.0, 0.0], lr=1.0, clip_norm=1.0)
    assert (norm, clipped) == (pytest.approx(5e307, rel=4 * EPS), True)
    np.testing.assert_allclose(w, [-0.6, -0.8], rtol=8 * EPS)
    w = reference.adam_step([1.0, 1.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0], 1, lr=0.5, beta1=0.5, beta2=0.75, eps=0.0)[
        2
    ]
    assert w.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_refused(bad: float) -> None:
    zero, g = np.zeros(2), np.array([1.0, bad])
    with pytest.raises(FloatingPointError, match=r"sgd_step: the gradient has norm (nan|inf), expected a finite one"):
        reference.sgd_step(zero, g, zero, lr=0.1, clip_norm=1.0)
    with pytest.raises(FloatingPointError, match="adam_step: the gradient has norm"):
        reference.adam_step(zero, g, zero, zero, 1, clip_value=1.0)
