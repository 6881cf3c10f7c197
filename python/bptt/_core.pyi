"""The native module of one instruction-set level, chosen by `bptt._dispatch`. Every level has this interface.

Arrays are C-contiguous and exact in dtype and shape; nothing is converted here. `T` is float32 or float64, the same for
all arrays of a call.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, final

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", np.float32, np.float64)
_Tensors: TypeAlias = tuple[Any, ...]  # of PyTorch
_State: TypeAlias = NDArray[Any] | tuple[NDArray[Any], ...]
_Parameters: TypeAlias = NDArray[Any] | list[NDArray[Any] | tuple[NDArray[Any] | None, ...]] | list[NDArray[Any]]

version: str
level: str
products: list[str]  # by which arithmetics Stack can multiply here: fma, winograd, bfloat16, amx_bfloat16
narrow_products: list[str]  # the same with weights in fewer bits, for inference: bfloat16_weights, int8, int8_vnni
max_threads: int

def config() -> dict[str, str | int]: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def set_processors(order: list[int], cores_per_cache: int) -> None:
    """The order in which new threads take processors, and the cores of a last-level cache; only times depend on it."""

def set_host(run: int, team_size: int, thread: int) -> None:
    """The addresses of GOMP_parallel, omp_get_num_threads and omp_get_thread_num; a forked child forgets them."""

def set_tensor_classes(tensor: type, parameter: type, of_array: Callable[[NDArray[Any]], Any]) -> bool:
    """PyTorch's classes and its function from_numpy. False where tensors cannot be read natively."""

def are_plain_tensors(tensors: _Tensors) -> bool:
    """Whether all are PyTorch's own, on the CPU, of one dtype, float32 or float64, and known to be what memory says."""

def barrier_time(threads: int, members: int, waits: int, tries: int) -> float:
    """Seconds of a wait at a barrier of teams of `members` threads: the least of `tries` means over `waits`."""

def force_division(groups: int, members: int) -> None:
    """For tests and benchmarks: how all calls that may use so many threads are divided; 0, 0: as estimated."""

def memory_in_use() -> tuple[int, int]:
    """Bytes that tapes, packed weights and scratch use now, and the peak since the last call."""

def memory_held() -> int:
    """Bytes obtained from the system, in use or free."""

def release_memory() -> int: ...
def orthogonal(a: NDArray[np.float64]) -> NDArray[np.float64]:
    """a [m,n], m >= n -> q [m,n] of a = q r with a positive diagonal of r; the same bits on every machine."""

