# SPDX-License-Identifier: Apache-2.0
"""The limits of losses: extreme predictions, and wrong calls."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import losses

INF = np.inf


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "value", "gradient"),
    [
        (losses.cross_entropy, [[1e30, -1e30, 0.0]], [0], 0.0, [[0, 0, 0]]),
        (losses.cross_entropy, [[1e30, -1e30, 0.0]], [1], 2e30, [[1, -1, 0]]),
        (losses.cross_entropy, [[-INF, 0.0, 0.0]], [1], np.log(2), [[0, -0.5, 0.5]]),
        (losses.cross_entropy, [[-INF, 0.0, 0.0]], [0], INF, [[-1, 0.5, 0.5]]),
        (partial(losses.cross_entropy, label_smoothing=0.3), [[-INF, 0.0, 0.0]], [1], INF, [[-0.1, -0.3, 0.4]]),
        (
            partial(losses.cross_entropy, label_smoothing=0.3, class_weights=[0, 1, 1]),
            [[-INF, 0.0, 0.0]], [1], 0.9 * np.log(2), [[0, -0.35, 0.35]],
        ),
        (losses.bce_with_logits, [[1e30, -1e30]], [[1.0, 0.0]], 0.0, [[0, 0]]),
        (losses.bce_with_logits, [[1e30, -1e30]], [[0.0, 1.0]], 1e30, [[0.5, -0.5]]),
        (losses.bce_with_logits, [[INF, -INF]], [[1.0, 0.0]], 0.0, [[0, 0]]),
        (losses.bce_with_logits, [[INF]], [[0.5]], INF, [[0.5]]),
        (losses.mae, [[1e30, -1e30]], [[0.0, 0.0]], 1e30, [[0.5, -0.5]]),
        (losses.huber, [[1e30, -INF]], [[0.0, 0.0]], INF, [[0.5, -0.5]]),
        (losses.gaussian_nll, [[0.0, 1e30]], [[1.0]], 5e29, [[0, 0.5]]),
        (losses.gaussian_nll, [[0.0, -1e30]], [[1.0]], INF, [[-INF, -INF]]),
        (losses.gaussian_nll, [[1.0, -1e30]], [[1.0]], -5e29, [[0, 0.5]]),
        (losses.gaussian_nll, [[0.0, -INF]], [[1.0]], INF, [[-INF, -INF]]),
        (losses.gaussian_nll, [[1e200, 1e3]], [[0.0]], 500.0, [[0, 0.5]]),
        (losses.quantile, [[1e30, -1e30, INF]], [[0.0]], INF, [[0.3, -1 / 6, 1 / 30]]),
    ],
)  # fmt: skip
def test_extreme_predictions_give_no_nan(loss: Any, prediction: Any, target: Any, value: float, gradient: Any) -> None:
    for dtype in (np.float64, np.float32):
        if np.abs(prediction).max() == 1e200 and dtype == np.float32:
            continue
        found, slopes = loss(np.array(prediction, dtype), np.array(target))
        assert found == pytest.approx(value, rel=1e-6)
        np.testing.assert_allclose(slopes, gradient, rtol=1e-6, atol=1e-7)


X, IDS = np.zeros((5, 3, 6)), np.zeros((5, 3), int)
T, F = ValueError, TypeError


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: losses.cross_entropy(X, IDS, class_weights=[1.0]),
            T,
            r"class_weights has shape \(1,\), expected \(6,\)",
        ),
        (
            lambda: losses.cross_entropy(X, IDS, class_weights=[-1] * 6),
            T,
            "class_weights has the value -1.0, expected f",
        ),
        (
            lambda: losses.cross_entropy(X, IDS, class_weights=[np.inf] * 6),
            T,
            "class_weights has the value inf, expected",
        ),
        (
            lambda: losses.cross_entropy(X, IDS, class_weights=[0] + [1] * 5),
            T,
            "class_weights has 0 for every target, e",
        ),
        (
            lambda: losses.cross_entropy(X, IDS - 1, class_weights=[1] * 6),
            T,
            "targets has the value -1, expected 0 to 5",
        ),
        (
            lambda: losses.cross_entropy(X, IDS + 6, class_weights=[1] * 6),
            T,
            "targets has the value 6, expected 0 to 5",
        ),
        (lambda: losses.cross_entropy(X, IDS, class_weights="a"), F, "class_weights has dtype"),
        (
            lambda: losses.cross_entropy(X, IDS, label_smoothing=1.5),
            T,
            "label_smoothing has value 1.5, expected 0 <= la",
        ),
        (lambda: losses.cross_entropy(X, IDS, label_smoothing=np.nan), T, "label_smoothing has value nan"),
        (
            lambda: losses.cross_entropy(X, IDS, label_smoothing=None),
            F,
            "label_smoothing has type NoneType, expected a n",
        ),
        (lambda: losses.cross_entropy(X, IDS, ignore_index=0), T, "targets has no step that counts, expected one that"),
        (lambda: losses.cross_entropy(X, IDS, ignore_index=1.0), F, "ignore_index has type float, expected an integer"),
        (
            lambda: losses.cross_entropy(X, IDS, ignore_index=2**70),
            T,
            "ignore_index has value 1180591620717411303424, ex",
        ),
        (lambda: losses.bce_with_logits(X, X + 1.5), T, "bce_with_logits: target has the value 1.5, expected 0 to 1"),
        (
            lambda: losses.bce_with_logits(X, X * np.nan),
            T,
            "bce_with_logits: target has the value nan, expected 0 to 1",
        ),
        (
            lambda: losses.bce_with_logits(X, IDS),
            T,
            r"bce_with_logits: target has shape \(5, 3\), expected \(5, 3, 6\)",
        ),
        (lambda: losses.bce_with_logits(X, X, pos_weight=[1, 2]), T, r"pos_weight has shape \(2,\), expected \(6,\)"),
        (
            lambda: losses.bce_with_logits(X, X, pos_weight=-1),
            T,
            "pos_weight has the value -1.0, expected finite numbers",
        ),
        (lambda: losses.mae(X, X[1:]), T, r"mae: target has shape \(4, 3, 6\), expected \(5, 3, 6\)"),
        (lambda: losses.mae(X, X, IDS > 0), T, "mae: mask has no step that counts, expected at least one"),
        (lambda: losses.huber(X, X, delta=0), T, "huber: delta has value 0, expected a number above 0"),
        (lambda: losses.huber(X, X, delta=-1.0), T, "huber: delta has value -1.0, expected 0 <= delta < inf"),
        (lambda: losses.huber(X, X, delta="1"), F, "huber: delta has type str, expected a number"),
        (
            lambda: losses.huber(X, X, reduction="none"),
            T,
            "huber: reduction has value 'none', expected 'mean' or 'sum'",
        ),
        (
            lambda: losses.gaussian_nll(X[..., :5], X),
            T,
            r"prediction has shape \(5, 3, 5\), expected an even last axis",
        ),
        (lambda: losses.gaussian_nll(X, X), T, r"gaussian_nll: target has shape \(5, 3, 6\), expected \(5, 3, 3\)"),
        (
            lambda: losses.quantile(X[..., :5], X),
            T,
            r"prediction has shape \(5, 3, 5\), expected a multiple of 3 quant",
        ),
        (lambda: losses.quantile(X, X), T, r"quantile: target has shape \(5, 3, 6\), expected \(5, 3, 2\)"),
        (lambda: losses.quantile(X, IDS), T, r"prediction has shape \(5, 3, 6\), expected \(..., 3\), one for each"),
        (
            lambda: losses.quantile(X, X, quantiles=[0.5, 1]),
            T,
            "quantiles has the value 1.0, expected numbers between 0",
        ),
        (lambda: losses.quantile(X, X, quantiles=[]), T, r"quantiles has shape \(0,\), expected \(Q,\), at least one"),
        (lambda: losses.quantile(X, X, quantiles=0.5), T, r"quantiles has shape \(\), expected \(Q,\), at least one"),
        (
            lambda: losses.mse(bptt.Packed(X[0], [3, 1]), X[0]),
            T,
            r"mse: prediction has shape \(3, 6\), expected \(4, 6\)",
        ),
        (
            lambda: losses.mse(bptt.Packed(X[0], [3]), bptt.Packed(X[0], [2, 1])),
            T,
            "target has other batch_sizes than x",
        ),
        (lambda: losses.mse(X[0], bptt.Packed(X[0], [3])), T, "mse: target has packed rows, expected an array"),
        (lambda: losses.mask_of([3, 6], 5), T, "mask_of: lengths has values from 3 to 6, expected 0 to 5"),
        (lambda: losses.mask_of([[3]], 5), T, r"mask_of: lengths has shape \(1, 1\), expected \(B,\)"),
        (lambda: losses.mask_of([3.0], 5), F, "mask_of: lengths has dtype float64, expected integers"),
        (lambda: losses.mask_of([3], 5, None), F, "mask_of: batch_first has type NoneType, expected True or False"),
    ],
)
def test_wrong_calls_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        call()
    assert len(str(raised.value)) < 200
