# SPDX-License-Identifier: Apache-2.0
"""What `torch.compile` makes of our functions: it calls them between its graphs and compiles nothing in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy

Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """The function itself: where compiled code calls it, it runs as it is, with all that it calls."""
    set_code_exec_strategy(function.__code__, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP))
    return function


def ends_graph(function: Function) -> Function:
    """The same of a function that a graph must not take in, either.

    `torch.compiler.disable` says so with a wrapper around each call, and imports the compiler.
    """
    vars(function).update(
        _torchdynamo_disable=True, _torchdynamo_disable_msg="bptt runs its kernels outside of compiled graphs"
    )
    return uncompiled(function)
