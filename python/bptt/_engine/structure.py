# SPDX-License-Identifier: Apache-2.0
"""The structure of a recurrent network without its weights: cell, sizes, layers and directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt._dispatch import core

if TYPE_CHECKING:
    from bptt import _core


class Structure(NamedTuple):
    """A stack of layers of one cell, in one or two directions; it has a kernel for each layer and direction.

    cell: the kernels' name of the cell (csrc/cells/all.h).
    precision: what was chosen for its products (bptt._precision), whatever that becomes on the machine it runs on.
    weights: how its weights are stored, "int8" or "bfloat16", for inference alone; "": in the dtype.
    """

    cell: str
    dtype: np.dtype[Any]
    input_size: int
    hidden_size: int
    proj_size: int = 0
    num_layers: int = 1
    num_directions: int = 1
    bias: bool = True
    num_heads: int = 1
    precision: str = "highest"
    weights: str = ""

    @property
    def info(self) -> _core.CellInfo:
        """The facts of the cell: its gates, states, kept values and vectors."""
        return core.cell_info(self.cell)

    @property
    def output_size(self) -> int:
        """The width of h, and of y in one direction: H, or R."""
        return self.proj_size or self.hidden_size

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of each state."""
        return (self.output_size,) + (self.hidden_size,) * (len(self.info.states) - 1)

    @property
    def inputs(self) -> list[int]:
        """The number of features that each layer reads."""
        return [self.input_size] + [self.output_size * self.num_directions] * (self.num_layers - 1)

    @property
    def kernels(self) -> int:
        """The number of kernels, layers times directions."""
        return self.num_layers * self.num_directions
