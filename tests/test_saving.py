# SPDX-License-Identifier: Apache-2.0
"""Models in files: every layer comes back with every option, and what is not a whole model of ours is refused."""

from __future__ import annotations

import copy
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bptt
from bptt import charlm, checkpoint, saving, textdata

# A value of each argument that differs from the default; `init` and the sizes are not options. A new option needs one.
CHANGED: dict[str, Any] = {
    "num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.25, "bidirectional": True, "dtype": "float64",
    "seed": 7, "recurrent_dropout": 0.125, "zoneout": (0.25, 0.5), "clip_state": 1.5, "clip_grad_per_step": 0.75,
    "checkpoint": "sqrt", "learn_initial_state": True, "nonlinearity": "relu", "proj_size": 3, "peephole": True,
    "coupled": True, "layer_norm": True, "reset_after": False, "num_heads": 2, "forget_gate": "exp", "p": 0.125,
    "precision": "high",
}  # fmt: skip
NEEDS: dict[str, dict[str, Any]] = {"dropout": {"num_layers": 2}}  # without it, a warning
SIZES = {
    "input_size": 3,
    "hidden_size": 8,
    "in_features": 3,
    "out_features": 2,
    "num_embeddings": 5,
    "embedding_dim": 3,
}
# The generator's state stands for that of Dropout; the others only draw weights.
NO_CONFIG = {("Dropout", "seed"), ("Embedding", "seed"), ("Linear", "seed")}


def arguments(kind: str) -> list[str]:
    return [name for name in inspect.signature(saving._LAYERS[kind]).parameters if name != "init"]


def made(kind: str, **options: Any) -> Any:
    sizes = {name: value for name, value in SIZES.items() if name in arguments(kind)}
    return saving._LAYERS[kind](**sizes, **options)


CASES = [(kind, name) for kind in saving._LAYERS for name in arguments(kind) if name not in SIZES]


def outputs(model: Any, x: Any) -> list[Any]:
    """All arrays that one training call returns."""

    def flat(value: Any) -> list[Any]:
        return [each for part in value for each in flat(part)] if isinstance(value, tuple) else [value]

    return flat(model.forward(x)[:-1])


def assert_twins(again: Any, model: Any, x: Any) -> None:
    """The same layers, options, weights and masks, now and after another call."""
    assert repr(again) == repr(model)
    assert saving.structure_of(again) == saving.structure_of(model)
    np.testing.assert_array_equal(again.params.flat, model.params.flat)
    assert again.params.dtype == model.params.dtype
    for _ in range(2):
        for a, b in zip(outputs(again, x), outputs(model, x), strict=True):
            np.testing.assert_array_equal(a, b)


def inputs(kind: str) -> Any:
    rng = np.random.default_rng(0)
    if kind == "Embedding":
        return rng.integers(0, 5, (4, 2))
    if kind == "Last":  # of two directions
        return rng.standard_normal((4, 2, 6))
    return rng.standard_normal((2, 3) if kind.endswith("Cell") else (4, 2, 3))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_option_of_every_layer_comes_back(kind: str, name: str, tmp_path: Path) -> None:
    assert name in CHANGED, f"{kind} has a new option, {name}: give it a value here and save it in {kind}._config"
    value = CHANGED[name]
    assert value != inspect.signature(saving._LAYERS[kind]).parameters[name].default
    layer = made(kind, **NEEDS.get(name, {}), **{name: value})
    if (kind, name) not in NO_CONFIG:
        saved = layer._config()[name]
        assert (tuple(saved) if isinstance(saved, list) else saved) == value
    outputs(layer, inputs(kind))  # so that masks are past their first call
    bptt.save(layer, tmp_path / "layer")
    assert_twins(bptt.load(tmp_path / "layer"), layer, inputs(kind))


