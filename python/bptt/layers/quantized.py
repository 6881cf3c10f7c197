# SPDX-License-Identifier: Apache-2.0
"""Quantized: a recurrent layer whose weights are stored in fewer bits, for inference. `layer.quantize()` makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from bptt.layers.narrow import NarrowParams, check_format
from bptt.layers.over_time import OverTime

if TYPE_CHECKING:
    from bptt._arrays import ArrayIn

__all__ = ["Quantized"]


class Quantized(OverTime):
    """An inference copy of a recurrent layer, as `layer.quantize("int8")` or `layer.quantize("bfloat16")` makes it.

    Call: as the layer, `y, state = quantized(x, state=None, lengths=None, resets=None, last=False)`; x, y and states
        are float32. `quantized.stream(batch_size)` runs step by step.
    Parameters: `params`, a read-only mapping of what is stored (`bptt.layers.narrow`). They never change.
    Raises: TypeError for what only training needs: `forward`, `backward` and state dicts.

    The help of `LSTM.quantize` says what is stored and how it is computed.
    """

    params: NarrowParams  # type: ignore[assignment]

    def __init__(self, layer: OverTime, weights: str) -> None:
        where = f"{type(layer).__name__}.quantize"
        check_format(where, weights)
        if layer._stack.structure.dtype != np.float32:
            raise ValueError(f"{where}: the layer has dtype {layer._stack.structure.dtype}, expected float32")
        for name, array in layer.params.items():
            if not np.isfinite(array).all():
                raise FloatingPointError(f"{where}: {name} has values that are NaN or infinite, expected numbers")
        stack = layer._stack.narrow(weights)
        if not stack.kernels.is_narrow:
            has = "heads or a cell of several stages (layer_norm, proj_size, reset_after=False)"
            raise ValueError(f"{where}: the layer has {has}, expected one without: there are no such kernels")
        self.__dict__.update({name: value for name, value in vars(layer).items() if name not in ("params", "_stack")})
        self._kind, self._options, self._masks = type(layer).__name__, layer._config(), layer._mask_state()
        self._shown = repr(layer)
        self._stack = stack
        self.params = NarrowParams(layer.params, weights)

    @property
    def weights(self) -> str:
        """How the weights are stored: "int8" or "bfloat16"."""
        return self.params.weights

    def estimate_memory(
        self, steps: int, batch_size: int, lengths: ArrayIn | None = None, training: bool = False
    ) -> int:
        """Bytes that a call will hold at its peak, as `LSTM.estimate_memory`; training: False."""
        if training:
            self._refuse("estimate_memory", "training=False")
        return super().estimate_memory(steps, batch_size, lengths, False)

    def forward(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: TypeError."""
        self._refuse("forward")

    def backward(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: TypeError."""
        self._refuse("backward")

    def quantize(self, weights: str = "int8") -> NoReturn:
        """Refused: TypeError."""
        self._refuse("quantize")

    def _check_floats(self, method: str) -> None:
        self._refuse(method)

    def _refuse(self, method: str, expected: str = "the float32 layer that quantize() was called on") -> NoReturn:
        raise TypeError(f"{self._where(method)}: the weights are {self.weights}, for inference; expected {expected}")

    def _where(self, method: str = "forward") -> str:
        return f"{self._kind}.{method}"

    def __repr__(self) -> str:
        return f"{self._shown[:-1]}, weights={self.weights!r})"
