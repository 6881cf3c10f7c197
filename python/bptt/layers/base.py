# SPDX-License-Identifier: Apache-2.0
"""The common part of all layers: named parameters in one buffer, their state dict, and the two kinds of layer.

A recurrent layer also takes and returns a state (recurrent.py); a stateless one does not (dense.py). Both
have `layer(x)` for inference, which stores no tape, `layer.forward(x)` for training, which also returns one, and
`layer.backward(tape, dy)`. The tape is a value, not hidden in the layer: two forwards and then two backwards, in any
order and from any threads, work. It refers to x and the initial state, which must stay as they are until then.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bptt._arrays import as_floats, check_shape, first_of
from bptt._engine.tape import Tape
from bptt.params import Params, check_like

if TYPE_CHECKING:
    from bptt._arrays import Array, ArrayIn

_TapeT = TypeVar("_TapeT", bound=Tape)


class Layer:
    """A layer: `params`, a mapping name -> read-only view into one flat buffer, and functions of them."""

    params: Params

    # Used by `Sequential` and `fit`.
    bidirectional: bool = False
    _has_state: ClassVar[bool] = False  # it takes and returns one
    _one_step: bool = False  # x and y have no axis of time
    _reduces_time: bool = False  # y has no axis of time, x has one
    _has_features: ClassVar[bool | None] = None  # whether x has an axis of features, as ids have not; None: not known

    @property
    def _layers(self) -> tuple[Any, ...]:
        """The layers that x passes, in order."""
        return (self,)

    def _sizes(self) -> tuple[int | None, int | None] | None:
        """The number of features of x and of y, None where it is not known; None as a whole: y has those of x."""
        return None, None

    def _in_sequence(self) -> Any:
        """What is called in its place in a `Sequential`."""
        return self

    def _config(self) -> dict[str, Any]:
        """The arguments of the constructor but `init` that make a layer like this one, as JSON has them.

        `bptt.save` writes them and `bptt.load` passes them to the constructor, so that each layer has this method.
        """
        raise NotImplementedError

    def _mask_state(self) -> Any:
        """Where the sequence of random masks is, as JSON has it; None for a layer that draws none."""
        return None

    def _set_mask_state(self, state: Any) -> None:
        """Go on from where `_mask_state` was; ValueError or TypeError for anything else."""
        if state is not None:
            raise ValueError(f"{type(self).__name__}: masks has type {type(state).__name__}, expected None")

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse to change arguments of the constructor, since the native side would not notice."""
        made = "params" in vars(self) and name in inspect.signature(type(self)).parameters
        if (
            not name.startswith("_")
            and (name in vars(self) or made)
            and not isinstance(getattr(type(self), name, None), property)
        ):
            way = "load_state_dict() or params.edit()" if name == "params" else "a new layer and load_state_dict()"
            raise AttributeError(f"{type(self).__name__}: {name} is fixed when the layer is made, expected {way}")
        super().__setattr__(name, value)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all parameters by name.

        >>> from bptt import Linear
        >>> {name: array.shape for name, array in Linear(2, 3).state_dict().items()}
        {'weight': (3, 2), 'bias': (3,)}
        """
        self._check_floats("state_dict")
        return {name: array.copy() for name, array in self.params.items()}

    def load_state_dict(self, state: Mapping[str, ArrayIn]) -> None:
        """Set all parameters, or none if anything does not fit.

        Args: state, as `state_dict` returns it, or that of PyTorch's layer of the same kind (for a `Sequential`: of a
            module whose names are those of an nn.Sequential, "0.weight"), arrays or tensors. Each array is converted to
            the layer's dtype. PyTorch's two biases of a recurrent layer, bias_ih and bias_hh, are summed, except those
            of the GRU's candidate, which stay apart.
        Raises: ValueError that names missing or unknown names or the first wrong shape; TypeError for anything but
            real numbers.

        >>> from bptt import GRU
        >>> a, b = GRU(2, 3, seed=0), GRU(2, 3, seed=1)
        >>> b.load_state_dict(a.state_dict())
        >>> bool((a.params.flat == b.params.flat).all())
        True
        """
        self._check_floats("load_state_dict")
        where = self._where("load_state_dict")
        if not isinstance(state, Mapping):
            raise TypeError(f"{where}: state has type {type(state).__name__}, expected a mapping from names to arrays")
        state = self._from_torch(where, state)
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

    def to_torch_state_dict(self) -> dict[str, Array]:
        """Copies of the parameters as PyTorch's layer of the same kind names them; NumPy arrays.

        A recurrent layer's bias becomes bias_ih; bias_hh is zero except that of the GRU's candidate.
        Raises: ValueError for what PyTorch's layers do not have: peepholes, coupled gates, layer normalisation,
            reset_after=False, a learnt initial state, SLSTM.

        >>> from bptt import LSTM, Linear, Sequential
        >>> list(Sequential(LSTM(2, 3), Linear(3, 1)).to_torch_state_dict())
        ['0.weight_ih_l0', '0.weight_hh_l0', '0.bias_ih_l0', '0.bias_hh_l0', '1.weight', '1.bias']
        """
        self._check_floats("to_torch_state_dict")
        return self._to_torch(self._where("to_torch_state_dict"))

    def _check_floats(self, method: str) -> None:
        """Raise TypeError for a layer whose weights are stored in fewer bits (quantized.py)."""

    def _from_torch(self, where: str, state: Mapping[str, ArrayIn]) -> Mapping[str, ArrayIn]:
        """A state dict of ours or of PyTorch's under our names; unknown names are kept for the caller's error."""
        return state

    def _to_torch(self, where: str) -> dict[str, Array]:
        return self.state_dict()

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
        """The `Params` for the gradients: those of the caller, if they fit, or new ones."""
        if grads is None:
            return self.params.empty_like()  # backward writes all of them
        if type(grads) is Params and grads.takes_gradients_of(self.params):
            return grads
        check_like(self._where("backward"), "grads", grads, self.params, "as params.zeros_like() makes them")
        if grads.size and not grads.flat.flags.writeable:
            raise ValueError(f"{self._where('backward')}: grads is read-only, expected params.zeros_like()")
        return grads


class Stateless(Layer):
    """A layer without a state: y is a function of x and the parameters only."""

    def __call__(self, x: ArrayIn) -> Array:
        """Inference: stores no tape."""
        raise NotImplementedError

    def forward(self, x: ArrayIn) -> tuple[Array, Tape]:
        """Return y and the tape for `backward`."""
        raise NotImplementedError

    def backward(self, tape: Tape, dy: ArrayIn, grads: Params | None = None) -> tuple[Array | None, Params]:
        """Return dx and the parameters' gradients (written into `grads` where it is given)."""
        raise NotImplementedError

    def stream(self, batch_size: int = 1) -> Any:
        """A function of x [B,.] -> y [B,.], the same array each time, or of x [T,B,.]; None where y is x.

        With parameters, it is a snapshot of the weights: `stale` says whether they have changed, `refresh` takes them.
        """
        raise NotImplementedError
