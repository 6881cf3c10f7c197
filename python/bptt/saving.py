# SPDX-License-Identifier: Apache-2.0
"""Models in files: the weights and what the layers' constructors need, in one safetensors file (see `checkpoint`).

The file's configuration has two entries, in JSON. `model` is the structure: {"type": "GRU", "options": {...}, "masks":
...}, or {"type": "Sequential", "layers": [...]}; a layer whose weights are stored in fewer bits is {"type":
"Quantized", "weights": "int8", "layer": the structure of the layer that it was made of}. `extra` is what the caller
added; an array in it is stored apart, and {"$array": its name} stands in its place. The parameters have the names of
`state_dict`, or of `Quantized.params`.

A file holds no code: only layers of bptt are written, and only their names are looked up when it is read.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt import checkpoint, layers
from bptt._arrays import brief, cut, kind_of
from bptt.init import Stored
from bptt.layers import Layer, Recurrent, Sequential, Stateless
from bptt.layers.narrow import check_format, floats_of
from bptt.layers.quantized import Quantized

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["load", "load_extra", "save"]

_BASES = (Layer, Recurrent, Stateless, Sequential)
_LAYERS: dict[str, Any] = {
    name: each
    for name in layers.__all__
    if isinstance(each := getattr(layers, name), type) and issubclass(each, Layer) and each not in _BASES
}
_EXTRA = "extra."  # names of its arrays begin so, those of parameters never do
_UNKNOWN = "which this bptt does not know; a newer one may"


def save(model: Layer, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None) -> None:
    """Write a model to a safetensors file, completely or not at all.

    The file holds the parameters, the options of every layer, and where its random masks are: training that goes on
    with the loaded model drops what it would have dropped without the file. It does not hold the optimizer, unless it
    is in `extra`. An existing file is replaced; see `bptt.checkpoint.save` for how.

    Args:
        model: a `Sequential`, or any layer or cell of bptt.
        path: of the file, usually *.safetensors.
        extra: what belongs to the model, such as the state of a scaler: a mapping with str keys; dict, list, str, int,
            finite float, bool, None and arrays (bool, integers, float16, float32 or float64), nested as needed. A tuple
            becomes a list, a scalar of NumPy one of Python.

    Raises: TypeError for a model with a layer that is not of bptt (a file holds no code) and for an `extra` that cannot
        be stored; FloatingPointError for a parameter that is NaN or infinite; OSError where the file cannot be written.
        A file that was there is then as it was.

    >>> import os, tempfile
    >>> import numpy as np, bptt
    >>> model = bptt.Sequential(bptt.GRU(2, 8, seed=0), bptt.Linear(8, 1, seed=1))
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> bptt.save(model, path, extra={"unit": "kWh", "mean": np.array([3.5, 0.1])})
    >>> again, x = bptt.load(path), np.ones((5, 3, 2))
    >>> bool((again(x)[0] == model(x)[0]).all()), bptt.load_extra(path)
    (True, {'unit': 'kWh', 'mean': array([3.5, 0.1])})
    """
    config: dict[str, Any] = {"model": structure_of(model)}
    check_finite("save", model)
    arrays: dict[str, Any] = _arrays_of(model)
    if extra is not None:
        if not isinstance(extra, Mapping):
            raise TypeError(f"save: extra has type {type(extra).__name__}, expected a mapping")
        config["extra"], apart = checkpoint.taken_apart(extra, "extra")
        arrays.update(apart)
    checkpoint.save(path, arrays, config)


def load(path: str | os.PathLike[str]) -> Any:
    """Return the model in a file that `save` wrote: the same layers, options and bits, and the same random masks next.

    Nothing in the file is executed, and it cannot make a layer larger than the arrays that it holds. (Memory is
    reserved before that is checked, so that a file made up by others can raise MemoryError.)

    Raises: OSError where the file cannot be read; ValueError where it is damaged, cut off, of another program, of a
        later format, or has a layer or an option that this version does not know.

    >>> import bptt
    >>> bptt.load("no such file")
    Traceback (most recent call last):
    FileNotFoundError: cannot read 'no such file' (No such file or directory), expected a model written by bptt
    """
    arrays, config = checkpoint.load(path)
    weights = {name: array for name, array in arrays.items() if not name.startswith(_EXTRA)}
    try:
        return _built(config.get("model"), weights)
    except (ArithmeticError, TypeError, ValueError) as error:
        what = f"{os.fspath(path)!r} has no usable model ({cut(str(error), 110)})"
        raise ValueError(f"{what}, expected a file from bptt.save") from error


def load_extra(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the `extra` of a file that `save` wrote, its arrays in their places; an empty dict where there is none.

    Raises: as `load`.

    >>> import os, tempfile
    >>> import bptt
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> bptt.save(bptt.Linear(2, 1), path, extra={"columns": ["wind", "sun"]})
    >>> bptt.load_extra(path)
    {'columns': ['wind', 'sun']}
    """
    arrays, config = checkpoint.load(path)
    try:
        extra: dict[str, Any] = checkpoint.put_together(config.get("extra", {}), arrays)
    except (KeyError, RecursionError, TypeError) as error:
        has = f"{os.fspath(path)!r} has an extra without its arrays"
        raise ValueError(f"{has}, expected a file from bptt.save") from error
    return extra


