# SPDX-License-Identifier: Apache-2.0
"""Losses: value and gradient together. They check shapes and apply masks and reductions; sums are native.

    classes.py   cross_entropy, bce_with_logits      values.py   mse, mae, huber, gaussian_nll, quantile
    rows.py      what they share: rows, masks, reductions; mask_of

The loss of a sequence is made of step losses, one for each (t, b) that the mask keeps:
    "mean"   their mean
    "sum"    their sum
Neither depends on the order of the axes, so that [B,T,...] gives the same as [T,B,...].

Every loss is a function of (prediction, target, mask=None, reduction="mean") with further options by name. `bptt.fit`
takes such a function; `functools.partial` sets its options:

>>> from functools import partial
>>> loss = partial(huber, delta=0.5)
>>> value, dy = loss([[1.0, 3.0]], [[1.0, 1.0]])
>>> value, dy.tolist()
(0.4375, [[0.0, 0.25]])
"""

from bptt.losses.classes import bce_with_logits, cross_entropy
from bptt.losses.rows import mask_of
from bptt.losses.values import gaussian_nll, huber, mae, mse, quantile

__all__ = ["bce_with_logits", "cross_entropy", "gaussian_nll", "huber", "mae", "mask_of", "mse", "quantile"]
