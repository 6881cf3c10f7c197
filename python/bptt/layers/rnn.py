# SPDX-License-Identifier: Apache-2.0
"""Elman's recurrent layer. Nothing is computed here: the equations are `csrc/cells/rnn.h`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import brief
from bptt._signature import checks_names
from bptt.layers.cells import CellOptions, RecurrentCell
from bptt.layers.layout import Cell
from bptt.layers.options import LayerOptions, described
from bptt.layers.recurrent import Recurrent

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt.init import Init


@described()
class RNN(Recurrent):
    """Elman's recurrent layer.

        h1 = phi(Wx x + b + Wh h0),  phi = tanh, max(0, .) or the identity

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of units.
        nonlinearity: "tanh" (default), "relu" or "linear".
        bias: whether there is a b, default True.
        init: "default" (weight_ih xavier_uniform, weight_hh orthogonal, bias zeros), "pytorch" (all U(-a, a),
            a = 1/sqrt(H)), the name of an initialiser for both weights, or a mapping from parameter name (with or
            without _l0) to initialiser, default for the others; {"weight_hh": "identity"} with relu makes an IRNN. See
            `bptt.init.draw`.
        {options}

    Parameters: weight_ih_l0 [H,I] (l1 and on: [H,D*H]), weight_hh_l0 [H,H], bias_l0 [H]; with suffix _reverse for the
        second direction.
    Call: `y, h = layer(x, state=None)`, `y, h, tape = layer.forward(x, state=None)` (both take lengths,
        resets and last as well), `dx, dh, grads = layer.backward(tape, dy, dstate=None)`; y [T,B,D*H], h [L*D,B,H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.
    Source: Elman 1990; Le et al. 2015 (IRNN).

    >>> import numpy as np
    >>> rnn = RNN(3, 4, nonlinearity="relu", init={"weight_hh": "identity"}, seed=0)
    >>> y, h = rnn(np.ones((5, 2, 3)))
    >>> y.shape, h.shape, bool((y[-1] == h[0]).all())
    ((5, 2, 4), (1, 2, 4), True)
    """

    @checks_names
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
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        clip_state: float | None = None,
        clip_grad_per_step: float | None = None,
        checkpoint: int | str | None = None,
        learn_initial_state: bool = False,
        precision: str | None = None,
    ) -> None:
        cell = _cell(type(self).__name__, nonlinearity)
        self.nonlinearity = nonlinearity
        options = LayerOptions(
            num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed, recurrent_dropout, zoneout,
            clip_state, clip_grad_per_step, checkpoint, learn_initial_state, precision,
        )  # fmt: skip
        super().__init__(cell, input_size, hidden_size, options)


@described(RNN)
class RNNCell(RecurrentCell):
    """One step of an `RNN`, as PyTorch's RNNCell: a call returns the new state.

        h1 = phi(Wx x + b + Wh h0),  phi = tanh, max(0, .) or the identity

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of units.
        init: "default", "pytorch", the name of an initialiser for both weights, or a mapping from parameter name to
            initialiser, default for the others, as of `RNN`.
        {options}

    Parameters: weight_ih [H,I], weight_hh [H,H], bias [H].
    Call: `h = cell(x, state=None)`, `h, tape = cell.forward(x, state=None)`, `dx, dh, grads = cell.backward(tape, dh)`;
        x [B,I] and h [B,H], or [I] and [H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.

    With the same weights and no masks, a loop over a cell computes the bits of `RNN`. Its gradients over several steps
    differ by rounding, since the layer sums in another order.

    >>> import numpy as np
    >>> cell, h = RNNCell(3, 4, seed=0), None
    >>> for x in np.ones((5, 2, 3)):
    ...     h = cell(x, h)
    >>> h.shape
    (2, 4)
    """

    @checks_names
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
        zoneout: float | tuple[float, float] = 0.0,
        clip_state: float | None = None,
        clip_grad_per_step: float | None = None,
        precision: str | None = None,
    ) -> None:
        cell = _cell(type(self).__name__, nonlinearity)
        self.nonlinearity = nonlinearity
        options = CellOptions(bias, dtype, init, seed, zoneout, clip_state, clip_grad_per_step, precision)
        super().__init__(cell, input_size, hidden_size, options)


def _cell(where: str, nonlinearity: str) -> Cell:
    """The cell that these arguments ask for."""
    if nonlinearity not in ("tanh", "relu", "linear"):
        raise ValueError(f"{where}: nonlinearity has value {brief(nonlinearity)}, expected 'tanh', 'relu' or 'linear'")
    arguments = {} if nonlinearity == "tanh" else {"nonlinearity": nonlinearity}
    variant = "nonlinearity='linear'" if nonlinearity == "linear" else ""
    return Cell(f"rnn_{nonlinearity}", arguments, variant)
