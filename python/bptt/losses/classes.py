# SPDX-License-Identifier: Apache-2.0
"""Losses of classes: one of C (softmax), and any of F, each for itself (sigmoid)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import as_array, as_floats, as_integers, check_number, check_size, shape_error
from bptt._dispatch import core
from bptt.losses.rows import Rows

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn
    from bptt.losses.rows import RowsIn


def cross_entropy(
    logits: RowsIn,
    targets: RowsIn,
    mask: RowsIn | None = None,
    reduction: str = "mean",
    *,
    class_weights: ArrayIn | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
) -> tuple[float, Array]:
    """Cross-entropy of the softmax of `logits`, in nats.

        step loss = -log p[target],   p = softmax(logits),   d step loss / d logits = p - onehot(target)

    With weights w of the classes and label smoothing s, as PyTorch defines them:

        step loss = sum_j -a_j log p_j,   a_j = w_j ((1 - s) [j = target] + s / C),   d / d logits = sum(a) p - a

    Args:
        logits: [T,B,C] (or [B,T,C], or [B,C] for one step), or `Packed`. Computed in float64 if it is float64 or wider,
            other real numbers become float32. -inf is a class of probability 0.
        targets: integers [T,B] in [0,C), shaped as logits without C; masked targets are ignored.
        mask: booleans, shaped as targets, True where the step counts; default None, all.
        reduction: "mean" (default) or "sum" of the step losses over all (t, b) that count. With class_weights the mean
            is the sum divided by the sum of w[target], as in PyTorch.
        class_weights: w [C], finite numbers >= 0; default None, all 1.
        label_smoothing: s, 0 <= s < 1, default 0.
        ignore_index: a target that does not count, such as -100, PyTorch's default; default None here.

    Returns: the loss, and its gradient with respect to the logits, shaped as they are (of `Packed` rows their data), 0
        where masked. The loss is inf where a target has probability 0, and NaN where logits are NaN or inf or all are
        -inf, which have no softmax: `bptt.fit` refuses both.
    Raises: ValueError for a wrong shape, a target outside [0,C), no step that counts, weights that are all 0, or
        a wrong option; TypeError for a wrong dtype.

    >>> loss, dlogits = cross_entropy(np.zeros((1, 2, 2)), [[0, 1]])
    >>> round(loss, 4), dlogits.tolist()
    (0.6931, [[[-0.25, 0.25], [0.25, -0.25]]])
    >>> cross_entropy(np.zeros((1, 2, 2)), [[0, -1]], ignore_index=-1)[1].tolist()
    [[[-0.5, 0.5], [0.0, 0.0]]]
    """
    where = "cross_entropy"
    rows = Rows(where, "logits", logits, targets, mask, "targets")
    t = as_integers(where, "targets", rows.target)
    rows.check_target("targets", t)
    t = t.reshape(-1)
    smoothing = check_number(where, "label_smoothing", label_smoothing, 0.0, 1.0)
    if ignore_index is not None:
        rows.mask = _counting(rows, t, ignore_index)
    keep, scale = rows.kept(reduction)
    w = None if class_weights is None else _weights(where, "class_weights", class_weights, rows.values.shape[1])
    if w is not None and reduction == "mean":
        total = float(w.take(t if keep is None else t[keep], mode="clip").sum())  # the kernel names a wrong target
        if total == 0:
            raise ValueError(f"{where}: class_weights has 0 for every target, expected one that counts")
        scale = 1 / total
    loss, dz = core.cross_entropy(rows.values, t, keep, scale, w, smoothing)
    return loss, rows.gradient(dz)


def bce_with_logits(
    logits: RowsIn,
    target: RowsIn,
    mask: RowsIn | None = None,
    reduction: str = "mean",
    *,
    pos_weight: ArrayIn | None = None,
) -> tuple[float, Array]:
    """Binary cross-entropy of the sigmoid of `logits`, in nats: F independent yes-or-no questions.

        step loss = (1/F) sum_f -w t log sigmoid(z) - (1 - t) log sigmoid(-z)
        d step loss / d z = (1/F) ((1 - t) sigmoid(z) - w t sigmoid(-z))

    Args:
        logits: z [T,B,F] (or [B,T,F], or [B,F] for one step), or `Packed`. Computed in float64 if it is float64 or
            wider, other real numbers become float32. -inf and inf are the probabilities 0 and 1.
        target: t, numbers in [0,1] (or booleans), shaped as logits; masked targets are ignored.
        mask: booleans [T,B], shaped as logits without F, True where the step counts; default None, all.
        reduction: "mean" (default) or "sum" of the step losses over all (t, b) that count.
        pos_weight: w, one number or [F], finite and >= 0: how much a yes weighs; default None, 1.

    Returns: the loss, and its gradient with respect to the logits, shaped as they are (of `Packed` rows their data), 0
        where masked.
    Raises: ValueError for a wrong shape, a target outside [0,1], no step that counts or a wrong option; TypeError for a
        wrong dtype.
    Source: PyTorch's BCEWithLogitsLoss.

    >>> loss, dlogits = bce_with_logits([[0.0, 0.0]], [[0.0, 1.0]])
    >>> round(loss, 4), dlogits.tolist()
    (0.6931, [[0.25, -0.25]])
    """
    where = "bce_with_logits"
    rows = Rows(where, "logits", logits, target, mask)
    F = rows.values.shape[1]
    goal = rows.goal(F)
    keep, scale = rows.kept(reduction)
    w = None
    if pos_weight is not None:
        w = as_array(where, "pos_weight", pos_weight)
        w = _weights(where, "pos_weight", np.full(F, w) if w.ndim == 0 else w, F)
    loss, dz = core.bce_with_logits(rows.values, goal, keep, scale / F, w)
    return loss, rows.gradient(dz)


def _counting(rows: Rows, targets: Array, ignored: int) -> Array:
    """The mask of the rows that it keeps and whose target is not ignored."""
    keep: Array = targets != check_size(rows.where, "ignore_index", ignored, least=-(2**63), most=2**63 - 1)
    given = rows.kept("sum")[0]
    if given is not None:
        keep = keep & given
    if not keep.any():
        expected = f"expected one that is not ignore_index, {ignored}"
        raise ValueError(f"{rows.where}: targets has no step that counts, {expected}")
    return keep.reshape(rows.lead)


def _weights(where: str, name: str, value: ArrayIn, count: int) -> Array:
    """Weights [count] in float64, finite and at least 0."""
    w = as_floats(where, name, value, np.float64)
    if w.shape != (count,):
        raise shape_error(where, name, w, (count,))
    bad = w[~((w >= 0) & np.isfinite(w))]
    if bad.size:
        raise ValueError(f"{where}: {name} has the value {bad[0]}, expected finite numbers >= 0")
    return w