def to_int8(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """weight [N,K] -> integers from -127 to 127 [N,K] and scales [N], whose last 7 bits are zero."""

def to_bfloat16(weight: NDArray[np.float32]) -> NDArray[np.uint16]:
    """weight [N,K] -> the bits of bfloat16 [N,K], rounded to nearest even."""

def vector_function(name: str, x: NDArray[_T]) -> NDArray[_T]: ...

class CellInfo(NamedTuple):
    """The facts of a cell (csrc/cells)."""

    gates: tuple[str, ...]
    """Names of the blocks of H rows in weight_ih, weight_hh and bias, in order."""
    states: tuple[str, ...]
    """h first."""
    kept: tuple[str, ...]
    """Names of the values that `Tape.kept` gives, in order."""
    vectors: tuple[tuple[str, int], ...]
    """Name and rows of the parameters for each unit besides these: [rows,H], or [H] for one row."""
    vectors_are_bias: bool
    """Whether a layer without bias has no vectors either."""
    projects: bool
    """Whether h is projected to proj_size units."""
    heads: bool
    """Whether units may be grouped in heads, each of which reads its own part of h."""

def cells() -> tuple[str, ...]:
    """Names of all cells."""

def cell_info(name: str) -> CellInfo: ...

@final
class Tape:
    """The values that a forward pass keeps for its backward pass."""

    @property
    def nbytes(self) -> int: ...
    def kept(self, indices: list[int], kernel: int = 0) -> list[NDArray[Any]]:
        """Values that a cell keeps, by number; -i, i > 0, is state i as it leaves the cell; [T,B,H] each."""

@final
class SequenceOrder:
    """The order of a batch's rows, longest first; row b of padded arrays [steps,B,.] has lengths[b] steps."""

    def __init__(self, lengths: NDArray[np.int64], steps: int, reverse: bool) -> None: ...
    @staticmethod
    def equal(steps: int, batch: int, reverse: bool) -> SequenceOrder:
        """Rows of padded arrays [steps,B,.] that all have all steps."""
    @staticmethod
    def packed(batch_sizes: NDArray[np.int64], reverse: bool) -> SequenceOrder:
        """Rows of packed arrays [sum,.]: step t has batch_sizes[t] rows, no more than the step before."""

    @property
    def batch(self) -> int: ...
    @property
    def total(self) -> int:
        """Steps of all rows together."""

@final
class CallOptions:
    """The options of one direction of a pass; see csrc/sequence/state_transition.h."""

    def __init__(
        self,
        *,
        order: SequenceOrder | None = None,
        resets: NDArray[np.bool_] | None = None,
        reset_state: _State | None = None,
        zoneout: tuple[float, float] = ...,
        dropout: float = ...,
        clip: float = ...,
        clip_gradient: float = ...,
        seed: int = 0,
        input_dropout: float = 0.0,
        input_seed: int = 0,
        segment: int = 0,
    ) -> None: ...

@final
class Stream:
    """The layers of a stack of one direction, step by step for `batch` rows, without an allocation.

    It has the weights that the stack packed last, and zoneout and clip of `options`. It begins with `initial`, h
    [L,B,H] or a tuple with h first, None for zeros. Each method raises RuntimeError during another call.
    """

    _source: Any  # set by Python after construction; it answers the next three
    @property
    def stale(self) -> bool: ...
    def refresh(self) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __init__(self, stack: Stack, batch: int, options: CallOptions = ..., initial: _State | None = None) -> None: ...
    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """x [B,I] -> y [B,R], the same read-only array each time, overwritten by the next call; x may be that array.

        x [T,B,I], a chunk of steps, -> a new y [T,B,R].
        """

    @property
    def state(self) -> _State:
        """A copy of h or (h, c), [L,B,H] each; an assignment sets it, None sets the initial state."""

    @state.setter
    def state(self, state: _State | None) -> None: ...
    def reset(self, rows: Any = None) -> None:
        """Begin again, for all rows or those that an index selects (an integer, slice, mask or list)."""

    def _take_weights(self, stack: Stack, initial: _State | None) -> None:
        """Continue with the weights that a stack of the same sizes packed last; resets begin with `initial`."""

    def _weights(self) -> list[NDArray[Any]]:
        """The weights in use: for each layer a flat array as `Stack.pack` takes it."""

@final
class Stack:
    """The kernels of a layer: L layers x D directions of one cell over time, made once for each layer object.

    `cell` is a name of csrc/cells/all.h, `dtype` float32 or float64. `options` is one CallOptions for each layer and
    direction, None for calls that ask for nothing. States are h [L*D,B,R], or a tuple with h first; R is the width of
    h, H but for a projected one; N the number of heads.

    Parameters and their gradients are one flat array for all kernels, or a list with one entry for each: a flat array,
    or a tuple of its parts at any address: weight_ih [G*H,I], weight_hh [G*H,R/N], bias [G*H], vectors [P,H], weight_hr
    [R,H], None for those that a kernel lacks. A flat array has them in this order.

    `products` is one of `core.products` or `core.narrow_products`, the arithmetic of products (csrc/core/gemm/mode.h,
    narrow.h); ValueError for another. With narrow weights there is no training.
    """

    def __init__(
        self,
        cell: str,
        dtype: str,
        input_size: int,
        hidden_size: int,
        bias: bool,
        proj_size: int = 0,
        num_layers: int = 1,
        num_directions: int = 1,
        num_heads: int = 1,
        products: str = "fma",
    ) -> None: ...
    @property
    def products(self) -> str:
        """The arithmetic in use: that of the constructor, or fma where the cell or dtype has no other."""

    def plan(self, steps: int, batch: int, backward: bool = False) -> dict[str, Any]:
        """How a call, or its way back, is divided: split (none, batch, hidden, both), threads = groups x members,
        step_time_s (estimated), hoisted (input products first), chunk (steps)."""

    def runs_in_parallel(self, steps: int, batch: int, options: list[CallOptions] | None, training: bool) -> bool:
        """Whether the layers of a call that long and wide will run in parallel."""

    def memory(self, steps: int, batch: int, options: list[CallOptions] | None, training: bool) -> int:
        """Bytes that a call holds at its peak without x, y, the parameters and the gradients of these three."""

    def pack(self, params: _Parameters, training: bool) -> None:
        """The parameters into the kernels' layout; `training` adds the backward layout."""

    def forward(
        self, x: NDArray[Any], state: _State | None, training: bool, options: list[CallOptions] | None = None
    ) -> tuple[NDArray[Any], _State, Tape | None]:
        """x [T,B,I] or packed [sum,I] -> y [T,B,D*R], final state, tape (None unless training)."""

    def forward_if_exact(self, x: Any, state: Any, training: bool) -> tuple[NDArray[Any], _State, Tape | None] | None:
        """As forward without options; None where x or state is no plain array of the dtype, shape and layout."""

    def forward_short(
        self, x: Any, state: Any, training: bool, params: _Parameters, keep_weights: bool = True
    ) -> tuple[NDArray[Any], _State, Tape | None] | Literal[False] | None:
        """The same on params, of which the stack keeps nothing. False where x or state is not exact, None where the
        call is not short. keep_weights: whether the tape copies what backward needs; else it gets params again."""

    is_guest: bool  # whether its jobs run on the threads of set_host; False at first

    def forward_tensors(
        self, inputs: _Tensors, one_step: bool, training: bool
    ) -> tuple[_Tensors, Tape | None, bool, bool] | None:
        """(outputs, tape, whether that reads y, and has weights) on x, states and weights in PyTorch's order.
        One direction, no options. one_step: of a cell, x [B,I] and states [B,.], and the outputs are its states alone.
        None where a tensor is not dense, in order, on the CPU and of this dtype and shape."""

    def backward_tensors(
        self, tape: Tape, inputs: _Tensors, gradients: _Tensors, wanted: tuple[bool, ...], one_step: bool, retain: bool
    ) -> list[Any] | None:
        """The gradients of inputs, None for those not wanted; `gradients` of y and the final states, None for zeros.
        None in all, the tape unused, where a tensor is not as forward_tensors wants."""

    def backward(
        self,
        tape: Tape,
        dy: NDArray[Any] | None,
        dstate: _State | None,
        grads: _Parameters | None,
        dreset_state: list[Any] = ...,
        accumulate: bool = False,
        retain: bool = False,
        want_dx: bool = True,
        want_dstate: bool = True,
        want_dsteps: bool = False,
        weights: _Parameters | None = None,
    ) -> tuple[Any, ...]:
        """dy and dstate (None: zeros) -> dx and the initial state's gradient; overwrites grads, and dreset_state.

        grads: None where they are not wanted. accumulate: adds to grads instead. retain: the tape can be used again.
        What is not wanted is None and not computed. want_dsteps: returns a third value, for each kernel the gradient of
        its states as they leave each step, dy included: [T,B,R], then [T,B,H] each (packed [sum,.]). weights: the
        params of a forward_short without keep_weights, with the values that they had then; not read for other tapes.
        """

    def backward_if_exact(
        self, tape: Tape, dy: Any, dstate: Any, grads: _Parameters, weights: _Parameters | None = None
    ) -> tuple[Any, Any] | None:
        """(dx, dstate) as backward; None where dy or dstate is no plain array of the dtype, shape and layout."""

@final
class LinearStream:
    """y = W x + b row by row, without an allocation."""

    _source: Any  # set by Python after construction; it answers the next three
    @property
    def stale(self) -> bool: ...
    def refresh(self) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __init__(self, weight: NDArray[_T], bias: NDArray[_T] | None, batch: int) -> None: ...
    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """x [B,I] -> y [B,O], the same read-only array each time, which x may be; x [T,B,I] -> a new y."""

    def _take_weights(self, weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
        """Other weights of the same sizes."""

    def _weights(self) -> NDArray[Any]:
        """The weights in use, flat: the weight, then the bias."""

@final
class EmbeddingStream:
    """Rows of a weight by id, without an allocation."""

    _source: Any  # set by Python after construction; it answers the next three
    @property
    def stale(self) -> bool: ...
    def refresh(self) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __init__(self, weight: NDArray[_T], batch: int) -> None: ...
    def __call__(self, x: NDArray[np.int64]) -> NDArray[Any]:
        """x [B] -> y [B,E], the same read-only array each time; x [T,B] -> a new y."""

    def _take_weights(self, weight: NDArray[Any]) -> None:
        """Another weight of the same size."""

    def _weights(self) -> NDArray[Any]:
        """The weight in use, [V,E]."""

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

# Of all losses: mask [N] or None for all rows; the sum over the rows that count, times scale, and its gradient [N,F].
def cross_entropy(
    logits: NDArray[_T],
    targets: NDArray[np.int64],
    mask: NDArray[np.bool_] | None,
    scale: float,
    class_weights: NDArray[np.float64] | None = ...,
    label_smoothing: float = ...,
) -> tuple[float, NDArray[_T]]:
    """logits [N,C], targets [N] in [0,C), class_weights [C]."""

def mse(
    prediction: NDArray[_T], target: NDArray[_T], mask: NDArray[np.bool_] | None, scale: float
) -> tuple[float, NDArray[_T]]:
    """The squared errors of prediction and target [N,F]."""

def mae(
    prediction: NDArray[_T], target: NDArray[_T], mask: NDArray[np.bool_] | None, scale: float
) -> tuple[float, NDArray[_T]]:
    """The absolute errors of prediction and target [N,F]."""

def huber(
    prediction: NDArray[_T], target: NDArray[_T], mask: NDArray[np.bool_] | None, scale: float, delta: float
) -> tuple[float, NDArray[_T]]:
    """Half the squared errors up to delta, linear beyond; prediction and target [N,F]."""

def bce_with_logits(
    logits: NDArray[_T],
    target: NDArray[_T],
    mask: NDArray[np.bool_] | None,
    scale: float,
    pos_weight: NDArray[np.float64] | None,
) -> tuple[float, NDArray[_T]]:
    """logits [N,F], target [N,F] in [0,1], pos_weight [F]."""

def gaussian_nll(
    prediction: NDArray[_T], target: NDArray[_T], mask: NDArray[np.bool_] | None, scale: float
) -> tuple[float, NDArray[_T]]:
    """prediction [N,2F], means before log-variances; target [N,F]."""

def quantile(
    prediction: NDArray[_T],
    target: NDArray[_T],
    mask: NDArray[np.bool_] | None,
    scale: float,
    quantiles: list[float],
) -> tuple[float, NDArray[_T]]:
    """prediction [N,F*Q], the quantiles of a feature together; target [N,F]."""

def backward_from_loss(
    layer: tuple[Stack, Tape, NDArray[Any]],
    y: NDArray[_T],
    head: tuple[NDArray[_T], NDArray[_T] | None],
    loss: str,
    target: object,
    grads: tuple[object, NDArray[_T], NDArray[_T] | None],
) -> float | None:
    """The mean loss (mse, mae, cross_entropy) of head(y), y [T,B,H]; overwrites grads of the layer and of the head,
    unless the loss is not finite. layer: whose tape, with the weights of forward. None if target is not exact."""

def optimizer_step(
    rule: str,
    options: dict[str, float],
    params: NDArray[_T],
    grads: NDArray[_T],
    moments: list[NDArray[_T]],
    spans: list[tuple[int, float, float]],
    limits: tuple[float, float, float],
    known_small: bool,
) -> tuple[float, float, float, bool, int, bool]:
    """One step of a rule of csrc/optim/rules.h: updates the flat params and moments [n].

    spans: (end, lr, weight_decay) of consecutive parts of [n]. limits, infinity for none: of the norm of all, of the
    norm of each span, of each element. Returns (norm before clipping, norm after the norms are clipped,
    norm after all clipping, clipped, overflow, small).
    overflow: the first element whose parameter or moment would not be finite, else -1. Nothing changes in that case,
    nor where the norm is not finite. small: whether all parameters and moments are now at most 2^60 in magnitude. If
    nothing has changed them since, the next step gets it as known_small; with known_small=False it checks.
    """
