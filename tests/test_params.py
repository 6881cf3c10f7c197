# SPDX-License-Identifier: Apache-2.0
"""Params: the layout of the buffer, who may write, when the version changes, joining, copying."""

import contextlib
import copy
import pickle

import numpy as np
import pytest

from bptt import Params

SHAPES = {"weight": (3, 5), "bias": (3,), "empty": (0, 4), "scalar": ()}


@pytest.fixture
def params():
    made = Params(SHAPES, np.float64)
    with made.edit() as p:
        p.flat[:] = np.arange(19)
    return made


def test_arrays_lie_side_by_side_in_order(params):
    assert list(params) == list(SHAPES)
    assert params.shapes == SHAPES
    assert params.size == params.flat.size == 19
    np.testing.assert_array_equal(params["weight"], np.arange(15.0).reshape(3, 5))
    np.testing.assert_array_equal(params["bias"], [15, 16, 17])
    assert params["scalar"][()] == 18
    assert params["empty"].shape == (0, 4)
    assert all(np.shares_memory(params[name], params.flat) for name in ("weight", "bias", "scalar"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_buffer_is_aligned_to_64_bytes_and_zero(dtype):
    kept = [Params({"a": (n,)}, dtype) for n in range(1, 40)]  # kept alive, so that the allocator moves on
    assert all(p.flat.ctypes.data % 64 == 0 and p.flat.dtype == dtype for p in kept)
    assert not any(p.flat.any() for p in kept)


def test_parameters_are_read_only(params):
    for view in (params["weight"], params.flat):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0


def test_setting_an_array_copies_and_converts(params):
    source = np.float32([[1, 2, 3, 4, 5]] * 3)
    params["weight"] = source
    source[:] = 0
    np.testing.assert_array_equal(params["weight"], [[1, 2, 3, 4, 5]] * 3)
    params["bias"] = [7, 8, 9]
    assert params["bias"].tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("bias", np.zeros(4), ValueError, r"Params: bias has shape \(4,\), expected \(3,\)"),
        ("bias", 1.0, ValueError, r"Params: bias has shape \(\), expected \(3,\)"),
        ("bias", np.zeros(3, complex), TypeError, "Params: bias has dtype complex128, expected real numbers"),
        ("bias", [[1], [1, 2], [3]], ValueError, "Params: bias has type list, expected an array"),
        ("wieght", np.zeros(3), KeyError, "there is no 'wieght', expected one of weight, bias, empty, scalar"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(params, name, value, error, message):
    before, version = params.flat.copy(), params.version
    with pytest.raises(error, match=message):
        params[name] = value
    np.testing.assert_array_equal(params.flat, before)
    assert params.version == version


def test_the_version_changes_with_the_values_and_only_then(params):
    seen = [params.version]
    params["bias"] = [1, 2, 3]
    seen.append(params.version)
    with params.edit() as p:
        p["weight"] += 1
        seen.append(params.version)
    seen.append(params.version)
    with contextlib.suppress(RuntimeError), params.edit() as p:
        p.flat[:] = 5
        raise RuntimeError
    seen.append(params.version)
    assert seen == sorted(set(seen))
    _ = params["weight"], params.flat, dict(params), repr(params), params.zeros_like()
    assert params.version == seen[-1]
    assert Params(SHAPES).version not in seen


def test_edited_views_are_closed_at_the_end(params):
    with params.edit() as p:
        weight, flat = p["weight"], p.flat
        weight[:] = 2
        p["bias"] = [1, 1, 1]
    assert params["weight"].max() == 2
    for view in (weight, flat, p["scalar"]):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0


VIEWS = {
    "slice": lambda p: p["weight"][1:2],
    "slice of a slice": lambda p: p["weight"][1:3][0],
    "row": lambda p: next(iter(p["weight"])),
    "reshaped": lambda p: p["weight"].reshape(5, 3),
    "transposed": lambda p: p["weight"].T,
    "raveled": lambda p: np.ravel(p.flat),
    "split": lambda p: np.split(p["weight"], 3)[1],
    "array view": lambda p: p["weight"].view(),
    "in-place result": lambda p: np.add(p["weight"], 1, out=p["weight"]),
    "window": lambda p: p.window("we")["ight"],
    "slice of the flat": lambda p: p.window("").flat[3:9],
}
WRITES = {
    "item": lambda v: v.__setitem__(..., 0),
    "element": lambda v: v.__setitem__(v.ndim * (0,), 0),
    "add": lambda v: v.__iadd__(1),
    "out": lambda v: np.multiply(v, 2, out=v),
    "one of two": lambda v: np.modf(np.ones(v.shape), out=(None, v)),
    "at": lambda v: np.add.at(v, 0, 1),
    "fill": lambda v: v.fill(0),
    "sort": lambda v: v.sort(),
    "put": lambda v: v.put(0, 1),
    "copyto": lambda v: np.copyto(v, 0),
    "putmask": lambda v: np.putmask(v, np.ones(v.shape, bool), 0),
    "flat": lambda v: v.flat.__setitem__(0, 1),
    "partition": lambda v: v.partition(0),
    "byteswap": lambda v: v.byteswap(inplace=True),
}


@pytest.mark.parametrize("make", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_views_of_edited_views_are_closed_with_them(params, make, write):
    with params.edit() as p:
        p.flat[:] = np.arange(19)[::-1]
        view = make(p)
        write(view)
    before, version = params.flat.copy(), params.version
    for late in (lambda: view, lambda: view[:1], lambda: make(p)):
        with pytest.raises(ValueError, match=r"read-only|not writeable"):
            write(late())
    np.testing.assert_array_equal(params.flat, before)
    assert params.version == version


def test_what_is_computed_from_views_is_a_plain_array_that_stays_writable(params):
    with params.edit() as p:
        results = {
            "sum": p["weight"] + p["weight"],
            "copy": p["weight"].copy(),
            "shallow": copy.copy(p["weight"]),
            "deep": copy.deepcopy(p["weight"]),
            "pickled": pickle.loads(pickle.dumps(p["weight"])),
            "pair": np.divmod(p["weight"], 2)[0],
            "matmul": p["weight"] @ p["weight"].T,
            "mean": p["weight"].mean(axis=0),
        }
        copies = {
            "fancy": p["weight"][:, [0, 2]],
            "taken": p["weight"].take([1], axis=1),
            "cast": p["bias"].astype(int),
        }
        assert p["weight"].sum() == np.arange(15).sum()
    for name, array in results.items():
        assert type(array) is np.ndarray, name
    for name, array in (results | copies).items():
        array[...] = 7
        assert array.flags.writeable, name
    np.testing.assert_array_equal(params.flat, np.arange(19))
    assert type(params["weight"] * 2) is np.ndarray
    assert repr(params["bias"]) == "array([15., 16., 17.])"


def test_views_in_an_edit_are_forgotten_with_their_users(params):
    with params.edit() as p:
        for _ in range(3):
            for row in p["weight"]:
                row[0] += 1
        assert len(p._opening._views) <= 4  # the flat buffer, the weight, a row


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.__setitem__("bias", p["bias"].__imul__(2)),
        lambda p: p["bias"].__setitem__(0, 1),
        lambda p: np.add(p.flat, 1, out=p.flat),
        lambda p: p.window("bi")["as"].__isub__(1),
    ],
)
def test_a_change_outside_an_edit_is_told_how(params, change):
    with pytest.raises(ValueError, match=r"^Params: the view is read-only, expected .*params.edit\(\)"):
        change(params)
    np.testing.assert_array_equal(params.flat, np.arange(19))


def test_gradients_are_writable_zeros_of_the_same_shapes(params):
    grads = params.zeros_like()
    assert grads.shapes == params.shapes
    assert grads.dtype == params.dtype
    assert not grads.flat.any()
    grads["bias"][1] = 3
    grads.flat[0] = 4
    assert grads["weight"][0, 0] == 4
    assert grads.flat[16] == 3
    assert params["weight"][0, 0] == 0


@pytest.mark.parametrize(
    ("shape", "error"),
    [((2**40, 2**40), ValueError), ((2**60,), MemoryError), ((-1, 3), ValueError), ((2.5,), TypeError)],
)
def test_impossible_sizes(shape, error):
    with pytest.raises(error):
        Params({"a": shape})


def test_dtypes_other_than_floats_are_refused():
    for dtype in (np.int32, np.float16, np.complex64, ">f4"):
        with pytest.raises(TypeError, match=r"Params: dtype has value .*, expected float32 or float64"):
            Params({"a": (1,)}, dtype)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda p: pickle.loads(pickle.dumps(p))])
