# SPDX-License-Identifier: Apache-2.0
"""The arguments that all recurrent layers share, and the one text that describes them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from bptt._arrays import check_bool

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from bptt.init import Init

    _Class = TypeVar("_Class", bound=type)


class LayerOptions(NamedTuple):
    """The arguments that all recurrent layers share, as they were given and in the order of the layers' signatures.

    What follows is part of the docstring of each layer that has the argument (`described`):

    num_layers: L, stacked, default 1.
    batch_first: whether x and y are [B,T,.], default False.
    dropout: p, on the outputs that one layer hands to the next, in training, default 0 (Zaremba et al. 2014).
    bidirectional: whether there is a second direction (D = 2) that reads x from its end, default False.
    dtype: float32 (default) or float64.
    seed: integer >= 0, or None (default) for fresh weights and masks each time. Layers of the same shape need different
        seeds. Masks are a function of the seed and the number of calls of `forward`, not of threads or of the length of
        the batch.
    recurrent_dropout: p. In training the products of each step see h0 d, d ~ Bernoulli(1-p) / (1-p), drawn once for
        each sequence, layer, direction and unit (Gal & Ghahramani 2016). Default 0.
    zoneout: p, or (p_h, p_c). In training each unit keeps its old state with probability p, at inference s1 becomes
        p s0 + (1-p) s1, its expectation (Krueger et al. 2017). p_c is that of all states but h, which a unit keeps
        together. Default 0.
    clip_state: v, or None (default). States are clamped to [-v, v] as they leave a step; beyond, their gradient is
        0.
    clip_grad_per_step: v, or None (default). The gradients of the pre-activations are clamped to [-v, v] at each step,
        before they go on to x, the weights and the step before (Graves 2013).
    checkpoint: None (default), "sqrt" or a number of steps k: the tape keeps one state every k (or sqrt(T)) steps and
        `backward` computes the steps between again; the gradients are the same bits (Chen et al. 2016). k is rounded up
        to a multiple of max(1, 128 // B); a call of one such segment keeps all its steps.
    learn_initial_state: whether the state at the start and after a reset is a parameter instead of zeros, default
        False: `initial_h_l0` [H] for each layer and direction, of an LSTM also `initial_c_l0`,
        of an SLSTM these, `initial_n_l0` (ones at first) and `initial_m_l0`.
    precision: "highest", "high" or "medium": how products are computed, in float32, as of `set_matmul_precision`.
        Default None: the choice of that function at the time when the layer is made.
    """

    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    dtype: DTypeLike
    init: Init
    seed: int | None
    recurrent_dropout: float
    zoneout: float | tuple[float, float]
    clip_state: float | None
    clip_grad_per_step: float | None
    checkpoint: int | str | None
    learn_initial_state: bool
    precision: str | None


_PLACE = "        {options}\n"
_ENTRY = re.compile(r"^( *)(\w+): .*(?:\n\1 +.*)*", re.MULTILINE)  # a name, what it means, and lines further in


def described(*like: type) -> Callable[[_Class], _Class]:
    """Replace {options} in the docstring of a layer by the descriptions of its shared arguments.

    These are the arguments that its docstring does not describe, in the order of its signature. The descriptions are
    in LayerOptions and in the docstrings of `like`.
    """

    def describe(layer: _Class) -> _Class:
        if layer.__doc__:  # there is none with python -OO
            own = _entries(layer)
            found = {name: text for each in (LayerOptions, *like) for name, text in _entries(each).items()}
            absent = [name for name in inspect.signature(layer).parameters if name not in own]
            text = "".join(textwrap.indent(textwrap.dedent(found[name]), " " * 8) + "\n" for name in absent)
            layer.__doc__ = layer.__doc__.replace(_PLACE, text)
        return layer

    return describe


def _entries(described: type) -> dict[str, str]:
    """What a class's docstring says of each name."""
    return {match[2]: match[0] for match in _ENTRY.finditer(inspect.cleandoc(described.__doc__ or ""))}


def one_of(where: str, **variants: bool) -> str:
    """The name of the chosen variant, or an empty one."""
    chosen = [name for name, wanted in variants.items() if check_bool(where, name, wanted)]
    if len(chosen) > 1:
        raise ValueError(f"{where}: {' and '.join(chosen)} are given together, expected at most one of them")
    return chosen[0] if chosen else ""
