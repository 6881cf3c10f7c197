# SPDX-License-Identifier: Apache-2.0
"""Gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bptt._signature import checks_names
from bptt.optim.base import Optimizer

if TYPE_CHECKING:
    from bptt.optim.checks import Group


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
        clip_norm_per_parameter: limit of the norm of each parameter's gradient, default None.
        clip_norm_adaptive: limit of the global norm as a multiple, above 1, of its running mean, default None.
        nonfinite: what a gradient that is not finite does: "raise" (default), or "skip" and count in `skipped`.
        groups: other lr or decay by parameter, {pattern: {"lr_scale": factor, "weight_decay": number}}; of the patterns
            that match a name, the last one that has the option wins.
        decay_only_matrices: True: no decay of biases, gains of layer normalisation, peepholes and initial states.

    Attributes: steps, the number of updates so far; skipped.
    Call: `info = optimizer.step(params, grads)`.
    Raises: ValueError for values out of range, TypeError for other types than numbers; also at a later assignment.
    Source: Sutskever et al. 2013 (momentum, Nesterov); Pascanu et al. 2013 (clipping).

    >>> SGD(lr=0.1, momentum=0.9, clip_norm=1.0)
    SGD(lr=0.1, momentum=0.9, clip_norm=1.0)
    """

    momentum: float
    nesterov: bool

    _settable = ("steps", "skipped")
    _rule = "sgd"

    @checks_names
    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
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

    def _checked(self, name: str, value: Any) -> Any:
        value = super()._checked(name, value)
        if name in ("momentum", "nesterov"):
            momentum, nesterov = (
                value if name == each else getattr(self, each, False) for each in ("momentum", "nesterov")
            )
            if nesterov and not momentum:
                has = "momentum has value 0 with nesterov"
                raise ValueError(f"{type(self).__name__}: {has}, expected 0 < momentum < 1")
        return value

    def _moment_names(self) -> tuple[str, ...]:
        return ("v",) if self.momentum else ()

    def _numbers(self) -> dict[str, float]:
        return {"momentum": self.momentum, "nesterov": self.nesterov}