@pytest.mark.parametrize("writable", [False, True])
def test_copies_are_independent(duplicate, writable):
    first = Params(SHAPES, writable=writable)
    first["bias"] = [1, 2, 3]
    second = duplicate(first)
    first["bias"] = [0, 0, 0]
    assert second["bias"].tolist() == [1, 2, 3]
    assert second.shapes == first.shapes
    assert second.flat.ctypes.data % 64 == 0
    assert second.flat.flags.writeable is second["bias"].flags.writeable is writable


def test_joined_parts_are_views_of_the_whole():
    a, b, nothing = Params({"w": (2, 2)}), Params({"w": (3,), "b": (1,)}), Params({})
    a["w"], b["w"] = [[1, 2], [3, 4]], [5, 6, 7]
    whole = Params.join({"0": a, "1": nothing, "2": b})
    assert whole.shapes == {"0.w": (2, 2), "2.w": (3,), "2.b": (1,)}
    assert whole.flat.tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    version = whole.version
    b["b"] = [8]
    assert whole["2.b"].tolist() == [8]
    assert whole.version == a.version == b.version > version
    whole["0.w"] = np.zeros((2, 2))
    assert not a["w"].any()
    assert a.joined
    assert b.joined
    assert not whole.joined
    assert not copy.deepcopy(a).joined
    with pytest.raises(ValueError, match="is joined already"):
        Params.join({"0": a})


