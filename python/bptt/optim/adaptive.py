# SPDX-License-Identifier: Apache-2.0
"""Optimizers that scale each parameter's step by the size of its gradients, or take its sign alone.

Second moments are kept as their roots s, whose range is that of the gradient. The options that all optimizers share
(clipping, groups, nonfinite) are described in `bptt.optim.SGD` and docs/optimizers.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bptt._signature import checks_names
from bptt.optim.base import Optimizer

if TYPE_CHECKING:
    from bptt.optim.checks import Group


class Adam(Optimizer):
    """Adam. Its weight_decay is decoupled, as in AdamW: it does not pass through the moments.

        g = clip(grads)
        m = beta1 m + (1 - beta1) g,   s^2 = beta2 s^2 + (1 - beta2) g^2
        w = w - lr weight_decay w - lr (m / (1 - beta1^k)) / (s / sqrt(1 - beta2^k) + eps),   k = 1, 2, ...

    `torch.optim.Adam(weight_decay=...)` adds weight_decay w to g instead, which here no option does.

    Args:
        lr: learning rate, default 1e-3.
        betas: (beta1, beta2), each in [0,1), default (0.9, 0.999).
        eps: default 1e-8. With 0, a weight whose gradients have all been 0 stays as it is.
        weight_decay: default 0.
        clip_norm, clip_value: limits of the global norm and of each element, default None, no limit.
        amsgrad: whether the largest s so far divides instead of s, default False.
        clip_norm_per_parameter, clip_norm_adaptive, nonfinite, groups, decay_only_matrices: as in `SGD`.

    Attributes: steps, the number k of updates so far; skipped.
    Call: `info = optimizer.step(params, grads)`.
    Raises: ValueError for values out of range, TypeError for other types than numbers; also at a later assignment.
    Source: Kingma & Ba 2015; Loshchilov & Hutter 2019 (AdamW); Reddi et al. 2018 (AMSGrad).

    >>> Adam(lr=2e-3, clip_norm=1.0).betas
    (0.9, 0.999)
    """

    betas: tuple[float, float]
    eps: float
    amsgrad: bool

    _settable = ("steps", "skipped")
    _rule = "adam"

    @checks_names
    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        *,
        amsgrad: bool = False,
        clip_norm_per_parameter: float | None = None,
        clip_norm_adaptive: float | None = None,
        nonfinite: str = "raise",
        groups: Mapping[str, Group] | None = None,
        decay_only_matrices: bool = False,
    ) -> None:
        self._begin(locals())

    def _moment_names(self) -> tuple[str, ...]:
        return ("m", "s", "s_max") if self.amsgrad else ("m", "s")

    def _numbers(self) -> dict[str, float]:
        beta1, beta2 = self.betas
        return {"beta1": beta1, "beta2": beta2, "eps": self.eps, "step": self.steps + 1}


class AdamW(Adam):
    """Adam under PyTorch's name for decoupled weight decay: the equations of `Adam`, weight_decay 0.01 by default.

    Args: as for `Adam`; weight_decay, default 0.01.
    Source: Loshchilov & Hutter 2019.

    >>> AdamW(lr=1e-3, decay_only_matrices=True)
    AdamW(lr=0.001, decay_only_matrices=True)
    """

    _settable = ("steps", "skipped")

    @checks_names
    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        *,
        amsgrad: bool = False,
        clip_norm_per_parameter: float | None = None,
        clip_norm_adaptive: float | None = None,
        nonfinite: str = "raise",
        groups: Mapping[str, Group] | None = None,
        decay_only_matrices: bool = False,
    ) -> None:
        self._begin(locals())


class NAdam(Optimizer):
    """Adam with Nesterov momentum, as in PyTorch.

        g = clip(grads) + weight_decay w      (decoupled_weight_decay: g = clip(grads), and w = w - lr weight_decay w)
        m = beta1 m + (1 - beta1) g,   s^2 = beta2 s^2 + (1 - beta2) g^2
        mu_k = beta1 (1 - 0.96^(k momentum_decay) / 2),   p_k = mu_1 ... mu_k
        w = w - lr (g (1 - mu_k) / (1 - p_k) + m mu_(k+1) / (1 - p_(k+1))) / (s / sqrt(1 - beta2^k) + eps)

    Args:
        lr: learning rate, default 2e-3.
        betas: (beta1, beta2), each in [0,1), default (0.9, 0.999).
        eps: default 1e-8. weight_decay: default 0. momentum_decay: default 4e-3.
        clip_norm, clip_value: limits of the global norm and of each element, default None, no limit.
        decoupled_weight_decay: default False.
        clip_norm_per_parameter, clip_norm_adaptive, nonfinite, groups, decay_only_matrices: as in `SGD`.

    Source: Dozat 2016.

    >>> NAdam(lr=1e-3).momentum_decay
    0.004
    """

    betas: tuple[float, float]
    eps: float
    momentum_decay: float
    decoupled_weight_decay: bool

    _settable = ("steps", "skipped")
    _rule = "nadam"
    _scalars = (*Optimizer._scalars, "_mu_product")

    @checks_names
    def __init__(
        self,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        *,
        decoupled_weight_decay: bool = False,
        clip_norm_per_parameter: float | None = None,
        clip_norm_adaptive: float | None = None,
        nonfinite: str = "raise",
        groups: Mapping[str, Group] | None = None,
        decay_only_matrices: bool = False,
    ) -> None:
        self._begin(locals())
        self._mu_product = 1.0

    def _moment_names(self) -> tuple[str, ...]:
        return ("m", "s")

    def _mu(self, step: int) -> float:
        return self.betas[0] * (1 - 0.5 * math.pow(0.96, step * self.momentum_decay))

    def _numbers(self) -> dict[str, float]:
        step, mu = self.steps + 1, self._mu(self.steps + 1)
        return {
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "eps": self.eps,
            "step": step,
            "mu": mu,
            "mu_next": self._mu(step + 1),
            "product": self._mu_product * mu,
            "decoupled": self.decoupled_weight_decay,
        }

    def _taken(self, limited_norm: float) -> None:
        self._mu_product *= self._mu(self.steps + 1)
        super()._taken(limited_norm)


class RMSprop(Optimizer):
    """The gradient divided by the root of its running mean square, as in PyTorch.

        g = clip(grads) + weight_decay w
        s^2 = alpha s^2 + (1 - alpha) g^2
        v = momentum v + g / (s + eps)
        w = w - lr v

    With `centered`, the square of the gradient's running mean is subtracted from s^2. It is computed as the running
    variance, which rounding cannot make negative:

        m = alpha m + (1 - alpha) g,   s^2 = alpha (s^2 + (1 - alpha) (g - m)^2), with m before this step

    Args:
        lr: learning rate, default 1e-2.
        alpha: in [0,1), default 0.99.
        eps: default 1e-8. With 0, a weight whose gradients have all been 0 stays as it is.
        weight_decay: default 0.
        momentum: in [0,1), default 0.
        centered: default False.
        clip_norm, clip_value: limits of the global norm and of each element, default None, no limit.
        clip_norm_per_parameter, clip_norm_adaptive, nonfinite, groups, decay_only_matrices: as in `SGD`.

    Source: Tieleman & Hinton 2012; Graves 2013 (centered, momentum); Finch 2009 (running variance).

    >>> RMSprop(lr=1e-3, momentum=0.9)
    RMSprop(lr=0.001, momentum=0.9)
    """

    alpha: float
    eps: float
    momentum: float
    centered: bool

    _settable = ("steps", "skipped")

    @checks_names
    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        *,
        clip_norm_per_parameter: float | None = None,
        clip_norm_adaptive: float | None = None,
        nonfinite: str = "raise",
        groups: Mapping[str, Group] | None = None,
        decay_only_matrices: bool = False,
    ) -> None:
        self._begin(locals())

    @property
    def _rule(self) -> str:  # type: ignore[override]
        return "centered_rmsprop" if self.centered else "rmsprop"

    def _moment_names(self) -> tuple[str, ...]:
        second = ("s_centered", "m") if self.centered else ("s",)
        return (*second, "v") if self.momentum else second

    def _numbers(self) -> dict[str, float]:
        return {"alpha": self.alpha, "eps": self.eps, "momentum": self.momentum}


class Adagrad(Optimizer):
    """The gradient divided by the root of the sum of all its squares, as in PyTorch.

        g = clip(grads) + weight_decay w
        s^2 = s^2 + g^2,   s^2 = initial_accumulator_value at first
        w = w - lr / (1 + (k - 1) lr_decay) g / (s + eps),   k = 1, 2, ...

    Args:
        lr: learning rate, default 1e-2.
        lr_decay: default 0.
        weight_decay: default 0.
        initial_accumulator_value: default 0.
        eps: default 1e-10. With 0, a weight whose gradients have all been 0 stays as it is.
        clip_norm, clip_value: limits of the global norm and of each element, default None, no limit.
        clip_norm_per_parameter, clip_norm_adaptive, nonfinite, groups, decay_only_matrices: as in `SGD`.

    Source: Duchi et al. 2011.

    >>> Adagrad(lr=0.1).eps
    1e-10
    """

    lr_decay: float
    initial_accumulator_value: float
    eps: float

    _settable = ("steps", "skipped")
    _rule = "adagrad"

    @checks_names
    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        *,
        clip_norm_per_parameter: float | None = None,
        clip_norm_adaptive: float | None = None,
        nonfinite: str = "raise",
        groups: Mapping[str, Group] | None = None,
        decay_only_matrices: bool = False,
    ) -> None:
        self._begin(locals())

    def _moment_names(self) -> tuple[str, ...]:
        return ("s",)

    def _start(self) -> float:
        return math.sqrt(self.initial_accumulator_value)

    def _numbers(self) -> dict[str, float]:
        return {"lr_decay": self.lr_decay, "eps": self.eps, "step": self.steps + 1}


class Lion(Optimizer):
    """The sign of a running mean: each weight moves by lr at each step. It has one moment, half the memory of Adam.

        g = clip(grads)
        w = w - lr weight_decay w - lr sign(beta1 m + (1 - beta1) g),   sign(0) = 0
        m = beta2 m + (1 - beta2) g

    A usual lr is 3 to 10 times smaller than that of Adam, weight_decay as much larger.

    Args:
        lr: learning rate, default 1e-4.
        betas: (beta1, beta2), each in [0,1), default (0.9, 0.99).
        weight_decay: decoupled, default 0.
        clip_norm, clip_value: limits of the global norm and of each element, default None, no limit.
        clip_norm_per_parameter, clip_norm_adaptive, nonfinite, groups, decay_only_matrices: as in `SGD`.

    Source: Chen et al. 2023.

    >>> Lion(lr=3e-4, weight_decay=0.1)
    Lion(lr=0.0003, weight_decay=0.1)
    """

    betas: tuple[float, float]

    _settable = ("steps", "skipped")
    _rule = "lion"

    @checks_names
    def __init__(
        self,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        *,
        clip_norm_per_parameter: float | None = None,
        clip_norm_adaptive: float | None = None,
        nonfinite: str = "raise",
        groups: Mapping[str, Group] | None = None,
        decay_only_matrices: bool = False,
    ) -> None:
        self._begin(locals())

    def _moment_names(self) -> tuple[str, ...]:
        return ("m",)

    def _numbers(self) -> dict[str, float]:
        return {"beta1": self.betas[0], "beta2": self.betas[1]}
