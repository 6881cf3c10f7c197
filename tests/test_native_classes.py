# SPDX-License-Identifier: Apache-2.0
"""Native classes and functions refuse foreign objects: empty ones, and those of another level's module."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from bptt import _cpu

T, B, I, H = 3, 2, 4, 5  # noqa: E741
X, DY = np.ones((T, B, I), np.float32), np.ones((T, B, H), np.float32)
CORE = sys.modules["bptt._core"]


class Objects:
    """One object of each native class of a module."""

    def __init__(self, core: Any) -> None:
        self.SequenceOrder = core.SequenceOrder(np.array([3, 2]), T, False)
        self.CallOptions = core.CallOptions()
        self.Stack = core.Stack("gru", "float32", I, H, True)
        self.params = np.ones(3 * H * (I + H + 1) + H, np.float32)
        self.Stack.pack(self.params, True)
        self.Stream = core.Stream(self.Stack, B)
        self.LinearStream = core.LinearStream(np.ones((H, I), np.float32), None, B)
        self.EmbeddingStream = core.EmbeddingStream(np.ones((I, H), np.float32), B)
        self.Tape = self.Stack.forward(X, None, True)[2]


# Every method and property of each class: a call of it on `o`, an object of the class, with others from `a`.
METHODS = {
    "SequenceOrder": {
        "batch": lambda o, a: CORE.SequenceOrder.batch.__get__(o),
        "total": lambda o, a: CORE.SequenceOrder.total.__get__(o),
    },
    "CallOptions": {},
    "Tape": {
        "nbytes": lambda o, a: CORE.Tape.nbytes.__get__(o),
        "kept": lambda o, a: CORE.Tape.kept(o, [0], 0),
    },
    "Stream": {
        "__call__": lambda o, a: CORE.Stream.__call__(o, X[0]),
        "state": lambda o, a: (CORE.Stream.state.__get__(o), CORE.Stream.state.__set__(o, None)),
        "reset": lambda o, a: CORE.Stream.reset(o),
    },
    "Stack": {
        "plan": lambda o, a: CORE.Stack.plan(o, T, B),
        "products": lambda o, a: CORE.Stack.products.__get__(o),
        "runs_in_parallel": lambda o, a: CORE.Stack.runs_in_parallel(o, T, B, None, True),
        "memory": lambda o, a: CORE.Stack.memory(o, T, B, [a.CallOptions], True),
        "pack": lambda o, a: CORE.Stack.pack(o, a.params, True),
        "forward": lambda o, a: CORE.Stack.forward(o, X, None, True),
        "forward_if_exact": lambda o, a: CORE.Stack.forward_if_exact(o, X, None, True),
        "forward_short": lambda o, a: CORE.Stack.forward_short(o, X[:1], None, True, a.params),
        "is_guest": lambda o, a: (CORE.Stack.is_guest.__get__(o), CORE.Stack.is_guest.__set__(o, False)),
        "forward_tensors": lambda o, a: CORE.Stack.forward_tensors(o, (), False, True),
        "backward_tensors": lambda o, a: CORE.Stack.backward_tensors(o, a.Tape, (), (), (True,) * 6, False, False),
        "backward": lambda o, a: CORE.Stack.backward(o, a.Tape, DY, None, np.empty_like(a.params)),
        "backward_if_exact": lambda o, a: CORE.Stack.backward_if_exact(o, a.Tape, DY, None, np.empty_like(a.params)),
    },
    "LinearStream": {"__call__": lambda o, a: CORE.LinearStream.__call__(o, X[0])},
    "EmbeddingStream": {"__call__": lambda o, a: CORE.EmbeddingStream.__call__(o, np.zeros(B, int))},
}


def from_loss(stack: Any, tape: Any, params: Any) -> Any:
    """A call of backward_from_loss with a head of one output."""
    weight, grads = np.ones((1, H), np.float32), (np.empty_like(params), np.empty((1, H), np.float32), None)
    return CORE.backward_from_loss((stack, tape, params), DY, (weight, None), "mse", DY[..., :1].copy(), grads)


# Arguments that are native objects: a call with `o` in that place.
ARGUMENTS = {
    "CallOptions(order)": ("SequenceOrder", lambda o, a: CORE.CallOptions(order=o)),
    "memory(options)": ("CallOptions", lambda o, a: a.Stack.memory(T, B, [o], True)),
    "runs_in_parallel(options)": ("CallOptions", lambda o, a: a.Stack.runs_in_parallel(T, B, [o], True)),
    "Stream(stack)": ("Stack", lambda o, a: CORE.Stream(o, B, a.CallOptions)),
    "Stream(options)": ("CallOptions", lambda o, a: CORE.Stream(a.Stack, B, o)),
    "_take_weights(stack)": ("Stack", lambda o, a: a.Stream._take_weights(o, None)),
    "forward(options)": ("CallOptions", lambda o, a: a.Stack.forward(X, None, False, [o])),
    "backward(tape)": ("Tape", lambda o, a: a.Stack.backward(o, DY, None, np.empty_like(a.params))),
    "backward_tensors(tape)": ("Tape", lambda o, a: a.Stack.backward_tensors(o, (), (), (True,) * 6, False, False)),
    "backward_from_loss(stack)": ("Stack", lambda o, a: from_loss(o, a.Tape, a.params)),
    "backward_from_loss(tape)": ("Tape", lambda o, a: from_loss(a.Stack, o, a.params)),
    "backward_if_exact(tape)": ("Tape", lambda o, a: a.Stack.backward_if_exact(o, DY, None, np.empty_like(a.params))),
}
CALLS = ARGUMENTS | {
    f"{name}.{method}": (name, call) for name, methods in METHODS.items() for method, call in methods.items()
}


def classes(core: Any) -> dict[str, type]:
    """The native ones: a named tuple is Python's."""
    return {name: value for name, value in vars(core).items() if isinstance(value, type) and value is not core.CellInfo}


