# SPDX-License-Identifier: Apache-2.0
"""The checks of the optimizers' options, by name: of the constructor's arguments and of later assignments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from bptt._arrays import brief, check_bool, check_number, check_size, check_tuple

Group: TypeAlias = dict[str, float]

GROUP_OPTIONS = ("lr_scale", "weight_decay")


def check_groups(where: str, name: str, value: Any) -> dict[str, Group]:
    """Groups as {pattern: {"lr_scale": number, "weight_decay": number}}, copied; None for no groups."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        has = f"{name} has type {type(value).__name__}"
        raise TypeError(f"{where}: {has}, expected {{pattern: options}} such as {{'*bias*': {{'weight_decay': 0}}}}")
    groups: dict[str, Group] = {}
    for pattern, options in value.items():
        if not isinstance(pattern, str):
            raise TypeError(f"{where}: a pattern of {name} has type {type(pattern).__name__}, expected text")
        of = f"{name}[{brief(pattern)}]"
        if not isinstance(options, Mapping):
            raise TypeError(f"{where}: {of} has type {type(options).__name__}, expected {{'weight_decay': 0}} or alike")
        for option in options:
            if option not in GROUP_OPTIONS:
                raise ValueError(f"{where}: {of} has the option {brief(option)}, expected {' or '.join(GROUP_OPTIONS)}")
        groups[pattern] = {option: check_number(where, option, number) for option, number in options.items()}
    return groups


def _below_one(where: str, name: str, value: Any) -> float:
    return check_number(where, name, value, 0.0, 1.0)


def _betas(where: str, name: str, value: Any) -> tuple[float, ...]:
    pair = check_tuple(where, name, value, 2, "the pair (beta1, beta2)")
    return tuple(_below_one(where, f"beta{i}", beta) for i, beta in enumerate(pair, 1))


def _limit(where: str, name: str, value: Any) -> float | None:
    return None if value is None else check_number(where, name, value)


def _factor(where: str, name: str, value: Any) -> float | None:
    if value is None:
        return None
    factor = check_number(where, name, value)
    if factor <= 1:
        raise ValueError(f"{where}: {name} has value {factor}, expected more than 1 (times the running mean)")
    return factor


def _nonfinite(where: str, name: str, value: Any) -> str:
    if value not in ("raise", "skip"):
        raise ValueError(f"{where}: {name} has value {brief(value)}, expected 'raise' or 'skip'")
    return str(value)


def _count(where: str, name: str, value: Any) -> int:
    return check_size(where, name, value, least=0)


CHECKS: dict[str, Callable[[str, str, Any], Any]] = {
    **dict.fromkeys(
        ("lr", "weight_decay", "eps", "lr_decay", "initial_accumulator_value", "momentum_decay"), check_number
    ),
    **dict.fromkeys(("momentum", "alpha"), _below_one),
    **dict.fromkeys(("nesterov", "amsgrad", "centered", "decoupled_weight_decay", "decay_only_matrices"), check_bool),
    **dict.fromkeys(("clip_norm", "clip_value", "clip_norm_per_parameter"), _limit),
    **dict.fromkeys(("steps", "skipped"), _count),
    "betas": _betas,
    "clip_norm_adaptive": _factor,
    "groups": check_groups,
    "nonfinite": _nonfinite,
}
