# SPDX-License-Identifier: Apache-2.0
"""The recurrent layer: one cell run over time, forward and backward. The loop is the native module's.

The layers that users make are in cells.py; here is what they share, whatever the cell: the stack of layers and
directions, and the ways in. One layer in one direction without options goes the plain way, straight to the kernel on the
caller's own arrays; all else goes through `core.forward`, which orders rows, joins directions and applies the options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from bptt._arrays import as_array, as_floats, as_integers, as_mask, check_dtype, check_shape, check_size, shape_error
from bptt._dispatch import core
from bptt.init import fill
from bptt.layers.base import Layer, Tape
from bptt.layers.kernels import Kernels
from bptt.layers.options import Between, mixed
from bptt.layers.states import States
from bptt.layers.stream import StackStream
from bptt.layers.torch_names import from_torch, to_torch
from bptt.params import Params

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike

    from bptt import _core
    from bptt._arrays import Array, ArrayIn
    from bptt.init import Init

    State: TypeAlias = Array | tuple[Array, ...]
    StateIn: TypeAlias = ArrayIn | tuple[ArrayIn, ...] | None


class Packed(NamedTuple):
    """Sequences of different lengths without padding: all rows of step 0, then of step 1, and so on.

    data [sum, I]; batch_sizes [T], the number of rows at each step, none more than at the step before: row b of step t is
    sequence b, which are sorted by length, longest first. PyTorch's PackedSequence is laid out like this.

    >>> import numpy as np
    >>> from bptt import GRU
    >>> y, h = GRU(2, 3, seed=0)(Packed(np.ones((5, 2), np.float32), np.array([2, 2, 1])))
    >>> y.data.shape, h.shape
    ((5, 3), (1, 2, 3))
    """

    data: ArrayIn
    batch_sizes: ArrayIn


class Shape(NamedTuple):
    """How a caller's arrays look: whether there is a batch axis, and the batch sizes of packed ones."""

    batched: bool
    sizes: Array | None


class RecurrentTape(Tape):
    """What one forward pass keeps: native tapes, layer by layer, a tape for each direction; used up by one backward."""

    __slots__ = ("learnt", "natives", "plain", "recurrences", "seed", "shape", "shown")

    def __init__(
        self,
        layer: Recurrent,
        recurrences: list[_core.Recurrence],
        natives: list[_core.Tape],
        shape: tuple[int, ...],
        *,
        plain: bool = True,
        shown: Shape | None = None,
        seed: int = 0,
        learnt: bool = False,
    ) -> None:
        self.layer = layer
        self.recurrences, self.natives, self.shape, self.plain = recurrences, natives, shape, plain
        self.shown, self.seed, self.learnt = shown, seed, learnt

    @property
    def nbytes(self) -> int:
        """The memory that the tape holds, in bytes."""
        return sum(native.nbytes for native in self.natives)

    def gates(self, layer: int = 0, direction: int = 0) -> dict[str, Array]:
        """All gates of one layer and direction at all steps, each [T,B,H] (of packed rows [sum,H]), by name.

        LSTM: i, f, g, o and the cell state c; GRU: r, z, n and m, what r multiplies; a simple RNN has none. After
        activation; c as it leaves the cell, before `zoneout` and `clip_state` change it.
        Raises: RuntimeError once `backward` has used the tape, or where the layer has checkpoints.

        >>> from bptt import LSTM
        >>> y, (h, c), tape = LSTM(2, 3, seed=0).forward(np.ones((5, 1, 2)))
        >>> gates = tape.gates()
        >>> gates["f"].shape, bool((gates["c"][-1] == c[0]).all())
        ((5, 1, 3), True)
        """
        owner = self.layer
        assert isinstance(owner, Recurrent)
        at = check_size("gates", "layer", layer, 0) * owner.num_directions + check_size("gates", "direction", direction, 0)
        if direction >= owner.num_directions or at >= len(self.natives):
            has = f"{owner.num_layers} layers and {owner.num_directions} directions"
            raise ValueError(f"gates: there is no layer {layer}, direction {direction}, expected one of {has}")
        named = {name: self.natives[at].kept(i) for i, name in enumerate(owner._kept)}
        if "c" in owner._states:
            named["c"] = self.natives[at].kept(-1)
        batched = self.shown is None or self.shown.batched
        return {name: owner._as_given(array, batched) for name, array in named.items()}