@pytest.mark.parametrize("kind", saving._LAYERS)
def test_a_file_names_every_option_but_those_of_the_plain_cell(kind: str) -> None:
    """So that a later default does not change an old model. A variant's option stands where it was chosen."""
    variants = {"nonlinearity", "proj_size", "peephole", "coupled", "layer_norm", "reset_after", "num_heads"}
    variants |= {"forget_gate", "precision"}  # a precision that was not given is that of the process
    expected = {*arguments(kind)} - variants - {name for k, name in NO_CONFIG if k == kind}
    assert {*made(kind)._config()} == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_with_masks_that_go_on(dtype: str, tmp_path: Path) -> None:
    model = bptt.Sequential(
        bptt.Embedding(5, 3, dtype=dtype),
        bptt.LSTM(3, 8, num_layers=2, dropout=0.5, zoneout=0.1, proj_size=4, peephole=True, dtype=dtype),
        bptt.Dropout(0.5),
        bptt.SLSTM(4, 6, num_heads=2, bidirectional=True, recurrent_dropout=0.3, clip_state=2.0, dtype=dtype),
        bptt.GRU(12, 5, layer_norm=True, learn_initial_state=True, checkpoint=3, dtype=dtype),
        bptt.Linear(5, 2, bias=False, dtype=dtype),
    )
    x = inputs("Embedding")
    path, adam = tmp_path / "model.safetensors", bptt.optim.Adam(1e-2)
    for _ in range(3):
        y, _, tape = model.forward(x)
        adam.step(model.params, model.backward(tape, y)[2])
    bptt.save(model, path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    again = bptt.load(path)
    assert_twins(again, copy.deepcopy(model), x)
    assert not np.array_equal(again.forward(x)[0], bptt.load(path).forward(x)[0])  # two calls later
    bptt.save(model, tmp_path / "twin")
    assert (tmp_path / "twin").read_bytes() == path.read_bytes()
    theirs = load_file(path)  # other programs find the names of state_dict
    assert theirs.keys() == model.params.keys()
    again.layers[1].params  # noqa: B018 - each layer is a view of the whole
    assert all(layer.params.joined or not layer.params for layer in again.layers)


def test_cells_and_a_layer_of_a_model_come_back(tmp_path: Path) -> None:
    cells = bptt.Sequential(bptt.Linear(3, 4), bptt.GRUCell(4, 5, zoneout=0.5), bptt.LSTMCell(5, 2))
    bptt.save(cells, tmp_path / "cells")
    assert_twins(bptt.load(tmp_path / "cells"), cells, np.ones((2, 3)))
    bptt.save(cells.layers[1], tmp_path / "cell")
    assert_twins(bptt.load(tmp_path / "cell"), cells.layers[1], np.ones((2, 4)))


def test_half_used_words_of_a_dropout_come_back(tmp_path: Path) -> None:
    """The generator makes two float32 numbers of a 64-bit word: after an odd number of them, one is left."""
    for used in (0, 1, 2, 7, 1001):
        dropout = bptt.Dropout(0.5)
        dropout.forward(np.ones(used))
        bptt.save(dropout, tmp_path / "dropout")
        assert_twins(bptt.load(tmp_path / "dropout"), dropout, np.ones(33))


EXTRA = {
    "scaler": {"mean": np.array([1.5, np.nan]), "kind": "standard"},
    "list": [1, np.arange(3), [np.array(2, np.float32)], True, None, -0.0],
    "": np.zeros((0, 2), bool),
    "text": "漢\n\x00",
    "scalars": [np.int64(3), np.float32(0.5), np.True_],
}


def test_extra_comes_back_with_its_arrays(tmp_path: Path) -> None:
    path = tmp_path / "model"
    bptt.save(bptt.Linear(2, 1), path, extra=EXTRA)
    found = bptt.load_extra(path)
    assert found.keys() == EXTRA.keys()
    np.testing.assert_array_equal(found["scaler"]["mean"], EXTRA["scaler"]["mean"])  # type: ignore[index]
    assert found["scaler"]["kind"] == "standard"
    np.testing.assert_array_equal(found["list"][1], np.arange(3))
    assert found["list"][2][0].shape == () and found["list"][2][0].dtype == np.float32  # noqa: PT018
    assert found["list"][3:] == [True, None, 0.0]
    assert found[""].shape == (0, 2) and found[""].dtype == bool  # noqa: PT018
    assert found["text"] == EXTRA["text"]
    assert list(map(type, found["scalars"])) == [int, float, bool]
    assert found["scalars"] == [3, 0.5, True]
    written = checkpoint.load(path)[1]["extra"]["scaler"]
    assert written == {"mean": {"$array": "extra.0"}, "kind": "standard"}  # which files of other versions have too
    assert bptt.load(path)(np.ones(2)).shape == (1,)
    bptt.save(bptt.Linear(2, 1), path)
    assert bptt.load_extra(path) == {}


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        (3, TypeError, "extra has type int, expected a mapping"),
        ({"a": {1}}, TypeError, "extra['a'] has type set, expected a JSON type"),
        ({"a": np.complex64(3)}, TypeError, "extra['a'] has type complex, expected a JSON type"),
        ({"a": [np.nan]}, TypeError, None),
        ({"a": float("nan")}, ValueError, "extra['a'] has value nan, expected a finite number"),
        ({1: 2}, TypeError, "extra has the key 1, expected str keys"),
        ({"a": {"$array": 2}}, ValueError, "extra['a'] has the key '$array', expected another: it stands for"),
        ({"a": np.array([None])}, TypeError, "array 'extra.0' has dtype object, expected bool"),
        ({"a": LOOP}, ValueError, "config is nested more than 100 levels deep"),
    ],
    ids=str,
)
def test_an_extra_that_cannot_be_stored_leaves_the_file(
    extra: Any, error: type[Exception], message: str | None, tmp_path: Path
) -> None:
    if message is None:
        error, message = ValueError, "extra['a'][0] has value nan"
    path = tmp_path / "model"
    path.write_bytes(b"before")
    with pytest.raises(error, match=f"^save: {re.escape(message)}"):
        bptt.save(bptt.Linear(2, 1), path, extra=extra)
    assert path.read_bytes() == b"before"
    assert len([*tmp_path.iterdir()]) == 1


