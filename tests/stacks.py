# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of whole layers: every kind of layer with arrays for it, one run, and the same by the reference.

The reference runs one layer in one direction. This module combines such layers: each one reads both directions of the
layer below, times the mask of the dropout between them. Only the seeds of the masks come from the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bptt
from bptt import reference
from bptt._engine.options import mixed

SEED = 5
HIDDEN, PROJECTED = 7, 5

# layer, its own arguments, the reference's cell
KINDS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "rnn_tanh": (bptt.RNN, {}, "rnn_tanh"),
    "rnn_relu": (bptt.RNN, {"nonlinearity": "relu"}, "rnn_relu"),
    "rnn_linear": (bptt.RNN, {"nonlinearity": "linear"}, "rnn_linear"),
    "lstm": (bptt.LSTM, {}, "lstm"),
    "peephole": (bptt.LSTM, {"peephole": True}, "lstm_peephole"),
    "coupled": (bptt.LSTM, {"coupled": True}, "lstm_coupled"),
    "lstm_norm": (bptt.LSTM, {"layer_norm": True}, "lstm_norm"),
    "projected": (bptt.LSTM, {"proj_size": PROJECTED}, "lstm"),
    "peephole_projected": (bptt.LSTM, {"peephole": True, "proj_size": PROJECTED}, "lstm_peephole"),
    "slstm": (bptt.SLSTM, {}, "slstm"),
    "slstm_heads": (bptt.SLSTM, {"num_heads": HIDDEN, "forget_gate": "exp"}, "slstm_exp"),
    "gru": (bptt.GRU, {}, "gru"),
    "gru_before": (bptt.GRU, {"reset_after": False}, "gru_before"),
    "gru_norm": (bptt.GRU, {"layer_norm": True}, "gru_norm"),
}
DTYPES = ("float32", "float64")

Results = dict[str, NDArray[Any]]


def make(kind: str, input_size: int, hidden_size: int = HIDDEN, **options: Any) -> Any:
    """A layer with random parameters, every one of which matters; states neither die nor explode."""
    layer, own, _ = KINDS[kind]
    if hidden_size % own.get("num_heads", 1):
        own = own | {"num_heads": 1}
    if options.get("num_layers", 1) == 1:
        options.pop("dropout", None)  # a warning: it acts between layers
    made = layer(input_size, hidden_size, **{"dtype": "float64", "seed": SEED, **own, **options})
    rng = np.random.default_rng(1)
    with made.params.edit() as p:
        for name, shape in p.shapes.items():
            p[name] = rng.uniform(-1, 1, shape) / np.sqrt(
                shape[-1] if name.startswith(("weight_hh", "weight_ih")) else 2
            )
            if name.startswith("initial_n"):
                p[name] = stored(p[name])
    return made


def stored(n: NDArray[Any]) -> NDArray[Any]:
    """An sLSTM's n where something is stored: a sum of weights, the largest of them 1."""
    return 1 + np.abs(n)


def states_of(kind: str) -> tuple[str, ...]:
    """The names of a kind's states."""
    return reference.CELLS[KINDS[kind][2]].states


def parts(state: Any) -> tuple[Any, ...]:
    """A state as a tuple of arrays, of one to four."""
    return state if isinstance(state, tuple) else (state,)


def whole(arrays: Any) -> Any:
    """The inverse of `parts`."""
    arrays = tuple(arrays)
    return arrays if len(arrays) > 1 else arrays[0]


@contextmanager
def threads(n: int, module: Any = bptt) -> Iterator[None]:
    """Run a block on n threads; module: bptt, or the native module of a level."""
    before = module.get_num_threads()
    module.set_num_threads(n)
    try:
        yield
    finally:
        module.set_num_threads(before)


