# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of all modules of bptt, run; and that public names have docstrings."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import bptt

NATIVE = ("_core", "_cpu")
# Found by walking the package: a new module is tested without being named here. __main__ would start the command line.
MODULES = [
    "bptt",
    *sorted(
        info.name
        for info in pkgutil.walk_packages(bptt.__path__, "bptt.")
        if not info.name.rpartition(".")[2].startswith((*NATIVE, "__main__"))
    ),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name.startswith("bptt.torch"):
        pytest.importorskip("torch")
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, "see the captured output"


@pytest.mark.parametrize("name", sorted(bptt.__all__))
def test_every_public_name_has_an_example(name):
    thing = getattr(bptt, name)
    if inspect.ismodule(thing):
        examples = [getattr(thing, each).__doc__ or "" for each in thing.__all__ if callable(getattr(thing, each))]
        assert any(">>>" in text for text in examples)
    elif name not in WITHOUT_EXAMPLE:
        assert ">>>" in (thing.__doc__ or "")


# What it prints differs from machine to machine.
WITHOUT_EXAMPLE = {"show_config"}
