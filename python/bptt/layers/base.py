# SPDX-License-Identifier: Apache-2.0
"""What all layers have in common: named parameters in one buffer, their state dict, and the two kinds of layer.

A recurrent layer takes and returns a state beside its output (recurrent.py); a stateless one does not (dense.py). Both
have `layer(x)` for inference, which keeps nothing, `layer.forward(x)` for training, which returns a tape as well, and
`layer.backward(tape, dy)`. The tape is a value, not hidden in the layer: two forwards and then two backwards, in any
order and from any threads, work. It refers to x and the initial state, which must stay as they are until then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from bptt._arrays import as_floats, brief, check_shape, first_of
from bptt.params import Params

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn

_TapeT = TypeVar("_TapeT", bound="Tape")


class Tape:
    """What a forward pass keeps for its backward pass."""

    __slots__ = ("layer",)
    layer: Layer


class Layer:
    """A layer: `params`, a mapping name -> read-only view into one flat buffer, and functions of them."""

    params: Params

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all parameters by name.

        >>> from bptt import Linear
        >>> {name: array.shape for name, array in Linear(2, 3).state_dict().items()}
        {'weight': (3, 2), 'bias': (3,)}
        """
        return {name: array.copy() for name, array in self.params.items()}

    def load_state_dict(self, state: Mapping[str, ArrayIn]) -> None:
        """Set all parameters, or none where anything does not fit.

        Args: state as `state_dict` returns it; each array is converted to the layer's dtype.
        Raises: ValueError that names missing or unknown names or the first wrong shape; TypeError for what is not real
            numbers.

        >>> from bptt import Linear
        >>> a, b = Linear(2, 3, seed=0), Linear(2, 3, seed=1)
        >>> b.load_state_dict(a.state_dict())
        >>> bool((a.params["weight"] == b.params["weight"]).all())
        True
        """
        where = f"{type(self).__name__}.load_state_dict"
        missing = [name for name in self.params if name not in state]
        unknown = [name for name in state if name not in self.params]
        if missing or unknown:
            parts = (("lacks", missing), ("has unknown", unknown))
            has = " and ".join(f"{verb} {first_of(names)}" for verb, names in parts if names)
            raise ValueError(f"{where}: state {has}, expected the names of state_dict()")
        arrays = {name: as_floats(where, name, value, self.params.dtype) for name, value in state.items()}
        for name, array in arrays.items():
            check_shape(where, name, array, self.params.shapes[name])
        with self.params.edit() as p:
            for name, array in arrays.items():
                p[name] = array

    def _where(self, method: str = "forward") -> str:
        return f"{type(self).__name__}.{method}"

    def _own(self, tape: Tape, kind: type[_TapeT]) -> _TapeT:
        """Return the tape, after a check that it is of this layer."""
        if not isinstance(tape, kind) or tape.layer is not self:
            raise ValueError(
                f"{self._where('backward')}: tape is of another layer, expected one of this layer's forward"
            )
        return tape

    def _gradients(self, grads: Params | None) -> Params:
        """Where to write the gradients: what the caller gave, if it fits, or a new `Params`."""
        if grads is None:
            return self.params.zeros_like()
        if not grads.like(self.params):
            has = brief(grads, 90)
            raise ValueError(f"{self._where('backward')}: grads has {has}, expected params.zeros_like()")
        if grads.size and not grads.flat.flags.writeable:
            raise ValueError(f"{self._where('backward')}: grads is read-only, expected params.zeros_like()")
        return grads


class Stateless(Layer):
    """A layer without a state: y is a function of x and the parameters alone."""

    def __call__(self, x: ArrayIn) -> Array:
        """Inference: nothing is kept."""
        raise NotImplementedError

    def forward(self, x: ArrayIn) -> tuple[Array, Tape]:
        """Return y and the tape for `backward`."""
        raise NotImplementedError

    def backward(self, tape: Tape, dy: ArrayIn, grads: Params | None = None) -> tuple[Array | None, Params]:
        """Return dx and the parameters' gradients (written into `grads` where it is given)."""
        raise NotImplementedError

    def stream(self, batch_size: int = 1) -> Any:
        """A function of x [B,.] -> y [B,.], the same array each time, or of x [T,B,.]; None where y is x.

        Where there are parameters, it has the weights of the moment until `refresh`; `stale`, whether they changed.
        """
        raise NotImplementedError
