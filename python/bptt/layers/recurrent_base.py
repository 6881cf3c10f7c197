# SPDX-License-Identifier: Apache-2.0
"""The shared part of layers over time and cells of one step: construction, state dicts and `repr`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bptt._arrays import check_bool, check_dtype, check_seed, check_size
from bptt._engine.stack import Stack
from bptt._engine.structure import Structure
from bptt._precision import check_precision, get_matmul_precision
from bptt.init import fill
from bptt.layers.base import Layer
from bptt.layers.layout import lay_out
from bptt.layers.torch_names import from_torch, to_torch
from bptt.params import Params

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike

    from bptt._arrays import Array, ArrayIn
    from bptt._engine.options import StateOptions
    from bptt.init import Init
    from bptt.layers.layout import Cell

MOST_LAYERS = 2**16  # each layer has names and objects, even where it is small


class RecurrentBase(Layer):
    """A network of one cell: its sizes as attributes, its parameters, and the `Stack` that runs it."""

    _cell: Cell
    _stack: Stack
    precision: str  # "highest", "high" or "medium": what was chosen for its products
    _own_precision: bool  # whether it was chosen for this layer

    def _set_sizes(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        *,
        proj_size: int,
        bias: bool,
        dtype: DTypeLike,
        num_layers: int = 1,
        num_directions: int = 1,
        num_heads: int = 1,
        precision: str | None = None,
    ) -> Structure:
        """Check the sizes, keep them as attributes, and return the structure."""
        where = type(self).__name__
        self.input_size = check_size(where, "input_size", input_size)
        self.hidden_size = check_size(where, "hidden_size", hidden_size)
        self.proj_size = check_size(where, "proj_size", proj_size, least=0)
        if self.proj_size >= self.hidden_size:
            what = f"proj_size has value {proj_size}, expected less than hidden_size, {hidden_size}"
            raise ValueError(f"{where}: {what}")
        self.num_heads = check_size(where, "num_heads", num_heads)
        if self.hidden_size % self.num_heads:
            what = f"num_heads has value {num_heads}, expected a divisor of hidden_size, {hidden_size}"
            raise ValueError(f"{where}: {what}")
        num_layers = check_size(where, "num_layers", num_layers, most=MOST_LAYERS)
        bias, exact = check_bool(where, "bias", bias), check_dtype(where, dtype)
        self._own_precision = precision is not None
        self.precision = get_matmul_precision() if precision is None else check_precision(where, "precision", precision)
        self._cell = cell
        return Structure(
            cell.kernel,
            exact,
            self.input_size,
            self.hidden_size,
            self.proj_size,
            num_layers,
            num_directions,
            bias,
            self.num_heads,
            self.precision,
        )

    def _set_params(
        self,
        structure: Structure,
        state_options: StateOptions,
        suffixes: list[str],
        init: Init,
        seed: int | None,
        *,
        learnt: bool = False,
        batch_first: bool = False,
        one_step: bool = False,
    ) -> None:
        """Make the parameters, whose names end with `suffixes`, kernel by kernel, and the stack that runs on them."""
        where, gates = type(self).__name__, tuple(structure.info.gates)
        heads = structure.num_heads
        layout = lay_out(self._cell, structure, suffixes, learnt=learnt)
        self.params = Params(layout.shapes, structure.dtype)
        fill(
            where,
            self.params,
            init,
            seed,
            layout.default,
            gates=gates,
            size=self.hidden_size,
            heads=heads,
        )
        spans = [self.params.span(names[0], names[-1]) for names in layout.blocks]
        initial = self.params.span(layout.learnt[0], layout.learnt[-1]) if learnt else None
        self._stack = Stack(where, structure, state_options, spans, initial, batch_first=batch_first, one_step=one_step)

    @property
    def output_size(self) -> int:
        """The width of h, and of y in one direction: H, or proj_size."""
        return self._stack.structure.output_size

    @property
    def products(self) -> str:
        """How products are computed on this machine: "fma", or what `set_matmul_precision` made of the precision."""
        return self._stack.kernels.native.products

    def _from_torch(self, where: str, state: Mapping[str, ArrayIn]) -> Mapping[str, ArrayIn]:
        if not any(name.startswith("bias_ih") for name in state):
            return state
        if self._cell.variant:  # names and shapes may fit, but it is another function
            what = f"state is of a layer of PyTorch, which has no {self._cell.variant}"
            raise ValueError(f"{where}: {what}, expected one of the same cell")
        return from_torch(where, state, self.params, self.hidden_size)

    def _to_torch(self, where: str) -> dict[str, Array]:
        return to_torch(where, self.params, self.hidden_size, self._cell.variant)

    def _config(self) -> dict[str, Any]:
        structure, options = self._stack.structure, self._stack.state_options.arguments()
        shared = ("zoneout", "clip_state", "clip_grad_per_step", "seed")  # by layers and cells
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            **self._cell.arguments,
            "bias": structure.bias,
            "dtype": structure.dtype.name,
            **{name: options[name] for name in shared},
            **({"precision": self.precision} if self._own_precision else {}),
        }

    def _mask_state(self) -> list[int]:
        options = self._stack.state_options
        return [options.seed, options.calls]

    def _set_mask_state(self, state: Any) -> None:
        where, options = type(self).__name__, self._stack.state_options
        if not isinstance(state, list) or len(state) != 2:
            raise ValueError(f"{where}: masks has type {type(state).__name__}, expected a seed and a number of calls")
        options.seed, options.calls = check_seed(where, state[0]), check_size(where, "calls", state[1], least=0)

    def _text(self, arguments: str = "") -> str:
        """The `repr`, with more arguments of the layer."""
        structure = self._stack.structure
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f", num_layers={structure.num_layers}"] * (structure.num_layers > 1)
        parts += [f", {name}={value!r}" for name, value in self._cell.arguments.items()]
        parts += ["" if structure.bias else ", bias=False", arguments]
        parts += [f", precision={self.precision!r}"] * (self.precision != "highest")
        return f"{type(self).__name__}({''.join(parts)}{self._stack.state_options}, dtype={structure.dtype})"

    def __repr__(self) -> str:
        return self._text()
