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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from bptt._arrays import brief, check_dtype, check_number, check_seed, check_size, first_of, is_number
from bptt._dispatch import core

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt._arrays import Array
    from bptt.params import Params

    Draw = Callable[[np.random.Generator, tuple[int, ...], int], Array]  # (generator, [..., fan_out, fan_in], size)
    Choice: TypeAlias = "str | float | Initialiser"
    Init: TypeAlias = "Choice | Mapping[str, Choice | Mapping[str, Choice]]"

__all__ = ["NAMES", "chrono", "draw", "identity"]


@dataclass(frozen=True)
class Initialiser:
    """An initialiser with an argument, as `identity` and `chrono` make it."""

    name: str
    value: float

    def __repr__(self) -> str:
        return f"{self.name}({self.value:g})"


def identity(scale: float = 1.0) -> Initialiser:
    """`scale` on the diagonal, else 0: each unit keeps `scale` times its value, as in an IRNN.

    Args: scale, a finite number >= 0, default 1. Small ones, such as 0.01, make the memory short at first.
    Source: Le et al. 2015.

    >>> import bptt
    >>> irnn = bptt.RNN(3, 2, nonlinearity="relu", init={"weight_hh": identity(0.5)})
    >>> irnn.params["weight_hh_l0"].tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    return Initialiser("identity", check_number("init.identity", "scale", scale))


def chrono(T_max: float) -> Initialiser:
    """Biases of gates for dependencies of up to `T_max` steps; the other gates have 0.

        LSTM   b_f = ln(u),  b_i = -b_f (no b_i with coupled gates),  u ~ U(1, T_max - 1) for each unit
        GRU    b_z = ln(u)

    At x = h = 0 a unit keeps u / (1 + u) of its state at each step, so that it forgets over about 1 + u steps. (The
    paper's gated RNN mixes in the new value with 1 - z; the sign is turned accordingly.)

    Args: T_max, a finite number >= 2.
    Source: Tallec & Ollivier 2018.

    >>> import bptt
    >>> lstm = bptt.LSTM(3, 64, init={"bias": chrono(100)}, seed=0)
    >>> i, f, g, o = lstm.params["bias_l0"].reshape(4, 64)
    >>> bool((i == -f).all()), bool(f.min() >= 0), bool(f.max() <= np.log(99)), bool(g.any() or o.any())
    (True, True, True, False)
    """
    return Initialiser("chrono", check_number("init.chrono", "T_max", T_max, 2.0))


# The gates of each cell that chrono knows: which of them have the logarithm, and with which sign.
_CHRONO: Final[dict[tuple[str, ...], dict[str, int]]] = {
    ("i", "f", "g", "o"): {"i": -1, "f": 1},
    ("f", "g", "o"): {"f": 1},
    ("r", "z", "n"): {"z": 1},
}


def _chrono(T_max: float, rng: np.random.Generator, shape: tuple[int, ...], gates: tuple[str, ...]) -> Array:
    if gates not in _CHRONO or len(shape) != 2:
        where = "a bias" if gates in _CHRONO else f"gates {', '.join(gates) or 'without names'}"
        expected = "the bias of an LSTM or a GRU, {'bias': chrono(T_max)}"
        raise ValueError(f"init.draw: chrono has {where if len(shape) == 2 else 'a weight'}, expected {expected}")
    bias = np.zeros(shape)
    values = np.log(1 + (T_max - 2) * rng.random(shape[1]))
    for gate, sign in _CHRONO[gates].items():
        bias[gates.index(gate)] = sign * values
    return bias


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
    name: Choice,
    shape: tuple[int, ...],
    *,
    seed: int | None = None,
    stream: str = "",
    gates: int | Sequence[str] = 1,
    size: int | None = None,
    dtype: DTypeLike = np.float32,
) -> Array:
    """Return initial values of one parameter.

        xavier_uniform (glorot_uniform)   U(-a, a),  a = sqrt(6 / (fan_in + fan_out))     Glorot & Bengio 2010
        xavier_normal (glorot_normal)     N(0, s),   s = sqrt(2 / (fan_in + fan_out))
        he_uniform                        U(-a, a),  a = sqrt(6 / fan_in)                 He et al. 2015
        he_normal                         N(0, s),   s = sqrt(2 / fan_in)
        orthogonal                        Q^T Q = 1 (or Q Q^T = 1), uniform among these   Saxe et al. 2014
        identity, identity(scale)         1 or scale on the diagonal, else 0 (IRNN)       Le et al. 2015
        uniform                           U(-a, a),  a = 1 / sqrt(size)                   PyTorch's
        normal                            N(0, 1)
        zeros, ones, a number             0, 1, the number
        forget_bias                       an LSTM's bias: 1 at the forget gate, else 0    Gers et al. 2000
        forget_range                      an sLSTM's bias: 3 to 6 over the units of a     Beck et al. 2024
                                          head at the forget gate, else 0
        chrono(T_max)                     the bias of an LSTM or a GRU                    Tallec & Ollivier 2018

    Args:
        name: one of `NAMES`, a finite number, `identity(scale)` or `chrono(T_max)`.
        shape: of the parameter, [G*H, I] or [G*H]; fan_in and fan_out are those of one gate's block [H, I].
        seed: integer >= 0; None (default) draws one from the operating system.
        stream: any text, by default ""; the same seed gives independent values for different streams (layers pass the
            parameter's name).
        gates: G, default 1, or the names of the gates, which chrono needs; with heads each gate as often as there are
            heads, for what each head has by itself.
        size: of `uniform`, default fan_in (recurrent layers pass H).
        dtype: float32 (default) or float64.

    Returns: an array of `shape` and `dtype`. The bits depend on the arguments only, not on the platform, the
        instruction set, the number of threads or the BLAS library. Three things are not ours: the streams of NumPy's
        generators, the C library's exp and log1p, which NumPy uses in the tails of the normal distribution, and NumPy's
        log in chrono, whose last bit can differ (in float64; after rounding to float32 hardly ever).
    Raises: ValueError for an unknown name or a shape that the initialiser cannot fill.

    >>> draw("identity", (4, 2), gates=2).tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    >>> bool((draw("he_normal", (8, 8), seed=1) == draw("he_normal", (8, 8), seed=1)).all())
    True
    """
    if not _known(name):
        raise ValueError(f"init.draw: name has value {brief(name)}, expected one of {_NAMES}")
    names = tuple(gates) if isinstance(gates, (tuple, list)) else ()
    count = len(names) or check_size("init.draw", "gates", gates)
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"init.draw: shape has type {type(shape).__name__}, expected a tuple")
    shape = tuple(check_size("init.draw", "shape", n) for n in shape)
    vectors = is_number(name) or name in _FOR_VECTORS or getattr(name, "name", "") == "chrono"
    if not shape or shape[0] % count or (len(shape) < 2 and not vectors):
        expected = f"(G*H,) or (G*H, I) with G = {count}" if vectors else f"(G*H, I) with G = {count}"
        raise ValueError(f"init.draw: shape has value {shape} for {name}, expected {expected}")
    sequence = np.random.SeedSequence(check_seed("init.draw", seed), spawn_key=(zlib.crc32(stream.encode()),))
    rng = np.random.Generator(np.random.Philox(sequence))
    size = shape[-1] if size is None else check_size("init.draw", "size", size)
    values = _values(name, rng, (count, shape[0] // count, *shape[1:]), size, names)
    return values.reshape(shape).astype(check_dtype("init.draw", dtype))


def _known(name: Any) -> bool:
    if isinstance(name, str):
        return name in _DRAWS
    return isinstance(name, Initialiser) or (is_number(name) and math.isfinite(name))


def _values(name: Choice, rng: np.random.Generator, shape: tuple[int, ...], size: int, gates: tuple[str, ...]) -> Array:
    """Values of `shape`, one block for each of `gates`, whose names may be unknown."""
    if isinstance(name, str):
        if name == "forget_bias" and gates and "f" not in gates:
            raise ValueError(f"init.draw: forget_bias has gates {', '.join(gates)}, expected those of an LSTM")
        return _DRAWS[name](rng, shape, size)
    if not isinstance(name, Initialiser):
        return np.full(shape, float(name))
    if name.name == "chrono":
        return _chrono(name.value, rng, shape, gates)
    return name.value * _DRAWS["identity"](rng, shape, size)


class Stored(dict[str, "Array"]):
    """All parameters of a layer by name, in the place of `init`: nothing is drawn. For `bptt.load`."""

    def fill(self, where: str, params: Params) -> None:
        """Take them as they are; ValueError where they are not exactly those of the layer, or not finite."""
        if set(self) != set(params):
            have, need = (first_of([*names], 36) if names else "none" for names in (self, params))
            raise ValueError(f"{where}: its arrays are {have}, expected {need}")
        for name, shape in params.shapes.items():
            array = self[name]
            if (array.shape, array.dtype) != (shape, params.dtype):
                has = f"array {name} has shape {array.shape} and dtype {array.dtype}"
                raise ValueError(f"{where}: {has}, expected {shape} and dtype {params.dtype}")
            if not np.isfinite(array).all():
                raise ValueError(f"{where}: array {name} has values that are NaN or infinite, expected numbers")
        with params.edit() as p:
            for name, array in self.items():
                p[name] = array


_STACKED = re.compile(r"(weight_ih|weight_hh|bias)(_l\d+(_reverse)?)?")  # parameters with a block for each gate


def fill(
    where: str,
    params: Params,
    init: Init,
    seed: int | None,
    default: Mapping[str, str],
    *,
    gates: tuple[str, ...] = (),
    size: int,
    heads: int = 1,
) -> None:
    """Initialise a layer's parameters; `default` has the initialiser of each, `init` is the user's choice.

    `gates` are the names of those that its weights and its bias stack; none for a layer without gates.
    """
    if isinstance(init, Stored):
        init.fill(where, params)
        return
    seed = check_seed(where, seed)
    chosen = _choice(where, params, init, default)
    with params.edit() as p:
        for name, shape in params.shapes.items():
            stacked = gates if _STACKED.fullmatch(name) else ()
            own = 1 if name.startswith("weight_ih") else heads  # blocks of a gate
            blocks = tuple(gate for gate in stacked for _ in range(own)) or 1
            choice = chosen[name]
            whole, by_gate = (default[name], choice) if isinstance(choice, Mapping) else (choice, {})
            p[name] = draw(whole, shape, seed=seed, stream=name, gates=blocks, size=size, dtype=params.dtype)
            for gate, each in by_gate.items():
                k = _index(where, name, gate, stacked)
                rows = slice(k * size, (k + 1) * size)
                part, stream = (size, *shape[1:]), f"{name}.{gate}"
                p[name][rows] = draw(each, part, seed=seed, stream=stream, gates=own, size=size, dtype=params.dtype)


def _index(where: str, param: str, gate: Any, gates: tuple[str, ...]) -> int:
    """The place of a gate in the stack."""
    if gate not in gates:
        expected = f"one of {', '.join(gates)}" if gates else "an initialiser: it has no gates"
        raise ValueError(f"{where}: init of {param} has the gate {brief(gate)}, expected {expected}")
    return gates.index(gate)


def _choice(where: str, params: Params, init: Any, default: Mapping[str, str]) -> dict[str, Any]:
    """By parameter name its initialiser, or a mapping from gates to theirs."""
    if isinstance(init, Mapping):
        chosen: dict[str, Any] = dict(default)
        for key, choice in init.items():
            matches = [
                param
                for param in params
                if key == param or re.fullmatch(rf"{re.escape(str(key))}_l\d+(_reverse)?", param)
            ]
            if not matches:
                raise ValueError(f"{where}: init has key {brief(key)}, expected one of {first_of([*params], 80)}")
            chosen.update((param, choice) for param in matches)
    elif init == "default":
        chosen = dict(default)
    elif init == "pytorch":
        # PyTorch's Embedding is N(0, 1), which is our default as well
        chosen = {param: default[param] if default[param] in ("normal", "ones") else "uniform" for param in params}
    else:
        if is_number(init):  # it would make all units of a layer equal
            raise ValueError(f"{where}: init has value {brief(init)}, expected a name, or {{parameter: number}}")
        fixed = ("zeros", "ones", "forget_bias", "forget_range")
        chosen = {param: default[param] if default[param] in fixed else init for param in params}
    for choice in chosen.values():
        for each in choice.values() if isinstance(choice, Mapping) else (choice,):
            if not _known(each):
                raise ValueError(f"{where}: init has value {brief(each)}, expected default, pytorch or one of {_NAMES}")
    return chosen
