# SPDX-License-Identifier: Apache-2.0
"""Long short-term memory. Nothing is computed here: the equations are `csrc/cells/lstm.h` and `multi_stage.h`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import check_size
from bptt._signature import checks_names
from bptt.layers.cells import CellOptions, RecurrentCell
from bptt.layers.layout import Cell
from bptt.layers.options import LayerOptions, described, one_of
from bptt.layers.recurrent import Recurrent

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt.init import Init


@described()
class LSTM(Recurrent):
    """Long short-term memory, with peepholes as an option.

        i, f, o = sigmoid(Wx x + b + Wh h0)   (with peephole + p_i c0, + p_f c0, + p_o c1)
        g  = tanh(Wx x + b + Wh h0)
        c1 = f c0 + i g
        h1 = o tanh(c1)

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of units.
        bias: whether there is a b, default True.
        proj_size: R, to project h to R < H units, h1 = W_hr o tanh(c1), default 0: not at all.
        peephole: whether the gates see the cell, default False.
        coupled: i = 1 - f, gates f g o, default False.
        layer_norm: o, i, f, g of N(Wx x) v + N(Wh h0) v' + b and h1 = o tanh(N(c1) v'' + b''), N(a) = (a - mean) /
            sqrt(variance + 1e-5) over all of a's units, default False. At most one of these three; only peephole
            combines with proj_size.
        init: "default" (weight_ih xavier_uniform and weight_hh orthogonal, gate by gate; bias zeros but 1 at the
            forget gate, as in Keras; peepholes zeros), "pytorch" (all U(-a, a), a = 1/sqrt(H)), the name of an
            initialiser for both weights, or a mapping from parameter name (with or without _l0) to initialiser, default
            for the others; {"bias": {"f": 2.0}} sets one gate, {"bias": bptt.init.chrono(T)} is for dependencies of up
            to T steps. See `bptt.init.draw`.
        {options}

    Parameters, gate order i f g o: weight_ih_l0 [4*H,I] (l1 and on: [4*H,D*H]), weight_hh_l0 [4*H,H], bias_l0 [4*H];
        with peephole also weight_peephole_l0 [3,H], order i f o; coupled: 3 instead of 4; with layer_norm also
        weight_norm_l0 [9,H] (v i f g o, v' i f g o, v'') and bias_norm_l0 [H] (b''); with proj_size R also
        weight_hr_l0 [R,H], and R for H in weight_hh, y and h. With suffix _reverse for the second direction.
    Call: `y, (h, c) = layer(x, state=None)`, `y, (h, c), tape = layer.forward(x, state=None)` (both take lengths,
        resets and last as well), `dx, (dh, dc), grads = layer.backward(tape, dy, dstate=None)`; y [T,B,D*H], h and c
        each [L*D,B,H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.
    Source: Hochreiter & Schmidhuber 1997; Gers et al. 2000 (forget gate), 2002 (peepholes); Sak et al. 2014
        (projection); Greff et al. 2017 (coupled gates); Ba et al. 2016 (layer normalisation).

    >>> import numpy as np
    >>> lstm = LSTM(3, 4, seed=0)
    >>> y, (h, c), tape = lstm.forward(np.ones((5, 2, 3)))
    >>> dx, (dh, dc), grads = lstm.backward(tape, np.ones_like(y))
    >>> dx.shape, dc.shape, grads["weight_hh_l0"].shape
    ((5, 2, 3), (1, 2, 4), (16, 4))
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
        proj_size: int = 0,
        *,
        peephole: bool = False,
        coupled: bool = False,
        layer_norm: bool = False,
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
        cell = _cell(type(self).__name__, peephole, coupled, layer_norm, proj_size)
        options = LayerOptions(
            num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed, recurrent_dropout, zoneout,
            clip_state, clip_grad_per_step, checkpoint, learn_initial_state, precision,
        )  # fmt: skip
        super().__init__(cell, input_size, hidden_size, options, proj_size=proj_size)


@described(LSTM)
class LSTMCell(RecurrentCell):
    """One step of an `LSTM`, as PyTorch's LSTMCell: a call returns the new state (h, c).

        i, f, o = sigmoid(Wx x + b + Wh h0)   (with peephole + p_i c0, + p_f c0, + p_o c1)
        g  = tanh(Wx x + b + Wh h0)
        c1 = f c0 + i g
        h1 = o tanh(c1)

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of units.
        init: "default", "pytorch", the name of an initialiser for both weights, or a mapping from parameter name to
            initialiser, default for the others, as of `LSTM`.
        {options}

    Parameters, gate order i f g o: weight_ih [4*H,I], weight_hh [4*H,H], bias [4*H]; with peephole also weight_peephole
        [3,H], order i f o; coupled: 3 instead of 4; with layer_norm also weight_norm [9,H] (v i f g o, v' i f g o,
        v'') and bias_norm [H] (b''); with proj_size R also weight_hr [R,H], and R for H in weight_hh and h.
    Call: `h, c = cell(x, state=None)`, `(h, c), tape = cell.forward(x, state=None)`, `dx, (dh, dc), grads =
        cell.backward(tape, (dh, dc))`; x [B,I], h and c [B,H] each, or [I] and [H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.

    With the same weights and no masks, a loop over a cell computes the bits of `LSTM`. Its gradients over several steps
    differ by rounding, since the layer sums in another order.

    >>> import numpy as np
    >>> cell, state, tapes = LSTMCell(3, 4, seed=0), None, []
    >>> for x in np.ones((5, 2, 3)):
    ...     state, tape = cell.forward(x, state)
    ...     tapes.append(tape)
    >>> h, c = state
    >>> total, dstate = cell.params.zeros_like(), (np.ones_like(h), np.zeros_like(c))  # of the sum of the last h
    >>> for tape in reversed(tapes):
    ...     dx, dstate, grads = cell.backward(tape, dstate)
    ...     total.flat[:] += grads.flat
    >>> h.shape, dx.shape, total["weight_hh"].shape
    ((2, 4), (2, 3), (16, 4))
    """

    @checks_names
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        proj_size: int = 0,
        peephole: bool = False,
        coupled: bool = False,
        layer_norm: bool = False,
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
        zoneout: float | tuple[float, float] = 0.0,
        clip_state: float | None = None,
        clip_grad_per_step: float | None = None,
        precision: str | None = None,
    ) -> None:
        cell = _cell(type(self).__name__, peephole, coupled, layer_norm, proj_size)
        options = CellOptions(bias, dtype, init, seed, zoneout, clip_state, clip_grad_per_step, precision)
        super().__init__(cell, input_size, hidden_size, options, proj_size=proj_size)


def _cell(where: str, peephole: bool, coupled: bool, layer_norm: bool, proj_size: int) -> Cell:
    """The cell that these arguments ask for."""
    variant = one_of(where, peephole=peephole, coupled=coupled, layer_norm=layer_norm)
    proj_size = check_size(where, "proj_size", proj_size, least=0)
    projected = proj_size > 0
    if projected and variant not in ("", "peephole"):
        raise ValueError(f"{where}: proj_size has value {proj_size} with {variant}, expected 0")
    arguments = ({"proj_size": proj_size} if projected else {}) | ({variant: True} if variant else {})
    kernel = {"": "lstm", "peephole": "lstm_peephole", "coupled": "lstm_coupled", "layer_norm": "lstm_norm"}[variant]
    return Cell(kernel + "_projected" * projected, arguments, variant, bias="forget_bias")
