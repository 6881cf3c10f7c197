# SPDX-License-Identifier: Apache-2.0
"""One training step of a model in one call: for loops of one's own, and for `fit`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt import losses
from bptt._dispatch import core
from bptt.layers.dense import Linear
from bptt.layers.recurrent import Recurrent
from bptt.layers.sequential import Sequential
from bptt.train.model_and_loss import check_loss, check_model, loss_and_gradient

if TYPE_CHECKING:
    from bptt.optim.base import StepInfo
    from bptt.train.model_and_loss import Loss, Model

__all__ = ["Gradients", "Trained", "TrainingStep"]

_NATIVE = (losses.mse, losses.mae, losses.cross_entropy)  # found by identity: a caller's loss need not be hashable


class Gradients:
    """The gradients of a model's parameters, of one loss: `grads`, which all calls overwrite.

    A recurrent layer and a Linear with a loss of `_NATIVE` run from the loss back to the parameters in one native call,
    which computes no gradient of x. The bits are those of the calls one by one.
    """

    def __init__(self, model: Model, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.grads = model.params.zeros_like()  # new memory for each call would cost page faults
        self._kind = ""
        if type(model) is Sequential and len(model.layers) == 2:
            layer, head = model.layers
            if isinstance(layer, Recurrent) and _is_plain(layer) and type(head) is Linear:
                self._kind = next((each.__name__ for each in _NATIVE if loss is each), "")
                self._layer, self._head = layer, head
                first, last = (self.grads.window(prefix) for prefix in model._prefixes)
                self._room = first.plain, last["weight"], last.get("bias")

    def __reduce__(self) -> tuple[Any, ...]:
        return Gradients, (self.model, self.loss)  # a copy has views of its own memory

    def native(self, x: Any, target: Any, state: Any) -> tuple[float, Any] | None:
        """The loss and the state after x. None where there is no native call for these: nothing was done then.

        Of a loss that is not finite the gradients are not computed.
        """
        if not self._kind or not self._fits(x, target, state):
            return None
        layer: Any = self._layer
        kernels, params = layer._stack.kernels, self._head.params
        found = kernels.forward_if_exact(layer.params, x, None if state is None else state[0], True, False)
        if found is None:
            return None
        y, after, tape = found
        head = params["weight"], params.get("bias")
        made_by = kernels.native, tape, layer.params.plain
        value = core.backward_from_loss(made_by, y, head, self._kind, target, self._room)
        return None if value is None else (value, (after,))

    def _fits(self, x: Any, target: Any, state: Any) -> bool:
        """Whether the arrays may be taken as they are. Of x and the state the kernels say so themselves."""
        if type(x) is not np.ndarray or type(target) is not np.ndarray or x.ndim != 3:
            return False
        if any("forward" in vars(each) for each in (self.model, self._layer, self._head)):
            return False  # a caller has put another function there
        of, lead = self._head, x.shape[:2]
        if self._kind == "cross_entropy":
            same = target.shape == lead and target.dtype == np.int64
        else:
            same = target.shape == (*lead, of.out_features) and target.dtype == of.params.dtype
        exact = same and target.flags.c_contiguous and target.flags.aligned
        return bool(exact) and (state is None or (type(state) is tuple and len(state) == 1))


def _is_plain(layer: Recurrent) -> bool:
    """Whether the layer asks for nothing but its kernels, and no subclass has changed what it does."""
    own = type(layer)
    return own.forward is Recurrent.forward and own._backward is Recurrent._backward and layer._stack.direct


class Trained(NamedTuple):
    """What a training step returns. state: after x, to go on from; info: of the optimizer's step."""

    loss: float
    state: Any
    info: StepInfo


class TrainingStep:
    """One training step in one call: forward, loss, backward, clipping and update, for loops of one's own.

        step = TrainingStep(model, loss, optimizer)
        loss, state, info = step(x, target, state)

    Args:
        model: a `Sequential` or a recurrent layer.
        loss: loss(y, target) -> (value, gradient with respect to y), such as `bptt.losses.mse`.
        optimizer: of `bptt.optim`; its clipping is part of the step.

    Call: x, target as of the model and the loss; state, the initial state as the model takes it, default zeros. There
        are no lengths, resets and masks: `fit` takes them in a `Batch`.
    Returns: `Trained(loss, state, info)`: the loss before the update, the final state, the optimizer's StepInfo.
    Raises: FloatingPointError for a loss that is not finite, or as the optimizer does: nothing changes then; what
        model, loss and optimizer raise.

    The parameters get the same bits as from `forward`, the loss, `backward` and `optimizer.step`, one after the other.
    A `Sequential` of a recurrent layer in one direction without options that act within a step (zoneout and its like)
    and a Linear, with mse, mae or cross_entropy and arrays of the model's dtype, takes one native call from the loss to
    the gradients; everything else takes the calls one by one.

    >>> import numpy as np, bptt
    >>> model = bptt.Sequential(bptt.GRU(2, 8, seed=0), bptt.Linear(8, 1, seed=1))
    >>> step = TrainingStep(model, bptt.losses.mse, bptt.optim.Adam(lr=1e-2))
    >>> x, target = np.ones((5, 3, 2), np.float32), np.zeros((5, 3, 1), np.float32)
    >>> found = [step(x, target).loss for _ in range(20)]
    >>> found[-1] < found[0]
    True
    """

    def __init__(self, model: Model, loss: Loss, optimizer: Any) -> None:
        check_model("TrainingStep", model)
        check_loss("TrainingStep", loss)
        if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
            has = f"optimizer has type {type(optimizer).__name__}"
            raise TypeError(f"TrainingStep: {has}, expected one of bptt.optim")
        self._gradients, self._optimizer = Gradients(model, loss), optimizer

    def __call__(self, x: Any, target: Any, state: Any = None) -> Trained:
        """Make one step."""
        of = self._gradients
        found = of.native(x, target, state)
        if found is None:
            y, after, tape = of.model.forward(x, state)
            value, dy = loss_and_gradient("TrainingStep", of.loss, y, target, None)
        else:
            value, after = found
        if not math.isfinite(value):
            raise FloatingPointError(
                f"TrainingStep: loss has the value {value}, expected a finite one; nothing changed"
            )
        if found is None:
            of.model.backward(tape, dy, grads=of.grads)
        return Trained(value, after, self._optimizer.step(of.model.params, of.grads))
