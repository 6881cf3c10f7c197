# SPDX-License-Identifier: Apache-2.0
"""The cells: one time step forward and backward, from states s0 to s1, each [B,H].

forward    ax, h, w, s0                      -> s1, k        ax [B,G*H] = Wx x; h [B,R] is h0 as the product sees it
backward   k, w, h, s0, s1, ds1, limit       -> dax, dh, dw, ds0
k are values that forward keeps; dh is the gradient of h, ds0 that of s0 without dh; dw are this step's shares of the
weights' gradients. The gradients of the pre-activations' two parts are clipped to [-limit, limit] (Graves 2013).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bptt.reference.common import Array, Arrays

Weights = Mapping[str, Array]
Step = tuple[Arrays, Arrays]
StepGrads = tuple[Array, Array, dict[str, Array], Arrays]
EPSILON = 1e-5  # of layer normalisation


def _sigmoid(a: Array) -> Array:
    e = np.exp(-np.abs(a))  # never overflows, and keeps the relative precision of the lower tail
    return np.where(a >= 0, 1.0, e) / (1.0 + e)


def _bias(w: Weights) -> Array:
    return w["bias"] if "bias" in w else np.zeros(1, dtype=np.float64)


# Most cells are functions of the two parts of the pre-activations, ax and ah [B,G*H], and of per-unit vectors p [P,H].

Plain = Callable[[Array, Array, Array, Arrays], Step]  # ax, ah, p, s0 -> s1, k
PlainGrads = Callable[[Arrays, Array, Arrays, Arrays, Arrays], tuple[Array, Array, Array, Arrays]]  # dax, dah, dp, ds0


def _plain(forward: Plain, backward: PlainGrads, vectors: str | None = None) -> tuple["Forward", "Backward"]:
    def vectors_of(w: Weights, H: int) -> Array:
        return w[vectors].reshape(-1, H) if vectors and vectors in w else np.zeros((1, H))

    def step(ax: Array, h: Array, w: Weights, s0: Arrays) -> Step:
        return forward(ax + _bias(w), h @ w["weight_hh"].T, vectors_of(w, s0[-1].shape[1]), s0)

    def back(k: Arrays, w: Weights, h: Array, s0: Arrays, s1: Arrays, ds1: Arrays, limit: float) -> StepGrads:
        p = vectors_of(w, s0[-1].shape[1])
        dax, dah, dp, ds0 = backward(k, p, s0, s1, ds1)
        dax, dah = np.clip(dax, -limit, limit), np.clip(dah, -limit, limit)
        if vectors == "bias_hn":  # a bias of ah
            dp = dah[:, -p.shape[1] :].sum(0, keepdims=True)
        dw = {"weight_hh": dah.T @ h, "bias": dax.sum(0)} | ({vectors: dp} if vectors else {})
        return dax, dah @ w["weight_hh"], dw, ds0

    return step, back


def _rnn_tanh(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    return (np.tanh(ax + ah),), ()


def _rnn_tanh_backward(k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays) -> tuple[Array, Array, Array, Arrays]:
    da = ds1[0] * (1 - s1[0] ** 2)
    return da, da, np.zeros_like(p), (np.zeros_like(da),)


def _rnn_relu(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    return (np.maximum(ax + ah, 0.0),), ()


def _rnn_relu_backward(k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays) -> tuple[Array, Array, Array, Arrays]:
    da = np.where(s1[0] > 0, ds1[0], 0.0)
    return da, da, np.zeros_like(p), (np.zeros_like(da),)


def _rnn_linear(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    return (ax + ah,), ()


def _rnn_linear_backward(
    k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays
) -> tuple[Array, Array, Array, Arrays]:
    da = ds1[0]
    return da, da, np.zeros_like(p), (np.zeros_like(da),)


def _lstm(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    _, c0 = s0
    ai, af, ag, ao = np.split(ax + ah, 4, axis=1)
    i, f, g, o = _sigmoid(ai), _sigmoid(af), np.tanh(ag), _sigmoid(ao)
    c1 = f * c0 + i * g
    h1 = o * np.tanh(c1)
    return (h1, c1), (i, f, g, o)


def _lstm_backward(k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays) -> tuple[Array, Array, Array, Arrays]:
    (i, f, g, o), c0, c1, (dh1, dc1) = k, s0[1], s1[1], ds1
    u = np.tanh(c1)
    dao = dh1 * u * o * (1 - o)
    dc = dc1 + dh1 * o * (1 - u**2)
    dai = dc * g * i * (1 - i)
    daf = dc * c0 * f * (1 - f)
    dag = dc * i * (1 - g**2)
    da = np.hstack([dai, daf, dag, dao])
    return da, da, np.zeros_like(p), (np.zeros_like(s0[0]), dc * f)


def _lstm_coupled(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    af, ag, ao = np.split(ax + ah, 3, axis=1)
    f, g, o = _sigmoid(af), np.tanh(ag), _sigmoid(ao)
    c1 = f * s0[1] + (1 - f) * g
    h1 = o * np.tanh(c1)
    return (h1, c1), (f, g, o)


def _lstm_coupled_backward(
    k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays
) -> tuple[Array, Array, Array, Arrays]:
    (f, g, o), c0, c1, (dh1, dc1) = k, s0[1], s1[1], ds1
    u = np.tanh(c1)
    dc = dc1 + dh1 * o * (1 - u**2)
    da = np.hstack([dc * (c0 - g) * f * (1 - f), dc * (1 - f) * (1 - g**2), dh1 * u * o * (1 - o)])
    return da, da, np.zeros_like(p), (np.zeros_like(s0[0]), dc * f)


def _lstm_peephole(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    (_, c0), (pi, pf, po) = s0, p
    ai, af, ag, ao = np.split(ax + ah, 4, axis=1)
    i, f, g = _sigmoid(ai + pi * c0), _sigmoid(af + pf * c0), np.tanh(ag)
    c1 = f * c0 + i * g
    o = _sigmoid(ao + po * c1)
    h1 = o * np.tanh(c1)
    return (h1, c1), (i, f, g, o)


def _lstm_peephole_backward(
    k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays
) -> tuple[Array, Array, Array, Arrays]:
    (i, f, g, o), (pi, pf, po), c0, c1, (dh1, dc1) = k, p, s0[1], s1[1], ds1
    u = np.tanh(c1)
    dao = dh1 * u * o * (1 - o)
    dc = dc1 + dh1 * o * (1 - u**2) + dao * po
    dai = dc * g * i * (1 - i)
    daf = dc * c0 * f * (1 - f)
    dag = dc * i * (1 - g**2)
    da = np.hstack([dai, daf, dag, dao])
    dp = np.stack([(dai * c0).sum(0), (daf * c0).sum(0), (dao * c1).sum(0)])
    return da, da, dp, (np.zeros_like(s0[0]), dc * f + dai * pi + daf * pf)


def _gru(ax: Array, ah: Array, p: Array, s0: Arrays) -> Step:
    (h0,), (b_hn,) = s0, p
    (axr, axz, axn), (ahr, ahz, ahn) = np.split(ax, 3, axis=1), np.split(ah, 3, axis=1)
    r, z = _sigmoid(axr + ahr), _sigmoid(axz + ahz)
    m = ahn + b_hn
    n = np.tanh(axn + r * m)
    h1 = (1 - z) * n + z * h0
    return (h1,), (r, z, n, m)


def _gru_backward(k: Arrays, p: Array, s0: Arrays, s1: Arrays, ds1: Arrays) -> tuple[Array, Array, Array, Arrays]:
    (r, z, n, m), (h0,), (dh1,) = k, s0, ds1
    dan = dh1 * (1 - z) * (1 - n**2)
    daz = dh1 * (h0 - n) * z * (1 - z)
    dar = dan * m * r * (1 - r)
    dm = dan * r
    return np.hstack([dar, daz, dan]), np.hstack([dar, daz, dm]), dm.sum(0, keepdims=True), (dh1 * z,)


# A second product: the candidate's hidden part is a product of r h0, not of h0.


def _gru_before(ax: Array, h: Array, w: Weights, s0: Arrays) -> Step:
    H = s0[0].shape[1]
    Wh = w["weight_hh"]
    axr, axz, axn = np.split(ax + _bias(w), 3, axis=1)
    r, z = _sigmoid(axr + h @ Wh[:H].T), _sigmoid(axz + h @ Wh[H : 2 * H].T)
    n = np.tanh(axn + (r * h) @ Wh[2 * H :].T)
    return ((1 - z) * n + z * s0[0],), (r, z, n)


def _gru_before_backward(
    k: Arrays, w: Weights, h: Array, s0: Arrays, s1: Arrays, ds1: Arrays, limit: float
) -> StepGrads:
    (r, z, n), (h0,), (dh1,) = k, s0, ds1
    H = h0.shape[1]
    Wr, Wz, Wn = np.split(w["weight_hh"], 3)
    dan = np.clip(dh1 * (1 - z) * (1 - n**2), -limit, limit)
    daz = np.clip(dh1 * (h0 - n) * z * (1 - z), -limit, limit)
    dq = dan @ Wn  # of q = r h
    dar = np.clip(dq * h * r * (1 - r), -limit, limit)
    dax = np.hstack([dar, daz, dan])
    dWh = np.vstack([dar.T @ h, daz.T @ h, dan.T @ (r * h)]).reshape(3 * H, -1)
    return dax, dar @ Wr + daz @ Wz + dq * r, {"weight_hh": dWh, "bias": dax.sum(0)}, (dh1 * z,)


# Reductions over the units: both parts of the pre-activations, and an LSTM's cell, are normalised.


def _normalise(a: Array) -> Arrays:
    """(a - mean) / sqrt(variance + epsilon) over the last axis, and 1 / that root."""
    s = 1 / np.sqrt(a.var(axis=1, keepdims=True) + EPSILON)
    return (a - a.mean(axis=1, keepdims=True)) * s, s


def _normalise_backward(d: Array, n: Array, s: Array) -> Array:
    da: Array = (d - d.mean(axis=1, keepdims=True) - n * (d * n).mean(axis=1, keepdims=True)) * s
    return da


def _lstm_norm(ax: Array, h: Array, w: Weights, s0: Arrays) -> Step:
    H = s0[1].shape[1]
    v = w["weight_norm"]  # [10,H]: gains of the x part i f g o, of the h part i f g o, gain and bias of c
    (nx, sx), (nh, sh) = _normalise(ax), _normalise(h @ w["weight_hh"].T)
    a = nx * v[:4].reshape(4 * H) + nh * v[4:8].reshape(4 * H) + _bias(w)
    ai, af, ag, ao = np.split(a, 4, axis=1)
    i, f, g, o = _sigmoid(ai), _sigmoid(af), np.tanh(ag), _sigmoid(ao)
    c1 = f * s0[1] + i * g
    nc, sc = _normalise(c1)
    h1 = o * np.tanh(nc * v[8] + v[9])
    return (h1, c1), (i, f, g, o, nx, sx, nh, sh, nc, sc)


def _lstm_norm_backward(
    k: Arrays, w: Weights, h: Array, s0: Arrays, s1: Arrays, ds1: Arrays, limit: float
) -> StepGrads:
    (i, f, g, o, nx, sx, nh, sh, nc, sc), c0, (dh1, dc1), v = k, s0[1], ds1, w["weight_norm"]
    H = c0.shape[1]
    u = np.tanh(nc * v[8] + v[9])
    dao = dh1 * u * o * (1 - o)
    dm = dh1 * o * (1 - u**2)  # of nc v8 + v9
    dc = dc1 + _normalise_backward(dm * v[8], nc, sc)
    da = np.hstack([dc * g * i * (1 - i), dc * c0 * f * (1 - f), dc * i * (1 - g**2), dao])
    da = np.clip(da, -limit, limit)
    dax = _normalise_backward(da * v[:4].reshape(-1), nx, sx)
    dah = _normalise_backward(da * v[4:8].reshape(-1), nh, sh)
    dv = np.vstack([(da * nx).sum(0).reshape(4, H), (da * nh).sum(0).reshape(4, H), (dm * nc).sum(0), dm.sum(0)])
    dw = {"weight_hh": dah.T @ h, "bias": da.sum(0), "weight_norm": dv}
    return dax, dah @ w["weight_hh"], dw, (np.zeros_like(s0[0]), dc * f)


def _gru_norm(ax: Array, h: Array, w: Weights, s0: Arrays) -> Step:
    H = s0[0].shape[1]
    v = w["weight_norm"]  # [6,H]: gains of the x part r z n, of the h part r z n
    (nx, sx), (nh, sh) = _normalise(ax), _normalise(h @ w["weight_hh"].T)
    axr, axz, axn = np.split(nx * v[:3].reshape(3 * H) + _bias(w), 3, axis=1)
    ahr, ahz, m = np.split(nh * v[3:].reshape(3 * H), 3, axis=1)
    r, z = _sigmoid(axr + ahr), _sigmoid(axz + ahz)
    n = np.tanh(axn + r * m)
    return ((1 - z) * n + z * s0[0],), (r, z, n, m, nx, sx, nh, sh)


def _gru_norm_backward(k: Arrays, w: Weights, h: Array, s0: Arrays, s1: Arrays, ds1: Arrays, limit: float) -> StepGrads:
    (r, z, n, m, nx, sx, nh, sh), (h0,), v = k, s0, w["weight_norm"]
    H = h0.shape[1]
    dax, dah, _, ds0 = _gru_backward((r, z, n, m), np.zeros((1, H)), s0, s1, ds1)
    dax, dah = np.clip(dax, -limit, limit), np.clip(dah, -limit, limit)
    dv = np.vstack([(dax * nx).sum(0).reshape(3, H), (dah * nh).sum(0).reshape(3, H)])
    db = dax.sum(0)
    dax = _normalise_backward(dax * v[:3].reshape(-1), nx, sx)
    dah = _normalise_backward(dah * v[3:].reshape(-1), nh, sh)
    return dax, dah @ w["weight_hh"], {"weight_hh": dah.T @ h, "bias": db, "weight_norm": dv}, ds0


# Heads, and two more states. Of N heads, a row of weight_hh has the H/N weights of its unit's own head.


def _dense(weight_hh: Array, H: int) -> Array:
    """[G*H, H/N] -> [G*H, H], zero between units of different heads."""
    head = np.arange(H) // weight_hh.shape[1]
    return np.where(
        np.tile(head, len(weight_hh) // H)[:, None] == head, np.tile(weight_hh, H // weight_hh.shape[1]), 0.0
    )


def _own_head(dense: Array, width: int) -> Array:
    """The way back: [G*H, H] -> [G*H, H/N]."""
    rows, H = dense.shape
    first = np.arange(rows) % H // width * width
    return np.take_along_axis(dense, first[:, None] + np.arange(width), axis=1)


def _log_sigmoid(a: Array) -> Array:
    out: Array = np.minimum(a, 0.0) - np.log1p(np.exp(-np.abs(a)))
    return out


def _slstm(exponential: bool) -> tuple["Forward", "Backward"]:
    """sLSTM; the logarithm of the forget gate is af itself (exponential) or log sigmoid(af)."""

    def step(ax: Array, h: Array, w: Weights, s0: Arrays) -> Step:
        _, c0, n0, m0 = s0
        n0 = np.maximum(n0, 0.0)
        a = ax + _bias(w) + h @ _dense(w["weight_hh"], h.shape[1]).T
        ai, af, az, ao = np.split(a, 4, axis=1)
        stored = (af if exponential else _log_sigmoid(af)) + m0
        m1 = np.where(n0 > 0, np.maximum(stored, ai), ai)
        i, f = np.exp(ai - m1), np.exp(np.minimum(stored - m1, 0.0))
        z, o = np.tanh(az), _sigmoid(ao)
        c1, n1 = f * c0 + i * z, f * n0 + i
        return (o * c1 / n1, c1, n1, m1), (i, f, z, o, af)

    def back(k: Arrays, w: Weights, h: Array, s0: Arrays, s1: Arrays, ds1: Arrays, limit: float) -> StepGrads:
        (i, f, z, o, af), (_, c0, n0, _), (h1, _, n1, _) = k, s0, s1
        dh1, dc1, dn1, dm1 = ds1
        negative, n0 = n0 < 0, np.maximum(n0, 0.0)
        dc = dc1 + dh1 * o / n1
        dn = dn1 - dh1 * h1 / n1
        di = (dc * z + dn) * i  # of log i
        held = (n0 <= 0) & (f == 1.0)
        df = np.where(held, 0.0, (dc * c0 + dn * n0) * f)  # of log f
        dm = dm1 - di - df
        from_input = i == 1.0  # m1 is ai, ties included
        dstored = df + np.where(from_input, 0.0, dm)
        dai = di + np.where(from_input, dm, 0.0)
        daf = dstored if exponential else dstored * _sigmoid(-af)
        da = np.clip(np.hstack([dai, daf, dc * i * (1 - z**2), dh1 * h1 * (1 - o)]), -limit, limit)
        dW = _own_head(da.T @ h, w["weight_hh"].shape[1])
        dh = da @ _dense(w["weight_hh"], h.shape[1])
        return (
            da,
            dh,
            {"weight_hh": dW, "bias": da.sum(0)},
            (np.zeros_like(h), dc * f, np.where(negative, 0.0, dn * f), dstored),
        )

    return step, back


Forward = Callable[[Array, Array, Weights, Arrays], Step]
Backward = Callable[[Arrays, Weights, Array, Arrays, Arrays, Arrays, float], StepGrads]


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
    forward: Forward
    backward: Backward
    heads: bool = False

    def shapes(self, I: int, H: int, R: int = 0, N: int = 1) -> dict[str, tuple[int, ...]]:  # noqa: E741
        """Shape of every weight by name; R > 0 is the width of a projected h, N the number of heads."""
        gates = {"weight_ih": (self.G * H, I), "weight_hh": (self.G * H, (R or H) // N), "bias": (self.G * H,)}
        vectors = {self.vectors: (H,) if self.P == 1 else (self.P, H)} if self.vectors else {}
        return gates | vectors | ({"weight_hr": (R, H)} if R else {})


_H, _HC = ("h",), ("h", "c")
CELLS: Mapping[str, Cell] = {
    "rnn_tanh": Cell(1, 1, 0, _H, None, *_plain(_rnn_tanh, _rnn_tanh_backward)),
    "rnn_relu": Cell(1, 1, 0, _H, None, *_plain(_rnn_relu, _rnn_relu_backward)),
    "rnn_linear": Cell(1, 1, 0, _H, None, *_plain(_rnn_linear, _rnn_linear_backward)),
    "lstm": Cell(4, 2, 0, _HC, None, *_plain(_lstm, _lstm_backward)),
    "lstm_peephole": Cell(
        4, 2, 3, _HC, "weight_peephole", *_plain(_lstm_peephole, _lstm_peephole_backward, "weight_peephole")
    ),
    "lstm_coupled": Cell(3, 2, 0, _HC, None, *_plain(_lstm_coupled, _lstm_coupled_backward)),
    "lstm_norm": Cell(4, 2, 10, _HC, "weight_norm", _lstm_norm, _lstm_norm_backward),
    "gru": Cell(3, 1, 1, _H, "bias_hn", *_plain(_gru, _gru_backward, "bias_hn")),
    "gru_before": Cell(3, 1, 0, _H, None, _gru_before, _gru_before_backward),
    "gru_norm": Cell(3, 1, 6, _H, "weight_norm", _gru_norm, _gru_norm_backward),
    "slstm": Cell(4, 4, 0, ("h", "c", "n", "m"), None, *_slstm(exponential=False), heads=True),
    "slstm_exp": Cell(4, 4, 0, ("h", "c", "n", "m"), None, *_slstm(exponential=True), heads=True),
}
