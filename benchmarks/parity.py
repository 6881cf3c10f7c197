# SPDX-License-Identifier: Apache-2.0
"""Whether two libraries computed the same: asserted before anything is timed.

A sum of n terms in another order differs by about sqrt(n) eps of its largest partial sum. A weight gradient sums over
T*B products, each pre-activation over I + H; the recurrence carries differences along, damped by the gates. tanh and
sigmoid differ by some ULP between libraries; FACTOR covers that and the largest of many elements.

Products of rounded factors differ by more, and a sum of n of them is as far off, relative to its size, as one:

- "high": additions of values up to the largest of a row, which for normal inputs is four times their mean square root;
- bfloat16: two factors off by up to 2^-9 on both sides, 2^-7 together. Where a peer adds the gradients of T steps in
  bfloat16, they are off by about sqrt(T) 2^-9 more;
- int8: half a step of weights of seven bits (2^-8 of the largest), and of x, whose largest is four times its mean
  square root: 2^-7 on each side, 2^-6 together.
"""

import math
from collections.abc import Mapping

import numpy as np

from benchmarks.cases import Case
from benchmarks.problem import LEARNING_RATE, Array

FACTOR = 4
ADAM_SHARE = 0.05  # share of the most that a parameter can move in STEPS updates
WINOGRAD = 4  # times the tolerance of chains of FMAs
ROUNDED = {"bfloat16": 2.0**-7, "int8": 2.0**-6}
STEPS = 3  # calls of a step or stream case that are compared


class ParityError(AssertionError):
    """Two libraries disagree: their times must not be compared."""


def calls(case: Case) -> int:
    """The number of calls of both sides before they are compared."""
    return STEPS if case.mode in ("step", "stream") else 1


def required(case: Case, weights: Mapping[str, Array]) -> set[str]:
    """The names of the results that both sides must have."""
    if case.mode == "train":
        return {"y", "dx", *(f"d{name}" for name in weights)}
    return {"loss", *weights, "head_weight", "head_bias"} if case.mode == "step" else {"y"}


def tolerance(case: Case, name: str, eps: float) -> float:
    """The largest difference allowed, relative to the largest element."""
    if case.arithmetic in ROUNDED:
        carried = math.sqrt(case.T) * 2.0**-9 if name.startswith("d") else 0
        return FACTOR * (ROUNDED[case.arithmetic] + carried)
    terms = case.I + case.H + (case.T * case.B if name.startswith("d") or case.mode == "step" else 0)
    return FACTOR * eps * math.sqrt(terms) * (WINOGRAD if case.precision == "high" else 1)


def check(case: Case, weights: Mapping[str, Array], ours: Mapping[str, Array], peer: Mapping[str, Array]) -> float:
    """The largest difference over its tolerance, which is at most 1; ParityError where it is more."""
    names = required(case, weights)
    for side, results in (("ours", ours), ("the peer", peer)):
        if lacking := names - set(results):
            raise ParityError(f"{case.name}: {side} lacks {', '.join(sorted(lacking))}")
    worst = 0.0
    for name in sorted(set(ours) & set(peer)):
        error = _error(case, name, np.asarray(ours[name]), np.asarray(peer[name]))
        if not error <= 1:
            raise ParityError(f"{case.name}: {name} differs by {error:.3g} times the tolerance")
        worst = max(worst, error)
    return worst


def _error(case: Case, name: str, a: Array, b: Array) -> float:
    """The largest difference over its tolerance; that of the coarser dtype counts."""
    if a.shape != b.shape:
        raise ParityError(f"{case.name}: {name} has shape {a.shape}, the peer's {b.shape}")
    difference = float(np.abs(np.subtract(a, b, dtype=np.float64)).max(initial=0.0))
    if case.mode == "step" and name != "loss":
        # Adam's first updates are lr g / |g|, also for a tiny g: so lr bounds a difference.
        return difference / (STEPS * LEARNING_RATE * ADAM_SHARE)
    eps = max(float(np.finfo(side.dtype).eps) for side in (a, b))
    scale = float(np.abs(b).max(initial=0.0)) or 1.0
    return difference / scale / tolerance(case, name, eps)
