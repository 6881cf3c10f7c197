# SPDX-License-Identifier: Apache-2.0
"""Every equation of this library, stated in plain NumPy and float64: what the kernels are held against.

Not fast, and no layer calls it: to be read, and to be right (finite differences hold it). Whatever comes in is
copied to float64 and never changed. Gates stand one below the other: LSTM i f g o, GRU r z n (PyTorch's order).
Shapes: T time, B batch, I input, H hidden, G gates, S states, P vectors; C classes, F features, V vocabulary;
x [T,B,I], y [T,B,H], weight_ih [G*H,I], weight_hh [G*H,H], bias [G*H], bias_hn [H], weight_peephole [3,H] (i f o).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Arrays = tuple[Array, ...]
Loss = tuple[float, Array]
Step = tuple[Arrays, Arrays]
StepGrads = tuple[Array, Array, Array, Arrays]


def _f64(a: ArrayLike) -> Array:
    return np.array(a, dtype=np.float64)


def _check(operation: str, arrays: Mapping[str, NDArray[np.generic]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(shapes.keys() | arrays.keys()):
        found, expected = getattr(arrays.get(name), "shape", None), shapes.get(name)
        if found != expected:
            raise ValueError(f"{operation}: {name} has shape {found}, expected {expected}")


def _sigmoid(a: Array) -> Array:
    e = np.exp(-np.abs(a))  # never overflows, and keeps the relative precision of the lower tail
    return np.where(a >= 0, 1.0, e) / (1.0 + e)


def _ids(what: str, ids: ArrayLike, V: int) -> NDArray[np.intp]:
    a = np.array(ids).astype(np.intp, casting="same_kind")
    if a.size and not 0 <= a.min() <= a.max() < V:
        raise ValueError(f"{what} has values from {a.min()} to {a.max()}, expected 0 to {V - 1}")
    return a


# Cells. One time step, from states s0 to s1, each [B,H]: ax and ah [B,G*H] are the x part and the h part of the
# pre-activations, with the bias in ax; p [P,H] are the per-unit vectors; k is what forward keeps for backward.
#     forward   ax, ah, p, s0      -> s1, k
#     backward  k, p, s0, s1, ds1  -> dax, dah, dp, ds0      (the time loop adds to dh0 what comes through ah)


def _rnn_tanh(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    return (np.tanh(ax + ah),), ()


def _rnn_tanh_backward(k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays) -> StepGrads:
    da = ds1[0] * (1 - s1[0] ** 2)
    return da, da, np.zeros_like(p), (np.zeros_like(da),)


def _rnn_relu(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    return (np.maximum(ax + ah, 0.0),), ()


def _rnn_relu_backward(k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays) -> StepGrads:
    da = np.where(s1[0] > 0, ds1[0], 0.0)
    return da, da, np.zeros_like(p), (np.zeros_like(da),)


def _lstm(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    _, c0 = s0
    ai, af, ag, ao = np.split(ax + ah, 4, axis=1)
    i, f, g, o = _sigmoid(ai), _sigmoid(af), np.tanh(ag), _sigmoid(ao)
    c1 = f * c0 + i * g
    h1 = o * np.tanh(c1)
    return (h1, c1), (i, f, g, o)


def _lstm_backward(k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays) -> StepGrads:
    (i, f, g, o), (_, c0), (_, c1), (dh1, dc1) = k, s0, s1, ds1
    u = np.tanh(c1)
    dao = dh1 * u * o * (1 - o)
    dc = dc1 + dh1 * o * (1 - u**2)
    dai = dc * g * i * (1 - i)
    daf = dc * c0 * f * (1 - f)
    dag = dc * i * (1 - g**2)
    da = np.hstack([dai, daf, dag, dao])
    return da, da, np.zeros_like(p), (np.zeros_like(dh1), dc * f)


def _lstm_peephole(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    (_, c0), (pi, pf, po) = s0, p
    ai, af, ag, ao = np.split(ax + ah, 4, axis=1)
    i, f, g = _sigmoid(ai + pi * c0), _sigmoid(af + pf * c0), np.tanh(ag)
    c1 = f * c0 + i * g
    o = _sigmoid(ao + po * c1)
    h1 = o * np.tanh(c1)
    return (h1, c1), (i, f, g, o)


def _lstm_peephole_backward(k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays) -> StepGrads:
    (i, f, g, o), (pi, pf, po), (_, c0), (_, c1), (dh1, dc1) = k, p, s0, s1, ds1
    u = np.tanh(c1)
    dao = dh1 * u * o * (1 - o)
    dc = dc1 + dh1 * o * (1 - u**2) + dao * po
    dai = dc * g * i * (1 - i)
    daf = dc * c0 * f * (1 - f)
    dag = dc * i * (1 - g**2)
    da = np.hstack([dai, daf, dag, dao])
    dp = np.stack([(dai * c0).sum(0), (daf * c0).sum(0), (dao * c1).sum(0)])
    return da, da, dp, (np.zeros_like(dh1), dc * f + dai * pi + daf * pf)


def _gru(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    (h0,), (b_hn,) = s0, p
    (axr, axz, axn), (ahr, ahz, ahn) = np.split(ax, 3, axis=1), np.split(ah, 3, axis=1)
    r, z = _sigmoid(axr + ahr), _sigmoid(axz + ahz)
    m = ahn + b_hn
    n = np.tanh(axn + r * m)
    h1 = (1 - z) * n + z * h0
    return (h1,), (r, z, n, m)


def _gru_backward(k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays) -> StepGrads:
    (r, z, n, m), (h0,), (dh1,) = k, s0, ds1
    dan = dh1 * (1 - z) * (1 - n**2)
    daz = dh1 * (h0 - n) * z * (1 - z)
    dar = dan * m * r * (1 - r)
    dm = dan * r
    return np.hstack([dar, daz, dan]), np.hstack([dar, daz, dm]), dm.sum(0, keepdims=True), (dh1 * z,)


@dataclass(frozen=True)
class Cell:
    """The sizes of a cell, the names of its states and of its per-unit vectors (None without any), its equations.

    >>> CELLS["lstm_peephole"].shapes(I=2, H=5)["weight_peephole"]
    (3, 5)
    """

    G: int
    S: int
    P: int
    states: tuple[str, ...]
    vectors: str | None
    forward: Callable[[Array, Array, Array, Arrays], Step]
    backward: Callable[[Arrays, Array, Arrays, Arrays, Arrays], StepGrads]

    def shapes(self, I: int, H: int) -> dict[str, tuple[int, ...]]:  # noqa: E741
        """Shape of every weight by name."""
        gates = {"weight_ih": (self.G * H, I), "weight_hh": (self.G * H, H), "bias": (self.G * H,)}
        return gates | ({self.vectors: (H,) if self.P == 1 else (self.P, H)} if self.vectors else {})


CELLS: Mapping[str, Cell] = {
    "rnn_tanh": Cell(1, 1, 0, ("h",), None, _rnn_tanh, _rnn_tanh_backward),
    "rnn_relu": Cell(1, 1, 0, ("h",), None, _rnn_relu, _rnn_relu_backward),
    "lstm": Cell(4, 2, 0, ("h", "c"), None, _lstm, _lstm_backward),
    "lstm_peephole": Cell(4, 2, 3, ("h", "c"), "weight_peephole", _lstm_peephole, _lstm_peephole_backward),
    "gru": Cell(3, 1, 1, ("h",), "bias_hn", _gru, _gru_backward),
}


@dataclass(frozen=True)
class Tape:
    """What `forward` keeps for `backward`: a value, good for any number of backward passes, in any order."""

    cell: Cell
    weights: dict[str, Array]
    p: Array  # [P,H]
    x: Array  # [T,B,I]
    states: list[Arrays]  # [T+1][S] of [B,H]; states[t] enters step t
    kept: list[Arrays]  # [T]


def forward(
    cell: str, weights: Mapping[str, ArrayLike], x: ArrayLike, states: tuple[ArrayLike, ...]
) -> tuple[Array, Arrays, Tape]:
    """Run one layer of `cell`, a key of `CELLS`, over time.

        rnn_tanh, rnn_relu   h1 = phi(a),  a = Wx x + b + Wh h0
        lstm                 c1 = f c0 + i g,  h1 = o tanh(c1),  i, f, o = sigmoid(a),  g = tanh(a)
        lstm_peephole        lstm with p_i c0, p_f c0 and p_o c1 added to the pre-activations of i, f and o
        gru                  h1 = (1 - z) n + z h0,  r, z = sigmoid(a),  n = tanh(ax + r (ah + b_hn))

    Args: weights by name, shaped as `Cell.shapes` says; x [T,B,I]; states (h0,) or (h0, c0), each [B,H].
    Returns: y [T,B,H]; the final states, each [B,H] (where T = 0 the initial ones); the tape.
    Raises: ValueError for an unknown cell, a missing or a foreign weight, a shape that does not fit.
    Source: Elman 1990; Hochreiter & Schmidhuber 1997; Gers et al. 2002 (peepholes); Cho et al. 2014 (GRU).

    >>> weights = {"weight_ih": [[1.0]], "weight_hh": [[0.5]], "bias": [0.0]}
    >>> y, (h,), tape = forward("rnn_relu", weights, [[[1.0]], [[2.0]]], ([[2.0]],))
    >>> y.ravel().tolist(), h.tolist()
    ([2.0, 3.0], [[3.0]])
    """
    if cell not in CELLS:
        raise ValueError(f"forward: cell is {cell!r}, expected one of {', '.join(CELLS)}")
    kind, w, x, s = CELLS[cell], {name: _f64(a) for name, a in weights.items()}, _f64(x), tuple(map(_f64, states))
    (T, B, I), H = x.shape, s[0].shape[-1]  # noqa: E741
    shapes = kind.shapes(I, H) | dict.fromkeys(kind.states, (B, H))
    _check("forward", w | dict(zip(kind.states, s, strict=True)), shapes)
    Wx, Wh, b = w["weight_ih"], w["weight_hh"], w["bias"]
    p = w[kind.vectors].reshape(kind.P, H) if kind.vectors else np.zeros((0, H))
    y, trail, kept = np.zeros((T, B, H)), [s], []
    for t in range(T):
        ax = x[t] @ Wx.T + b  # [B,G*H]
        ah = s[0] @ Wh.T  # [B,G*H]
        s, k = kind.forward(ax, ah, p, s)
        y[t] = s[0]
        trail.append(s)
        kept.append(k)
    return y, tuple(map(_f64, s)), Tape(kind, w, p, x, trail, kept)


def backward(tape: Tape, dy: ArrayLike, dstates: tuple[ArrayLike, ...]) -> tuple[Array, Arrays, dict[str, Array]]:
    """Backpropagation through time: from the gradients of y and of the final states to all others.

        dx = dax Wx,  dh0 += dah Wh,  dWx = sum dax^T x,  dWh = sum dah^T h0,  db = sum dax

    Args: tape from `forward`; dy [T,B,H]; dstates (dh,) or (dh, dc), the final states' gradients, each [B,H].
    Returns: dx [T,B,I]; the initial states' gradients, each [B,H]; the weights' gradients by name.
    Raises: ValueError for a shape that does not fit. Source: Werbos 1990.

    >>> weights = {"weight_ih": [[1.0]], "weight_hh": [[0.5]], "bias": [0.0]}
    >>> y, h, tape = forward("rnn_relu", weights, [[[1.0]], [[2.0]]], ([[2.0]],))
    >>> dx, (dh0,), grads = backward(tape, [[[0.0]], [[1.0]]], ([[0.0]],))
    >>> dx.ravel().tolist(), dh0.item(), grads["weight_hh"].item()
    ([0.5, 1.0], 0.25, 3.0)
    """
    kind, w, p, x, s = tape.cell, tape.weights, tape.p, tape.x, tape.states
    dy, ds = _f64(dy), tuple(map(_f64, dstates))
    shapes = {"dy": (len(x), *s[0][0].shape)} | dict.fromkeys(kind.states, s[0][0].shape)
    _check("backward", {"dy": dy} | dict(zip(kind.states, ds, strict=True)), shapes)
    Wx, Wh = w["weight_ih"], w["weight_hh"]
    dx, dWx, dWh, db, dp = map(np.zeros_like, (x, Wx, Wh, w["bias"], p))
    for t in reversed(range(len(x))):
        ds1 = (ds[0] + dy[t], *ds[1:])
        dax, dah, dp_t, ds0 = kind.backward(tape.kept[t], p, s[t], s[t + 1], ds1)
        dx[t] = dax @ Wx
        dWx += dax.T @ x[t]
        dWh += dah.T @ s[t][0]
        db += dax.sum(0)
        dp += dp_t
        ds = (ds0[0] + dah @ Wh, *ds0[1:])
    grads = {"weight_ih": dWx, "weight_hh": dWh, "bias": db, "bias_hn": dp.reshape(-1), "weight_peephole": dp}
    return dx, ds, {name: grads[name] for name in w}


def linear_forward(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """y = W x + b: x [...,I], weight [O,I], bias [O] or None -> y [...,O].

    >>> linear_forward([1.0, 2.0], [[3.0, 4.0]], [0.5]).tolist()
    [11.5]
    """
    return _f64(x) @ _f64(weight).T + (0.0 if bias is None else _f64(bias))


def linear_backward(x: ArrayLike, weight: ArrayLike, dy: ArrayLike) -> tuple[Array, Array, Array]:
    """dx = dy W, dW = sum dy^T x, db = sum dy: dy [...,O] -> dx [...,I], dW [O,I], db [O].

    >>> [g.tolist() for g in linear_backward([[1.0, 2.0]], [[3.0, 4.0]], [[10.0]])]
    [[[30.0, 40.0]], [[10.0, 20.0]], [10.0]]
    """
    x, dy, batch = _f64(x), _f64(dy), tuple(range(np.ndim(x) - 1))
    return dy @ _f64(weight), np.tensordot(dy, x, axes=(batch, batch)), dy.sum(axis=batch)


def embedding_forward(ids: ArrayLike, weight: ArrayLike) -> Array:
    """y = W[ids]: ids [...] in [0,V), weight [V,E] -> y [...,E].

    >>> embedding_forward([1, 0], [[1.0, 2.0], [3.0, 4.0]]).tolist()
    [[3.0, 4.0], [1.0, 2.0]]
    """
    return _f64(weight)[_ids("embedding_forward: ids", ids, np.shape(weight)[0])]


def embedding_backward(ids: ArrayLike, dy: ArrayLike, V: int) -> Array:
    """dW[v] = sum of dy where ids = v: dy [...,E] -> dW [V,E].

    >>> embedding_backward([1, 1], [[1.0], [2.0]], V=3).tolist()
    [[0.0], [3.0], [0.0]]
    """
    dW = np.zeros((V, np.shape(dy)[-1]))
    np.add.at(dW, _ids("embedding_backward: ids", ids, V), _f64(dy))
    return dW


def dropout(x: ArrayLike, keep: ArrayLike, p: float) -> Array:
    """y = x keep / (1 - p) for a given mask keep, same shape as x; the map from dy to dx is the same (Srivastava 2014).

    >>> dropout([1.0, 2.0], [True, False], p=0.5).tolist()
    [2.0, 0.0]
    """
    return np.where(keep, _f64(x), 0.0) * (1 / (1 - p) if p < 1 else 0.0)


def _mask(loss: str, shape: tuple[int, ...], mask: ArrayLike | None, reduction: str) -> tuple[NDArray[np.bool_], float]:
    keep = np.ones(shape, dtype=bool) if mask is None else np.array(mask, dtype=bool)
    _check(loss, {"mask": keep}, {"mask": shape})
    if not keep.any():
        raise ValueError(f"{loss}: mask has no True element, expected at least one")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{loss}: reduction is {reduction!r}, expected 'mean' or 'sum'")
    return keep, 1.0 / (int(keep.sum()) if reduction == "mean" else shape[-1])


def cross_entropy(
    logits: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None, reduction: str = "mean"
) -> Loss:
    """Loss -scale sum log softmax(logits)[target] over the unmasked (t, b), and its gradient.

    Args: logits [T,B,C] (or [B,C]); targets [T,B] in [0,C); mask [T,B], True where the element counts, default all.
        reduction "mean": scale = 1 / number of unmasked (t, b); "sum": over time, mean over the batch, scale = 1/B.
    Returns: the loss and its gradient, shaped as logits, zero where masked (masked values are never read).
    Raises: ValueError where all is masked, a shape does not fit, a target is no class; for another reduction.

    >>> cross_entropy([[0.0, 0.0]], [1])[1].tolist()
    [[0.5, -0.5]]
    """
    logits, targets = _f64(logits), np.array(targets)
    keep, scale = _mask("cross_entropy", logits.shape[:-1], mask, reduction)
    _check("cross_entropy", {"targets": targets}, {"targets": keep.shape})
    z = logits[keep]  # [N,C]
    hit = np.arange(len(z)), _ids("cross_entropy: targets", targets[keep], z.shape[1])
    z -= z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    dz = np.exp(log_p)
    dz[hit] -= 1
    gradient = np.zeros_like(logits)
    gradient[keep] = scale * dz
    return -scale * float(log_p[hit].sum()), gradient


def mse(prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, reduction: str = "mean") -> Loss:
    """Loss scale sum mean_F (prediction - target)^2 over the unmasked (t, b), and its gradient.

    Args: prediction and target [T,B,F] (or [B,F]); mask, reduction, returns and errors are those of `cross_entropy`.

    >>> mse([[1.0, 3.0]], [[1.0, 1.0]])
    (2.0, array([[0., 2.]]))
    """
    prediction, target = _f64(prediction), _f64(target)
    _check("mse", {"target": target}, {"target": prediction.shape})
    keep, scale = _mask("mse", prediction.shape[:-1], mask, reduction)
    e = prediction[keep] - target[keep]  # [N,F]
    gradient = np.zeros_like(prediction)
    gradient[keep] = 2 * scale / e.shape[1] * e
    return scale / e.shape[1] * float((e**2).sum()), gradient


def _clip(step: str, g: Array, clip_norm: float | None, clip_value: float | None) -> tuple[float, bool, Array]:
    norm = float(np.linalg.norm(g))
    if not np.isfinite(norm):
        raise FloatingPointError(f"{step}: the gradient has norm {norm}, expected a finite one")
    scaled = g * (clip_norm / norm) if clip_norm is not None and norm > clip_norm else g
    clamped = np.clip(scaled, -clip_value, clip_value) if clip_value is not None else scaled
    return norm, scaled is not g or bool((clamped != scaled).any()), clamped


def sgd_step(
    params: ArrayLike, grads: ArrayLike, velocity: ArrayLike, *, lr: float, momentum: float = 0.0,
    nesterov: bool = False, weight_decay: float = 0.0, clip_norm: float | None = None, clip_value: float | None = None,
) -> tuple[float, bool, Array, Array]:  # fmt: skip
    """g = clip(grads) + decay w,  v = momentum v + g,  w = w - lr v  (Nesterov: w - lr (g + momentum v)).

    clip: first the global norm, g min(1, clip_norm / |g|), then each element into [-clip_value, clip_value].
    Arrays [n], velocity zeros at first. Returns |grads| before clipping, whether it clipped, w, v.
    Raises FloatingPointError where |grads| is not finite. Source: Sutskever et al. 2013; Pascanu et al. 2013.

    >>> sgd_step([1.0, 1.0], [3.0, 4.0], [0.0, 0.0], lr=0.5, clip_value=2.0)
    (5.0, True, array([0., 0.]), array([2., 2.]))
    """
    w, v = _f64(params), _f64(velocity)
    norm, clipped, g = _clip("sgd_step", _f64(grads), clip_norm, clip_value)
    g = g + weight_decay * w
    v = momentum * v + g
    return norm, clipped, w - lr * (g + momentum * v if nesterov else v), v


def adam_step(
    params: ArrayLike, grads: ArrayLike, m: ArrayLike, v: ArrayLike, step: int, *, lr: float = 1e-3, beta1: float = 0.9,
    beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, clip_norm: float | None = None,
    clip_value: float | None = None,
) -> tuple[float, bool, Array, Array, Array]:  # fmt: skip
    """m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  w = (1 - lr decay) w - lr m' / (sqrt(v') + eps).

    m' = m / (1 - b1^step), v' = v / (1 - b2^step); step counts from 1; m, v zeros at first; clip, errors as `sgd_step`.
    Returns |grads| before clipping, whether it clipped, w, m, v. Source: Kingma & Ba 2015; Loshchilov & Hutter 2019.

    >>> adam_step([1.0], [5.0], [0.0], [0.0], 1, lr=0.25, eps=0.0, beta1=0.5, beta2=0.5)
    (5.0, False, array([0.75]), array([2.5]), array([12.5]))
    """
    w, m, v = _f64(params), _f64(m), _f64(v)
    norm, clipped, g = _clip("adam_step", _f64(grads), clip_norm, clip_value)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**step)
    v_hat = v / (1 - beta2**step)
    return norm, clipped, (1 - lr * weight_decay) * w - lr * m_hat / (np.sqrt(v_hat) + eps), m, v
