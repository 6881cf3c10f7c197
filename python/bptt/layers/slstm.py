# SPDX-License-Identifier: Apache-2.0
"""SLSTM, the recurrent layer of xLSTM with a scalar memory: its equations, arguments and parameters.

Shapes: x [T,B,I], y [T,B,H], each of the four states [L*D,B,H]. Nothing is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import brief, check_size
from bptt._signature import checks_names
from bptt.layers.cells import CellOptions, RecurrentCell
from bptt.layers.layout import Cell
from bptt.layers.options import LayerOptions, described
from bptt.layers.recurrent import Recurrent

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt.init import Init


@described()
class SLSTM(Recurrent):
    """Long short-term memory with exponential gates, the sLSTM of xLSTM.

        z = tanh(a_z)    o = sigmoid(a_o)    a = Wx x + b + Wh h0
        u = log sigmoid(a_f) + m0            (forget_gate="exp": a_f + m0)
        m1 = max(u, a_i), or a_i where n0 = 0
        i = exp(a_i - m1)    f = exp(min(u - m1, 0))
        c1 = f c0 + i z      n1 = f n0 + i      h1 = o c1 / n1

    c and n are sums whose terms weigh exp(a_i), divided by exp(m). m, the largest exponent so far, keeps them in range
    and has no influence on h. Where n0 = 0 nothing is stored, as at the start and after a reset: the exponent is then
    that of the first input, for each unit by itself, as in the authors' kernels. Gradients are exact, those of m
    included, which like any state may have one at the end. Of the maximum, the larger argument has the gradient; a_i
    where both are equal.

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of units.
        bias: whether there is a b, default True.
        num_heads: N, a divisor of H, default 1. A unit reads the H/N values of h of its own head, 1/N of the work.
        forget_gate: "sigmoid" (default, the authors' choice) or "exp".
        init: "default" (weight_ih xavier_uniform, each gate by itself, and weight_hh orthogonal, each gate and head by
            itself; bias zeros but, at the forget gate, 3 to 6 over the units of a head, one of the choices of the
            authors' code), "pytorch" (all U(-a, a), a = 1/sqrt(H)), the name of an initialiser for both weights, or a
            mapping from parameter name (with or without _l0) to initialiser, default for the others; {"bias": {"f":
            5.0}} sets one gate. See `bptt.init.draw`.
        {options}

    Two options change what is stored and not its scale alone: clip_state bounds each state, n and m included, and at
    inference zoneout takes means of sums of different scale. An initial n below 0 counts as 0.

    Parameters, gate order i f z o as in the authors' code: weight_ih_l0 [4*H,I] (l1 and on: [4*H,D*H]), weight_hh_l0
        [4*H,H/N] (row g*H + j is gate g of unit j), bias_l0 [4*H]; with suffix _reverse for the second direction. Of
        their cell, whose input is Wx x, `weight_hh_l0 = recurrent_kernel.permute(2, 0, 3, 1).reshape(4*H, H//N)` and
        `bias_l0 = bias.permute(1, 0, 2).reshape(4*H)`.
    Call: `y, (h, c, n, m) = layer(x, state=None)`, `y, state, tape = layer.forward(x, state=None)` (both take lengths,
        resets and last as well), `dx, dstate, grads = layer.backward(tape, dy, dstate=None)`; y [T,B,D*H], each state
        [L*D,B,H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.
    Source: Beck et al. 2024 (arXiv 2405.04517), and the package xlstm of its authors.

    >>> import numpy as np
    >>> slstm = SLSTM(3, 8, num_heads=2, seed=0)
    >>> y, (h, c, n, m), tape = slstm.forward(np.ones((5, 2, 3)))
    >>> dx, dstate, grads = slstm.backward(tape, np.ones_like(y))
    >>> dx.shape, len(dstate), grads["weight_hh_l0"].shape
    ((5, 2, 3), 4, (32, 4))
    """

    @checks_names
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
        num_heads: int = 1,
        forget_gate: str = "sigmoid",
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        clip_state: float | None = None,
        clip_grad_per_step: float | None = None,
        checkpoint: int | str | None = None,
        learn_initial_state: bool = False,
        precision: str | None = None,
    ) -> None:
        cell = _cell(type(self).__name__, num_heads, forget_gate)
        options = LayerOptions(
            num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed, recurrent_dropout, zoneout,
            clip_state, clip_grad_per_step, checkpoint, learn_initial_state, precision,
        )  # fmt: skip
        self.forget_gate = forget_gate
        super().__init__(cell, input_size, hidden_size, options, num_heads=num_heads)


@described(SLSTM)
class SLSTMCell(RecurrentCell):
    """One step of an `SLSTM`: the new state, (h, c, n, m), is what a call returns.

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of units.
        init: "default", "pytorch", the name of an initialiser for both weights, or a mapping from parameter name to
            initialiser, default for the others, as of `SLSTM`.
        {options}

    Parameters, gate order i f z o: weight_ih [4*H,I], weight_hh [4*H,H/N], bias [4*H].
    Call: `state = cell(x, state=None)`, `state, tape = cell.forward(x, state=None)`, `dx, dstate, grads =
        cell.backward(tape, dstate)`; x [B,I], each of the four states [B,H], or [I] and [H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.

    With the same weights and no masks, a loop over a cell computes the bits of `SLSTM`. Its gradients over several
    steps differ by rounding: the layer sums in another order.

    >>> import numpy as np
    >>> cell = SLSTMCell(3, 4, num_heads=2, seed=0)
    >>> state, tape = cell.forward(np.ones((2, 3)))
    >>> dx, dstate, grads = cell.backward(tape, state)
    >>> len(state), dx.shape, grads["weight_hh"].shape
    (4, (2, 3), (16, 2))
    """

    @checks_names
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        num_heads: int = 1,
        forget_gate: str = "sigmoid",
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
        zoneout: float | tuple[float, float] = 0.0,
        clip_state: float | None = None,
        clip_grad_per_step: float | None = None,
        precision: str | None = None,
    ) -> None:
        cell = _cell(type(self).__name__, num_heads, forget_gate)
        options = CellOptions(bias, dtype, init, seed, zoneout, clip_state, clip_grad_per_step, precision)
        self.forget_gate = forget_gate
        super().__init__(cell, input_size, hidden_size, options, num_heads=num_heads)


def _cell(where: str, num_heads: int, forget_gate: str) -> Cell:
    """The cell that these arguments ask for."""
    if not isinstance(forget_gate, str) or forget_gate not in ("sigmoid", "exp"):
        raise ValueError(f"{where}: forget_gate has value {brief(forget_gate)}, expected 'sigmoid' or 'exp'")
    heads = check_size(where, "num_heads", num_heads)
    arguments: dict[str, Any] = {"num_heads": heads} if heads > 1 else {}
    if forget_gate == "sigmoid":
        return Cell("slstm", arguments, "exponential gates", bias="forget_range")
    return Cell("slstm_exp", arguments | {"forget_gate": forget_gate}, "exponential gates", bias="forget_range")