@dataclass
class Case:
    """A layer, its inputs and its options; the state may be absent."""

    kind: str
    layer: Any
    x: NDArray[Any]  # [T,B,I]
    state: Any
    dy: NDArray[Any]  # [T,B,D*H]
    dstate: Any
    lengths: NDArray[Any] | None = None
    resets: NDArray[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def random(
        cls, kind: str, dtype: str = "float64", T: int = 6, B: int = 4, I: int = 5, *,  # noqa: E741
        lengths: Any = None, resets: Any = None, state: bool = True, hidden_size: int = HIDDEN, **options: Any,
    ) -> Case:  # fmt: skip
        """Values of order one."""
        layer = make(kind, I, hidden_size, dtype=dtype, **options)
        rng = np.random.default_rng([T, B, I])
        n, H = layer.num_layers * layer.num_directions, layer.output_size

        def draw(*shape: int) -> NDArray[Any]:
            return (rng.standard_normal(shape) * 0.7).astype(dtype)

        widths = [H] + [hidden_size] * (len(states_of(kind)) - 1)
        states, dstates = ([draw(n, B, width) for width in widths] for _ in range(2))
        if "n" in states_of(kind):
            states[2] = stored(states[2])
        return cls(
            kind, layer, draw(T, B, I), whole(states) if state else None, draw(T, B, H * layer.num_directions),
            whole(dstates), lengths, resets, options,
        )  # fmt: skip

    def but(self, **changes: Any) -> Case:
        """The same case with some changes."""
        return replace(self, **changes)

    def run(self) -> Results:
        """Forward and backward by the layer: every result by name."""
        y, final, tape = self.layer.forward(self.x, self.state, self.lengths, self.resets)
        dx, dinitial, grads = self.layer.backward(tape, self.dy, self.dstate)
        return named(y, final, dx, dinitial, grads)

    def infer(self) -> Results:
        """y and the final state at inference."""
        y, final = self.layer(self.x, self.state, self.lengths, self.resets)
        return named(y, final)

    def tolerance(self) -> float:
        """Relative to the largest value of a result, as in kernels.py, for each layer of the stack.

        A layer adds its own rounding, 8 eps sqrt(n), to the error of its input, which its weights of order one pass on.
        The backward pass adds the same again.
        """
        T, B, I = self.x.shape  # noqa: E741
        layer = self.layer
        widest = max(I, layer.output_size * layer.num_directions)
        n = widest + 4 * layer.hidden_size + T * B
        return float(2 * layer.num_layers * 8 * np.finfo(layer.params.dtype).eps * np.sqrt(n))


def named(y: Any, final: Any, dx: Any = None, dinitial: Any = None, grads: Any = None) -> Results:
    """Results by name."""
    out = {"y": y} | {f"final {i}": s for i, s in enumerate(parts(final))}
    if grads is not None:
        out |= {"dx": dx} | {f"dinitial {i}": s for i, s in enumerate(parts(dinitial))}
        out |= {f"d{name}": np.array(g) for name, g in grads.items()}
    return out


def weights_of(case: Case, suffix: str) -> dict[str, NDArray[Any]]:
    """The reference's weights of one layer and direction: zeros for absent biases, the norm's vectors in one array."""
    layer = case.layer
    own = {
        name.removesuffix(suffix): np.array(value, np.float64)
        for name, value in layer.params.items()
        if name.endswith(suffix) and not name.startswith("initial_")
    }
    if "bias_norm" in own:
        own["weight_norm"] = np.vstack([own["weight_norm"], own.pop("bias_norm")])
    shapes = reference.CELLS[KINDS[case.kind][2]].shapes(
        own["weight_ih"].shape[1], layer.hidden_size, layer.proj_size, layer.num_heads
    )
    return {name: own.get(name, np.zeros(shape)) for name, shape in shapes.items()}


def suffix_of(k: int, d: int) -> str:
    """The end of the names of one layer's parameters in one direction."""
    return f"_l{k}" + "_reverse" * d


def reset_state_of(case: Case, k: int, d: int) -> tuple[NDArray[Any], ...] | None:
    """What one layer and direction learnt to begin with."""
    names = [f"initial_{state}{suffix_of(k, d)}" for state in states_of(case.kind)]
    found = tuple(np.array(case.layer.params[name]) for name in names if name in case.layer.params)
    return found or None


def state_options_of(case: Case, k: int, d: int, seed: int, training: bool) -> reference.StateOptions:
    """The reference's options of one layer and direction, masks drawn there."""
    layer, options, (T, B, _) = case.layer, case.options, case.x.shape
    S = len(states_of(case.kind))
    own = mixed(seed, k * layer.num_directions + d + 1)
    p = options.get("zoneout", 0.0)
    pair = p if isinstance(p, tuple) else (p, p)
    zoneout: Any = (pair[0], *[pair[1]] * (S - 1)) if any(pair) else None
    if zoneout and training:
        masks = reference.zoneout_masks(own, T, B, layer.hidden_size, zoneout)
        zoneout = (masks[0][:, :, : layer.output_size], *masks[1:])
    dropout = options.get("recurrent_dropout", 0.0) if training else 0.0
    return reference.StateOptions(
        case.lengths, bool(d), case.resets, reset_state_of(case, k, d), zoneout,
        reference.recurrent_dropout_mask(own, B, layer.output_size, dropout) if dropout else None,
        options.get("clip_state") or np.inf, options.get("clip_grad_per_step") or np.inf,
    )  # fmt: skip


class Expected:
    """The results of the reference for a case; `call` counts the layer's calls of forward, from 1."""

    def __init__(self, case: Case, *, call: int = 1, training: bool = True) -> None:
        self.case, layer = case, case.layer
        L, D, B = layer.num_layers, layer.num_directions, case.x.shape[1]
        seed = mixed(SEED, call)
        p = case.options.get("dropout", 0.0) if training else 0.0
        self.tapes: list[list[reference.Tape]] = []
        self.masks: list[Any] = []
        self.final: list[Any] = []
        x = np.array(case.x, np.float64)
        widths = [layer.output_size] + [layer.hidden_size] * (len(states_of(case.kind)) - 1)
        for k in range(L):
            self.masks.append(reference.input_dropout_mask(mixed(seed, k * D + 1), *x.shape, p) if k and p else 1.0)
            outputs, tapes = [], []
            for d in range(D):
                if case.state is not None:
                    start = tuple(s[k * D + d] for s in parts(case.state))
                else:
                    learnt = reset_state_of(case, k, d) or tuple(np.zeros(width) for width in widths)
                    start = tuple(np.tile(s, (B, 1)) for s in learnt)
                y, final, tape = reference.forward(
                    KINDS[case.kind][2], weights_of(case, suffix_of(k, d)), x * self.masks[k], start,
                    state_options_of(case, k, d, seed, training),
                )  # fmt: skip
                outputs.append(y)
                tapes.append(tape)
                self.final.append(final)
            self.tapes.append(tapes)
            x = np.concatenate(outputs, axis=2)
        self.y = x

    def results(self, backward: bool = True) -> Results:
        """Every result by the names that `Case.run` gives."""
        final = tuple(np.stack(each) for each in zip(*self.final, strict=True))
        if not backward:
            return named(self.y, final)
        case, layer, D = self.case, self.case.layer, self.case.layer.num_directions
        grads: Results = {}
        flow, initial = np.array(case.dy, np.float64), []
        for k in reversed(range(layer.num_layers)):
            below: Any = 0.0
            for d in reversed(range(D)):
                dy = flow[:, :, d * layer.output_size : (d + 1) * layer.output_size]
                dstate = tuple(s[k * D + d] for s in parts(case.dstate))
                dx, dinitial, own = reference.backward(self.tapes[k][d], dy, dstate)
                below = below + dx
                initial.append(dinitial)
                grads |= self._given(own, dinitial, suffix_of(k, d))
            flow = below * self.masks[k]
        dinitials = tuple(np.stack(each) for each in zip(*reversed(initial), strict=True))
        return named(self.y, final, flow, dinitials, {name: grads[name] for name in layer.params})

    def _given(self, own: dict[str, NDArray[Any]], dinitial: tuple[NDArray[Any], ...], suffix: str) -> Results:
        """The layer's names, and what was learnt: from the resets, and from the start where no state was given."""
        if "weight_norm" in own and len(own["weight_norm"]) == 10:
            own["weight_norm"], own["bias_norm"] = own["weight_norm"][:9], own["weight_norm"][9]
        for name, d in zip(states_of(self.case.kind), dinitial, strict=True):
            if f"reset_state_{name}" in own:
                own[f"initial_{name}"] = own[f"reset_state_{name}"] + (d.sum(0) if self.case.state is None else 0.0)
        return {name + suffix: g for name, g in own.items()}


def torch_layer(kind: str, input_size: int, **options: Any) -> Any:
    """PyTorch's layer of a kind, on one thread: sizes are small."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cls, own, _ = KINDS[kind]
    return getattr(torch.nn, cls.__name__)(input_size, HIDDEN, **{"dtype": torch.float64, **own, **options})
