# SPDX-License-Identifier: Apache-2.0
"""PyTorch's recurrent layers on our kernels: on and off, for the process or for one model."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import _VF
from torch.jit import _builtins

from bptt.torch.coverage import covered
from bptt.torch.memory import DTYPES
from bptt.torch.operations import OVER_TIME, cell, over_time

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Accelerated", "accelerate", "disable", "enable", "enabled", "is_enabled"]

_originals = {name: getattr(_VF, name) for each in OVER_TIME for name in (each, f"{each}_cell")}
_stand_ins = {
    name: cell(name, original) if name.endswith("_cell") else over_time(name, original)
    for name, original in _originals.items()
}


def enable() -> None:
    """Let all recurrent layers and cells of PyTorch in this process run on the kernels, where these can take a call.

    It replaces operations, not layers: models, their weights, copies, pickles and state dicts stay as they are. A call
    that the kernels cannot take runs on PyTorch's own operation; `explain` counts both.

    >>> import torch, bptt.torch
    >>> bptt.torch.enable()
    >>> y, (h, c) = torch.nn.LSTM(3, 4)(torch.ones(5, 2, 3))
    >>> bptt.torch.disable()
    """
    covered.everything = True
    _install()


def disable() -> None:
    """Let all calls run on PyTorch's own operations again, those of accelerated models too."""
    covered.everything = False
    covered.clear()
    _install()


def is_enabled() -> bool:
    """Return whether `enable` is in force.

    >>> import bptt.torch
    >>> bptt.torch.is_enabled()
    False
    """
    return covered.everything


@contextmanager
def enabled() -> Iterator[None]:
    """Enable within a `with` block, in all threads; afterwards as before.

    >>> import torch, bptt.torch
    >>> with bptt.torch.enabled():
    ...     y, h = torch.nn.GRU(3, 4)(torch.ones(5, 2, 3))
    """
    before = covered.everything
    enable()
    try:
        yield
    finally:
        covered.everything = before
        _install()


class Accelerated(NamedTuple):
    """The layers of a model that run on the kernels, by name, and those left to PyTorch, with the reason."""

    taken: list[str]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{name or 'the model'}: on bptt" for name in self.taken]
        lines += [f"{name or 'the model'}: left to PyTorch ({why})" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent layers"


def accelerate(model: Any) -> Accelerated:
    """Let the recurrent layers and cells of this model alone run on the kernels.

    Nothing is stored in the model; a copy of it is another model. `disable` ends it.
    Args: model, a torch.nn.Module.
    Returns: the layers that were taken and those that were not, with the reason.
    Raises: TypeError for what is no module.

    >>> import torch, bptt.torch
    >>> model = torch.nn.ModuleDict({"a": torch.nn.GRU(3, 4), "b": torch.nn.GRU(3, 4).half()})
    >>> print(bptt.torch.accelerate(model))
    a: on bptt
    b: left to PyTorch (dtype float16)
    >>> bptt.torch.disable()
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"accelerate: model has type {type(model).__name__}, expected a torch.nn.Module")
    found = Accelerated([], {})
    modules = []
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.RNNBase, torch.nn.RNNCellBase)):
            why = _why_not(module)
            if why:
                found.left[name] = why
            else:
                found.taken.append(name)
                modules.append(module)
        elif "quantized" in type(module).__module__ and "RNN" in "".join(
            each.__name__ for each in type(module).__mro__
        ):
            found.left[name] = "quantized"
    covered.add(modules)
    _install()
    return found


def _why_not(module: Any) -> str:
    """Why calls of a layer will be left to PyTorch, as far as its weights say."""
    weights = list(module.parameters())
    if getattr(module, "mode", None) not in (None, "LSTM", "GRU", "RNN_TANH", "RNN_RELU"):
        return f"mode {module.mode}"
    if isinstance(module, torch.nn.RNNCellBase) and "weight_ih" not in module._parameters:
        return "weights that are computed at each call; enable() takes them"
    for each in weights:
        if each.device.type != "cpu":
            return f"device {each.device.type}"
        if each.dtype not in DTYPES:
            return f"dtype {str(each.dtype).removeprefix('torch.')}"
    return ""


def _install() -> None:
    """Put the stand-ins in place where any call is covered, else PyTorch's own operations."""
    for name, stand_in in _stand_ins.items():
        if covered.is_empty:
            vars(_VF).pop(name, None)
        elif vars(_VF).get(name) is not stand_in:
            _builtins._register_builtin(stand_in, f"aten::{name}")  # torch.jit.script compiles PyTorch's operation
            setattr(_VF, name, stand_in)
