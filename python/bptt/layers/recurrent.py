# SPDX-License-Identifier: Apache-2.0
"""The recurrent layer: one cell run over time, forward and backward, as users call it.

The layers that users make are in one file for each family: rnn.py, lstm.py, slstm.py, gru.py. This is what they share;
`bptt._engine` runs them.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from bptt._arrays import check_bool
from bptt._engine.options import StateOptions
from bptt._engine.tape import RecurrentTape
from bptt.layers.over_time import OverTime
from bptt.layers.quantized import Quantized

if TYPE_CHECKING:
    from bptt._arrays import ArrayIn
    from bptt._engine.packed import Packed
    from bptt._engine.stack import State, StateIn
    from bptt._engine.tape import Tape
    from bptt.layers.layout import Cell
    from bptt.layers.options import LayerOptions
    from bptt.params import Params


class Recurrent(OverTime):
    """The shared part of layers over time. `y, state = layer(x)` runs, `forward` and `backward` train."""

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        options: LayerOptions,
        *,
        proj_size: int = 0,
        num_heads: int = 1,
    ) -> None:
        where = type(self).__name__
        self.batch_first = check_bool(where, "batch_first", options.batch_first)
        self.bidirectional = check_bool(where, "bidirectional", options.bidirectional)
        self.num_directions = 1 + self.bidirectional
        self.learn_initial_state = check_bool(where, "learn_initial_state", options.learn_initial_state)
        structure = self._set_sizes(
            cell,
            input_size,
            hidden_size,
            proj_size=proj_size,
            bias=options.bias,
            dtype=options.dtype,
            num_layers=options.num_layers,
            num_directions=self.num_directions,
            num_heads=num_heads,
            precision=options.precision,
        )
        self.num_layers = structure.num_layers
        state_options = StateOptions.check(
            where,
            structure.dtype,
            dropout=options.dropout,
            recurrent_dropout=options.recurrent_dropout,
            zoneout=options.zoneout,
            clip_state=options.clip_state,
            clip_grad_per_step=options.clip_grad_per_step,
            checkpoint=options.checkpoint,
            seed=options.seed,
        )
        if state_options.dropout and self.num_layers == 1:
            what = f"dropout has value {state_options.dropout} with num_layers=1, where it drops nothing"
            warnings.warn(f"{where}: {what}: it acts between layers", UserWarning, stacklevel=4)
        ends = ("", "_reverse")[: self.num_directions]
        self._set_params(
            structure,
            state_options,
            [f"_l{k}{end}" for k in range(self.num_layers) for end in ends],
            options.init,
            options.seed,
            learnt=self.learn_initial_state,
            batch_first=self.batch_first,
        )

    def forward(
        self,
        x: ArrayIn | Packed,
        state: StateIn = None,
        lengths: ArrayIn | None = None,
        resets: ArrayIn | None = None,
        *,
        last: bool = False,
    ) -> tuple[Any, State, RecurrentTape]:
        """Training: also return the tape for `backward`.

        Args:
            x: [T,B,I] (or [T,I]; [B,T,I] with batch_first), or `Packed`. Another real dtype than the layer's, or
                another memory layout, is converted with one copy.
            state: initial state, h [L*D,B,H] ([L*D,H] without batch axis), L layers, D directions, layer by layer and
                forward before reverse; for an LSTM the tuple (h, c), for an SLSTM (h, c, n, m). Default zeros, or what
                `learn_initial_state` learnt. Of packed rows in the caller's order (`Packed.sorted_indices`).
            lengths: [B] integers from 0 to T: row b has lengths[b] steps; later ones are not read and cost nothing, and
                y is zero there. The final state of a row is that after its last step.
            resets: [T,B] booleans (as x: [B,T], [T], `Packed` or its data): where True, the row starts again before
                that step, from zeros or from the learnt initial state; no gradient passes. The reverse direction starts
                again after that step, so that both directions are cut at the same place.
            last: whether y is only the last step of each row, [B,D*H] ([D*H] without batch axis; of packed rows in the
                caller's order), zero for a row of length 0; dy of `backward` is then shaped like it. Default False.
                Both directions are taken at that step, where the reverse one has read nothing else; state has h of each
                direction after it has read the whole row, and `backward` takes its gradient with dy=None.

        Returns: y [T,B,D*H] (as x), the final state (as state), the tape. The tape refers to x, state and y: y may be
            read-only, and x and state must stay as they are until `backward`. The tape keeps the weights of
            this call, even if the parameters change. With batch_first, y is a view of time-major memory.
        Raises: ValueError for a wrong shape, TypeError for a wrong dtype, MemoryError where the tape has no room.
        """
        y, final, tape = self._stack.run(self, x, state, lengths, resets, True)
        assert tape is not None
        if last:
            y, tape.last = self._last_of(y, lengths, last)
        return y, final, tape

    def backward(
        self, tape: Tape, dy: Any, dstate: Any = None, grads: Params | None = None
    ) -> tuple[Any, State, Params]:
        """Backpropagation through time.

        Args:
            tape: of `forward`; used up by this call.
            dy: the gradient of y, shaped like it (`Packed` or its data for packed rows); None for zeros, where there is
                a dstate.
            dstate: the gradient of the final state, shaped like it; default zeros.
            grads: `params.zeros_like()` to write the gradients into; default a new one.

        Returns: dx (as x), the gradient of the initial state (as state), the gradients by parameter name.
        Raises: ValueError for a wrong shape or a tape of another layer, RuntimeError for a tape that was used before;
            TypeError where dy and dstate are None.
        """
        tape = self._own(tape, RecurrentTape)
        if dy is None and dstate is None:
            raise TypeError(f"{self._where('backward')}: dy and dstate are None, expected at least one of them")
        return self._backward(tape, dy, dstate, self._gradients(grads))

    def _backward(self, tape: Any, dy: Any, dstate: Any, grads: Params) -> tuple[Any, State, Params]:
        """The same without checks of the tape and of grads; dy and dstate may both be None."""
        dx, dinitial = self._stack.backward(tape, dy, dstate, grads.flat)
        return dx, dinitial, grads

    def quantize(self, weights: str = "int8") -> Quantized:
        """Return a copy for inference whose weights, weight_ih and weight_hh, are stored in fewer bits.

        Args: weights:
            "int8" (default): 8 bits, symmetric, with a scale for each output (each row of a weight). A product's other
                factor, a row of x or of h at one step, is rounded to 8 bits as well, with a scale for each row; sums of
                products are exact; equations, states, biases and outputs are float32. By VPDPBUSD where the processor
                has it (AVX512_VNNI), with the same results. Weights have at most 65,536 columns.
            "bfloat16": 16 bits; all arithmetic is float32. The results are those of this layer with rounded weights.

        Returns: a layer that is called like this one, with streams, lengths, resets and states, also for its place in a
            `Sequential`. It cannot be trained. `bptt.save` and `bptt.load` keep what it stores. A row of x (or a state)
            with a value that is not finite makes all outputs of its row NaN from that step on with int8, until a reset.
        Raises: ValueError for a layer of float64, of several heads, or with a cell of several stages (layer_norm,
            proj_size, reset_after=False), and for another `weights`; FloatingPointError for parameters that are NaN or
            infinite.

        The page docs/quantization.md has errors and times.

        >>> import numpy as np
        >>> from bptt import GRU
        >>> gru = GRU(16, 32, seed=0)
        >>> quantized, x = gru.quantize("int8"), np.random.default_rng(0).standard_normal((20, 4, 16))
        >>> y, state = quantized(x)
        >>> float(np.abs(y - gru(x)[0]).max()) < 0.03, quantized.params["weight_hh_l0"].dtype
        (True, dtype('int8'))
        """
        return Quantized(self, weights)

    def _config(self) -> dict[str, Any]:
        options = self._stack.state_options.arguments()
        return super()._config() | {
            "num_layers": self.num_layers,
            "batch_first": self.batch_first,
            "bidirectional": self.bidirectional,
            "learn_initial_state": self.learn_initial_state,
            **{name: options[name] for name in ("dropout", "recurrent_dropout", "checkpoint")},
        }

    def __repr__(self) -> str:
        flags = ("batch_first", "bidirectional", "learn_initial_state")
        return self._text("".join(f", {name}=True" for name in flags if vars(self)[name]))
