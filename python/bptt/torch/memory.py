# SPDX-License-Identifier: Apache-2.0
"""Tensors as arrays and arrays as tensors, on the same memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bptt._arrays import Array

DTYPES: dict[Any, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_INFO = {torch.float32: "<f4", torch.float64: "<f8", torch.int64: "<i8", torch.bool: "|b1"}
_TYPES = {torch.Tensor, torch.nn.Parameter}
_keys = torch._C._dispatch_keys  # what PyTorch dispatches on: device, layout, views that negate, subclasses, transforms

with torch.inference_mode():
    _PLAIN = {_keys(torch.empty(0, device="cpu")).raw_repr()}
_PLAIN.add(_keys(torch.empty(0, device="cpu")).raw_repr())


def are_plain(tensors: Iterable[Any], dtype: Any) -> bool:
    """Whether tensors are PyTorch's own, dense, of this dtype and in memory of the CPU, with nothing attached."""
    for tensor in tensors:
        if type(tensor) not in _TYPES or tensor.dtype is not dtype or _keys(tensor).raw_repr() not in _PLAIN:
            return False
    return True


def is_plain(tensor: Any, dtype: Any) -> bool:
    """The same of one tensor."""
    return are_plain((tensor,), dtype)


class _Memory:
    """The memory of a contiguous tensor, for NumPy: `tensor.numpy()` would forbid to resize its storage later."""

    __slots__ = ("__array_interface__", "tensor")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor  # keeps the memory
        self.__array_interface__ = {
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "typestr": _INFO[tensor.dtype],
            "version": 3,
        }


def _is_in_order(tensor: Any) -> bool:
    """Whether the elements lie one after the other, at addresses that are multiples of their size."""
    return bool(tensor.is_contiguous()) and tensor.data_ptr() % tensor.element_size() == 0


def in_order(tensor: Any) -> Any:
    """The tensor, or a copy whose elements lie one after the other, and are what memory says: no view that negates."""
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor if _is_in_order(tensor) else tensor.clone(memory_format=torch.contiguous_format)


def array_of(tensor: Any) -> Array:
    """A C-contiguous array with the memory of a plain tensor, or of a copy where its elements lie otherwise."""
    return np.asarray(_Memory(in_order(tensor)))


_views: dict[tuple[int, Any, Any], Array] = {}
MOST_VIEWS = 4096


def passing_view(tensor: Any) -> Array:
    """As array_of, of a tensor that the caller keeps: the array must not outlive the call.

    An array is nothing but an address and a shape here, so that the one of an earlier call serves again where both
    are the same, whatever lies there now (0.5 us instead of 2).
    """
    if not _is_in_order(tensor):
        return array_of(tensor)
    key = tensor.data_ptr(), tensor.shape, tensor.dtype
    found = _views.get(key)
    if found is None:
        if len(_views) >= MOST_VIEWS:
            _views.clear()
        memory = _Memory(tensor)
        found = np.asarray(memory)
        memory.tensor = None
        _views[key] = found
    return found


def gradient_view(gradient: Any) -> Array:
    """The same of a gradient, whatever form autograd gives it on the CPU (views that negate, zeros without memory)."""
    if is_plain(gradient, gradient.dtype):
        return passing_view(gradient)
    return array_of(torch.zeros(gradient.shape, dtype=gradient.dtype).copy_(gradient))


def tensor_of(array: Array) -> Any:
    """A tensor with the memory of a new array, which nobody else writes to."""
    if not array.flags.writeable:  # a tape reads it; Recurrence notices where its owner changes it
        array.flags.writeable = True
    return torch.from_numpy(array)
