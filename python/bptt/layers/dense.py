# SPDX-License-Identifier: Apache-2.0
"""Layers without a state: Embedding, Linear, Dropout. Each takes any number of leading axes, [...] below.

No loops and no equations except dropout's product: the native module does the work, on arrays [N, features].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._arrays import (
    as_floats,
    as_integers,
    check_bool,
    check_dtype,
    check_number,
    check_seed,
    check_shape,
    check_size,
    shape_error,
)
from bptt._dispatch import core
from bptt._engine.tape import Tape
from bptt._signature import checks_names
from bptt.init import fill
from bptt.layers.base import Stateless
from bptt.layers.streams import embedding_stream, linear_stream
from bptt.params import Params

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt import _core
    from bptt._arrays import Array, ArrayIn
    from bptt.init import Init


__all__ = ["Dropout", "Embedding", "Linear"]

_PHILOX_REST = {"buffer_pos": 5, "has_uint32": 2, "uinteger": 2**32}  # of NumPy's state: each is below its limit


class DenseTape(Tape):
    """Keeps one array, x [N,I] of Linear, ids [N] of Embedding, the mask of Dropout, and y's shape."""

    __slots__ = ("kept", "shape", "version")

    def __init__(self, layer: Stateless, kept: Array, shape: tuple[int, ...]) -> None:
        self.layer = layer
        self.kept, self.shape, self.version = kept, shape, layer.params.version


class Linear(Stateless):
    """Apply an affine map to the last axis.

        y = W x + b

    Args:
        in_features: I. out_features: O.
        bias: whether there is a b, default True.
        dtype: float32 (default) or float64.
        init: "default" (xavier_uniform, bias zeros), "pytorch" (U(-a, a), a = 1/sqrt(I), bias too), the name of an
            initialiser for the weight, or a mapping from parameter name to initialiser (see `bptt.init.draw`).
        seed: integer >= 0, or None (default) for fresh weights each time.

    Parameters: weight [O,I], bias [O].
    Call: x [..., I] -> y [..., O]. x of another real dtype is converted, with one copy; the tape refers to x, which
        must stay unchanged until `backward`.
    Raises: ValueError for a wrong shape, TypeError for a wrong dtype; RuntimeError for a `backward` after a change of
        the parameters.

    >>> linear = Linear(3, 2, seed=0)
    >>> y, tape = linear.forward(np.ones((5, 4, 3)))
    >>> dx, grads = linear.backward(tape, np.ones((5, 4, 2)))
    >>> y.shape, dx.shape, grads["bias"].tolist()
    ((5, 4, 2), (5, 4, 3), [20.0, 20.0])
    """

    _has_features = True

    @checks_names
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
    ) -> None:
        self.in_features = check_size("Linear", "in_features", in_features)
        self.out_features = check_size("Linear", "out_features", out_features)
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        if check_bool("Linear", "bias", bias):
            shapes["bias"] = (self.out_features,)
        self.params = Params(shapes, check_dtype("Linear", dtype))
        default = {"weight": "xavier_uniform", "bias": "zeros"}
        fill("Linear", self.params, init, seed, default, size=self.in_features)

    def __call__(self, x: ArrayIn) -> Array:
        """Inference: x [..., I] -> y [..., O]."""
        return self.forward(x)[0]

    def forward(self, x: ArrayIn) -> tuple[Array, DenseTape]:
        """Training: x [..., I] -> y [..., O] and the tape."""
        params = self.params
        x = as_floats("Linear.forward", "x", x, params.dtype)
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise shape_error("Linear.forward", "x", x, f"(..., {self.in_features})")
        lead = x.shape[:-1]
        rows, shape = x.reshape(math.prod(lead), self.in_features), (*lead, self.out_features)
        y = core.linear_forward(rows, params["weight"], params.get("bias"))
        return y.reshape(shape), DenseTape(self, rows, shape)

    def backward(self, tape: Tape, dy: ArrayIn, grads: Params | None = None) -> tuple[Array, Params]:
        """dy [..., O] -> dx [..., I] and the gradients of weight and bias."""
        where, tape = "Linear.backward", self._own(tape, DenseTape)
        if tape.version != self.params.version:  # dx needs the weight of forward
            raise RuntimeError(f"{where}: tape is older than the last change of params, expected backward before it")
        dy = as_floats(where, "dy", dy, self.params.dtype)
        check_shape(where, "dy", dy, tape.shape)
        grads = self._gradients(grads)
        dy = dy.reshape(len(tape.kept), self.out_features)
        dx = core.linear_backward(tape.kept, self.params["weight"], dy, grads["weight"], grads.get("bias"))
        return dx.reshape(*tape.shape[:-1], self.in_features), grads

    def stream(self, batch_size: int = 1) -> _core.LinearStream:
        """A function of x [B,I] -> y [B,O], the same array each time, or of x [T,B,I] -> a new y.

        It is a snapshot of the weights, like the streams of recurrent layers: `stale` says whether they have changed
        since, `refresh` takes them.
        """
        return linear_stream(self, check_size("Linear.stream", "batch_size", batch_size))

    def _sizes(self) -> tuple[int, int]:
        return self.in_features, self.out_features

    def _config(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": "bias" in self.params,
            "dtype": self.params.dtype.name,
        }

    def __repr__(self) -> str:
        bias = "" if "bias" in self.params else ", bias=False"
        return f"Linear({self.in_features}, {self.out_features}{bias}, dtype={self.params.dtype})"


