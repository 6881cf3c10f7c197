# SPDX-License-Identifier: Apache-2.0
"""Optimizers: SGD and Adam. One fused native pass over the flat buffers: norm, clipping, update.

An optimizer keeps its moments for one set of parameters. Hyperparameters are plain attributes, so that a schedule is
an assignment: `optimizer.lr = 1e-4`. Clipping comes in this order: the whole gradient g is scaled to the norm clip_norm
if its own is larger, then each element is clamped to [-clip_value, clip_value].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bptt._arrays import check_number, check_tuple
from bptt._dispatch import core
from bptt.params import Params

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["SGD", "Adam", "StepInfo"]


class StepInfo(NamedTuple):
    """What a step found: the norm of the whole gradient before clipping, and whether anything was clipped."""

    grad_norm: float
    clipped: bool


class Optimizer:
    """What the optimizers share: the checks, the clipping options, the moments and their parameters' shapes."""

    _count = 0  # of moments

    def __init__(self, lr: float, weight_decay: float, clip_norm: float | None, clip_value: float | None) -> None:
        where = type(self).__name__
        self.lr = check_number(where, "lr", lr)
        self.weight_decay = check_number(where, "weight_decay", weight_decay)
        self.clip_norm = None if clip_norm is None else check_number(where, "clip_norm", clip_norm)
        self.clip_value = None if clip_value is None else check_number(where, "clip_value", clip_value)
        self._moments: tuple[Params, ...] = ()

    def step(self, params: Params, grads: Params) -> StepInfo:
        """Change `params` by one update.

        Args: params, of a layer or a `Sequential`, the same for all steps; grads, as `backward` returned them.
        Returns: StepInfo(grad_norm, clipped).
        Raises: FloatingPointError for a gradient that is not finite; parameters and moments are unchanged then.
            ValueError for gradients or parameters of other shapes.

        >>> from bptt import Linear
        >>> linear = Linear(2, 1, init={"weight": "zeros"})
        >>> grads = linear.params.zeros_like()
        >>> grads["weight"][:] = [[3, 4]]
        >>> SGD(lr=0.5).step(linear.params, grads)
        StepInfo(grad_norm=5.0, clipped=False)
        >>> linear.params["weight"].tolist()
        [[-1.5, -2.0]]
        """
        where = f"{type(self).__name__}.step"
        if not grads.like(params):
            raise ValueError(f"{where}: grads has {grads!r}, expected {params!r}")
        if not self._moments:
            self._moments = tuple(params.zeros_like() for _ in range(self._count))
        if not all(m.like(params) for m in self._moments):
            raise ValueError(f"{where}: params has {params!r}, expected {self._moments[0]!r}, those of the first step")
        norm, clipped = params.update(lambda flat: self._update(flat, grads.flat, *(m.flat for m in self._moments)))
        if not math.isfinite(norm):
            guilty = next((name for name, g in grads.items() if not np.isfinite(g).all()), "all together")
            raise FloatingPointError(
                f"{where}: gradient has norm {norm} ({guilty}), expected a finite one; nothing changed"
            )
        return StepInfo(norm, clipped)

    def _update(self, params: Array, grads: Array, *moments: Array) -> tuple[float, bool]:
        """Change params and moments in place, or nothing where the norm is not finite; norm and whether it clipped."""
        raise NotImplementedError

    def _clip(self) -> tuple[float, float]:
        """clip_norm and clip_value as the native module takes them: infinity is no limit."""
        norm = math.inf if self.clip_norm is None else self.clip_norm
        return norm, math.inf if self.clip_value is None else self.clip_value

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({options})"


class SGD(Optimizer):
    """Gradient descent, with momentum as an option.

        g = clip(grads) + weight_decay w
        v = momentum v + g
        w = w - lr v                       (Nesterov: w - lr (g + momentum v))

    Args:
        lr: learning rate.
        momentum: in [0,1), default 0.
        nesterov: default False; needs momentum.
        weight_decay: default 0.
        clip_norm, clip_value: limits of the global norm and of each element, default None, no limit.

    Call: `info = optimizer.step(params, grads)`.
    Raises: ValueError for values out of range.
    Source: Sutskever et al. 2013 (momentum, Nesterov); Pascanu et al. 2013 (clipping).

    >>> SGD(lr=0.1, momentum=0.9, clip_norm=1.0)
    SGD(lr=0.1, weight_decay=0.0, clip_norm=1.0, clip_value=None, momentum=0.9, nesterov=False)
    """

    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm, clip_value)
        self.momentum = check_number("SGD", "momentum", momentum, 0.0, 1.0)
        self.nesterov = bool(nesterov)
        if nesterov and not momentum:
            raise ValueError("SGD: momentum has value 0 with nesterov, expected 0 < momentum < 1")
        self._count = 1 if momentum else 0

    def _update(self, params: Array, grads: Array, *moments: Array) -> tuple[float, bool]:
        velocity = moments[0] if moments else None
        return core.sgd_step(
            params, grads, velocity, self.lr, self.momentum, self.nesterov, self.weight_decay, *self._clip()
        )


class Adam(Optimizer):
    """Adam; with weight_decay it is AdamW, whose decay does not pass through the moments.

        g = clip(grads)
        m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
        w = w - lr weight_decay w - lr (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps),   k = 1, 2, ...

    Args:
        lr: learning rate, default 1e-3.
        betas: (beta1, beta2), each in [0,1), default (0.9, 0.999).
        eps: default 1e-8.
        weight_decay: default 0.
        clip_norm, clip_value: limits of the global norm and of each element, default None, no limit.

    Attributes: steps, the number k of updates so far.
    Call: `info = optimizer.step(params, grads)`.
    Raises: ValueError for values out of range.
    Source: Kingma & Ba 2015; Loshchilov & Hutter 2019 (AdamW).

    >>> Adam(lr=2e-3, clip_norm=1.0).betas
    (0.9, 0.999)
    """

    _count = 2

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, clip_norm, clip_value)
        beta1, beta2 = check_tuple("Adam", "betas", betas, 2, "the pair (beta1, beta2)")
        self.betas = check_number("Adam", "beta1", beta1, 0.0, 1.0), check_number("Adam", "beta2", beta2, 0.0, 1.0)
        self.eps = check_number("Adam", "eps", eps)
        self.steps = 0

    def _update(self, params: Array, grads: Array, *moments: Array) -> tuple[float, bool]:
        m, v = moments
        norm, clipped = core.adam_step(
            params, grads, m, v, self.steps + 1, self.lr, *self.betas, self.eps, self.weight_decay, *self._clip()
        )
        self.steps += math.isfinite(norm)
        return norm, clipped