def structure_of(model: Any) -> dict[str, Any]:
    """What the file says of a model but its weights; TypeError for a layer that is not of bptt."""
    if type(model) is Sequential:
        return {"type": "Sequential", "layers": [structure_of(layer) for layer in model.layers]}
    if type(model) is Quantized:
        layer = {"type": model._kind, "options": model._options, "masks": model._masks}
        return {"type": "Quantized", "weights": model.weights, "layer": layer}
    name = type(model).__name__
    if _LAYERS.get(name) is not type(model):
        raise TypeError(f"save: model {kind_of(model)}, expected a Sequential or a layer of bptt: a file holds no code")
    return {"type": name, "options": model._config(), "masks": model._mask_state()}


def _arrays_of(model: Any) -> dict[str, Any]:
    """All that a file keeps of a model's parameters; what is stored in fewer bits stays so."""
    arrays = dict(model.params)
    for k, layer in enumerate(model.layers if type(model) is Sequential else ()):
        if type(layer) is Quantized:
            arrays |= {f"{k}.{name}": array for name, array in layer.params.items()}
    return arrays


def check_finite(where: str, model: Layer) -> None:
    """Raise FloatingPointError where a parameter is NaN or infinite, so that no good file is replaced by such a one."""
    for name, array in model.params.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(f"{where}: {name} has values that are NaN or infinite, expected numbers")


def _built(structure: Any, weights: dict[str, Array]) -> Any:
    """The model of a structure that may come from anywhere, and of all these weights."""
    if not isinstance(structure, dict) or not isinstance(structure.get("type"), str):
        raise ValueError("its structure is missing")
    if structure["type"] != "Sequential":
        return _layer(structure, weights)
    parts = structure.get("layers")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError("its list of layers is missing")
    own: list[dict[str, Array]] = [{} for _ in parts]
    for name, array in weights.items():
        k, _, rest = name.partition(".")
        if not k.isdecimal() or int(k) >= len(parts):
            raise ValueError(f"no layer has its array {brief(name)}")
        own[int(k)][rest] = array
    return Sequential(*(_layer(part, each) for part, each in zip(parts, own, strict=True)))


def _quantized(structure: dict[str, Any], arrays: dict[str, Array]) -> Quantized:
    weights, layer = check_format("Quantized", structure.get("weights")), structure.get("layer")
    if not isinstance(layer, dict):
        raise ValueError("its Quantized has no layer")
    if not issubclass(_LAYERS.get(str(layer.get("type")), Layer), Recurrent):
        raise ValueError(f"its Quantized has a layer of type {brief(layer.get('type'))}, expected a recurrent one")
    made: Quantized = _layer(layer, floats_of(arrays, weights)).quantize(weights)
    if {*arrays} != {*made.params} or any(not np.array_equal(each, made.params[name]) for name, each in arrays.items()):
        raise ValueError("its arrays are not those that quantize() makes")
    return made


def _layer(structure: dict[str, Any], weights: dict[str, Array]) -> Any:
    if structure.get("type") == "Quantized":
        return _quantized(structure, weights)
    kind, options = structure.get("type"), structure.get("options")
    if not isinstance(kind, str) or kind not in _LAYERS:
        raise ValueError(f"it has a layer of type {brief(kind)}, {_UNKNOWN}")
    if not isinstance(options, dict):
        raise ValueError(f"its {kind} has no options")
    known = inspect.signature(_LAYERS[kind]).parameters
    unknown = [name for name in options if name not in known or name == "init"]
    if unknown:
        raise ValueError(f"its {kind} has the option {brief(unknown[0])}, {_UNKNOWN}")
    count = options.get("num_layers", 1)
    if isinstance(count, int) and count > max(1, len(weights)):  # each has arrays; a large count would take a minute
        raise ValueError(f"its {kind} has num_layers={brief(count)} and {len(weights)} arrays")
    stored = {"init": Stored(weights)} if "init" in known else {}
    if weights and not stored:
        raise ValueError(f"its {kind} has arrays, expected none")
    layer = _LAYERS[kind](**options, **stored)
    layer._set_mask_state(structure.get("masks"))
    return layer
