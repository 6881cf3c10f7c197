# SPDX-License-Identifier: Apache-2.0
"""Lyapunov exponents of a recurrent layer along a trajectory.

The Jacobian's products come from one-step backward passes of the native cells, many vectors at once: they give products
with transposed Jacobians, from the last step to the first. The growth rates of the transposed product are those of the
product itself, since a matrix and its transpose have the same singular values, and this is the direction in which
gradients travel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import check_size, kind_of
from bptt.insight.growth import log_growth, mean_and_error, orthonormal
from bptt.insight.kernel import trajectories
from bptt.layers.recurrent import Recurrent

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn
    from bptt._engine.stack import StateIn
    from bptt.insight.kernel import Kernel, Trajectory

MOST = 32  # exponents of one kernel by default
TOLERANCE, RELATIVE_TOLERANCE = 0.02, 0.05  # of an exponent that counts as converged


@dataclass(frozen=True)
class LyapunovSpectrum:
    """The exponents of a layer, natural logarithms per step, largest first; see `lyapunov_exponents`.

    exponents: [k], minus infinity for a direction that a step removes entirely; NaN where the states overflow.
    error: [k], their standard errors, NaN for an infinite exponent.
    replica_gap: [k], how far two runs from different random vectors differ.
    sum_rule: (sum of all exponents, what the determinants of the Jacobians give for it), or None: where not all
        exponents were asked for, or the cell has no closed form (tanh and linear RNN and plain LSTM have one).
    steps: the number of steps that count, of each row.
    """

    exponents: Array
    error: Array
    replica_gap: Array
    sum_rule: tuple[float, float] | None
    steps: int
    logs: Array = field(repr=False)  # [steps,rows,k]

    @property
    def converged_each(self) -> Array:
        """Which exponents can be relied on, [k].

        Error and gap between the replicas are at most 0.02 + 0.05 |exponent|, or the exponent is minus infinity.
        """
        with np.errstate(invalid="ignore"):
            room = TOLERANCE + RELATIVE_TOLERANCE * np.abs(self.exponents)
            good: Array = (self.error <= room) & (self.replica_gap <= room)
        return good | (np.isneginf(self.exponents) & ~np.isinf(self.replica_gap))

    @property
    def converged(self) -> bool:
        """Whether all exponents can be relied on, and the sum rule, where there is one, holds as exactly as they do."""
        if not self.converged_each.all():
            return False
        if self.sum_rule is None or not all(np.isfinite(self.sum_rule)):
            return True
        got, expected = self.sum_rule
        room = TOLERANCE + RELATIVE_TOLERANCE * np.abs(self.exponents)
        return bool(abs(got - expected) <= room.sum())

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values of Python; NaN and infinities stay what they are."""
        return {
            "exponents": self.exponents.tolist(),
            "error": self.error.tolist(),
            "replica_gap": self.replica_gap.tolist(),
            "sum_rule": None if self.sum_rule is None else list(self.sum_rule),
            "steps": self.steps,
            "converged": self.converged,
        }


def lyapunov_exponents(
    layer: Recurrent, x: ArrayIn, state: StateIn = None, k: int | None = None, warmup: int | None = None
) -> LyapunovSpectrum:
    """The leading Lyapunov exponents of a layer along its trajectory on x: how fast perturbations and gradients grow.

        lambda_i = lim 1/T ln sigma_i(J_T ... J_1),   J_t = d state_t / d state_{t-1}

    A positive exponent means chaos and exploding gradients, a negative one a time constant of memory, -1/lambda steps.
    The state of an LSTM is (h, c): 2 H exponents. Layers of a stack and both directions have their own exponents, of
    which the largest are given: the Jacobian of a stack is block triangular.

    Args:
        layer: `RNN`, `LSTM` or `GRU`, at inference: dropout does not act.
        x: [T,B,I] (or [T,I]; [B,T,I] with batch_first); each row is a trajectory. More steps make the
            error smaller.
        state: the initial state, default zeros or the learnt one.
        k: the number of exponents, default at most 32.
        warmup: steps at each end that do not count, since the state has to settle and the vectors have to turn into
            their directions; default T // 10.

    Returns: `LyapunovSpectrum`, with `.exponents`, `.error` and `.converged`. It is computed in float64.
    Raises: TypeError for anything but a recurrent layer; ValueError for zoneout, clip_state or an SLSTM, for a wrong
        shape, or where no step is left.
    Source: Benettin et al. 1980; Engelken et al. 2020; Vogt et al. 2022.

    >>> import numpy as np
    >>> from bptt import RNN
    >>> rnn = RNN(2, 3, nonlinearity="linear", seed=0)  # weight_hh is orthogonal: nothing grows or fades
    >>> spectrum = lyapunov_exponents(rnn, np.ones((100, 1, 2)))
    >>> bool(np.abs(spectrum.exponents).max() < 1e-6), spectrum.converged
    (True, True)
    """
    where = "lyapunov_exponents"
    check_layer(where, layer)
    if hasattr(x, "batch_sizes"):
        raise ValueError(f"{where}: x has packed rows, expected an array")
    taken, shown = layer._stack._taken(where, x)
    initial = layer._stack.states.native(where, "state", state, taken.shape[1], shown)
    if not np.isfinite(taken).all():
        raise ValueError(f"{where}: x has the value {taken[~np.isfinite(taken)][0]}, expected finite numbers")
    T, B = taken.shape[:2]
    warmup = T // 10 if warmup is None else check_size(where, "warmup", warmup, 0)
    if T - 2 * warmup < 1 or B < 1:
        raise ValueError(f"{where}: x has {T} steps of {B} rows, expected a row and more than {2 * warmup} steps")
    structure = layer._stack.structure
    total = structure.kernels * sum(structure.widths)
    if k is not None and check_size(where, "k", k) > total:
        raise ValueError(f"{where}: k has value {k}, expected at most {total}, the size of the state")
    found = [spectrum_of(kernel, path, k, warmup) for kernel, path in trajectories(layer, taken, initial)]
    return _merged(found, k if k is not None else min(MOST, total))


