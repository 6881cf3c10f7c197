# SPDX-License-Identifier: Apache-2.0
"""Every loss with its options against bptt.reference, the reference against central differences, both against PyTorch.

Tolerances: a loss is a sum of positive terms, so that its error is relative to its value; a term has some 40 roundings,
and those of its logits, of size up to Z, count Z times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt import losses, reference
from differences import check_gradient
from stacks import threads

Array = NDArray[Any]
C = 6  # classes, features, or columns of a prediction
Z = 12  # |z| of all cases is smaller
WEIGHTS = [0.5, 2.0, 0.0, 1.0, 3.0, 0.25]
LEVELS = (0.05, 0.5, 0.8)

# loss, its options
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cross_entropy": ("cross_entropy", {}),
    "weighted": ("cross_entropy", {"class_weights": WEIGHTS}),
    "smoothed": ("cross_entropy", {"label_smoothing": 0.1}),
    "ignoring": ("cross_entropy", {"ignore_index": 4}),
    "all_options": ("cross_entropy", {"class_weights": WEIGHTS, "label_smoothing": 0.3, "ignore_index": 1}),
    "bce": ("bce_with_logits", {}),
    "bce_weighted": ("bce_with_logits", {"pos_weight": WEIGHTS}),
    "bce_one_weight": ("bce_with_logits", {"pos_weight": 3.0}),
    "mse": ("mse", {}),
    "mae": ("mae", {}),
    "huber": ("huber", {}),
    "huber_wide": ("huber", {"delta": 2.5}),
    "gaussian_nll": ("gaussian_nll", {}),
    "quantile": ("quantile", {"quantiles": LEVELS}),
}
every_case = pytest.mark.parametrize("name", CASES)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def arrays_of(name: str, lead: tuple[int, ...], dtype: Any = np.float64) -> tuple[Array, Array]:
    """A prediction and a target."""
    loss, rng = CASES[name][0], np.random.default_rng(len(lead))
    x = (3 * rng.standard_normal((*lead, C))).clip(-Z, Z)
    if loss == "cross_entropy":
        target = rng.integers(0, C, lead)
        target.flat[0] = 3  # one that counts and has a weight
        return x.astype(dtype), target
    if loss == "bce_with_logits":
        return x.astype(dtype), rng.choice([0.0, 1.0, 0.3], (*lead, C)).astype(dtype)
    if loss == "gaussian_nll":
        x[..., C // 2 :] = rng.uniform(0.2, 2, (*lead, C // 2))  # log-variances, so that all terms are positive
    width = {"gaussian_nll": C // 2, "quantile": C // len(LEVELS)}.get(loss, C)
    return x.astype(dtype), rng.standard_normal((*lead, width)).astype(dtype)


def ours(name: str, *arguments: Any, **options: Any) -> tuple[float, Array]:
    loss, own = CASES[name]
    return getattr(losses, loss)(*arguments, **own, **options)


def referred(name: str, *arguments: Any, **options: Any) -> tuple[float, Array]:
    loss, own = CASES[name]
    return getattr(reference, loss)(*arguments, **own, **options)


def mask_for(lead: tuple[int, ...]) -> Array:
    return np.arange(np.prod(lead)).reshape(lead) % 3 != 1


@every_case
@every_dtype
@pytest.mark.parametrize("lead", [(7,), (1, 1), (2, 5, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_agree_with_the_reference(
    name: str, dtype: Any, lead: tuple[int, ...], reduction: str, masked: bool
) -> None:
    x, target = arrays_of(name, lead, dtype)
    mask = mask_for(lead) if masked else None
    value, gradient = ours(name, x, target, mask, reduction)
    want, want_gradient = referred(name, x, target, mask, reduction)
    assert isinstance(value, float)
    assert (gradient.dtype, gradient.shape) == (dtype, x.shape)
    error = (40 + Z) * float(np.finfo(dtype).eps)
    terms = 1 if dtype == np.float32 else np.prod(lead) * C / 40  # sums run in double for both
    assert value == pytest.approx(want, rel=error * (1 + terms))
    np.testing.assert_allclose(gradient, want_gradient, rtol=0, atol=error * (1 + np.abs(want_gradient).max()))


@every_case
def test_gradient_is_that_of_the_value(name: str) -> None:
    x, target = arrays_of(name, (4, 3))
    mask = mask_for((4, 3))

    def f(point: list[Array]) -> tuple[float, float]:
        value = referred(name, point[0], target, mask)[0]
        return value, value  # a sum of positive terms

    check_gradient(f, [x], [referred(name, x, target, mask)[1]], 40 + Z + 12 * C)


def in_torch(name: str) -> Callable[..., Any]:
    """The same loss as a function of PyTorch's tensors [N,C], for a reduction."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    loss, own = CASES[name]
    as_tensor = partial(torch.tensor, dtype=torch.float64)
    if loss == "cross_entropy":
        options = {**own}
        weight = options.pop("class_weights", None)
        return partial(F.cross_entropy, weight=None if weight is None else as_tensor(weight), **options)
    if loss == "bce_with_logits":
        w = own.get("pos_weight")
        return partial(F.binary_cross_entropy_with_logits, pos_weight=None if w is None else as_tensor(w))
    if loss == "gaussian_nll":
        half = C // 2
        return lambda x, t, reduction: F.gaussian_nll_loss(
            x[..., :half], t, torch.exp(x[..., half:]), eps=1e-300, reduction=reduction
        )
    if loss == "quantile":
        q = as_tensor(LEVELS)

        def pinball(x: Any, t: Any, reduction: str) -> Any:
            e = t[..., None] - x.reshape(*t.shape, len(q))
            return getattr(torch.maximum(q * e, (q - 1) * e), reduction)()

        return pinball
    return partial({"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}[loss], **own)


@every_case
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_values_and_gradients_are_those_of_pytorch(name: str, reduction: str) -> None:
    theirs = in_torch(name)
    import torch

    x, target = arrays_of(name, (11,))
    z = torch.tensor(x, requires_grad=True)
    wanted = theirs(z, torch.tensor(target), reduction=reduction)
    wanted.backward()
    value, gradient = ours(name, x, target, reduction=reduction)
    # PyTorch adds up features where we take their mean
    features = 1 if CASES[name][0] == "cross_entropy" or reduction == "mean" else target.shape[-1]
    features *= len(LEVELS) if CASES[name][0] == "quantile" and reduction == "sum" else 1
    error = (40 + Z + 11 * C) * np.finfo(np.float64).eps
    assert features * value == pytest.approx(wanted.item(), rel=error)
    np.testing.assert_allclose(features * gradient, z.grad.numpy(), rtol=0, atol=error * np.abs(gradient).max() * C)


@every_case
@every_dtype
def test_any_number_of_threads_gives_the_same_bits(name: str, dtype: Any) -> None:
    x, target = arrays_of(name, (20_001,), dtype)  # half a millisecond and more: enough for several threads
    results = []
    for n in (1, 2, 5):
        with threads(n):
            value, gradient = ours(name, x, target, mask_for((20_001,)))
            results.append((value, gradient.tobytes()))
    assert all(result == results[0] for result in results)


@every_case
def test_sums_over_many_rows_stay_exact(name: str) -> None:
    """2^18 rows in float32: in one chain of float32 the sum of equal terms would be off by up to 2^18 eps / 2."""
    n = 2**18
    x, target = arrays_of(name, (1,), np.float32)
    one = ours(name, x, target, reduction="sum")[0]
    value = ours(name, np.repeat(x, n, axis=0), np.repeat(target, n, axis=0), reduction="sum")[0]
    assert value == pytest.approx(n * one, rel=n * np.finfo(np.float64).eps)


@every_case
def test_what_the_mask_hides_is_never_read(name: str) -> None:
    x, target = arrays_of(name, (5, 3))
    mask = mask_for((5, 3))
    want, want_gradient = ours(name, x, target, mask)
    x[~mask], target[~mask] = np.nan, -7
    value, gradient = ours(name, x, target, mask)
    assert value == want
    np.testing.assert_array_equal(gradient, want_gradient)
    assert not gradient[~mask].any()


@every_case
def test_axes_and_packed_rows(name: str) -> None:
    x, target = arrays_of(name, (5, 3))
    mask = losses.mask_of([5, 3, 2], 5)
    want, want_gradient = ours(name, x, target, mask)
    value, gradient = ours(name, x.swapaxes(0, 1), target.swapaxes(0, 1), losses.mask_of([5, 3, 2], 5, True))
    assert value == pytest.approx(want, rel=1e-14)
    np.testing.assert_array_equal(gradient.swapaxes(0, 1), want_gradient)
    sizes = mask.sum(axis=1)
    packed, packed_target = (bptt.Packed(each[mask], sizes) for each in (x, target))
    for given in (packed_target, packed_target.data):
        value, gradient = ours(name, packed, given)
        assert value == pytest.approx(want, rel=1e-14)
        np.testing.assert_array_equal(gradient, want_gradient[mask])
    half = bptt.Packed(np.arange(len(packed.data)) % 2 == 0, sizes)
    assert ours(name, packed, packed_target, half)[0] == ours(name, packed.data, packed_target.data, half.data)[0]


def test_an_ignored_class_is_a_masked_step() -> None:
    x, target = arrays_of("smoothed", (5, 3))
    options = {"class_weights": WEIGHTS, "label_smoothing": 0.2}
    target[0] = target[3, 1] = -100
    mask = mask_for((5, 3))
    for given in (None, mask):
        value, gradient = losses.cross_entropy(x, target, given, **options, ignore_index=-100)
        keep = (target != -100) & (mask if given is not None else True)
        want, want_gradient = losses.cross_entropy(x, target, keep, **options)
        assert value == want
        np.testing.assert_array_equal(gradient, want_gradient)


def test_quantiles_of_a_feature_may_have_an_axis() -> None:
    x, target = arrays_of("quantile", (5, 3))
    value, gradient = losses.quantile(x, target, quantiles=LEVELS)
    apart, apart_gradient = losses.quantile(x.reshape(5, 3, 2, 3), target, quantiles=LEVELS)
    assert apart == value
    np.testing.assert_array_equal(apart_gradient, gradient.reshape(5, 3, 2, 3))
    sizes = np.array([3] * 5)
    packed = bptt.Packed(x.reshape(15, 2, 3), sizes)
    assert losses.quantile(packed, bptt.Packed(target.reshape(15, 2), sizes), quantiles=LEVELS)[0] == value


def test_the_minimum_of_the_quantile_loss_is_at_the_quantiles() -> None:
    y = np.arange(101.0)[:, np.newaxis]
    found = [
        min(range(101), key=lambda p, q=q: losses.quantile(np.full((101, 1), float(p)), y, quantiles=[q])[0])
        for q in (0.1, 0.5, 0.9)
    ]
    assert found == [10, 50, 90]


@every_case
def test_nan_is_not_lost(name: str) -> None:
    x, target = arrays_of(name, (4,))
    x[2, 1] = np.nan
    value, gradient = ours(name, x, target)
    assert np.isnan(value)
    assert np.isnan(gradient[2]).any()
    if CASES[name][0] == "cross_entropy":
        for row in ([np.inf] + [0.0] * 5, [-np.inf] * 6):  # no softmax
            x[2] = row
            assert np.isnan(ours(name, x, np.full(4, 3))[0])


def test_masks_of_lengths() -> None:
    assert losses.mask_of([0, 2, 1], 2).tolist() == [[False, True, True], [False, True, False]]
    turned = losses.mask_of([0, 2, 1], 2, batch_first=True)
    np.testing.assert_array_equal(turned, losses.mask_of([0, 2, 1], 2).T)
    assert losses.mask_of([], 3).shape == (3, 0)
    assert losses.mask_of([0, 0], 0).shape == (0, 2)


def test_a_loss_with_options_trains() -> None:
    x = np.sin(np.arange(60.0)).reshape(-1, 1, 1)
    model = bptt.Sequential(bptt.GRU(1, 8, seed=0), bptt.Linear(8, 3, seed=0))
    loss = partial(losses.quantile, quantiles=(0.2, 0.5, 0.8))
    history = bptt.fit(model, [(x[:-1], x[1:])], loss=loss, optimizer=bptt.optim.Adam(1e-2), epochs=60)
    assert history.loss[-1] < 0.3 * history.loss[0]