class Embedding(Stateless):
    """Look up a row of the weight for each id.

        y = W[id]

    Args:
        num_embeddings: V. embedding_dim: E.
        dtype: float32 (default) or float64.
        init: "default" (N(0, 1), PyTorch's), the name of an initialiser or a mapping {"weight": name} (see
            `bptt.init.draw`).
        seed: integer >= 0, or None (default) for fresh weights each time.

    Parameters: weight [V,E].
    Call: ids [...], any integer dtype, in [0,V) -> y [..., E]. There is no dx: `backward` returns None for it.
    Raises: ValueError for an id outside [0,V) or a wrong shape, TypeError for ids that are not integers.

    >>> embedding = Embedding(10, 3, seed=0)
    >>> y, tape = embedding.forward([[1, 2], [1, 1]])
    >>> _, grads = embedding.backward(tape, np.ones((2, 2, 3)))
    >>> y.shape, grads["weight"][:3, 0].tolist()
    ((2, 2, 3), [0.0, 3.0, 1.0])
    """

    _has_features = False

    @checks_names
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        dtype: DTypeLike = np.float32,
        init: Init = "default",
        seed: int | None = None,
    ) -> None:
        self.num_embeddings = check_size("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = check_size("Embedding", "embedding_dim", embedding_dim)
        shape = (self.num_embeddings, self.embedding_dim)
        self.params = Params({"weight": shape}, check_dtype("Embedding", dtype))
        fill("Embedding", self.params, init, seed, {"weight": "normal"}, size=self.embedding_dim)

    def __call__(self, x: ArrayIn) -> Array:
        """Inference: ids [...] -> y [..., E]."""
        return self.forward(x)[0]

    def forward(self, x: ArrayIn) -> tuple[Array, DenseTape]:
        """Training: ids [...] -> y [..., E] and the tape."""
        ids = as_integers(self._where(), "x", x)
        shape = (*ids.shape, self.embedding_dim)
        y = core.embedding_forward(ids.reshape(-1), self.params["weight"])
        return y.reshape(shape), DenseTape(self, ids.reshape(-1), shape)

    def backward(self, tape: Tape, dy: ArrayIn, grads: Params | None = None) -> tuple[None, Params]:
        """dy [..., E] -> None (ids have no gradient) and the gradient of the weight."""
        tape = self._own(tape, DenseTape)
        dy = as_floats(self._where("backward"), "dy", dy, self.params.dtype)
        check_shape(self._where("backward"), "dy", dy, tape.shape)
        grads = self._gradients(grads)
        core.embedding_backward(tape.kept, dy.reshape(len(tape.kept), self.embedding_dim), grads["weight"])
        return None, grads

    def stream(self, batch_size: int = 1) -> _core.EmbeddingStream:
        """A function of int64 ids [B] -> y [B,E], the same array each time, or of ids [T,B] -> a new y.

        It is a snapshot of the weights, like the streams of recurrent layers: `stale` says whether they have changed
        since, `refresh` takes them.
        """
        return embedding_stream(self, check_size("Embedding.stream", "batch_size", batch_size))

    def _sizes(self) -> tuple[None, int]:
        return None, self.embedding_dim

    def _config(self) -> dict[str, Any]:
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "dtype": self.params.dtype.name,
        }

    def __repr__(self) -> str:
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}, dtype={self.params.dtype})"


