# SPDX-License-Identifier: Apache-2.0
"""A layer over time, forward and backward, and the changes of states between two steps.

A row of `length` steps runs them in its own order, s = 0 .. length-1 at the times t = s, or t = length-1-s where it is
read backward; steps beyond its length change nothing, and their y is zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt.reference.cells import CELLS, Cell
from bptt.reference.common import Array, Arrays, check_shapes, f64


@dataclass(frozen=True)
class StateOptions:
    """The changes of states between two steps; by default there are none.

        enter   s0 = reset ? reset_state : s;   the product sees h0 d
        leave   s = m s0 + (1 - m) clip(s1)

    lengths [B], default all T; reverse: rows are read backward; resets bool [T,B]: a row starts again before time t
    (read backward: between t and t-1); reset_state: the states it starts with, each [H], default zeros; zoneout: m for
    each state, a number or [T,B,H] by step; dropout: d [B,H]; clip: bound on states; clip_gradient: on gradients of
    pre-activations.
    Source: Krueger et al. 2017 (zoneout); Gal & Ghahramani 2016 (dropout); Graves 2013 (clipping).
    """

    lengths: ArrayLike | None = None
    reverse: bool = False
    resets: ArrayLike | None = None
    reset_state: tuple[ArrayLike, ...] | None = None
    zoneout: tuple[ArrayLike, ...] | None = None
    dropout: ArrayLike | None = None
    clip: float = np.inf
    clip_gradient: float = np.inf


@dataclass(frozen=True)
class Tape:
    """The values that `forward` keeps for any number of backward passes, in any order."""

    cell: Cell
    options: StateOptions
    weights: dict[str, Array]
    x: Array  # [T,B,I]
    initial: Arrays  # each [B,H]
    steps: list[dict[str, Any]] = field(default_factory=list)


def _times(options: StateOptions, T: int, B: int) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Whether row b has a step s, [T,B], and at which time."""
    lengths = np.full(B, T) if options.lengths is None else np.array(options.lengths)
    s = np.arange(T)[:, None]
    active = s < lengths
    return active, np.where(active, lengths - 1 - s, 0) if options.reverse else np.where(active, s, 0)


