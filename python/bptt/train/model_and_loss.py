# SPDX-License-Identifier: Apache-2.0
"""The checks of a model and its loss, for all that runs one over time: `fit`, `check` and the functions of insight.

where: the operation, for errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from bptt._arrays import is_number, kind_of
from bptt.layers.recurrent import Recurrent
from bptt.layers.sequential import Sequential

if TYPE_CHECKING:
    from bptt._arrays import Array

    Model: TypeAlias = Sequential | Recurrent
    Loss: TypeAlias = Callable[..., tuple[float, Array]]

__all__ = ["check_loss", "check_model", "loss_and_gradient"]


def check_model(where: str, model: Any) -> None:
    """Raise unless this is a model over time."""
    if not isinstance(model, (Sequential, Recurrent)):
        raise TypeError(f"{where}: model {kind_of(model)}, expected a Sequential or a recurrent layer")
    if model._one_step:
        raise TypeError(f"{where}: model has cells, which take one step, expected layers over time")


def check_loss(where: str, loss: Any) -> None:
    """Raise unless this can be called."""
    if not callable(loss):
        expected = "a function such as bptt.losses.mse"
        raise TypeError(f"{where}: loss has type {type(loss).__name__}, expected {expected}")


def loss_and_gradient(where: str, loss: Loss, y: Any, target: Any, mask: Any) -> tuple[float, Any]:
    """The loss of y, and its gradient as the loss returned it; a mask of None is not passed on."""
    result = loss(y, target) if mask is None else loss(y, target, mask)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        what = f"returned {type(result).__name__}"
        raise TypeError(f"{where}: loss {what}, expected (value, gradient with respect to y)")
    value, dy = result
    if not is_number(value):
        raise TypeError(f"{where}: loss returned a value of type {type(value).__name__}, expected a number")
    return float(value), dy
