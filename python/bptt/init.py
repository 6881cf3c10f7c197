# SPDX-License-Identifier: Apache-2.0
"""Initial weights by name, from a counter-based generator: the same seed gives the same weights everywhere.

A weight matrix of a recurrent layer stacks its gates, [G*H, I]. Each gate's block [H, I] is drawn as a separate matrix,
so that the fans are those of one gate (fan_in I, fan_out H), for any number of gates.
Everything is computed in float64 and rounded to the layer's dtype at the end.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bptt._arrays import brief, check_dtype, check_seed, check_size, first_of
from bptt._dispatch import core

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt._arrays import Array
    from bptt.params import Params

    Draw = Callable[[np.random.Generator, tuple[int, ...], int], Array]  # (generator, [..., fan_out, fan_in], size)
    Init = str | Mapping[str, str]

__all__ = ["NAMES", "draw"]


def _uniform_within(rng: np.random.Generator, shape: tuple[int, ...], bound: float) -> Array:
    return (2 * rng.random(shape) - 1) * bound


def _orthogonal(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> Array:
    rows, cols = shape[-2:]
    tall = (*shape[:-2], max(rows, cols), min(rows, cols))
    # Not NumPy's QR: the bits of LAPACK depend on its build and its threads. The positive diagonal of R makes Q unique
    # and uniform over the orthogonal matrices.
    q = np.array([core.orthogonal(block) for block in rng.standard_normal(tall)])
    return q if rows >= cols else np.swapaxes(q, -1, -2)


def _forget_bias(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> Array:
    if shape[0] not in (3, 4):
        raise ValueError(
            f"init.draw: forget_bias has {shape[0]} gates, expected the 4 (3 if coupled) of an LSTM's bias"
        )
    bias = np.zeros(shape)
    bias[-3] = 1.0  # gate order i f g o; coupled f g o
    return bias


def _forget_range(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> Array:
    if shape[0] % 4:
        raise ValueError(f"init.draw: forget_range has {shape[0]} gates, expected the 4 of an sLSTM's bias")
    heads, others = shape[0] // 4, (1,) * (len(shape) - 2)
    bias = np.zeros(shape)
    bias[heads : 2 * heads] = np.linspace(3.0, 6.0, shape[1]).reshape(-1, *others)  # gate order i f z o
    return bias


_DRAWS: Final[dict[str, Draw]] = {
    "zeros": lambda rng, shape, size: np.zeros(shape),
    "ones": lambda rng, shape, size: np.ones(shape),
    "normal": lambda rng, shape, size: rng.standard_normal(shape),
    "uniform": lambda rng, shape, size: _uniform_within(rng, shape, 1 / math.sqrt(size)),
    "xavier_uniform": lambda rng, shape, size: _uniform_within(rng, shape, math.sqrt(6 / sum(shape[-2:]))),
    "xavier_normal": lambda rng, shape, size: rng.standard_normal(shape) * math.sqrt(2 / sum(shape[-2:])),
    "he_uniform": lambda rng, shape, size: _uniform_within(rng, shape, math.sqrt(6 / shape[-1])),
    "he_normal": lambda rng, shape, size: rng.standard_normal(shape) * math.sqrt(2 / shape[-1]),
    "orthogonal": _orthogonal,
    "identity": lambda rng, shape, size: np.broadcast_to(np.eye(shape[-2], shape[-1]), shape),
    "forget_bias": _forget_bias,
    "forget_range": _forget_range,
}
_DRAWS["glorot_uniform"], _DRAWS["glorot_normal"] = _DRAWS["xavier_uniform"], _DRAWS["xavier_normal"]

NAMES: Final = tuple(_DRAWS)
"""The names of all initialisers."""

_NAMES: Final = f"{first_of(NAMES, 60)} (bptt.init.NAMES)"

_FOR_VECTORS: Final = ("zeros", "ones", "normal", "uniform", "forget_bias", "forget_range")  # the others need two fans


def draw(
    name: str,
    shape: tuple[int, ...],
    *,
    seed: int | None = None,
    stream: str = "",
    gates: int = 1,
    size: int | None = None,
    dtype: DTypeLike = np.float32,
) -> Array:
    """Return initial values of one parameter.

        xavier_uniform (glorot_uniform)   U(-a, a),  a = sqrt(6 / (fan_in + fan_out))     Glorot & Bengio 2010
        xavier_normal (glorot_normal)     N(0, s),   s = sqrt(2 / (fan_in + fan_out))
        he_uniform                        U(-a, a),  a = sqrt(6 / fan_in)                 He et al. 2015
        he_normal                         N(0, s),   s = sqrt(2 / fan_in)
        orthogonal                        Q^T Q = 1 (or Q Q^T = 1), uniform among these   Saxe et al. 2014
        identity                          1 on the diagonal, else 0 (IRNN)                Le et al. 2015
        uniform                           U(-a, a),  a = 1 / sqrt(size)                   PyTorch's
        normal                            N(0, 1)
        zeros, ones                       0, 1
        forget_bias                       an LSTM's bias: 1 at the forget gate, else 0    Gers et al. 2000
        forget_range                      an sLSTM's bias: 3 to 6 over the units of a     Beck et al. 2024
                                          head at the forget gate, else 0

    Args:
        name: one of `NAMES`.
        shape: of the parameter, [G*H, I] or [G*H]; fan_in and fan_out are those of one gate's block [H, I].
        seed: integer >= 0; None (default) draws one from the operating system.
        stream: any text, by default ""; the same seed gives independent values for different streams (layers pass the
            parameter's name).
        gates: G, default 1; with heads their product, for what each head has by itself.
        size: of `uniform`, default fan_in (recurrent layers pass H).
        dtype: float32 (default) or float64.

    Returns: an array of `shape` and `dtype`. The bits depend on the arguments only, not on the platform, the
        instruction set, the number of threads or the BLAS library. Two things are not ours: the streams of NumPy's
        generators, and the C library's exp and log1p, which NumPy uses in the tails of the normal distribution.
    Raises: ValueError for an unknown name or a shape that the initialiser cannot fill.

    >>> draw("identity", (4, 2), gates=2).tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    >>> bool((draw("he_normal", (8, 8), seed=1) == draw("he_normal", (8, 8), seed=1)).all())
    True
    """
    if not isinstance(name, str) or name not in _DRAWS:
        raise ValueError(f"init.draw: name has value {brief(name)}, expected one of {_NAMES}")
    gates = check_size("init.draw", "gates", gates)
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"init.draw: shape has type {type(shape).__name__}, expected a tuple")
    shape = tuple(check_size("init.draw", "shape", n) for n in shape)
    if not shape or shape[0] % gates or (len(shape) < 2 and name not in _FOR_VECTORS):
        expected = f"(G*H,) or (G*H, I) with G = {gates}" if name in _FOR_VECTORS else f"(G*H, I) with G = {gates}"
        raise ValueError(f"init.draw: shape has value {shape} for {name}, expected {expected}")
    sequence = np.random.SeedSequence(check_seed("init.draw", seed), spawn_key=(zlib.crc32(stream.encode()),))
    rng = np.random.Generator(np.random.Philox(sequence))
    blocks = (gates, shape[0] // gates, *shape[1:])
    values = _DRAWS[name](rng, blocks, shape[-1] if size is None else check_size("init.draw", "size", size))
    return values.reshape(shape).astype(check_dtype("init.draw", dtype))


def fill(
    where: str,
    params: Params,
    init: Init,
    seed: int | None,
    default: Mapping[str, str],
    *,
    gates: int,
    size: int,
    heads: int = 1,
) -> None:
    """Initialise a layer's parameters; `default` has the initialiser of each, `init` is the user's choice."""
    seed = check_seed(where, seed)
    chosen = _choice(where, params, init, default)
    with params.edit() as p:
        for name, shape in params.shapes.items():
            # peephole weights [3, H] and the bias [H] of GRU's candidate are not stacks of gates
            blocks = gates if shape[0] == gates * size else 1
            if blocks > 1 and not name.startswith("weight_ih"):
                blocks *= heads
            p[name] = draw(chosen[name], shape, seed=seed, stream=name, gates=blocks, size=size, dtype=params.dtype)


def _choice(where: str, params: Params, init: Any, default: Mapping[str, str]) -> dict[str, str]:
    """Initialiser by parameter name."""
    if isinstance(init, Mapping):
        chosen = dict(default)
        for key, name in init.items():
            matches = [
                param
                for param in params
                if key == param or re.fullmatch(f"{re.escape(str(key))}_l\\d+(_reverse)?", param)
            ]
            if not matches:
                raise ValueError(f"{where}: init has key {brief(key)}, expected one of {first_of([*params], 80)}")
            chosen.update((param, name) for param in matches)
    elif init == "default":
        chosen = dict(default)
    elif init == "pytorch":
        # PyTorch's Embedding is N(0, 1), which is our default as well
        chosen = {param: default[param] if default[param] in ("normal", "ones") else "uniform" for param in params}
    else:
        fixed = ("zeros", "ones", "forget_bias", "forget_range")
        chosen = {param: default[param] if default[param] in fixed else init for param in params}
    for name in chosen.values():
        if not isinstance(name, str) or name not in _DRAWS:
            raise ValueError(f"{where}: init has value {brief(name)}, expected default, pytorch or one of {_NAMES}")
    return chosen