class Recurrent(Layer):
    """What the layers of cells.py share. Not made by itself. `y, state = layer(x)` runs, `forward` and `backward` train.

    Options, the same for all of them, by keyword:
        dtype: float32 (default) or float64.
        init: see `bptt.init.draw` and the layer. seed: integer, or None (default) for fresh weights and masks each time.
        dropout: of what one layer hands to the next, in training, default 0 (Zaremba et al. 2014).
        recurrent_dropout: p. In training the products of each step see h0 d, d ~ Bernoulli(1-p) / (1-p), drawn once for
            each sequence, layer, direction and unit (Gal & Ghahramani 2016). Default 0.
        zoneout: p, or (p_h, p_c). In training each unit keeps its old state with probability p, at inference s1 becomes
            p s0 + (1-p) s1, its expectation (Krueger et al. 2017). Default 0.
        clip_state: v. States are clamped to [-v, v] as they leave a step, forward; beyond, their gradient is 0.
        clip_grad_per_step: v. The gradients of the pre-activations are clamped to [-v, v] at each step, before they go
            on to x, the weights and the step before (Graves 2013).
        checkpoint: None (default), "sqrt" or a number of steps k: the tape keeps one state every k (or sqrt(T)) steps
            and `backward` computes the steps between again; the gradients are the same bits (Chen et al. 2016).
        learn_initial_state: whether the state at the start and after a reset is a parameter, `initial_h_l0` [H] (and
            `initial_c_l0`, for each layer and direction), instead of zeros, default False.
    Masks are a function of the seed and the number of calls of `forward`, not of threads or of the length of the batch.
    """

    _gates: ClassVar[int]  # G
    _states: ClassVar[tuple[str, ...]] = ("h",)
    _kept: ClassVar[tuple[str, ...]] = ()  # the gates' names, as the cell keeps them
    variant = ""  # what makes the cell another one than PyTorch's

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        *,
        vectors: tuple[tuple[str, tuple[int, ...], str], ...] = (),  # per unit: name, shape before H, initialiser
        proj_size: int = 0,
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
        where = type(self).__name__
        self.input_size = check_size(where, "input_size", input_size)
        self.hidden_size = check_size(where, "hidden_size", hidden_size)
        self.num_layers = check_size(where, "num_layers", num_layers)
        self.proj_size = check_size(where, "proj_size", proj_size, least=0)
        if self.proj_size >= self.hidden_size:
            what = f"proj_size has value {proj_size}, expected less than hidden_size, {hidden_size}"
            raise ValueError(f"{where}: {what}")
        self.batch_first, self.bidirectional = bool(batch_first), bool(bidirectional)
        self.num_directions = 1 + self.bidirectional
        self.learn_initial_state = bool(learn_initial_state)
        self._between = Between.check(
            where, seed, dropout=dropout, recurrent_dropout=recurrent_dropout, zoneout=zoneout, clip_state=clip_state,
            clip_grad_per_step=clip_grad_per_step, checkpoint=checkpoint,
        )  # fmt: skip
        shapes, default, blocks = self._lay_out(bias, vectors)
        self.params = Params(shapes, check_dtype(where, dtype))
        fill(where, self.params, init, seed, default, gates=self._gates, size=self.hidden_size)
        sizes = [
            (cell, self.params.dtype.name, self._input_of(k // self.num_directions), hidden_size, bool(bias), proj_size)
            for k in range(len(blocks))
        ]
        self._kernels = Kernels(sizes, [self.params.span(names[0], names[-1]) for names in blocks])
        widths = (self.output_size, self.hidden_size)[: len(self._states)]
        self._states_of = States(self, dict(zip(self._states, widths, strict=True)), len(blocks))
        self._plain = len(blocks) == 1 and self._between.plain and not self.learn_initial_state

    @property
    def output_size(self) -> int:
        """The width of h, and of y in one direction: H, or proj_size."""
        return self.proj_size or self.hidden_size

    def _input_of(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.output_size * self.num_directions

    def _lay_out(
        self, bias: bool, vectors: tuple[tuple[str, tuple[int, ...], str], ...]
    ) -> tuple[dict[str, tuple[int, ...]], dict[str, str], list[list[str]]]:
        """Shapes and default initialisers by parameter name, and the names of each kernel's block of the buffer."""
        H, rows = self.hidden_size, self._gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        default: dict[str, str] = {}
        blocks = []
        suffixes = [f"_l{k}{end}" for k in range(self.num_layers) for end in ("", "_reverse")[: self.num_directions]]
        for k, suffix in enumerate(suffixes):
            block = {"weight_ih": ((rows, self._input_of(k // self.num_directions)), "xavier_uniform")}
            block["weight_hh"] = ((rows, self.output_size), "orthogonal")
            if bias:
                block["bias"] = ((rows,), "forget_bias" if "c" in self._states else "zeros")
            block |= {name: ((*shape, H), start) for name, shape, start in vectors}
            if self.proj_size:
                block["weight_hr"] = ((self.proj_size, H), "xavier_uniform")
            shapes |= {name + suffix: shape for name, (shape, _) in block.items()}
            default |= {name + suffix: start for name, (_, start) in block.items()}
            blocks.append([name + suffix for name in block])
        if self.learn_initial_state:
            widths = {"h": self.output_size, "c": H}
            for suffix in suffixes:
                for state in self._states:
                    shapes[f"initial_{state}{suffix}"], default[f"initial_{state}{suffix}"] = (widths[state],), "zeros"
        return shapes, default, blocks

    def __call__(
        self, x: ArrayIn | Packed, state: StateIn = None, lengths: ArrayIn | None = None, resets: ArrayIn | None = None
    ) -> tuple[Any, State]:
        """Inference: nothing is kept, and nothing dropped.

        Args: as of `forward`.
        Returns: y and the final state.
        """
        y, final, _ = self._run(x, state, lengths, resets, training=False)
        return y, final

    def forward(
        self, x: ArrayIn | Packed, state: StateIn = None, lengths: ArrayIn | None = None, resets: ArrayIn | None = None
    ) -> tuple[Any, State, RecurrentTape]:
        """Training: also return the tape for `backward`.

        Args:
            x: [T,B,I] (or [T,I]; [B,T,I] with batch_first), or `Packed`. Another real dtype than the layer's, or another
                memory layout, is converted with one copy.
            state: initial state, h [L*D,B,H] ([L*D,H] without batch axis), L layers, D directions, layer by layer and
                forward before reverse; for an LSTM the tuple (h, c). Default zeros, or what `learn_initial_state` learnt.
            lengths: [B] integers from 0 to T: row b has its first lengths[b] steps; the others are not looked at, cost
                nothing, and y is zero there. The final state is that after each row's own last step.
            resets: [T,B] booleans (as x: [B,T], [T] or packed [sum]): where True, the row begins anew before that step,
                from zeros or from what `learn_initial_state` learnt; no gradient passes. Read backward, it begins anew
                behind that step, so that what a reset parts stays apart in both directions.

        Returns: y [T,B,D*H] (as x), the final state (as state), the tape. The tape refers to x, state and y: y may be
            read-only, and x and state must stay as they are until `backward`. The weights of this call it keeps,
            whatever becomes of the parameters. With batch_first, y is a view of time-major memory.
        Raises: ValueError for a wrong shape, TypeError for a wrong dtype, MemoryError where the tape has no room.
        """
        y, final, tape = self._run(x, state, lengths, resets, training=True)
        assert tape is not None
        return y, final, tape

    def backward(
        self, tape: Tape, dy: Any, dstate: StateIn = None, grads: Params | None = None
    ) -> tuple[Any, State, Params]:
        """Backpropagation through time.

        Args:
            tape: of `forward`; used up by this call.
            dy: the gradient of y, shaped like it (`Packed` or its data for packed rows).
            dstate: the gradient of the final state, shaped like it; default zeros.
            grads: `params.zeros_like()` to write the gradients into; default a new one.

        Returns: dx (as x), the gradient of the initial state (as state), the gradients by parameter name.
        Raises: ValueError for a wrong shape or a tape of another layer, RuntimeError for a tape that was used before.
        """
        where = self._where("backward")
        tape = self._own(tape, RecurrentTape)
        grads = self._gradients(grads)
        if tape.plain and not self.batch_first:
            try:
                return (*tape.recurrences[0].backward(tape.natives[0], dy, dstate, grads.flat), grads)
            except (TypeError, ValueError):
                pass  # not exact: converted below, or named
        sizes = tape.shown.sizes if tape.shown else None
        dy = as_array(where, "dy", dy.data if isinstance(dy, Packed) else dy)
        check_shape(where, "dy", dy, tape.shape)
        batched = sizes is not None or dy.ndim == 3
        dy = as_floats(where, "dy", dy if sizes is not None else self._time_major(dy), self.params.dtype)
        B = int(sizes[0]) if sizes is not None and len(sizes) else dy.shape[1] if sizes is None else 0
        dstate = self._states_of.native(where, "dstate", dstate, B, batched)
        if tape.plain:
            dx, dinitial = tape.recurrences[0].backward(tape.natives[0], dy, dstate, grads.flat)
        else:
            dx, dinitial = self._backward(tape, dy, dstate, grads)
        dx = Packed(dx, sizes) if sizes is not None else self._as_given(dx, batched)
        return dx, self._states_of.given(dinitial, batched), grads

    def load_state_dict(self, state: Mapping[str, ArrayIn]) -> None:
        """Set all parameters, or none where anything does not fit.

        Args: state as `state_dict` returns it, or as that of the same layer of PyTorch does, arrays or tensors: its two
            biases bias_ih and bias_hh are summed, but for those of the GRU's candidate, which stay apart.
        Raises: ValueError that names each missing or unknown name or the first wrong shape; TypeError for what is not
            real numbers.

        >>> from bptt import GRU
        >>> a, b = GRU(2, 3, seed=0), GRU(2, 3, seed=1)
        >>> b.load_state_dict(a.to_torch_state_dict())
        >>> bool((a.params.flat == b.params.flat).all())
        True
        """
        if any(name.startswith("bias_ih_l") for name in state):
            state = from_torch(self._where("load_state_dict"), state, self.params, self.hidden_size)
        super().load_state_dict(state)

    def to_torch_state_dict(self) -> dict[str, Array]:
        """The parameters as PyTorch's layer of the same kind names them, NumPy arrays; bias_hh is zero where ours is one.

        Raises: ValueError for what PyTorch's layers do not have: peepholes, coupled gates, layer normalisation,
            reset_after=False, a learnt initial state.
        """
        return to_torch(self._where("to_torch_state_dict"), self.params, self.hidden_size, self.variant)

    def stream(self, batch_size: int = 1) -> _core.Stream | StackStream:
        """Inference in real time: an object that takes one time step per call and keeps the state.

        Args: batch_size, the number B of rows.
        Returns: a function of x [B,I] -> y [B,H]. y is the same read-only array each time, overwritten by the next
            call: nothing is allocated. x [T,B,I], a chunk of steps, gives a new y [T,B,H]. `stream.state` is a copy of
            the state, as `forward` returns it, and can be assigned; it begins as zeros, or as what
            `learn_initial_state` learnt, and `stream.reset(rows=None)` begins anew, for all rows or those that an index
            selects. The weights are those of now: after a change of the parameters make a new stream. Streams share
            nothing: each may run on a thread of its own.
        Raises: ValueError for batch_size < 1 or a bidirectional layer. The stream raises TypeError for another dtype than
            the layer's and ValueError for another shape or memory layout: it converts nothing.

        >>> from bptt import GRU
        >>> gru = GRU(3, 4, seed=0)
        >>> stream, x = gru.stream(), np.ones((5, 1, 3), np.float32)
        >>> y = [stream(x_t).copy() for x_t in x]
        >>> bool((np.array(y) == gru(x)[0]).all())
        True
        """
        where = self._where("stream")
        B = check_size(where, "batch_size", batch_size)
        if self.bidirectional:
            raise ValueError(f"{where}: the layer is bidirectional, expected one direction: the other needs the future")
        setup = core.Setup(zoneout=self._between.zoneout, clip=self._between.clip_state)
        streams = [native.stream(B, setup) for native in self._kernels.packed(self.params, training=False)]
        if len(streams) == 1 and not self.learn_initial_state:
            return streams[0]
        return StackStream(streams, self._states_of.learnt(B) if self.learn_initial_state else None)

    def _run(
        self, x: Any, state: StateIn, lengths: ArrayIn | None, resets: ArrayIn | None, *, training: bool
    ) -> tuple[Any, State, RecurrentTape | None]:
        recurrences = self._kernels.packed(self.params, training)
        plain = self._plain and lengths is None and resets is None
        if plain and not self.batch_first:
            try:
                y, final, native = recurrences[0].forward(x, state, training)
                return y, final, None if native is None else RecurrentTape(self, recurrences, [native], y.shape)
            except (TypeError, ValueError):
                pass  # not exact: converted below, or named
        where = self._where()
        sizes = None
        if hasattr(x, "batch_sizes"):
            plain = False
            x, sizes = x.data, as_integers(where, "batch_sizes", x.batch_sizes)
        x = as_array(where, "x", x)
        if x.ndim not in ((2, 3) if sizes is None else (2,)) or x.shape[-1] != self.input_size:
            raise shape_error(where, "x", x, self._expected_x(sizes))
        batched = x.ndim == 3 or sizes is not None
        x = as_floats(where, "x", x if sizes is not None else self._time_major(x), self.params.dtype)
        B = int(sizes[:1].sum()) if sizes is not None else x.shape[1]
        native_state = self._states_of.native(where, "state", state, B, batched)
        if plain:
            y, final, native = recurrences[0].forward(x, native_state, training)
            tapes = None if native is None else [native]
            seed = 0
        else:
            call = self._call(where, x, B, lengths, resets, sizes, batched)
            learnt = state is None and self.learn_initial_state
            native_state = self._states_of.learnt(B) if learnt else native_state
            y, final, tapes, seed = self._forward(recurrences, x, native_state, training, call)
        y = y if sizes is not None else self._as_given(y, batched)
        tape = None
        if training:
            assert tapes is not None
            tape = RecurrentTape(
                self, recurrences, tapes, y.shape, plain=plain, shown=Shape(batched, sizes), seed=seed,
                learnt=not plain and learnt,
            )  # fmt: skip
        return Packed(y, sizes) if sizes is not None else y, self._states_of.given(final, batched), tape

    def _expected_x(self, sizes: Array | None) -> str:
        if sizes is not None:
            return f"(sum, {self.input_size})"
        return f"({'B, T' if self.batch_first else 'T, B'}, {self.input_size})"

    def _call(
        self,
        where: str,
        x: Array,
        B: int,
        lengths: ArrayIn | None,
        resets: ArrayIn | None,
        sizes: Array | None,
        batched: bool,
    ) -> dict[str, Any]:
        """What a Setup needs to know of the rows: in both directions, their order and their resets."""
        steps = len(sizes) if sizes is not None else len(x)
        if sizes is not None:
            if lengths is not None:
                raise ValueError(f"{where}: lengths is given beside packed rows, expected one of them")
            rows = [core.Rows.packed(sizes, bool(d)) for d in range(self.num_directions)]
        else:
            if lengths is not None:
                counts = as_integers(where, "lengths", lengths)
                check_shape(where, "lengths", counts, (B,))
                if counts.size and not 0 <= counts.min() <= counts.max() <= steps:
                    has = f"values from {counts.min()} to {counts.max()}"
                    raise ValueError(f"{where}: lengths has {has}, expected 0 to {steps}")
            else:
                counts = np.full(B, steps)
            rows = [
                core.Rows(counts, steps, bool(d)) if d or lengths is not None else None
                for d in range(self.num_directions)
            ]
        if resets is not None:
            resets = as_mask(where, "resets", resets)
            expected = (len(x),) if sizes is not None or not batched else x.shape[:2]
            given = expected if not (self.batch_first and batched and sizes is None) else expected[::-1]
            check_shape(where, "resets", resets, given)
            resets = np.ascontiguousarray(resets.T if given != expected else resets)
            resets = resets.reshape(x.shape[:-1])
        return {"rows": rows, "resets": resets, "steps": steps}

    def _forward(
        self, recurrences: list[_core.Recurrence], x: Array, state: Any, training: bool, call: dict[str, Any]
    ) -> tuple[Array, Any, list[_core.Tape], int]:
        """All layers, one after the other; the directions of each together."""
        D, finals, tapes = self.num_directions, [], []
        seed = self._between.next_call() if training else 0
        for layer in range(self.num_layers):
            span = slice(layer * D, (layer + 1) * D)
            if layer and training and self._between.dropout:
                x = core.dropout(x.reshape(-1), self._between.dropout, mixed(seed, -layer)).reshape(x.shape)
            setups = [
                core.Setup(
                    rows=call["rows"][d], resets=call["resets"], anew=self._states_of.anew(layer * D + d),
                    **self._between.setup(mixed(seed, layer * D + d + 1), call["steps"]),
                )
                for d in range(D)
            ]  # fmt: skip
            x, last, natives = core.forward(recurrences[span], x, self._states_of.part(state, span), training, setups)
            finals += last
            tapes += natives
        return x, self._states_of.joined(finals), tapes, seed

    def _backward(self, tape: RecurrentTape, dy: Array, dstate: Any, grads: Params) -> tuple[Array, Any]:
        D, flat = self.num_directions, grads.flat
        initials: list[Any] = []
        danew = [self._states_of.new_anew(grads.dtype) for _ in tape.natives] if self.learn_initial_state else []
        for layer in reversed(range(self.num_layers)):
            span = slice(layer * D, (layer + 1) * D)
            windows = [flat[start:stop] for start, stop in self._kernels.spans[span]]
            dy, before = core.backward(
                tape.recurrences[span], tape.natives[span], dy, self._states_of.part(dstate, span), windows, danew[span]
            )
            initials = before + initials
            if layer and self._between.dropout:
                dy = core.dropout(dy.reshape(-1), self._between.dropout, mixed(tape.seed, -layer)).reshape(dy.shape)
        if self.learn_initial_state:
            self._states_of.add_learnt(grads, danew, initials if tape.learnt else None)
        return dy, self._states_of.joined(initials)

    def _time_major(self, x: Array) -> Array:
        if x.ndim == 2:
            return x[:, np.newaxis]
        return x.swapaxes(0, 1) if self.batch_first else x

    def _as_given(self, y: Array, batched: bool) -> Array:
        if not batched:
            return y[:, 0]
        return y.swapaxes(0, 1) if self.batch_first and y.ndim == 3 else y

    def _options(self) -> str:
        """The cell's own arguments, for `repr`."""
        return ""

    def __repr__(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f", num_layers={self.num_layers}"] * (self.num_layers > 1)
        parts += [self._options(), "" if "bias_l0" in self.params else ", bias=False"]
        parts += [f", {name}=True" for name in ("batch_first", "bidirectional", "learn_initial_state") if vars(self)[name]]
        return f"{type(self).__name__}({''.join(parts)}{self._between}, dtype={self.params.dtype})"