class Dropout(Stateless):
    """Drop elements at random and independently in training; do nothing at inference.

        forward   y = x m / (1 - p),  m ~ Bernoulli(1 - p)          inference   y = x

    Args:
        p: the probability of dropping, 0 <= p < 1, default 0.5.
        seed: integer >= 0, or None (default) for another sequence of masks each time.

    Call: x [...] -> y [...]. float32 and float64 keep their dtype, other real numbers become float32.
    Source: Srivastava et al. 2014.

    >>> dropout = Dropout(0.5, seed=0)
    >>> y, tape = dropout.forward(np.ones(6))
    >>> dx, _ = dropout.backward(tape, np.ones(6))
    >>> sorted(set(y.tolist())), bool((dx == y).all()), dropout(np.ones(2)).tolist()
    ([0.0, 2.0], True, [1.0, 1.0])
    """

    _has_features = True

    @checks_names
    def __init__(self, p: float = 0.5, *, seed: int | None = None) -> None:
        self.p = p
        self.params = Params({})
        self._rng = np.random.Generator(np.random.Philox(check_seed("Dropout", seed)))

    @property
    def p(self) -> float:
        """The probability of dropping, which may be changed."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = check_number("Dropout", "p", p, 0.0, 1.0)

    def __call__(self, x: ArrayIn) -> Array:
        """Inference: y is x."""
        return as_floats(self._where(), "x", x)

    def forward(self, x: ArrayIn) -> tuple[Array, DenseTape]:
        """Training: x [...] -> y [...] and the tape, which holds the mask."""
        x = as_floats(self._where(), "x", x)
        keep = self._rng.random(x.shape, dtype=np.float32) >= self.p
        mask = np.multiply(keep, 1 / (1 - self.p), dtype=x.dtype)
        return x * mask, DenseTape(self, mask, x.shape)

    def backward(self, tape: Tape, dy: ArrayIn, grads: Params | None = None) -> tuple[Array, Params]:
        """dy [...] -> dx [...]; there are no parameters, and no gradients of them."""
        tape = self._own(tape, DenseTape)
        dy = as_floats(self._where("backward"), "dy", dy, tape.kept.dtype)
        check_shape(self._where("backward"), "dy", dy, tape.shape)
        return dy * tape.kept, self._gradients(grads)

    def stream(self, batch_size: int = 1) -> None:
        """None: at inference y is x."""

    def _sizes(self) -> None:
        return None

    def _config(self) -> dict[str, Any]:
        return {"p": self.p}  # the generator's state follows the seed

    def _mask_state(self) -> list[int]:
        state: Any = self._rng.bit_generator.state
        words = (*state["state"]["counter"], *state["state"]["key"], *state["buffer"])
        return [int(word) for word in words] + [state[name] for name in _PHILOX_REST]

    def _set_mask_state(self, state: Any) -> None:
        limits = [2**64] * 10 + [*_PHILOX_REST.values()]
        if not isinstance(state, list) or len(state) != len(limits):
            raise ValueError(f"Dropout: masks has type {type(state).__name__}, expected {len(limits)} integers")
        if not all(type(word) is int and 0 <= word < limit for word, limit in zip(state, limits, strict=True)):
            raise ValueError("Dropout: masks has a value out of range, expected the state of a Philox generator")
        words = np.array(state[:10], np.uint64)
        self._rng.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": words[:4], "key": words[4:6]},
            "buffer": words[6:],
            **dict(zip(_PHILOX_REST, state[10:], strict=True)),
        }

    def __repr__(self) -> str:
        return f"Dropout({self.p})"