def check_layer(where: str, layer: Any) -> None:
    """Raise unless the layer's exponents can be computed."""
    if not isinstance(layer, Recurrent):
        raise TypeError(f"{where}: layer {kind_of(layer)}, expected a recurrent layer such as bptt.LSTM")
    found = why_not(layer)
    if found:
        raise ValueError(f"{where}: layer has {found}, expected one without")


def why_not(layer: Recurrent) -> str:
    """What the layer has that its exponents are not defined for, or an empty text."""
    options = layer._stack.state_options
    if any(options.zoneout):
        return "zoneout"
    if np.isfinite(options.clip_state):
        return "clip_state"
    if "m" in layer._stack.structure.info.states:
        return "a stabiliser, which is a choice of scale and no memory"
    return ""


def spectrum_of(kernel: Kernel, path: Trajectory, k: int | None, warmup: int) -> LyapunovSpectrum:
    """The exponents of one kernel along what it did, from two replicas."""
    T, B = path.x.shape[:2]
    n = kernel.size
    k = min(n, MOST if k is None else k)
    order = range(T) if kernel.reverse else range(T - 1, -1, -1)  # against the kernel's own time
    counted = T - 2 * warmup

    def apply(s: int, Q: Array) -> Array:
        t = order[s]
        rows = np.tile(np.repeat(np.arange(B), k), 2)  # replica, row, vector
        vectors = Q.swapaxes(-1, -2).reshape(2 * B * k, n)
        pulled = kernel.pulled(path.x[t][rows], tuple(state[t][rows] for state in path.before), vectors)
        return pulled.reshape(2, B, k, n).swapaxes(-1, -2)

    if kernel.structure.cell != "rnn_linear" and not all(np.isfinite(state).all() for state in path.after):
        unknown = np.full(k, np.nan)  # the Jacobian is not defined where a state overflows
        return LyapunovSpectrum(unknown, unknown, unknown, None, counted, np.full((counted, B, k), np.nan))
    start = orthonormal(np.random.default_rng(0), 2, B, n, k)
    logs = log_growth(apply, start, warmup + counted)[warmup:]
    both, _ = mean_and_error(logs.reshape(counted, 2 * B, k))
    _, error = mean_and_error(logs.mean(axis=1))
    means = logs.mean(axis=(0, 2))
    finite = np.isfinite(means).all(axis=0)
    gap = np.full(k, np.nan)
    gap[finite] = np.abs(means[0, finite] - means[1, finite])
    gap[~finite & np.isfinite(means).any(axis=0)] = np.inf
    inside = slice(warmup, T - warmup)
    expected = sum_of_all(kernel, path, inside) if k == n else None
    rule = None if expected is None else (float(both.sum()), expected)
    return _sorted(LyapunovSpectrum(both, error, gap, rule, counted, logs.mean(axis=1)))


def sum_of_all(kernel: Kernel, path: Trajectory, inside: slice) -> float | None:
    """The mean of ln |det J| in closed form: None where there is none.

    tanh RNN: ln |det Wh| + sum ln(1 - h^2). Plain LSTM: ln |det W_o| + sum ln f + ln |tanh c| + ln o (1 - o), W_o the
    rows of weight_hh that feed o, since h0 acts on h1 through o alone once the effect of c1 is taken off.
    """
    cell, H = kernel.structure.cell, kernel.structure.hidden_size
    if cell not in ("rnn_tanh", "rnn_linear", "lstm"):
        return None
    W = kernel.weight("weight_hh")
    with np.errstate(divide="ignore", invalid="ignore"):
        if cell == "lstm":
            f, o, c = path.gates["f"][inside], path.gates["o"][inside], path.after[1][inside]
            terms = np.log(f) + np.log(np.abs(np.tanh(c))) + np.log(o * (1 - o))
            W = W[3 * H :]
        else:
            h = path.after[0][inside]
            terms = np.log(1 - h * h) if cell == "rnn_tanh" else np.zeros_like(h)
        return float(np.linalg.slogdet(W)[1] + terms.sum(axis=2).mean())


def _sorted(found: LyapunovSpectrum) -> LyapunovSpectrum:
    order = np.argsort(-found.exponents, kind="stable")
    return LyapunovSpectrum(
        found.exponents[order],
        found.error[order],
        found.replica_gap[order],
        found.sum_rule,
        found.steps,
        found.logs[:, :, order],
    )


def _merged(found: list[LyapunovSpectrum], k: int) -> LyapunovSpectrum:
    """The leading ones of several kernels."""
    rules = [each.sum_rule for each in found]
    rule = None
    if all(each is not None for each in rules):
        rule = (sum(each[0] for each in rules if each), sum(each[1] for each in rules if each))
    whole = _sorted(
        LyapunovSpectrum(
            np.concatenate([each.exponents for each in found]),
            np.concatenate([each.error for each in found]),
            np.concatenate([each.replica_gap for each in found]),
            rule,
            found[0].steps,
            np.concatenate([each.logs for each in found], axis=2),
        )
    )
    return LyapunovSpectrum(
        whole.exponents[:k],
        whole.error[:k],
        whole.replica_gap[:k],
        whole.sum_rule if len(whole.exponents) == k else None,
        whole.steps,
        whole.logs[:, :, :k],
    )
