# SPDX-License-Identifier: Apache-2.0
"""What our layers have and PyTorch's do not: other cells and options, and the networks that run them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from bptt._arrays import check_bool
from bptt._engine.call_options import NativeOptions
from bptt._engine.options import StateOptions
from bptt._engine.states import States
from bptt._precision import get_matmul_precision
from bptt.torch.memory import passing_view
from bptt.torch.network import Asked, Network, kept, structure_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt._arrays import Array
    from bptt._engine.structure import Structure

_KERNELS = {
    ("lstm", "peephole"): "lstm_peephole",
    ("lstm_projected", "peephole"): "lstm_peephole_projected",
    ("lstm", "layer_norm"): "lstm_norm",
    ("gru", "layer_norm"): "gru_norm",
    ("gru", "reset_after=False"): "gru_before",
}
_EXTRA = {  # the parameters that PyTorch's cell does not have, as of bptt's layers: their number of rows of H units
    ("lstm", "peephole"): {"weight_peephole": 3},
    ("lstm", "layer_norm"): {"weight_norm": 9, "bias_norm": 1},
    ("gru", "layer_norm"): {"weight_norm": 6},
}


class Variant(NamedTuple):
    """The cell of a layer, if it is not PyTorch's, and the options of its states. Hashable.

    cell: "peephole", "layer_norm", "reset_after=False", or empty. Others: as of bptt's layers, checked.
    """

    cell: str = ""
    recurrent_dropout: float = 0.0
    zoneout: tuple[float, float] = (0.0, 0.0)
    clip_state: float | None = None
    clip_grad_per_step: float | None = None
    checkpoint: int | str | None = None

    @classmethod
    def check(cls, where: str, dtype: Any, cells: dict[str, bool], options: dict[str, Any]) -> Variant | None:
        """The variant that a constructor's arguments ask for, None for PyTorch's layer; or the error of bptt's layers.

        cells: whether each is asked for, one at most.
        """
        chosen = [name for name, wanted in cells.items() if check_bool(where, name, wanted)]
        if len(chosen) > 1:
            raise ValueError(f"{where}: {' and '.join(chosen)} are given together, expected at most one of them")
        found = StateOptions.check(where, dtype, seed=0, **options)
        bounds = [None if math.isinf(each) else each for each in (found.clip_state, found.clip_grad_per_step)]
        self = cls("".join(chosen), found.recurrent_dropout, found.zoneout, bounds[0], bounds[1], found.checkpoint)
        return None if self == cls() else self

    def extra(self, of: str) -> dict[str, int]:
        """The names of further parameters of a kernel and their rows. of: "lstm" or "gru"."""
        return _EXTRA.get((of, self.cell), {})

    def __str__(self) -> str:
        """The arguments that differ from the defaults, for `repr` of a layer."""
        cell = f", {self.cell}{'' if '=' in self.cell else '=True'}" if self.cell else ""
        options = {name: value for name, value in self._asdict().items() if name != "cell" and value}
        if len(set(self.zoneout)) == 1:
            options["zoneout"] = self.zoneout[0]
        return cell + "".join(f", {name}={value!r}" for name, value in options.items() if value)


class VariantNetwork(Network):
    """A network of another cell or with options. Its weights are those of PyTorch's cell, then the further ones.

    training: whether masks are drawn; zoneout has expectations else, as inference has.
    """

    def __init__(self, structure: Structure, dropout: float, variant: Variant, training: bool) -> None:
        super().__init__(structure, dropout)
        asked = variant._asdict()
        del asked["cell"]
        if not training:
            asked["recurrent_dropout"] = 0.0
        options = StateOptions.check("bptt.torch", structure.dtype, dropout=dropout, seed=0, **asked)
        self._options = NativeOptions(structure, options, States(structure, None))
        self.plain = structure.num_directions == 1 and options.plain
        self.direct = False
        self.random = training and options.random
        self._extra = list(variant.extra(structure.cell.split("_")[0]).values())

    def _parts(self, weights: Sequence[Any]) -> list[Any]:
        n, H = len(self._extra), self.structure.hidden_size
        if not n:
            return super()._parts(weights)
        kernels, each = self.structure.kernels, len(weights) // self.structure.kernels
        plain = [weight for k in range(kernels) for weight in weights[k * each : (k + 1) * each - n]]
        parts = []
        for k, part in enumerate(super()._parts(plain)):
            rows = [passing_view(weight).reshape(-1, H) for weight in weights[(k + 1) * each - n : (k + 1) * each]]
            parts.append((*part[:3], np.concatenate(rows), part[4]))
        return parts

    def _gradients(self) -> list[Any]:
        parts = super()._gradients()
        if not self._extra:
            return parts
        size = (sum(self._extra), self.structure.hidden_size)
        return [(*part[:3], np.empty(size, self.structure.dtype), part[4]) for part in parts]

    def _in_order(self, parts: list[Any]) -> list[Array]:
        if not self._extra:
            return super()._in_order(parts)
        found: list[Array] = []
        for part in parts:
            found += super()._in_order([(*part[:3], None, part[4])])
            vectors = np.split(part[3], np.cumsum(self._extra)[:-1])
            found += [rows.copy() if len(rows) > 1 else rows[0].copy() for rows in vectors]
        return found


def variant_network(asked: Asked, variant: Variant, training: bool, x: Any, weights: Sequence[Any]) -> Network | None:
    """The network of these weights; None where their shapes are not those of one."""
    shapes = [tuple(each.shape) for each in weights]

    def make() -> Network | None:
        rows = list(variant.extra(asked.cell).values())
        n, each = len(rows), len(shapes) // (asked.num_layers * asked.num_directions)
        plain = [shape for i, shape in enumerate(shapes) if i % each < each - n]
        structure = structure_of(asked, x.shape[-1], x.dtype, plain)
        if structure is None:
            return None
        H = structure.hidden_size
        expected = [(H,) if count == 1 else (count, H) for count in rows]
        if any(shapes[k * each + each - n : (k + 1) * each] != expected for k in range(structure.kernels)):
            return None
        kernel = _KERNELS.get((structure.cell, variant.cell), structure.cell)
        return VariantNetwork(structure._replace(cell=kernel), asked.dropout, variant, training)

    return kept((asked, variant, training, x.shape[-1], x.dtype, get_matmul_precision(), *shapes), make)


class NoBackward(torch.autograd.Function):
    """A call whose outputs have no gradients: backward says why."""

    @staticmethod
    def forward(ctx: Any, call: Any, *inputs: Any) -> Any:
        """The outputs of inference."""
        ctx.name = call.name
        return call.forward(inputs, False)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """An error."""
        what = "zoneout of a layer in eval mode has no backward pass"
        raise RuntimeError(f"{ctx.name}.backward: {what}, expected the layer in train mode, or torch.no_grad()")
