# SPDX-License-Identifier: Apache-2.0
"""What the optimizers share: the step, clipping, groups of parameters, and the state of a run.

An optimizer keeps its moments for one set of parameters. Hyperparameters are attributes, so that a schedule is an
assignment: `optimizer.lr = 1e-4`. An assignment is checked like an argument of the constructor.

A step is right over the whole range of the parameters' dtype, or refused: one that would make a parameter or a moment
infinite or NaN raises FloatingPointError and changes nothing. Numbers below the smallest normal one of the dtype
(1.2e-38 in float32, 2.2e-308 in float64) count as zero.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from bptt._arrays import brief, check_number, first_of
from bptt._dispatch import core
from bptt.optim.checks import CHECKS
from bptt.optim.state import check_names, moments_from, reordered
from bptt.params import Layout, Params, check_like

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt.optim.checks import Group

# The factor of the running mean of the norms, as in the source of clip_norm_adaptive.
MEAN_FACTOR = 0.98

# The last part of the names of arrays that are not matrices: `decay_only_matrices` leaves them alone.
NOT_MATRICES = ("bias*", "weight_norm*", "weight_peephole*", "initial_*")


class StepInfo(NamedTuple):
    """The norm of the whole gradient before clipping, whether anything was clipped, and the norm after all clipping.

    An optimizer of a user may leave out the last; it is NaN then.
    """

    grad_norm: float
    clipped: bool
    clipped_norm: float = math.nan


class _Plan(NamedTuple):
    """What steps have in common until an option is assigned, for parameters of this layout and dtype."""

    layout: Layout
    dtype: np.dtype[Any]
    parts: list[tuple[int, float, float]]  # end, lr_scale, weight_decay
    lr: float
    spans: list[tuple[int, float, float]]  # end, lr of the part, weight_decay
    limits: tuple[float, float, float]  # of the norm, of each parameter's norm, of each element; infinity is none
    moments: dict[str, Params]
    buffers: list[Array]  # of the moments


class Optimizer:
    """The common part of all optimizers, which differ by their rule.

    First each parameter's gradient g is scaled to the norm clip_norm_per_parameter if its norm is larger; then the
    whole gradient to the norm clip_norm, or to clip_norm_adaptive times the running mean of its norm; then each element
    is clamped to [-clip_value, clip_value].

    Attributes: all options of the constructor; steps, the number of updates so far; skipped, the number of steps left
        out for a gradient that is not finite.
    """

    lr: float
    weight_decay: float
    clip_norm: float | None
    clip_value: float | None
    clip_norm_per_parameter: float | None
    clip_norm_adaptive: float | None
    nonfinite: str
    decay_only_matrices: bool
    steps: int
    skipped: int

    # Attributes that users may set besides the options. A subclass that does not declare them accepts any.
    _settable: ClassVar[tuple[str, ...]]
    _rule: ClassVar[str]  # the native rule's name
    # What a continued run needs besides options, steps and moments.
    _scalars: ClassVar[tuple[str, ...]] = ("skipped", "_norm_mean", "_norm_weight")

    def _begin(self, given: Mapping[str, Any]) -> None:
        """Take the options of a constructor, from its local variables, and start without moments."""
        self.steps = self.skipped = 0
        self._norm_mean = self._norm_weight = 0.0
        self._moments: dict[str, Params] = {}
        self._seen: tuple[Layout, np.dtype[Any]] | None = None  # of the last step's parameters
        self._plan: _Plan | None = None
        # The parameters, and their version, that a step left small, so that the next step need not check.
        self._small: tuple[Params, int] | None = None
        for name in self._option_names():
            setattr(self, name, given[name])

    @classmethod
    def _option_names(cls) -> list[str]:
        """The options of the constructor; a subclass of a user has those of the class it is made from."""
        return next(init.names for each in cls.__mro__ if hasattr(init := each.__init__, "names"))  # type: ignore[misc]

    if not TYPE_CHECKING:  # if type checkers saw a __setattr__, they would accept every name

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_"):
                value = self._checked(name, value)
                if name != "lr":
                    self.__dict__["_plan"] = None  # what it is made of may change
            object.__setattr__(self, name, value)

    def _checked(self, name: str, value: Any) -> Any:
        """The value for an attribute: hyperparameters are checked, unknown names are refused."""
        where = type(self).__name__
        if name in self._option_names() or name in ("steps", "skipped"):
            return CHECKS[name](where, name, value)
        if hasattr(type(self), name) or "_settable" not in vars(type(self)):
            return value
        known = first_of([*self._option_names(), *self._settable], 110)
        raise AttributeError(f"{where}: there is no {brief(name)}, expected one of {known}")

    @property
    def groups(self) -> dict[str, Group]:
        """A copy of the groups, {pattern: options}; to change them, assign all."""
        return {pattern: {**options} for pattern, options in self._groups.items()}

    @groups.setter
    def groups(self, groups: dict[str, Group]) -> None:
        self._groups = groups

    def step(self, params: Params, grads: Params) -> StepInfo:
        """Change `params` by one update.

        Args: params of a layer or a `Sequential`, the same for all steps; grads, as `backward` returned them.
        Returns: StepInfo(grad_norm, clipped, clipped_norm).
        Raises: FloatingPointError for a gradient that is not finite, or whose norm is beyond float64, unless
            nonfinite="skip"; and for a step after which a parameter or a moment would not be finite; nothing changes
            then. ValueError for gradients or parameters of other names or shapes and for a pattern of `groups` that
            matches no parameter; TypeError for another dtype or another type than `Params`.

        >>> from bptt import Linear
        >>> from bptt.optim import SGD
        >>> linear = Linear(2, 1, init={"weight": "zeros"})
        >>> grads = linear.params.zeros_like()
        >>> grads["weight"][:] = [[3, 4]]
        >>> SGD(lr=0.5).step(linear.params, grads)
        StepInfo(grad_norm=5.0, clipped=False, clipped_norm=5.0)
        >>> linear.params["weight"].tolist()
        [[-1.5, -2.0]]
        """
        where = f"{type(self).__name__}.step"
        check_like(where, "params", params, params, "such as model.params")
        if params.writable:
            raise ValueError(f"{where}: params is writable, as gradients are, expected model.params; are they swapped?")
        check_like(where, "grads", grads, params, "as backward returned them")
        plan = self._plan
        if plan is None or plan.layout is not params._layout or plan.dtype is not params._dtype:
            plan = self._planned(where, params)
        if plan.lr != self.lr:
            plan = plan._replace(lr=self.lr, spans=[(end, self.lr * scale, decay) for end, scale, decay in plan.parts])
        numbers, limits = self._numbers(), plan.limits
        if self.clip_norm_adaptive is not None and self._norm_weight > 0:
            mean = self._norm_mean / self._norm_weight
            limits = (min(limits[0], self.clip_norm_adaptive * mean), *limits[1:])
        known_small = self._small == (params, params.version)
        norm, limited_norm, clipped_norm, clipped, overflow, small = params.update(
            lambda flat: core.optimizer_step(
                self._rule, numbers, flat, grads.flat, plan.buffers, plan.spans, limits, known_small
            )
        )
        if not math.isfinite(norm):
            return self._refused(where, norm, grads)
        if overflow >= 0:
            guilty = next(name for name in params if overflow < params.span(name, name)[1])
            raise FloatingPointError(
                f"{where}: {guilty} or its moments would be inf or NaN in {params.dtype}, expected finite values; "
                "nothing changed"
            )
        own = self.__dict__  # what is not the user's needs no check
        if own["_plan"] is not plan:
            own.update(_plan=plan, _moments=plan.moments, _seen=(plan.layout, plan.dtype))
        own["_small"] = (params, params.version) if small else None
        self._taken(limited_norm)
        return StepInfo(norm, clipped, clipped_norm)

    def _refused(self, where: str, norm: float, grads: Params) -> StepInfo:
        """Skip the step of a gradient that is not finite, or raise."""
        if self.nonfinite == "skip":
            self.skipped += 1
            return StepInfo(norm, False, norm)
        guilty = next((name for name, g in grads.items() if not np.isfinite(g).all()), None)
        has = "a norm beyond float64" if guilty is None else f"norm {norm} (first in {guilty})"
        raise FloatingPointError(f"{where}: gradient has {has}, expected a finite one; nothing changed")

    def _taken(self, limited_norm: float) -> None:
        """Count a step that was taken, with this norm after the norms are clipped and before the elements are."""
        self.__dict__["steps"] += 1
        if self.clip_norm_adaptive is not None and limited_norm > 0:  # a gradient of zeros says nothing
            self._norm_mean = MEAN_FACTOR * self._norm_mean + (1 - MEAN_FACTOR) * limited_norm
            self._norm_weight = MEAN_FACTOR * self._norm_weight + (1 - MEAN_FACTOR)

    def _numbers(self) -> dict[str, float]:
        """The numbers of the native rule, by the names it has for them."""
        raise NotImplementedError

    def _moment_names(self) -> tuple[str, ...]:
        """The moments that a step needs now, in the native rule's order."""
        raise NotImplementedError

    def _start(self) -> float:
        """The value of each element of a moment before the first step."""
        return 0.0

    def _moments_of(self, where: str, params: Params) -> dict[str, Params]:
        """The moments for these parameters; one that an option asks for from now on starts from the beginning."""
        moments = {}
        for name in self._moment_names():
            moment = self._moments.get(name)
            if moment is None:
                moment = params.zeros_like()
                moment.flat.fill(self._start())
            elif not moment.like(params) and moment.dtype == params.dtype and moment.shapes == params.shapes:
                moment = reordered(moment, params)  # the file that it was loaded from has another order
            else:
                check_like(where, "params", params, moment, "those of the first step")
            moments[name] = moment
        return moments

    def _planned(self, where: str, params: Params) -> _Plan:
        """The plan of the steps for these parameters."""
        if self._groups or self.decay_only_matrices or self.clip_norm_per_parameter is not None:
            parts = self._parts_by_name(where, params)
        else:
            parts = [(params.size, 1.0, self.weight_decay)]
        given = self.clip_norm, self.clip_norm_per_parameter, self.clip_value
        norm, each, value = (math.inf if limit is None else limit for limit in given)
        moments = self._moments_of(where, params)
        buffers = [moment.flat for moment in moments.values()]
        return _Plan(params._layout, params._dtype, parts, math.nan, [], (norm, each, value), moments, buffers)

    def _parts_by_name(self, where: str, params: Params) -> list[tuple[int, float, float]]:
        for pattern in self._groups:
            if not any(fnmatchcase(name, pattern) for name in params):
                there = first_of([*params], 80) if len(params) else "none"
                raise ValueError(f"{where}: groups has {brief(pattern)}, which matches no parameter; there are {there}")
        parts: list[tuple[int, float, float]] = []
        for name in params:
            last = name.rpartition(".")[2]
            matrix = not any(fnmatchcase(last, pattern) for pattern in NOT_MATRICES)
            options = {"lr_scale": 1.0, "weight_decay": self.weight_decay}
            if self.decay_only_matrices and not matrix:
                options["weight_decay"] = 0.0
            for pattern, of_group in self._groups.items():
                if fnmatchcase(name, pattern):
                    options.update(of_group)
            part = (params.span(name, name)[1], options["lr_scale"], options["weight_decay"])
            if parts and parts[-1][1:] == part[1:] and self.clip_norm_per_parameter is None:
                parts.pop()
            parts.append(part)
        return parts or [(0, 1.0, self.weight_decay)]

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on with the same bits: options, counts and moments, all copied.

        Returns: {"type": the class's name, "options": {name: value}, "steps": int, "scalars": {name: number},
            "moments": {moment: {parameter: array}}}. All but the arrays can be written as JSON. There are no moments
            before the first step.

        >>> from bptt import Linear
        >>> from bptt.optim import SGD
        >>> linear, sgd = Linear(2, 1), SGD(lr=0.5, momentum=0.9)
        >>> info = sgd.step(linear.params, linear.params.zeros_like())
        >>> state = sgd.state_dict()
        >>> state["type"], state["steps"], state["options"]["momentum"], state["moments"]["v"]["bias"]
        ('SGD', 1, 0.9, array([0.], dtype=float32))
        """
        moments = self._moments
        if self._seen is not None:  # also those that an option asks for since the last step
            seen = Params(self._seen[0].shapes, self._seen[1], writable=True)
            moments = self._moments_of(f"{type(self).__name__}.state_dict", seen)
        options = {name: getattr(self, name) for name in self._option_names()}
        return {
            "type": type(self).__name__,
            "options": {name: [*value] if isinstance(value, tuple) else value for name, value in options.items()},
            "steps": self.steps,
            "scalars": {name.lstrip("_"): getattr(self, name) for name in self._scalars},
            "moments": {name: {key: a.copy() for key, a in moment.items()} for name, moment in moments.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, or change nothing if anything does not fit.

        Args: state, as `state_dict` returns it; the order of names does not matter, and lists may be tuples.
        Raises: ValueError for the state of another class, for missing or unknown options, moments or parameters, for
            other shapes than those of the steps so far, and for values out of range; TypeError for other types and
            dtypes.

        >>> from bptt.optim import Adam
        >>> adam = Adam(lr=0.5)
        >>> adam.load_state_dict(Adam(lr=0.25, amsgrad=True).state_dict())
        >>> adam
        Adam(lr=0.25, amsgrad=True)
        """
        where = f"{type(self).__name__}.load_state_dict"
        check_names(where, "state", state, ("type", "options", "steps", "scalars", "moments"))
        if state["type"] != type(self).__name__:
            raise ValueError(f"{where}: state has type {brief(state['type'])}, expected {type(self).__name__!r}")
        names, scalars = self._option_names(), {name.lstrip("_"): name for name in self._scalars}
        check_names(where, "options", state["options"], names)
        check_names(where, "scalars", state["scalars"], scalars)
        twin = copy.copy(self)
        for name in names:
            vars(twin).pop(name, None)  # else an option would be checked beside the others of before
        for name in names:
            setattr(twin, name, state["options"][name])
        twin.steps = state["steps"]
        for name, attribute in scalars.items():
            value = state["scalars"][name]
            setattr(twin, attribute, value if name == "skipped" else check_number(where, name, value))
        moments = state["moments"]
        check_names(where, "moments", moments, twin._moment_names() if twin.steps or moments else ())
        twin._moments = moments_from(where, moments, [*self._moments.values()])
        twin._seen = next(((moment._layout, moment.dtype) for moment in twin._moments.values()), None)
        vars(self).update(vars(twin))

    def __repr__(self) -> str:
        init = next(each.__init__ for each in type(self).__mro__ if hasattr(each.__init__, "names"))  # type: ignore[misc]
        defaults = {name: each.default for name, each in inspect.signature(init).parameters.items()}
        values = {name: getattr(self, name) for name in self._option_names()}
        values["groups"] = values["groups"] or None
        shown = [f"{name}={value!r}" for name, value in values.items() if name == "lr" or value != defaults[name]]
        counts = [f"{name}={getattr(self, name)}" for name in ("steps", "skipped") if getattr(self, name)]
        return f"{type(self).__name__}({', '.join(shown + counts)})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_small": None, "_plan": None}  # versions and layouts are those of one process
