"""The native module of one instruction-set level (chosen by `bptt._dispatch`); every level has this same interface.

Arrays are C-contiguous and exact in dtype and shape: nothing is converted here. `T` is float32 or float64, the same for
all arrays of a call.
"""

from typing import Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", np.float32, np.float64)

version: str
level: str

def config() -> dict[str, str | int]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def release_memory() -> int: ...
def vector_function(name: str, x: NDArray[_T]) -> NDArray[_T]: ...

@final
class Tape:
    """What a forward pass keeps for its backward pass; used once."""

    @property
    def nbytes(self) -> int: ...

@final
class Recurrence:
    """One cell run over time: `cell` is rnn_tanh, rnn_relu, lstm, lstm_peephole or gru; `dtype` float32 or float64."""

    def __init__(self, cell: str, dtype: str, input_size: int, hidden_size: int) -> None: ...
    @property
    def gates(self) -> int: ...
    @property
    def states(self) -> int: ...
    @property
    def vectors(self) -> int: ...
    def plan(self, steps: int, batch: int) -> dict[str, Any]:
        """How a call is spread: split (none, batch, hidden), threads, hoisted (input products first), chunk (steps)."""

    def pack(
        self,
        weight_ih: NDArray[Any],
        weight_hh: NDArray[Any],
        bias: NDArray[Any] | None,
        vectors: NDArray[Any] | None,
        training: bool,
    ) -> None:
        """Weights [G*H,I], [G*H,H], [G*H], [P,H] into the kernels' layout; `training` adds the backward layout."""

    def forward(
        self, x: NDArray[Any], states: tuple[NDArray[Any], ...], training: bool
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...], Tape | None]:
        """x [T,B,I], each state [B,H] -> y [T,B,H], final states, tape (None unless training)."""

    def backward(
        self,
        tape: Tape,
        dy: NDArray[Any],
        dstates: tuple[NDArray[Any], ...],
        dweight_ih: NDArray[Any],
        dweight_hh: NDArray[Any],
        dbias: NDArray[Any] | None,
        dvectors: NDArray[Any] | None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
        """dy [T,B,H] and dstates -> dx and the initial states' gradients; overwrites the weight gradients given."""

def linear_forward(x: NDArray[_T], weight: NDArray[_T], bias: NDArray[_T] | None) -> NDArray[_T]:
    """x [N,I], weight [O,I], bias [O] -> [N,O]."""

def linear_backward(
    x: NDArray[_T], weight: NDArray[_T], dy: NDArray[_T], dweight: NDArray[_T], dbias: NDArray[_T] | None
) -> NDArray[_T]:
    """dy [N,O] -> dx [N,I]; overwrites dweight and dbias."""

def embedding_forward(ids: NDArray[np.int64], weight: NDArray[_T]) -> NDArray[_T]:
    """ids [N] in [0,V), weight [V,E] -> [N,E]."""

def embedding_backward(ids: NDArray[np.int64], dy: NDArray[_T], dweight: NDArray[_T]) -> None:
    """Overwrites dweight [V,E] with the sum of dy [N,E] over equal ids."""

def cross_entropy(
    logits: NDArray[_T], targets: NDArray[np.int64], mask: NDArray[np.bool_] | None, scale: float
) -> tuple[float, NDArray[_T]]:
    """logits [N,C], targets [N] -> scale * sum over unmasked rows of -log softmax, and its gradient."""

def mse(
    prediction: NDArray[_T], target: NDArray[_T], mask: NDArray[np.bool_] | None, scale: float
) -> tuple[float, NDArray[_T]]:
    """prediction, target [N,F], mask [N] -> scale * sum over unmasked rows of the squared error, and its gradient."""

def sgd_step(
    params: NDArray[_T],
    grads: NDArray[_T],
    velocity: NDArray[_T] | None,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    clip_norm: float,
    clip_value: float,
) -> tuple[float, bool]:
    """Updates the flat params [n]; returns the norm before clipping and whether it clipped.

    Where the norm is not finite nothing changes.
    """

def adam_step(
    params: NDArray[_T],
    grads: NDArray[_T],
    m: NDArray[_T],
    v: NDArray[_T],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    clip_value: float,
) -> tuple[float, bool]:
    """As sgd_step; step counts from 1; weight_decay is decoupled (AdamW)."""
