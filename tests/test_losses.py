# SPDX-License-Identifier: Apache-2.0
"""Losses against bptt.reference: shapes, masks, reductions, dtypes, errors.

Tolerances: a loss is a sum of fewer than 100 terms of order 1, each within a few units in the last place.
"""

import numpy as np
import pytest

from bptt import losses, reference

T, B, C = 5, 3, 4
ATOL = {np.float64: 1e-13, np.float32: 1e-5}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def case(loss, lead, dtype):
    """Input and target of a loss."""
    x = (3 * normal(*lead, C)).astype(dtype)
    if loss == "mse":
        return x, normal(*lead, C, seed=1).astype(dtype)
    return x, np.random.default_rng(1).integers(0, C, lead)


both_losses = pytest.mark.parametrize("loss", ["cross_entropy", "mse"])


@both_losses
@pytest.mark.parametrize("lead", [(T, B), (B,), (1, 1), (2, T, B)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_agree_with_the_reference(loss, lead, reduction, dtype, masked):
    x, target = case(loss, lead, dtype)
    mask = np.arange(np.prod(lead)).reshape(lead) % 3 != 1 if masked else None
    value, gradient = getattr(losses, loss)(x, target, mask, reduction)
    want, want_gradient = getattr(reference, loss)(x, target, mask, reduction)
    assert isinstance(value, float)
    assert gradient.dtype == dtype
    assert gradient.shape == x.shape
    np.testing.assert_allclose(value, want, rtol=0, atol=ATOL[dtype] * 10)
    np.testing.assert_allclose(gradient, want_gradient, rtol=0, atol=ATOL[dtype])


@both_losses
def test_what_the_mask_hides_is_never_read(loss):
    x, target = case(loss, (T, B), np.float64)
    mask = np.ones((T, B), bool)
    mask[1, 2] = mask[4] = False
    want = getattr(losses, loss)(x, target, mask)
    x[~mask], target[~mask] = np.nan, -7
    value, gradient = getattr(losses, loss)(x, target, mask)
    assert value == want[0]
    np.testing.assert_array_equal(gradient, want[1])
    assert not gradient[~mask].any()


@both_losses
@pytest.mark.parametrize("masked", [False, True])
def test_no_reduction_depends_on_the_order_of_the_axes(loss, masked):
    x, target = case(loss, (T, B), np.float64)
    mask = np.arange(T * B).reshape(T, B) % 3 != 1 if masked else np.ones((T, B), bool)
    steps = [
        getattr(losses, loss)(x[t, b, None], target[t, b, None])[0] for t, b in zip(*np.nonzero(mask), strict=True)
    ]
    for reduction, expected in (("mean", np.mean(steps)), ("sum", np.sum(steps))):
        value, gradient = getattr(losses, loss)(x, target, mask if masked else None, reduction)
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        turned = [each.swapaxes(0, 1) for each in (x, target, mask)]
        value, turned_gradient = getattr(losses, loss)(*turned[: 2 + masked], reduction=reduction)
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        np.testing.assert_array_equal(turned_gradient.swapaxes(0, 1), gradient)


def test_a_sum_is_that_of_pytorch():
    value, gradient = losses.cross_entropy(np.zeros((2, 5, 3)), np.zeros((2, 5), int), reduction="sum")
    np.testing.assert_allclose(value, 10 * np.log(3), rtol=1e-14)
    np.testing.assert_allclose(gradient, np.broadcast_to([-2 / 3, 1 / 3, 1 / 3], (2, 5, 3)), rtol=1e-14)
    torch = pytest.importorskip("torch")
    x, target = case("cross_entropy", (T, B), np.float64)
    theirs = torch.tensor(x.reshape(-1, C), requires_grad=True)
    wanted = torch.nn.functional.cross_entropy(theirs, torch.tensor(target.reshape(-1)), reduction="sum")
    wanted.backward()
    value, gradient = losses.cross_entropy(x, target, reduction="sum")
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-13)
    np.testing.assert_allclose(gradient, theirs.grad.numpy().reshape(x.shape), rtol=0, atol=1e-14)


@both_losses
def test_byte_order_does_not_decide_the_precision(loss):
    for dtype in (np.float32, np.float64):
        x, target = case(loss, (T, B), dtype)
        want, want_gradient = getattr(losses, loss)(x, target)
        for turned in (x.astype(x.dtype.newbyteorder()), x.astype(x.dtype.newbyteorder())[...]):
            got, gradient = getattr(losses, loss)(turned, target.astype(target.dtype.newbyteorder()))
            assert got == want
            assert gradient.dtype == dtype
            np.testing.assert_array_equal(gradient, want_gradient)


@both_losses
def test_inputs_of_other_kinds(loss):
    x, target = case(loss, (T, B), np.float64)
    x = np.round(x)
    target = np.round(target).astype(int)
    value, gradient = getattr(losses, loss)(x.astype(np.float32), target)
    for y, t in (
        (x.astype(np.int16), target.astype(np.int8)),
        (x.astype(np.float16), np.asfortranarray(target)),
        (np.asfortranarray(x.astype(np.float32)), np.repeat(target, 2, axis=1)[:, ::2]),
    ):
        got, got_gradient = getattr(losses, loss)(y, t)
        assert got == value
        np.testing.assert_array_equal(got_gradient, gradient)
        assert got_gradient.dtype == np.float32
    assert getattr(losses, loss)(x.tolist(), target.tolist())[1].dtype == np.float64  # as NumPy reads a list


def test_extreme_logits_stay_finite():
    value, gradient = losses.cross_entropy(np.array([[1e30, -1e30, 0.0]]), [0])
    assert value == 0
    assert not gradient.any()
    value, gradient = losses.cross_entropy(np.array([[1e30, -1e30, 0.0]]), [1])
    assert value == 2e30
    assert gradient.tolist() == [[1, -1, 0]]


X, IDS, ALL = np.zeros((T, B, C)), np.zeros((T, B), int), np.ones((T, B), bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: losses.cross_entropy(X[0, 0], 1),
            ValueError,
            r"cross_entropy: logits has shape \(4,\), expected \(T, B",
        ),
        (lambda: losses.cross_entropy(X, IDS[1:]), ValueError, r"targets has shape \(4, 3\), expected \(5, 3\)"),
        (lambda: losses.cross_entropy(X, IDS + 4), ValueError, "targets has the value 4, expected 0 to 3"),
        (lambda: losses.cross_entropy(X, IDS - 1), ValueError, "targets has the value -1, expected 0 to 3"),
        (lambda: losses.cross_entropy(X, IDS + 0.5), TypeError, "targets has dtype float64, expected integers"),
        (lambda: losses.cross_entropy(X * 1j, IDS), TypeError, "logits has dtype complex128, expected real numbers"),
        (lambda: losses.cross_entropy(X, IDS, ~ALL), ValueError, "mask has no step that counts, expected at least one"),
        (lambda: losses.cross_entropy(X, IDS, ALL[0]), ValueError, r"mask has shape \(3,\), expected \(5, 3\)"),
        (lambda: losses.cross_entropy(X, IDS, ALL + 0), TypeError, "mask has dtype int64, expected booleans"),
        (lambda: losses.cross_entropy(X, IDS, None, "none"), ValueError, "reduction has value 'none', expected 'mean'"),
        (lambda: losses.cross_entropy(X, IDS, None, X), TypeError, "reduction has type ndarray, expected 'mean'"),
        (
            lambda: losses.cross_entropy(X[:0], IDS[:0]),
            ValueError,
            r"logits has shape \(0, 3, 4\), expected at least one step",
        ),
        (
            lambda: losses.cross_entropy(X[0, :0], IDS[0, :0]),
            ValueError,
            r"logits has shape \(0, 4\), expected at least one step",
        ),
        (lambda: losses.cross_entropy(X[..., :0], IDS), ValueError, r"logits has shape \(5, 3, 0\)"),
        (lambda: losses.mse(X, X[1:]), ValueError, r"mse: target has shape \(4, 3, 4\), expected \(5, 3, 4\)"),
        (
            lambda: losses.cross_entropy(X, IDS[0]),
            ValueError,
            r"\(3,\), expected \(5, 3\), or one y for each row: bptt.Last\(\)",
        ),
        (lambda: losses.mse(X.swapaxes(0, 1), X[0]), ValueError, r"or one y for each row: .*last=True"),
        (lambda: losses.cross_entropy(X[0], IDS), ValueError, r"expected \(3,\), or y of each step: no bptt.Last\(\)"),
        (lambda: losses.mse(X[0], X), ValueError, r"expected \(3, 4\), or y of each step: no bptt.Last\(\)"),
        (lambda: losses.mse(X, X * 1j), TypeError, "mse: target has dtype complex128"),
        (lambda: losses.mse(X, X, ~ALL), ValueError, "mse: mask has no step that counts"),
        (
            lambda: losses.mse(X[:, :0], X[:, :0]),
            ValueError,
            r"mse: prediction has shape \(5, 0, 4\), expected at least one step",
        ),
    ],
)
def test_wrong_calls_are_named(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call()
    assert len(str(raised.value)) < 200
