# SPDX-License-Identifier: Apache-2.0
"""The recurrent layers by cell: RNN, LSTM, GRU. Each states its equations, its arguments and its parameters.

Shapes: x [T,B,I], y [T,B,H], states [1,B,H]; PyTorch's names, gate orders and argument lists. One bias where PyTorch
has two (theirs are summed). What runs over time is in recurrent.py; nothing is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bptt.layers.recurrent import Recurrent

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt.init import Init

__all__ = ["GRU", "LSTM", "RNN"]


class RNN(Recurrent):
    """Elman's recurrent layer.

        h1 = phi(Wx x + b + Wh h0),  phi = tanh or max(0, .)

    Args:
        input_size: I. hidden_size: H.
        nonlinearity: "tanh" (default) or "relu".
        bias: whether there is a b, default True.
        batch_first: x and y are [B,T,.], default False.
        dtype: float32 (default) or float64.
        init: "default" (weight_ih xavier_uniform, weight_hh orthogonal, bias zeros), "pytorch" (all U(-a, a),
            a = 1/sqrt(H)), the name of an initialiser for both weights, or a mapping from parameter name (with or
            without _l0) to initialiser, default for the others; {"weight_hh": "identity"} with relu makes an IRNN. See
            `bptt.init.draw`.
        seed: integer, or None (default) for fresh weights each time. Layers of the same shape need different seeds.
        num_layers, dropout, bidirectional: not in this version (NotImplementedError).

    Parameters: weight_ih_l0 [H,I], weight_hh_l0 [H,H], bias_l0 [H].
    Call: `y, h = layer(x, h=None)`, `y, h, tape = layer.forward(x, h=None)`,
        `dx, dh, grads = layer.backward(tape, dy, dh=None)`; h [1,B,H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.
    Source: Elman 1990; Le et al. 2015 (IRNN).

    >>> rnn = RNN(3, 4, nonlinearity="relu", init={"weight_hh": "identity"}, seed=0)
    >>> y, h = rnn(np.ones((5, 2, 3)))
    >>> y.shape, h.shape, bool((y[-1] == h[0]).all())
    ((5, 2, 4), (1, 2, 4), True)
    """

    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
    ) -> None:
        self._refuse(num_layers=num_layers, dropout=dropout, bidirectional=bidirectional)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity has value {nonlinearity!r}, expected 'tanh' or 'relu'")
        self.nonlinearity = nonlinearity
        super().__init__(f"rnn_{nonlinearity}", input_size, hidden_size, bias, batch_first, dtype, init, seed)

    def _options(self) -> str:
        return "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}"


class LSTM(Recurrent):
    """Long short-term memory, with peepholes as an option.

        i, f, o = sigmoid(Wx x + b + Wh h0)   (with peephole + p_i c0, + p_f c0, + p_o c1)
        g  = tanh(Wx x + b + Wh h0)
        c1 = f c0 + i g
        h1 = o tanh(c1)

    Args:
        input_size: I. hidden_size: H.
        bias: whether there is a b, default True.
        batch_first: x and y are [B,T,.], default False.
        peephole: whether the gates see the cell, default False.
        dtype: float32 (default) or float64.
        init: "default" (weight_ih xavier_uniform and weight_hh orthogonal, each gate by itself; bias zeros but 1 at the
            forget gate, as in Keras; peepholes zeros), "pytorch" (all U(-a, a), a = 1/sqrt(H)), the name of an
            initialiser for both weights, or a mapping from parameter name (with or without _l0) to initialiser, default
            for the others. See `bptt.init.draw`.
        seed: integer, or None (default) for fresh weights each time. Layers of the same shape need different seeds.
        num_layers, dropout, bidirectional, proj_size: not in this version (NotImplementedError).

    Parameters, gate order i f g o: weight_ih_l0 [4*H,I], weight_hh_l0 [4*H,H], bias_l0 [4*H]; with peephole also
        weight_peephole_l0 [3,H], order i f o.
    Call: `y, (h, c) = layer(x, state=None)`, `y, (h, c), tape = layer.forward(x, state=None)`,
        `dx, (dh, dc), grads = layer.backward(tape, dy, dstate=None)`; h and c each [1,B,H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.
    Source: Hochreiter & Schmidhuber 1997; Gers et al. 2000 (forget gate), 2002 (peepholes).

    >>> lstm = LSTM(3, 4, seed=0)
    >>> y, (h, c), tape = lstm.forward(np.ones((5, 2, 3)))
    >>> dx, (dh, dc), grads = lstm.backward(tape, np.ones_like(y))
    >>> dx.shape, dc.shape, grads["weight_hh_l0"].shape
    ((5, 2, 3), (1, 2, 4), (16, 4))
    """

    _gates = 4
    _states = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peephole: bool = False,
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
    ) -> None:
        self._refuse(num_layers=num_layers, dropout=dropout, bidirectional=bidirectional, proj_size=proj_size)
        self.peephole = bool(peephole)
        cell = "lstm_peephole" if peephole else "lstm"
        vectors = ("weight_peephole_l0", (3,)) if peephole else None
        super().__init__(cell, input_size, hidden_size, bias, batch_first, dtype, init, seed, vectors)

    def _options(self) -> str:
        return ", peephole=True" if self.peephole else ""


class GRU(Recurrent):
    """Gated recurrent unit, with the reset after the product, as in PyTorch.

        r, z = sigmoid(Wx x + b + Wh h0)
        n  = tanh(Wx x + b + r (Wh h0 + b_hn))
        h1 = (1 - z) n + z h0

    Args:
        input_size: I. hidden_size: H.
        bias: whether there are b and b_hn, default True.
        batch_first: x and y are [B,T,.], default False.
        dtype: float32 (default) or float64.
        init: "default" (weight_ih xavier_uniform and weight_hh orthogonal, each gate by itself; biases zeros),
            "pytorch" (all U(-a, a), a = 1/sqrt(H)), the name of an initialiser for both weights, or a mapping from
            parameter name (with or without _l0) to initialiser, default for the others. See `bptt.init.draw`.
        seed: integer, or None (default) for fresh weights each time. Layers of the same shape need different seeds.
        num_layers, dropout, bidirectional, reset_after=False: not in this version (NotImplementedError).

    Parameters, gate order r z n: weight_ih_l0 [3*H,I], weight_hh_l0 [3*H,H], bias_l0 [3*H], bias_hn_l0 [H].
    Call: `y, h = layer(x, h=None)`, `y, h, tape = layer.forward(x, h=None)`,
        `dx, dh, grads = layer.backward(tape, dy, dh=None)`; h [1,B,H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.
    Source: Cho et al. 2014.

    >>> gru = GRU(3, 4, batch_first=True, seed=0)
    >>> y, h = gru(np.ones((2, 5, 3)))
    >>> y.shape, h.shape
    ((2, 5, 4), (1, 2, 4))
    """

    _gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
    ) -> None:
        self._refuse(num_layers=num_layers, dropout=dropout, bidirectional=bidirectional, reset_after=reset_after)
        vectors = ("bias_hn_l0", ()) if bias else None
        super().__init__("gru", input_size, hidden_size, bias, batch_first, dtype, init, seed, vectors)
