# SPDX-License-Identifier: Apache-2.0
"""The recurrent layers by cell: RNN, LSTM, GRU. Each states its equations, its arguments and its parameters.

Shapes: x [T,B,I], y [T,B,H], states [1,B,H]; PyTorch's names, gate orders and argument lists. One bias where PyTorch
has two (theirs are summed). What runs over time is in recurrent.py; nothing is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bptt._arrays import brief, check_bool, check_size
from bptt.layers.options import LayerOptions
from bptt.layers.recurrent import Recurrent
from bptt.layers.signature import checks_names, described

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt.init import Init
    from bptt.layers.layout import Vectors

__all__ = ["GRU", "LSTM", "RNN"]


@described
class RNN(Recurrent):
    """Elman's recurrent layer.

        h1 = phi(Wx x + b + Wh h0),  phi = tanh or max(0, .)

    Args:
        input_size: I. hidden_size: H.
        nonlinearity: "tanh" (default) or "relu".
        bias: whether there is a b, default True.
        init: "default" (weight_ih xavier_uniform, weight_hh orthogonal, bias zeros), "pytorch" (all U(-a, a),
            a = 1/sqrt(H)), the name of an initialiser for both weights, or a mapping from parameter name (with or
            without _l0) to initialiser, default for the others; {"weight_hh": "identity"} with relu makes an IRNN. See
            `bptt.init.draw`.
        {options}

    Parameters: weight_ih_l0 [H,I] (l1 and on: [H,D*H]), weight_hh_l0 [H,H], bias_l0 [H]; with suffix _reverse for the
        second direction.
    Call: `y, h = layer(x, h=None)`, `y, h, tape = layer.forward(x, h=None)` (both take lengths and resets as well),
        `dx, dh, grads = layer.backward(tape, dy, dh=None)`; y [T,B,D*H], h [L*D,B,H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.
    Source: Elman 1990; Le et al. 2015 (IRNN).

    >>> import numpy as np
    >>> rnn = RNN(3, 4, nonlinearity="relu", init={"weight_hh": "identity"}, seed=0)
    >>> y, h = rnn(np.ones((5, 2, 3)))
    >>> y.shape, h.shape, bool((y[-1] == h[0]).all())
    ((5, 2, 4), (1, 2, 4), True)
    """

    _gates = 1

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
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity has value {brief(nonlinearity)}, expected 'tanh' or 'relu'")
        self.nonlinearity = nonlinearity
        options = LayerOptions(
            num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed, recurrent_dropout, zoneout,
            clip_state, clip_grad_per_step, checkpoint, learn_initial_state,
        )  # fmt: skip
        super().__init__(f"rnn_{nonlinearity}", input_size, hidden_size, options)

    def _options(self) -> str:
        return "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}"


@described
class LSTM(Recurrent):
    """Long short-term memory, with peepholes as an option.

        i, f, o = sigmoid(Wx x + b + Wh h0)   (with peephole + p_i c0, + p_f c0, + p_o c1)
        g  = tanh(Wx x + b + Wh h0)
        c1 = f c0 + i g
        h1 = o tanh(c1)

    Args:
        input_size: I. hidden_size: H.
        bias: whether there is a b, default True.
        proj_size: R, to project h to R < H units, h1 = W_hr o tanh(c1), default 0: not at all.
        peephole: whether the gates see the cell, default False.
        coupled: i = 1 - f, gates f g o, default False.
        layer_norm: o, i, f, g of N(Wx x) v + N(Wh h0) v' + b and h1 = o tanh(N(c1) v'' + b''), N(a) = (a - mean) /
            sqrt(variance + 1e-5) over all of a's units, default False. At most one of these three, and only peephole
            beside proj_size.
        init: "default" (weight_ih xavier_uniform and weight_hh orthogonal, each gate by itself; bias zeros but 1 at the
            forget gate, as in Keras; peepholes zeros), "pytorch" (all U(-a, a), a = 1/sqrt(H)), the name of an
            initialiser for both weights, or a mapping from parameter name (with or without _l0) to initialiser, default
            for the others. See `bptt.init.draw`.
        {options}

    Parameters, gate order i f g o: weight_ih_l0 [4*H,I] (l1 and on: [4*H,D*H]), weight_hh_l0 [4*H,H], bias_l0 [4*H];
        with peephole also weight_peephole_l0 [3,H], order i f o; coupled: 3 in the place of 4; with layer_norm also
        weight_norm_l0 [9,H] (v i f g o, v' i f g o, v'') and bias_norm_l0 [H] (b''); with proj_size R also
        weight_hr_l0 [R,H], and R for H in weight_hh, y and h. With suffix _reverse for the second direction.
    Call: `y, (h, c) = layer(x, state=None)`, `y, (h, c), tape = layer.forward(x, state=None)` (both take lengths and
        resets as well), `dx, (dh, dc), grads = layer.backward(tape, dy, dstate=None)`; y [T,B,D*H], h and c each
        [L*D,B,H].
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

    _gates = 4
    _states = ("h", "c")
    _bias = "forget_bias"
    _kept: tuple[str, ...] = ("i", "f", "g", "o")

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
    ) -> None:
        self.variant = _one_of("LSTM", peephole=peephole, coupled=coupled, layer_norm=layer_norm)
        projected = check_size("LSTM", "proj_size", proj_size, least=0) > 0
        if projected and self.variant not in ("", "peephole"):
            raise ValueError(f"LSTM: proj_size has value {proj_size} beside {self.variant}, expected 0")
        name = {"": "lstm", "peephole": "lstm_peephole", "coupled": "lstm_coupled", "layer_norm": "lstm_norm"}
        vectors: Vectors = ()
        if self.variant == "coupled":
            self._gates, self._kept = 3, ("f", "g", "o")
        elif self.variant == "peephole":
            vectors = (("weight_peephole", (3,), "zeros"),)
        elif self.variant == "layer_norm":
            vectors = (("weight_norm", (9,), "ones"), ("bias_norm", (), "zeros"))
            self._kept = (*(f"{part}_{gate}" for part in ("x", "h") for gate in "ifgo"), "c_norm", "i", "f", "g", "o")
        options = LayerOptions(
            num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed, recurrent_dropout, zoneout,
            clip_state, clip_grad_per_step, checkpoint, learn_initial_state,
        )  # fmt: skip
        cell = name[self.variant] + "_projected" * projected
        super().__init__(cell, input_size, hidden_size, options, vectors=vectors, proj_size=proj_size)

    def _options(self) -> str:
        projected = f", proj_size={self.proj_size}" if self.proj_size else ""
        return projected + (f", {self.variant}=True" if self.variant else "")


@described
class GRU(Recurrent):
    """Gated recurrent unit, with the reset after the product, as in PyTorch.

        r, z = sigmoid(Wx x + b + Wh h0)
        n  = tanh(Wx x + b + r (Wh h0 + b_hn))
        h1 = (1 - z) n + z h0

    Args:
        input_size: I. hidden_size: H.
        bias: whether there are b and b_hn, default True.
        init: "default" (weight_ih xavier_uniform and weight_hh orthogonal, each gate by itself; biases zeros),
            "pytorch" (all U(-a, a), a = 1/sqrt(H)), the name of an initialiser for both weights, or a mapping from
            parameter name (with or without _l0) to initialiser, default for the others. See `bptt.init.draw`.
        reset_after: r multiplies Wh h0 (True, the default, PyTorch's) or h0 (False): n = tanh(Wx x + b + Wh (r h0)).
        layer_norm: r, z, n of N(Wx x) v + b and N(Wh h0) v', N(a) = (a - mean) / sqrt(variance + 1e-5) over all of a's
            units, default False; only with reset_after.
        {options}

    Parameters, gate order r z n: weight_ih_l0 [3*H,I] (l1 and on: [3*H,D*H]), weight_hh_l0 [3*H,H], bias_l0 [3*H],
        bias_hn_l0 [H] (neither with reset_after=False nor with layer_norm, which has weight_norm_l0 [6,H]: v r z n,
        v' r z n); with suffix _reverse for the second direction.
    Call: `y, h = layer(x, h=None)`, `y, h, tape = layer.forward(x, h=None)` (both take lengths and resets as well),
        `dx, dh, grads = layer.backward(tape, dy, dh=None)`; y [T,B,D*H], h [L*D,B,H].
    Raises: ValueError for sizes and values, TypeError for dtypes, MemoryError for sizes beyond this machine.
    Source: Cho et al. 2014; Ba et al. 2016 (layer normalisation).

    >>> import numpy as np
    >>> gru = GRU(3, 4, batch_first=True, seed=0)
    >>> y, h = gru(np.ones((2, 5, 3)))
    >>> y.shape, h.shape
    ((2, 5, 4), (1, 2, 4))
    """

    _gates = 3
    _kept: tuple[str, ...] = ("r", "z", "n", "m")

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
    ) -> None:
        before = not check_bool("GRU", "reset_after", reset_after)
        self.variant = _one_of("GRU", **{"reset_after=False": before, "layer_norm": layer_norm})
        cell = "gru"
        vectors: Vectors = (("bias_hn", (), "zeros"),) if bias else ()
        if self.variant == "layer_norm":
            cell, vectors = "gru_norm", (("weight_norm", (6,), "ones"),)
            self._kept = (*(f"{part}_{gate}" for part in ("x", "h") for gate in "rzn"), "r", "z", "n")
        elif self.variant:
            cell, vectors = "gru_before", ()
            self._kept = ("r", "z", "n", "rh")
        options = LayerOptions(
            num_layers, bias, batch_first, dropout, bidirectional, dtype, init, seed, recurrent_dropout, zoneout,
            clip_state, clip_grad_per_step, checkpoint, learn_initial_state,
        )  # fmt: skip
        super().__init__(cell, input_size, hidden_size, options, vectors=vectors)

    def _options(self) -> str:
        return {"": "", "layer_norm": ", layer_norm=True"}.get(self.variant, f", {self.variant}")


def _one_of(where: str, **variants: bool) -> str:
    """The name of the one variant that is asked for, or none."""
    chosen = [name for name, wanted in variants.items() if check_bool(where, name, wanted)]
    if len(chosen) > 1:
        raise ValueError(f"{where}: {' and '.join(chosen)} are given together, expected at most one of them")
    return chosen[0] if chosen else ""