def members(cls: type) -> set[str]:
    """The members of a class that Python code can use."""
    own = {name for name in vars(cls) if name == "__call__" or not name.startswith("_")}
    own -= {"stale", "refresh"}  # which a Python object answers without the native one
    return {name for name in own if not isinstance(vars(cls)[name], staticmethod)}


def test_the_tables_are_complete() -> None:
    assert {name: members(cls) for name, cls in classes(CORE).items()} == {
        name: set(methods) for name, methods in METHODS.items()
    }


@pytest.mark.parametrize("call", CALLS)
def test_an_empty_object_is_refused_and_a_good_one_taken(call: str) -> None:
    name, function = CALLS[call]
    cls: Any = getattr(CORE, name)
    objects = Objects(CORE)
    function(getattr(objects, name), objects)
    with pytest.raises(TypeError, match=r"^bptt: an argument is an empty bptt\._core_\w+\.\w+, expected"):
        function(cls.__new__(cls), Objects(CORE))


@pytest.mark.parametrize("call", CALLS)
def test_an_object_of_another_level_is_refused(call: str) -> None:
    """Their registers differ in width, and so does the layout of their memory."""
    for level in _cpu.supported():
        try:
            other = import_module(f"bptt._core_{level}")
        except ModuleNotFoundError:
            continue
        if other is not CORE:
            break
    else:
        pytest.skip("this build has no second level that this machine runs")
    name, function = CALLS[call]
    with pytest.raises(TypeError, match=rf"^bptt: an argument has type {other.__name__}\.\w+, expected bptt\._core_"):
        function(getattr(Objects(other), name), Objects(CORE))


def test_objects_of_no_native_class_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^bptt: an argument has type int, expected bptt\._core_\w+\.SequenceOrder$"):
        CORE.CallOptions(order=3)
