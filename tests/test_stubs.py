# SPDX-License-Identifier: Apache-2.0
"""The stubs of the native modules against the modules themselves: the same names and the same arguments.

mypy's stubtest (run in .ci/run) compares names and kinds, but cannot see the arguments of a native function; pybind11
writes them into the first line of its docstring, where this test reads them.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import bptt
from bptt import _cpu

PACKAGE = Path(bptt.__file__).parent
NATIVE = {"_core": sys.modules["bptt._core"], "_cpu": _cpu}


def stub_functions(source: str) -> Iterator[tuple[str, list[str]]]:
    """(qualified name, argument names) of each function and method, properties left out."""
    for node in ast.parse(source).body:
        members = [("", node)]
        if isinstance(node, ast.ClassDef):
            members = [(f"{node.name}.", member) for member in node.body]
        for prefix, member in members:
            if isinstance(member, ast.FunctionDef) and not member.decorator_list:
                arguments = member.args
                yield (
                    prefix + member.name,
                    [each.arg for each in arguments.posonlyargs + arguments.args + arguments.kwonlyargs],
                )


def native_arguments(function: Any) -> list[list[str]]:
    """The argument names of each overload, as pybind11 wrote them into the docstring."""
    lines = function.__doc__.splitlines()
    overloads = [line.partition(". ")[2] for line in lines if re.match(r"\d+\. \w+\(", line)]
    return [argument_names(line) for line in overloads or lines[:1]]


def argument_names(line: str) -> list[str]:
    """Those of `name(a: type, b: type = value) -> type`; types hold commas within brackets only."""
    signature = re.match(r"\w+\((.*)\)(?: -> .*)?$", line).group(1)
    while (shorter := re.sub(r"\[[^\[\]]*\]|\([^()]*\)", "", signature)) != signature:
        signature = shorter
    arguments = [each.strip() for each in signature.split(",")]
    return [re.match(r"\w+", each).group() for each in arguments if each not in {"", "/", "*"}]


def mismatches(source: str, module: ModuleType) -> list[str]:
    problems = []
    for name, expected in stub_functions(source):
        target: Any = module
        for part in name.split("."):
            target = getattr(target, part)
        for found in native_arguments(target):
            if found != expected:
                problems.append(f"{name}: the module has {found}, the stub {expected}")
    return problems


@pytest.mark.parametrize("name", NATIVE)
def test_arguments_agree(name):
    assert mismatches((PACKAGE / f"{name}.pyi").read_text("utf-8"), NATIVE[name]) == []


def test_a_difference_is_seen():
    assert mismatches("def supported(level: str) -> list[str]: ...", _cpu) == [
        "supported: the module has [], the stub ['level']"
    ]


def test_nested_types_and_overloads_are_read():
    plain = 'f(self: m.C, x: Annotated[Array, "a, b"], s: tuple[A[int, (2, 3)], ...], n: int = 0) -> tuple[A, B]'
    overloads = "f(*args, **kwargs)\nOverloaded function.\n\n1. f(x: A[int]) -> B\n\n2. f(y: A) -> B\n"
    assert native_arguments(SimpleNamespace(__doc__=plain)) == [["self", "x", "s", "n"]]
    assert native_arguments(SimpleNamespace(__doc__=overloads)) == [["x"], ["y"]]
