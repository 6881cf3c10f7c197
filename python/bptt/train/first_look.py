# SPDX-License-Identifier: Apache-2.0
"""`check`: what is wrong with a model, a batch or a loss before hours of training. Works on a copy of the model."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._arrays import as_array, check_size
from bptt.optim import Adam
from bptt.train.batch import Batch, Steps
from bptt.train.model_and_loss import check_loss, check_model
from bptt.train.source import Source
from bptt.train.updates import Task, Updates

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt.layers.recurrent import Recurrent
    from bptt.layers.sequential import Sequential
    from bptt.train.model_and_loss import Loss

__all__ = ["Check", "Finding", "check"]

_ABOVE = 1.0  # nats by which the loss of an untrained classifier may exceed ln K: logits have a variance of 2 then
_BELOW = 0.5  # of ln K, which it should not fall below
_LARGE, _SMALL = 30.0, 0.01  # of a feature: its root mean square above saturates units, all values below do little
_LEARNT = 0.5  # of the first loss: more than that at the end is no overfitting
_RATE = 1e-2


class Finding(NamedTuple):
    """One thing that was looked at: its name, whether it is as it should be, and what was found, in words."""

    name: str
    ok: bool
    text: str


class Check(NamedTuple):
    """What `check` found. `ok`: whether all findings are; str() has a line for each."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as it should be."""
        return all(each.ok for each in self.findings)

    def __str__(self) -> str:
        return "\n".join(f"{'ok  ' if each.ok else 'LOOK'}  {each.name}: {each.text}" for each in self.findings)


def check(model: Sequential | Recurrent, batch: Any, loss: Loss, *, steps: int = 100) -> Check:
    """Look at a model with one batch before training: would it learn?

    Args:
        model: a `Sequential` or a recurrent layer. It is not changed: all is done on a copy.
        batch: (x, target), (x, target, mask) or `bptt.Batch`, as of `fit`.
        loss: as of `fit`.
        steps: updates (Adam, lr 0.01, gradients clipped to norm 1) that try to overfit the batch, default 100.

    Findings, in this order:
        values: whether x, target, parameters, loss and gradient are finite; if not, nothing else is looked at.
        initial loss: for targets that are classes (integers, one for each step), whether the loss is near ln K, the
            cross-entropy of equal probabilities for K classes: from half of it to 1 more. For others, the loss.
        inputs: the features of x that are constant over all steps of all rows, or whose gradient is zero, or which
            are not of a size of about 1 (a root mean square above 30, or no value above 0.01).
        overfitting: whether the loss of this batch falls below half its first value. Dropout acts meanwhile.

    Returns: `Check`, with `ok`, `findings` and str().
    Raises: TypeError and ValueError as `fit` for a batch, model or loss that does not fit.

    >>> import numpy as np, bptt
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((6, 4, 3))
    >>> x[:, :, 1] = 1
    >>> target = rng.integers(0, 5, (6, 4))
    >>> model = bptt.Sequential(bptt.GRU(3, 32, seed=0), bptt.Linear(32, 5, seed=1))
    >>> report = bptt.check(model, (x, target), bptt.losses.cross_entropy)
    >>> report.ok, [each.name for each in report.findings if not each.ok]
    (False, ['inputs'])
    >>> print(report)
    ok    values: all finite
    ok    initial loss: ..., near ln 5 = 1.61
    LOOK  inputs: feature 1 of 3 is constant: it tells the model nothing; scale or remove it
    ok    overfitting: the loss of this batch fell from ... to ... in 100 updates
    """
    check_model("check", model)
    check_loss("check", loss)
    count = check_size("check", "steps", steps)
    twin = copy.deepcopy(model)
    parts = Steps(batch, twin, cut=False)
    whole = parts.cut(0, parts.count)
    if not parts.targets(whole):
        raise ValueError("check: batch has no step that counts, expected at least one")
    found = parts.not_finite(whole, whole, twin.params)
    if found:
        return Check((Finding("values", False, f"{found}, expected finite {twin.params.dtype} numbers"),))
    updates = Updates(Task(twin, loss, Adam(_RATE, clip_norm=1.0)), Source([whole]))
    y, dx, value, finite = _first_pass(twin, whole, updates)
    if not math.isfinite(value) or not finite:
        what = f"the loss is {value}" if not math.isfinite(value) else "the gradient is not finite"
        return Check((Finding("values", False, f"{what}, though x, target and parameters are finite"),))
    findings = [Finding("values", True, "all finite"), _initial_loss(value, y, whole.target)]
    inputs = _inputs(parts.inside(whole), None if dx is None else parts.inside(whole._replace(x=dx)))
    findings += [] if inputs is None else [inputs]
    return Check((*findings, _overfitting(updates, count)))