def test_joining_needs_one_dtype():
    parts = {"0": Params({"w": (2,)}), "1": Params({"w": (2,)}, np.float64)}
    with pytest.raises(TypeError, match="parts have dtypes float32, float64, expected one"):
        Params.join(parts)
    assert not parts["0"].joined


def test_a_window_is_a_part_under_its_own_names():
    grads = Params({"1.w": (2,), "1.b": (1,), "11.w": (2,)}, writable=True)
    window = grads.window("1.")
    assert window.shapes == {"w": (2,), "b": (1,)}
    window.flat[:] = 3
    assert grads.flat.tolist() == [3, 3, 3, 0, 0]
    assert len(grads.window("2.")) == 0
    with pytest.raises(KeyError, match="are not adjacent"):
        Params({"a.w": (2,), "b": (1,), "a.b": (2,)}).window("a.")


def test_params_compare_by_identity(params):
    assert params == params
    assert params != copy.deepcopy(params)
    assert len({params, params}) == 1
    assert repr(params) == "Params(weight [3, 5], bias [3], empty [0, 4], scalar []; 19 x float64)"


def test_equal_layouts_are_one_and_comparing_changes_nothing():
    one, two = (Params({"weight": (2, 3), "bias": (2,)}) for _ in range(2))
    other = Params({"bias": (2,), "weight": (2, 3)})
    assert one._layout is two._layout is one.zeros_like()._layout
    before = other._layout
    assert one.like(two)
    assert not one.like(other)
    assert not other.like(one)
    assert other._layout is before