def _resets(options: StateOptions, active: NDArray[np.bool_], times: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether row b is reset before its step s, [T,B]."""
    T, B = active.shape
    out = np.zeros((T, B), dtype=bool)
    if options.resets is None:
        return out
    resets = np.array(options.resets, dtype=bool)
    for s in range(T):
        if not options.reverse:
            out[s] = resets[times[s], np.arange(B)]
        elif s > 0:  # seen from there, the reset comes after the step
            out[s] = resets[times[s - 1], np.arange(B)]
    return out & active


def _zoneout(options: StateOptions, i: int, s: int) -> Array:
    m = f64(options.zoneout[i]) if options.zoneout is not None else f64(0.0)
    return m[s] if m.ndim == 3 else m


def forward(
    cell: str,
    weights: Mapping[str, ArrayLike],
    x: ArrayLike,
    states: tuple[ArrayLike, ...],
    options: StateOptions | None = None,
) -> tuple[Array, Arrays, Tape]:
    """Run one layer of `cell`, a key of `CELLS`, over time.

        rnn_tanh, rnn_relu   h1 = phi(a),  a = Wx x + b + Wh h0
        rnn_linear           h1 = a
        lstm                 c1 = f c0 + i g,  h1 = o tanh(c1),  i, f, o = sigmoid(a),  g = tanh(a)
        lstm_peephole        lstm with p_i c0, p_f c0 and p_o c1 added to the pre-activations of i, f and o
        lstm_coupled         lstm with i = 1 - f; gates f g o
        lstm_norm            lstm with a = N(Wx x) v_x + N(Wh h0) v_h + b,  h1 = o tanh(N(c1) v_c + b_c)
        gru                  h1 = (1 - z) n + z h0,  r, z = sigmoid(a),  n = tanh(ax + r (ah + b_hn))
        gru_before           gru with n = tanh(ax + Wh (r h0))
        gru_norm             gru with ax = N(Wx x) v_x + b,  ah = N(Wh h0) v_h,  no b_hn
        slstm                c1 = f c0 + i z,  n1 = f n0 + i,  h1 = o c1 / n1,  z = tanh(a),  o = sigmoid(a);
                             log i = a - m1,  log f = min(u - m1, 0),  u = log sigmoid(a) + m0,
                             m1 = max(u, a_i), or a_i where n0 = 0; gates i f z o
        slstm_exp            slstm with u = a + m0
        N(a) = (a - mean) / sqrt(variance + 1e-5) over a's G*H units;  with weight_hr: h1 = Whr h1 after each step

    Args: weights by name, shaped as `Cell.shapes` says, of a cell with heads [G*H, H/N] for any N; x [T,B,I]; states
        (h0,), (h0, c0) or (h0, c0, n0, m0), each [B,H] (h0 [B,R] with a projection); options, see StateOptions.
    Returns: y [T,B,H]; the final states, each [B,H] (where T = 0 the initial ones); the tape.
    Raises: ValueError for an unknown cell, a missing or unknown weight, a shape that does not fit.
    Source: Elman 1990; Hochreiter & Schmidhuber 1997; Gers et al. 2002 (peepholes); Greff et al. 2017 (coupled gates);
        Cho et al. 2014 (GRU); Ba et al. 2016 (normalisation); Sak et al. 2014 (projection); Beck et al. 2024 (sLSTM).

    >>> weights = {"weight_ih": [[1.0]], "weight_hh": [[0.5]], "bias": [0.0]}
    >>> y, (h,), tape = forward("rnn_relu", weights, [[[1.0]], [[2.0]]], ([[2.0]],))
    >>> y.ravel().tolist(), h.tolist()
    ([2.0, 3.0], [[3.0]])
    """
    if cell not in CELLS:
        raise ValueError(f"forward: cell is {cell!r}, expected one of {', '.join(CELLS)}")
    kind, w, x, s = CELLS[cell], {name: f64(a) for name, a in weights.items()}, f64(x), tuple(map(f64, states))
    options = options or StateOptions()
    (T, B, I), H = x.shape, s[-1].shape[-1]  # noqa: E741
    R = s[0].shape[-1] if "weight_hr" in w else 0
    if kind.S == 1 and R:
        raise ValueError(f"forward: weights has weight_hr, expected none for {cell}")
    N = max(1, H // max(1, w["weight_hh"].shape[-1])) if kind.heads and "weight_hh" in w else 1
    shapes = kind.shapes(I, H, R, N) | dict.fromkeys(kind.states, (B, H)) | ({"h": (B, R)} if R else {})
    check_shapes("forward", w | dict(zip(kind.states, s, strict=True)), shapes)
    tape = Tape(kind, options, w, x, s)
    active, times = _times(options, T, B)
    resets, rows = _resets(options, active, times), np.arange(B)
    y = np.zeros((T, B, s[0].shape[1]))
    for t in range(T):
        reset_state = tuple(map(f64, options.reset_state or (0.0,) * kind.S))
        s0 = tuple(np.where(resets[t][:, None], a, b) for a, b in zip(reset_state, s, strict=True))
        h = s0[0] if options.dropout is None else s0[0] * f64(options.dropout)
        made, k = kind.forward(x[times[t], rows] @ w["weight_ih"].T, h, w, s0)
        s1 = (made[0] @ w["weight_hr"].T, *made[1:]) if R else made
        left = []
        for i, (a, b) in enumerate(zip(s0, s1, strict=True)):
            m = _zoneout(options, i, t)
            left.append(np.where(active[t][:, None], m * a + (1 - m) * np.clip(b, -options.clip, options.clip), s[i]))
        tape.steps.append({"s0": s0, "h": h, "made": made, "s1": s1, "k": k})
        s = tuple(left)
        y[times[t][active[t]], rows[active[t]]] = s[0][active[t]]
    return y, tuple(map(f64, s)), tape


def backward(tape: Tape, dy: ArrayLike, dstates: tuple[ArrayLike, ...]) -> tuple[Array, Arrays, dict[str, Array]]:
    """Backpropagation through time: from the gradients of y and of the final states to all others.

        dx = dax Wx,  dh0 += dah Wh,  dWx = sum dax^T x,  dWh = sum dah^T h0,  db = sum dax

    Args: tape from `forward`; dy [T,B,H]; dstates, the final states' gradients, as the states.
    Returns: dx [T,B,I]; the initial states' gradients, each [B,H]; the weights' gradients by name, and those of
        `reset_state` as "reset_state_h", "reset_state_c", ... [H] where it was given.
    Raises: ValueError for a shape that does not fit. Source: Werbos 1990.

    >>> weights = {"weight_ih": [[1.0]], "weight_hh": [[0.5]], "bias": [0.0]}
    >>> y, h, tape = forward("rnn_relu", weights, [[[1.0]], [[2.0]]], ([[2.0]],))
    >>> dx, (dh0,), grads = backward(tape, [[[0.0]], [[1.0]]], ([[0.0]],))
    >>> dx.ravel().tolist(), dh0.item(), grads["weight_hh"].item()
    ([0.5, 1.0], 0.25, 3.0)
    """
    kind, options, w, x = tape.cell, tape.options, tape.weights, tape.x
    dy, ds = f64(dy), tuple(map(f64, dstates))
    named = dict(zip(kind.states, tape.initial, strict=True))
    shapes = {"dy": (len(x), *tape.initial[0].shape)} | {name: s.shape for name, s in named.items()}
    check_shapes("backward", {"dy": dy} | dict(zip(kind.states, ds, strict=True)), shapes)
    T, B = x.shape[:2]
    active, times = _times(options, T, B)
    resets, rows = _resets(options, active, times), np.arange(B)
    dx, grads = np.zeros_like(x), {name: np.zeros_like(a) for name, a in w.items()}
    if options.reset_state is not None:
        grads |= {f"reset_state_{name}": np.zeros(s.shape[1]) for name, s in named.items()}
    for t in reversed(range(T)):
        step, on = tape.steps[t], active[t][:, None]
        s0, s1, h, made = (step[name] for name in ("s0", "s1", "h", "made"))
        dleft = (ds[0] + dy[times[t], rows], *ds[1:])
        ds1, around = [], []
        for i, d in enumerate(dleft):
            m = _zoneout(options, i, t)
            around.append(np.where(on, m * d, 0.0))
            ds1.append(np.where(on & (np.abs(s1[i]) <= options.clip), (1 - m) * d, 0.0))
        if "weight_hr" in w:
            grads["weight_hr"] += ds1[0].T @ made[0]
            ds1[0] = ds1[0] @ w["weight_hr"]
        dax, dh, dw, ds0 = kind.backward(step["k"], w, h, s0, made, tuple(ds1), options.clip_gradient)
        np.add.at(dx, (times[t], rows), np.where(on, dax @ w["weight_ih"], 0.0))
        grads["weight_ih"] += dax.T @ x[times[t], rows]
        for name, share in dw.items():
            if name in grads:
                grads[name] += share.reshape(grads[name].shape)
        dh = dh if options.dropout is None else dh * f64(options.dropout)
        before = [ds0[0] + dh + around[0], *(a + b for a, b in zip(ds0[1:], around[1:], strict=True))]
        again = resets[t][:, None]
        for i, (name, d) in enumerate(zip(named, before, strict=True)):
            if options.reset_state is not None:
                grads[f"reset_state_{name}"] += np.where(again, d, 0.0).sum(0)
            before[i] = np.where(on, np.where(again, 0.0, d), ds[i])
        ds = tuple(before)
    return dx, ds, grads