def _first_pass(model: Any, whole: Batch, updates: Updates) -> tuple[Any, Any, float, bool]:
    """y and the loss as at inference, the gradient of x in training, and whether all gradients are finite."""
    y = model(whole.x, None, whole.lengths, whole.resets)[0]
    y = y.data if hasattr(y, "batch_sizes") else y
    value = updates.scored(y, whole)[0]
    trained, _, tape = model.forward(whole.x, None, whole.lengths, whole.resets)
    trained = trained.data if hasattr(trained, "batch_sizes") else trained
    dx, _, grads = model.backward(tape, updates.scored(trained, whole)[1])
    return y, dx, value, bool(np.isfinite(grads.flat).all())


def _initial_loss(value: float, y: Array, target: Any) -> Finding:
    name = "initial loss"
    target = as_array("check", "target", target)
    if target.dtype.kind not in "iu" or target.shape != y.shape[:-1]:
        return Finding(name, True, f"{value:.3g}")
    K = y.shape[-1]
    expected = math.log(K)
    text = f"{value:.3g}, near ln {K} = {expected:.3g}"
    if _BELOW * expected <= value <= expected + _ABOVE:
        return Finding(name, True, text)
    why = "are the weights of the last layer large, or is the loss a sum?" if value > expected else "is it trained?"
    return Finding(name, False, f"{value:.3g}, expected about ln {K} = {expected:.3g}: {why}")


def _inputs(x: Array, dx: Array | None) -> Finding | None:
    """The features of x [N,I] that cannot matter, with their gradient [N,I], or are badly scaled; None for ids."""
    if x.dtype.kind != "f" or dx is None or x.ndim != 2:
        return None
    constant = np.flatnonzero((x == x[0]).all(0)) if len(x) > 1 else np.array([], int)
    dead = np.setdiff1d(np.flatnonzero((dx == 0).all(0)), constant)
    largest, rms = np.abs(x).max(0), np.sqrt(np.square(x, dtype=np.float64).mean(0))
    unscaled = np.setdiff1d(np.flatnonzero((rms > _LARGE) | (largest < _SMALL)), constant)
    if not (constant.size or dead.size or unscaled.size):
        return Finding("inputs", True, "each feature varies and has a gradient")
    texts = []
    if constant.size:
        texts.append(f"{_listed(constant, x.shape[1])} constant: it tells the model nothing; scale or remove it")
    if dead.size:
        texts.append(f"{_listed(dead, x.shape[1])} without effect on the loss: the gradient is zero")
    if unscaled.size:
        sizes = ", ".join(f"{rms[k]:.2g}" for k in unscaled[:8])
        advice = "scale to about 1, as bptt.data.Scaler does"
        texts.append(f"{_listed(unscaled, x.shape[1])} of size {sizes} (root mean square): {advice}")
    return Finding("inputs", False, "; ".join(texts))


def _listed(features: Array, count: int) -> str:
    """Features in words, with their verb."""
    shown = ", ".join(str(each) for each in features[:8]) + (", ..." if features.size > 8 else "")
    return f"feature {shown} of {count} is" if features.size == 1 else f"features {shown} of {count} are"


def _overfitting(updates: Updates, count: int) -> Finding:
    name, losses = "overfitting", []
    try:
        for _ in range(count):
            losses += [step.loss for step in updates.of_epoch()]
            updates.next_epoch()
    except FloatingPointError as error:
        return Finding(name, False, f"after {len(losses)} updates: {error}")
    first, last = losses[0], losses[-1]
    text = f"the loss of this batch fell from {first:.3g} to {last:.3g} in {count} updates"
    if last < first and (last <= _LEARNT * first or first <= 0):
        return Finding(name, True, text)
    text = f"the loss of this batch went from {first:.3g} to {last:.3g} in {count} updates"
    return Finding(name, False, f"{text}: do x and target belong together, and is the model large enough?")