class Linear(bptt.Linear):
    """A layer of the user's, whose code a file cannot hold."""


@pytest.mark.parametrize(
    ("model", "has"),
    [
        (3, "has type int"),
        (bptt.GRU, "is the class GRU"),
        (Linear(2, 1), "has type Linear"),
        (bptt.Sequential(bptt.GRU(2, 2), Linear(2, 1)), "has type Linear"),
        (bptt.Params({"w": (2,)}), "has type Params"),
    ],
    ids=str,
)
def test_only_layers_of_ours_are_saved(model: Any, has: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=f"^save: model {has}, expected a Sequential or a layer of bptt"):
        bptt.save(model, tmp_path / "model")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_leave_the_file(value: float, tmp_path: Path) -> None:
    path, model = tmp_path / "model", bptt.Sequential(bptt.GRU(2, 3), bptt.Linear(3, 1))
    bptt.save(model, path)
    before = path.read_bytes()
    model.params["1.weight"] = np.full((1, 3), value)
    with pytest.raises(FloatingPointError, match=r"^save: 1.weight has values that are NaN or infinite"):
        bptt.save(model, path)
    assert path.read_bytes() == before


def assert_refused(path: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        bptt.load(path)
    message = str(caught.value).removeprefix(repr(str(path)))
    assert "\n" not in message
    assert len(message) < 200


def test_a_file_that_is_cut_changed_or_foreign_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    bptt.save(bptt.Linear(2, 3), path, extra={"a": np.ones(2)})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert_refused(path, "expected a model written by bptt")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert_refused(path, "is damaged")
    with pytest.raises(ValueError, match="is damaged"):
        bptt.load_extra(path)
    save_file({"weight": np.ones((3, 2))}, path)
    assert_refused(path, "of another program, expected a model written by bptt; load_state_dict takes arrays alone")
    save_file({}, path, {"bptt": json.dumps({"format_version": 3, "config": {}, "crc32": "0"})})
    assert_refused(path, "has format version 3, expected 1 or 2; a newer bptt wrote it")
    checkpoint.save(path, {}, {"cell": "gru"})
    assert_refused(path, "its structure is missing.*expected a file from bptt.save")
    checkpoint.save(path, {}, {"extra": {"a": {"$array": "extra.0"}}})
    with pytest.raises(ValueError, match=r"has an extra without its arrays, expected a file from bptt.save"):
        bptt.load_extra(path)


def linear(**changes: Any) -> dict[str, Any]:
    return saving.structure_of(bptt.Linear(2, 3)) | changes


OPTIONS = bptt.Linear(2, 3)._config()
WEIGHTS = dict(bptt.Linear(2, 3, init="zeros").params)  # they are part of the names of tests
DROPOUT = saving.structure_of(bptt.Dropout())
GRU = saving.structure_of(bptt.GRU(2, 3))
WORDS = [0] * 13


@pytest.mark.parametrize(
    ("structure", "weights", "words"),
    [
        (None, {}, "its structure is missing"),
        ([], {}, "its structure is missing"),
        ({"type": 3}, {}, "its structure is missing"),
        ({"type": "Sequential"}, {}, "its list of layers is missing"),
        ({"type": "Sequential", "layers": [3]}, {}, "its list of layers is missing"),
        ({"type": "Sequential", "layers": []}, {}, "layers has length 0"),
        ({"type": "Sequential", "layers": [linear()]}, {"1.weight": np.ones(2)}, "no layer has its array '1.weight'"),
        ({"type": "Sequential", "layers": [linear()]}, {"weight": np.ones(2)}, "no layer has its array 'weight'"),
        ({"type": "Sequential", "layers": [{"type": "Sequential"}]}, {}, "of type 'Sequential', which this bptt"),
        (linear(type="XLSTM"), WEIGHTS, "has a layer of type 'XLSTM', which this bptt does not know; a newer one may"),
        (linear(type="Recurrent"), WEIGHTS, "has a layer of type 'Recurrent', which"),
        (linear(type="os.system"), WEIGHTS, "has a layer of type 'os.system', which"),
        (linear(type="x" * 1000), WEIGHTS, "has a layer of type 'xxxxx"),
        (linear(options=None), WEIGHTS, "its Linear has no options"),
        (linear(options=OPTIONS | {"sparse": 1}), WEIGHTS, "its Linear has the option 'sparse', which this bptt does"),
        (linear(options=OPTIONS | {"init": "zeros"}), WEIGHTS, "its Linear has the option 'init'"),
        (linear(options={}), WEIGHTS, "missing 2 required positional arguments"),
        (linear(options=OPTIONS | {"in_features": -1}), WEIGHTS, "in_features has value -1"),
        (linear(options=OPTIONS | {"in_features": 10**9}), WEIGHTS, "array weight has shape"),
        (linear(options=OPTIONS | {"in_features": 10**300}), WEIGHTS, "in_features has value of 997 bits"),
        (linear(options=OPTIONS | {"dtype": "float64"}), WEIGHTS, "and dtype float32, expected"),
        (linear(options=OPTIONS | {"dtype": "O"}), WEIGHTS, "dtype has value object, expected"),
        (linear(), {}, "its arrays are none, expected weight, bias"),
        (linear(), WEIGHTS | {"w": np.ones(2)}, "its arrays are bias, w, weight, expected weight, bias"),
        (linear(), WEIGHTS | {"bias": np.float32([1, np.nan, 0])}, "array bias has values that are NaN"),
        (GRU | {"options": GRU["options"] | {"num_layers": 65536}}, {}, "its GRU has num_layers=65536 and 0 arrays"),
        (linear(masks=3), WEIGHTS, "Linear: masks has type int, expected None"),
        (DROPOUT, WEIGHTS, "its Dropout has arrays, expected none"),
        (DROPOUT | {"masks": None}, {}, "Dropout: masks has type NoneType, expected 13 integers"),
        (DROPOUT | {"masks": WORDS[1:]}, {}, "Dropout: masks has type list, expected 13 integers"),
        (DROPOUT | {"masks": [2**64, *WORDS[1:]]}, {}, "Dropout: masks has a value out of range"),
        (DROPOUT | {"masks": [*WORDS[:10], -1, 0, 0]}, {}, "Dropout: masks has a value out of range"),
        (DROPOUT | {"masks": [*WORDS[:10], 5, 0, 0]}, {}, "Dropout: masks has a value out of range"),
        (DROPOUT | {"masks": [*WORDS[:12], 1.0]}, {}, "Dropout: masks has a value out of range"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_model_of_ours_says_is_refused(structure: Any, weights: Any, words: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "model", weights, {"model": structure})
    assert_refused(tmp_path / "model", f"has no usable model .*{words}.*expected a file from bptt.save")


def test_masks_of_a_recurrent_layer_must_be_a_seed_and_a_count(tmp_path: Path) -> None:
    gru = bptt.GRU(2, 3)
    for masks in (-1, 1.5, None, [1], [0, -1], [0, 1.5], [-1, 0], [0.5, 0], [0, 1, 2]):
        checkpoint.save(tmp_path / "model", gru.params, {"model": saving.structure_of(gru) | {"masks": masks}})
        assert_refused(tmp_path / "model", "GRU: (masks|calls|seed) has")


def test_character_models_share_the_format(tmp_path: Path) -> None:
    path = tmp_path / "model"
    lm = charlm.CharLM.create(charlm.Architecture(hidden=5, embedding=3), textdata.Vocabulary("abc"), seed=0)
    lm.save(path)
    assert_twins(bptt.load(path), lm.model, np.array([[0, 2], [1, 1]]))
    arrays, config = checkpoint.load(path)
    del config["model"]  # as files were before
    checkpoint.save(path, arrays, config)
    assert_twins(charlm.CharLM.load(path).model, charlm.CharLM.load(path).model, np.array([[0, 2], [1, 1]]))
    assert_refused(path, "its structure is missing")
