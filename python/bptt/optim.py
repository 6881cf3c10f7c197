# SPDX-License-Identifier: Apache-2.0
"""Optimizers: SGD and Adam. One fused native pass over the flat buffers: norm, clipping, update.

An optimizer keeps its moments for one set of parameters. Hyperparameters are attributes, so that a schedule is an
assignment: `optimizer.lr = 1e-4`. An assignment is checked like an argument of the constructor. First the whole
gradient g is scaled to the norm clip_norm if its norm is larger, then each element is clamped to
[-clip_value, clip_value].

A step is right over the whole range of the parameters' dtype, or refused: one that would make a parameter or a moment
infinite or NaN raises FloatingPointError and changes nothing. Numbers below the smallest normal one of the dtype
(1.2e-38 in float32, 2.2e-308 in float64) count as zero.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from bptt._arrays import brief, check_bool, check_number, check_size, check_tuple
from bptt._dispatch import core
from bptt._signature import checks_names
from bptt.params import Params, check_like

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["SGD", "Adam", "StepInfo"]


class StepInfo(NamedTuple):
    """The norm of the whole gradient before clipping, and whether anything was clipped."""

    grad_norm: float
    clipped: bool


class Optimizer:
    """Shared by the optimizers: the checks, the clipping options, the moments and their parameters' shapes."""

    lr: float
    weight_decay: float
    clip_norm: float | None
    clip_value: float | None
    # Attributes that users may set besides the options. A subclass that does not declare them accepts any.
    _settable: ClassVar[tuple[str, ...]]

    def __init__(self, lr: float, weight_decay: float, clip_norm: float | None, clip_value: float | None) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self._moments: tuple[Params, ...] = ()
        # The parameters, and their version, that a step left small, so that the next step need not check.
        self._small: tuple[Params, int] | None = None

    if not TYPE_CHECKING:  # if type checkers saw a __setattr__, they would accept every name

        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self, name, self._checked(name, value))

    def _checked(self, name: str, value: Any) -> Any:
        """The value for an attribute: hyperparameters are checked, unknown names are refused."""
        where = type(self).__name__
        if name in ("lr", "weight_decay"):
            return check_number(where, name, value)
        if name in ("clip_norm", "clip_value"):
            return None if value is None else check_number(where, name, value)
        if name.startswith("_") or hasattr(type(self), name) or "_settable" not in vars(type(self)):
            return value
        known = (*type(self).__init__.names, *self._settable)  # type: ignore[attr-defined]  # of checks_names
        if name in known:
            return value
        raise AttributeError(f"{where}: there is no {brief(name)}, expected one of {', '.join(known)}")

    def step(self, params: Params, grads: Params) -> StepInfo:
        """Change `params` by one update.

        Args: params of a layer or a `Sequential`, the same for all steps; grads, as `backward` returned them.
        Returns: StepInfo(grad_norm, clipped).
        Raises: FloatingPointError for a gradient that is not finite, or whose norm is beyond float64, and for a step
            after which a parameter or a moment would not be finite; nothing changes then. ValueError for gradients or
            parameters of other names or shapes; TypeError for another dtype or another type than `Params`.

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
        check_like(where, "params", params, params, "such as model.params")
        if params.writable:
            raise ValueError(f"{where}: params is writable, as gradients are, expected model.params; are they swapped?")
        check_like(where, "grads", grads, params, "as backward returned them")
        count = self._count()
        moments = self._moments
        if len(moments) != count:
            moments = tuple(params.zeros_like() for _ in range(count))
        elif moments:
            check_like(where, "params", params, moments[0], "those of the first step")
        known_small = self._small == (params, params.version)
        norm, clipped, overflow, small = params.update(
            lambda flat: self._update(flat, grads.flat, known_small, *(m.flat for m in moments))
        )
        if not math.isfinite(norm):
            guilty = next((name for name, g in grads.items() if not np.isfinite(g).all()), None)
            has = "a norm beyond float64" if guilty is None else f"norm {norm} (first in {guilty})"
            raise FloatingPointError(f"{where}: gradient has {has}, expected a finite one; nothing changed")
        if overflow >= 0:
            guilty = next(name for name in params if overflow < params.span(name, name)[1])
            raise FloatingPointError(
                f"{where}: {guilty} or its moments would be inf or NaN in {params.dtype}, expected finite values; "
                "nothing changed"
            )
        self._moments = moments
        self._small = (params, params.version) if small else None
        return StepInfo(norm, clipped)

    def _count(self) -> int:
        """The number of moments that a step needs now."""
        raise NotImplementedError

    def _update(self, params: Array, grads: Array, known_small: bool, *moments: Array) -> tuple[float, bool, int, bool]:
        """Call the native step: arguments and result are those of `core.sgd_step`."""
        raise NotImplementedError

    def _clip(self) -> tuple[float, float]:
        """clip_norm and clip_value as the native module takes them: infinity is no limit."""
        norm = math.inf if self.clip_norm is None else self.clip_norm
        return norm, math.inf if self.clip_value is None else self.clip_value

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({options})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_small": None}  # versions are valid in one process only


class SGD(Optimizer):
    """Gradient descent, with momentum as an option.

        g = clip(grads) + weight_decay w
        v = momentum v + g
        w = w - lr v                       (Nesterov: w - lr (g + momentum v))

    Args:
        lr: learning rate.
        momentum: in [0,1), default 0. The velocity v starts from zero whenever momentum becomes positive.
        nesterov: default False; needs momentum.
        weight_decay: default 0.
        clip_norm, clip_value: limits of the global norm and of each element, default None, no limit.

    Call: `info = optimizer.step(params, grads)`.
    Raises: ValueError for values out of range, TypeError for other types than numbers; also at a later assignment.
    Source: Sutskever et al. 2013 (momentum, Nesterov); Pascanu et al. 2013 (clipping).

    >>> SGD(lr=0.1, momentum=0.9, clip_norm=1.0)
    SGD(lr=0.1, weight_decay=0.0, clip_norm=1.0, clip_value=None, momentum=0.9, nesterov=False)
    """

    _settable = ()

    @checks_names
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
        self.momentum = momentum
        self.nesterov = nesterov

    def _checked(self, name: str, value: Any) -> Any:
        if name == "momentum":
            value = check_number(type(self).__name__, name, value, 0.0, 1.0)
            self._check_nesterov(getattr(self, "nesterov", False), value)
            return value
        if name == "nesterov":
            value = check_bool(type(self).__name__, name, value)
            self._check_nesterov(value, self.momentum)
            return value
        return super()._checked(name, value)

    def _check_nesterov(self, nesterov: bool, momentum: float) -> None:
        if nesterov and not momentum:
            raise ValueError(f"{type(self).__name__}: momentum has value 0 with nesterov, expected 0 < momentum < 1")

    def _count(self) -> int:
        return 1 if self.momentum else 0

    def _update(self, params: Array, grads: Array, known_small: bool, *moments: Array) -> tuple[float, bool, int, bool]:
        velocity = moments[0] if moments else None
        return core.sgd_step(
            params,
            grads,
            velocity,
            known_small,
            self.lr,
            self.momentum,
            self.nesterov,
            self.weight_decay,
            *self._clip(),
        )


class Adam(Optimizer):
    """Adam; with weight_decay it is AdamW, whose decay does not pass through the moments.

        g = clip(grads)
        m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
        w = w - lr weight_decay w - lr (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps),   k = 1, 2, ...

    Args:
        lr: learning rate, default 1e-3.
        betas: (beta1, beta2), each in [0,1), default (0.9, 0.999).
        eps: default 1e-8. With 0, a weight whose gradients have all been 0 stays as it is.
        weight_decay: default 0.
        clip_norm, clip_value: limits of the global norm and of each element, default None, no limit.

    Attributes: steps, the number k of updates so far.
    Call: `info = optimizer.step(params, grads)`.
    Raises: ValueError for values out of range, TypeError for other types than numbers; also at a later assignment.
    Source: Kingma & Ba 2015; Loshchilov & Hutter 2019 (AdamW).

    >>> Adam(lr=2e-3, clip_norm=1.0).betas
    (0.9, 0.999)
    """

    betas: tuple[float, float]
    eps: float
    steps: int

    _settable = ("steps",)

    @checks_names
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
        self.betas = betas
        self.eps = eps
        self.steps = 0

    def _checked(self, name: str, value: Any) -> Any:
        where = type(self).__name__
        if name == "betas":
            pair = check_tuple(where, name, value, 2, "the pair (beta1, beta2)")
            return tuple(check_number(where, f"beta{i}", beta, 0.0, 1.0) for i, beta in enumerate(pair, 1))
        if name == "eps":
            return check_number(where, name, value)
        if name == "steps":
            return check_size(where, name, value, least=0)
        return super()._checked(name, value)

    def _count(self) -> int:
        return 2

    def _update(self, params: Array, grads: Array, known_small: bool, *moments: Array) -> tuple[float, bool, int, bool]:
        m, s = moments
        norm, clipped, overflow, small = core.adam_step(
            params,
            grads,
            m,
            s,
            known_small,
            self.steps + 1,
            self.lr,
            *self.betas,
            self.eps,
            self.weight_decay,
            *self._clip(),
        )
        self.steps += math.isfinite(norm) and overflow < 0
        return norm, clipped, overflow, small
