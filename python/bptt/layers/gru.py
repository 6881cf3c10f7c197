# SPDX-License-Identifier: Apache-2.0
"""Gated recurrent unit. Nothing is computed here: the equations are `csrc/cells/gru.h` and `multi_stage.h`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import check_bool
from bptt._signature import checks_names
from bptt.layers.cells import CellOptions, RecurrentCell
from bptt.layers.layout import Cell
from bptt.layers.options import LayerOptions, described, one_of
from bptt.layers.recurrent import Recurrent

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt.init import Init


@described()
class GRU(Recurrent):
    """Gated recurrent unit, with the reset after the product, as in PyTorch.

        r, z = sigmoid(Wx x + b + Wh h0)
        n  = tanh(Wx x + b + r (Wh h0 + b_hn))
        h1 = (1 - z) n + z h0

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of units.
        bias: whether there are b and b_hn, default True.
        init: "default" (weight_ih xavier_uniform and weight_hh orthogonal, gate by gate; biases zeros),
            "pytorch" (all U(-a, a), a = 1/sqrt(H)), the name of an initialiser for both weights, or a mapping from
            parameter name (with or without _l0) to initialiser, default for the others; {"bias": {"z": 1.0}} sets one
            gate, {"bias": bptt.init.chrono(T)} is for dependencies of up to T steps. See `bptt.init.draw`.
        reset_after: r multiplies Wh h0 (True, the default, PyTorch's) or h0 (False): n = tanh(Wx x + b + Wh (r h0)).
        layer_norm: r, z, n of N(Wx x) v + b and N(Wh h0) v', N(a) = (a - mean) / sqrt(variance + 1e-5) over all of a's
            units, default False; only with reset_after.
        {options}

    Parameters, gate order r z n: weight_ih_l0 [3*H,I] (l1 and on: [3*H,D*H]), weight_hh_l0 [3*H,H], bias_l0 [3*H],
        bias_hn_l0 [H] (neither with reset_after=False nor with layer_norm, which has weight_norm_l0 [6,H]: v r z n,
        v' r z n); with suffix _reverse for the second direction.
    Call: `y, h = layer(x, state=None)`, `y, h, tape = layer.forward(x, state=None)` (both take lengths,
        resets and last as well), `dx, dh, grads = layer.backward(tape, dy, dstate=None)`; y [T,B,D*H], h [L*D,B,H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.
    Source: Cho et al. 2014; Ba et al. 2016 (layer normalisation).

    >>> import numpy as np
    >>> gru = GRU(3, 4, batch_first=True, seed=0)
    >>> y, h = gru(np.ones((2, 5, 3)))
    >>> y.shape, h.shape
    ((2, 5, 4), (1, 2, 4))
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
        reset_after: bool = True,
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
        cell = _cell(type(self).__name__, reset_after, layer_norm)
        options = LayerOptions(
            num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed, recurrent_dropout, zoneout,
            clip_state, clip_grad_per_step, checkpoint, learn_initial_state, precision,
        )  # fmt: skip
        super().__init__(cell, input_size, hidden_size, options)


@described(GRU)
class GRUCell(RecurrentCell):
    """One step of a `GRU`, as PyTorch's GRUCell: a call returns the new state.

        r, z = sigmoid(Wx x + b + Wh h0)
        n  = tanh(Wx x + b + r (Wh h0 + b_hn))
        h1 = (1 - z) n + z h0

    Args:
        input_size: I, the number of features of x.
        hidden_size: H, the number of units.
        init: "default", "pytorch", the name of an initialiser for both weights, or a mapping from parameter name to
            initialiser, default for the others, as of `GRU`.
        {options}

    Parameters, gate order r z n: weight_ih [3*H,I], weight_hh [3*H,H], bias [3*H], bias_hn [H] (neither with
        reset_after=False nor with layer_norm, which has weight_norm [6,H]: v r z n, v' r z n).
    Call: `h = cell(x, state=None)`, `h, tape = cell.forward(x, state=None)`, `dx, dh, grads = cell.backward(tape, dh)`;
        x [B,I] and h [B,H], or [I] and [H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.

    With the same weights and no masks, a loop over a cell computes the bits of `GRU`. Its gradients over several steps
    differ by rounding, since the layer sums in another order.

    >>> import numpy as np
    >>> cell = GRUCell(3, 4, seed=0)
    >>> h, tape = cell.forward(np.ones((2, 3)))
    >>> dx, dh, grads = cell.backward(tape, np.ones_like(h))
    >>> h.shape, dx.shape, dh.shape, grads["bias_hn"].shape
    ((2, 4), (2, 3), (2, 4), (4,))
    """

    @checks_names
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        reset_after: bool = True,
        layer_norm: bool = False,
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
        zoneout: float | tuple[float, float] = 0.0,
        clip_state: float | None = None,
        clip_grad_per_step: float | None = None,
        precision: str | None = None,
    ) -> None:
        cell = _cell(type(self).__name__, reset_after, layer_norm)
        options = CellOptions(bias, dtype, init, seed, zoneout, clip_state, clip_grad_per_step, precision)
        super().__init__(cell, input_size, hidden_size, options)


def _cell(where: str, reset_after: bool, layer_norm: bool) -> Cell:
    """The cell that these arguments ask for."""
    before = not check_bool(where, "reset_after", reset_after)
    variant = one_of(where, **{"reset_after=False": before, "layer_norm": layer_norm})
    kernel = {"": "gru", "layer_norm": "gru_norm"}.get(variant, "gru_before")
    arguments = {"": {}, "layer_norm": {"layer_norm": True}}.get(variant, {"reset_after": False})
    return Cell(kernel, arguments, variant)
