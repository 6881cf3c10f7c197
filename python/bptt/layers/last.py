# SPDX-License-Identifier: Apache-2.0
"""Last: from a sequence to its last step, for models with one output for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import as_floats, check_bool, check_shape
from bptt._engine.last import LastSteps, as_timed
from bptt._engine.tape import Tape
from bptt._signature import checks_names
from bptt.layers.base import Stateless
from bptt.params import Params

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn
    from bptt._engine.packed import Packed, Shape

__all__ = ["Last"]


class LastTape(Tape):
    """The places of the last steps (and of the first ones, for the reverse direction), the form of x, and y."""

    __slots__ = ("lead", "places", "shown", "y")

    def __init__(self, layer: Last, places: list[LastSteps], shown: Shape, lead: tuple[int, ...], y: Array) -> None:
        self.layer = layer
        self.places, self.shown, self.lead, self.y = places, shown, lead, y


class Last(Stateless):
    """Keep the last step of each row, for models with one output per sequence.

        y_b = x[lengths_b - 1, b]

    Args:
        batch_first: whether x is [B,T,F], default False: [T,B,F].
        bidirectional: whether x is the output of a bidirectional layer. The second half of its features, those of the
            reverse direction, is then taken at the first step, where that direction has read the whole row; at the last
            step it has read one step only. Default False: all features are those of the last step.

    Call: `y = last(x, lengths=None)`, `y, tape = last.forward(x, lengths=None)`, `dx, grads = last.backward(tape, dy)`;
        x [T,B,F], [T,F] or `Packed` -> y [B,F] or [F] (of packed rows in the caller's order). lengths: [B] integers
        from 0 to T, default T; a row of length 0 has y = 0. In a `Sequential` the lengths of the call come here too;
        layers after it have no time axis, so that they are stateless. A stream of such a model has an output at every
        step: that of the row if it ended there. float32 and float64 keep their dtype, other real numbers become
        float32. There are no parameters.
    Raises: ValueError for a wrong shape or length, TypeError for a wrong dtype.

    >>> from bptt import GRU, Linear, Sequential
    >>> model = Sequential(GRU(3, 4, seed=0), Last(), Linear(4, 2, seed=0))
    >>> x = np.ones((5, 2, 3))
    >>> y, state, tape = model.forward(x, lengths=[5, 2])
    >>> y.shape, bool(np.allclose(y[1], model(x[:2])[0][1]))
    ((2, 2), True)
    >>> dx, dstate, grads = model.backward(tape, np.ones((2, 2)))
    >>> dx.shape, bool(dx[2:, 1].any())
    ((5, 2, 3), False)
    """

    _has_features = True
    _reduces_time = True

    @checks_names
    def __init__(self, batch_first: bool = False, bidirectional: bool = False) -> None:
        self.batch_first = check_bool("Last", "batch_first", batch_first)
        self.bidirectional = check_bool("Last", "bidirectional", bidirectional)
        self.params = Params({})

    def __call__(self, x: ArrayIn | Packed, lengths: ArrayIn | None = None) -> Array:
        """Inference: x [T,B,F] -> y [B,F]."""
        return self.forward(x, lengths)[0]

    def forward(self, x: ArrayIn | Packed, lengths: ArrayIn | None = None) -> tuple[Array, LastTape]:
        """Training: x [T,B,F] -> y [B,F] and the tape."""
        where = self._where()
        x, shown = as_timed(where, x, self.batch_first)
        if self.bidirectional and x.shape[-1] % 2:
            raise ValueError(f"{where}: x has {x.shape[-1]} features, expected an even number: those of two directions")
        places = [LastSteps(where, x.shape[:-1], shown, lengths)]
        y = places[0].take(x)
        if self.bidirectional:
            half = x.shape[-1] // 2
            places.append(LastSteps(where, x.shape[:-1], shown, lengths, first=True))
            y[:, half:] = places[1].take(x[..., half:])
        y = as_floats(where, "x", y if shown.batched else y[0])
        return y, LastTape(self, places, shown, x.shape[:-1], y)

    def backward(self, tape: Tape, dy: ArrayIn, grads: Params | None = None) -> tuple[Any, Params]:
        """dy [B,F] -> dx [T,B,F] (as x), zero but at the steps that were taken; there are no parameters."""
        where, tape = self._where("backward"), self._own(tape, LastTape)
        dy = as_floats(where, "dy", dy, tape.y.dtype)
        check_shape(where, "dy", dy, tape.y.shape)
        dx = np.zeros((*tape.lead, dy.shape[-1]), dy.dtype)
        width = dy.shape[-1] // len(tape.places)
        for d, place in enumerate(tape.places):
            columns = slice(d * width, (d + 1) * width)
            place.put(dx[..., columns], np.atleast_2d(dy)[:, columns])
        dx = tape.shown.given(dx)
        return dx if tape.shown.sizes is None else tape.shown.packed(dx), self._gradients(grads)

    def stream(self, batch_size: int = 1) -> None:
        """None: y is x, the output of a row that ends at this step."""
        if self.bidirectional:
            expected = "expected one direction: the other needs the future"
            raise ValueError(f"Last.stream: the layer is for two directions, {expected}")

    def _sizes(self) -> None:
        return None

    def _config(self) -> dict[str, Any]:
        return {"batch_first": self.batch_first, "bidirectional": self.bidirectional}

    def __repr__(self) -> str:
        flags = [f"{name}=True" for name in ("batch_first", "bidirectional") if getattr(self, name)]
        return f"Last({', '.join(flags)})"
