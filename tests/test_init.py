# SPDX-License-Identifier: Apache-2.0
"""Initialisers: their distributions, the same weights from a seed everywhere, and the defaults of layers."""

import math
import signal
import time
import zlib

import numpy as np
import pytest

import bptt
from bptt._dispatch import core
from bptt.init import NAMES, draw
from kernels import levels

# CRC-32 of the bytes of draw(name, (12, 5), seed=7, stream="w", gates=4, size=3) in little-endian float32, from an
# x86-64 Linux with numpy 2.4. They hold on every platform: no BLAS or LAPACK takes part, and libm only in the rare
# tails of the normal generator.
PINNED = {
    "forget_bias": 1022064178,
    "forget_range": 2943487433,
    "glorot_normal": 2476052452,
    "glorot_uniform": 810487852,
    "he_normal": 3302720356,
    "he_uniform": 590792021,
    "identity": 329871991,
    "normal": 2333661884,
    "ones": 3867521606,
    "orthogonal": 2188349181,
    "uniform": 559001444,
    "xavier_normal": 2476052452,
    "xavier_uniform": 810487852,
    "zeros": 3160482835,
}


def pinned(name):
    values = draw(
        name, (12,) if name in ("forget_bias", "forget_range") else (12, 5), seed=7, stream="w", gates=4, size=3
    )
    return zlib.crc32(values.astype("<f4").tobytes())


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_bits_are_the_same_everywhere(name):
    assert pinned(name) == PINNED[name]


# CRC-32 of the bytes of the orthogonal factor of a uniform [m,n] matrix; no function of the C library is used.
ORTHOGONAL = {
    (1, 1): 708874441,
    (3, 3): 2516280011,
    (9, 4): 3513284628,
    (40, 33): 3867060934,
    (200, 100): 2548449583,
    (700, 700): 697239172,
    (701, 333): 2536301755,
}


def uniform(m, n):
    return np.random.Generator(np.random.Philox(n)).random((m, n)) - 0.5


@pytest.mark.parametrize("level", levels(), ids=lambda module: module.level)
@pytest.mark.parametrize("shape", ORTHOGONAL)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_bits_of_orthogonal_are_those_of_every_level_and_number_of_threads(level, shape, n):
    before = level.get_num_threads()
    level.set_num_threads(n)
    try:
        values = level.orthogonal(uniform(*shape))
    finally:
        level.set_num_threads(before)
    assert zlib.crc32(values.astype("<f8").tobytes()) == ORTHOGONAL[shape]


@pytest.mark.parametrize("shape", [*ORTHOGONAL, (33, 1), (32, 32), (64, 40)])
def test_orthogonal_is_the_factor_with_a_positive_diagonal(shape):
    a = uniform(*shape)
    q = core.orthogonal(a)
    r = q.T @ a
    assert (np.diagonal(r) > 0).all()
    # Householder's QR is backward stable: both errors are below c m n eps, and in practice below sqrt(m n) eps
    # (Higham 2002, theorem 19.4); values are of order one and r of order sqrt(m).
    bound = math.sqrt(shape[0] * shape[1]) * np.finfo(float).eps
    np.testing.assert_allclose(q.T @ q, np.eye(shape[1]), rtol=0, atol=4 * bound)
    np.testing.assert_allclose(q @ np.triu(r), a, rtol=0, atol=4 * bound * math.sqrt(shape[0]))


def test_orthogonal_of_a_matrix_without_full_rank_has_no_nan():
    for a in (np.zeros((5, 3)), np.ones((40, 35)), -np.eye(4)):
        q = core.orthogonal(a)
        np.testing.assert_allclose(q.T @ q, np.eye(a.shape[1]), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(core.orthogonal(-np.eye(4)), -np.eye(4))


def test_what_orthogonal_refuses():
    with pytest.raises(ValueError, match=r"^orthogonal: a has shape \(2, 3\), expected no more columns than rows"):
        core.orthogonal(np.zeros((2, 3)))
    with pytest.raises(TypeError, match=r"^orthogonal: a has dtype float32, expected float64"):
        core.orthogonal(np.zeros((2, 2), np.float32))


def test_orthogonal_values_of_a_seed():
    c, s = 0.09291626937899355, 0.99567392598415
    np.testing.assert_allclose(draw("orthogonal", (2, 2), seed=7, dtype=np.float64), [[c, s], [-s, c]], atol=1e-15)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that raises a signal")
def test_ctrl_c_ends_a_large_orthogonal():
    """3000 x 3000 takes seconds, 7e10 operations; the answer comes 0.1 s after the signal on an idle machine."""
    a = uniform(3000, 3000)
    handlers = (
        signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT)),
    )
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            core.orthogonal(a)
        assert time.monotonic() - start < 1.5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, handlers[0])
        signal.signal(signal.SIGALRM, handlers[1])


def test_the_generator_behind_it_is_as_published():
    # Random123's known answer for philox4x64-10 with counter 0 and key 0; numpy counts from 1, hence the offset
    bits = np.random.Philox(counter=2**256 - 1, key=0)
    expected = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert bits.random_raw(4).tolist() == expected


def test_seeds_and_streams():
    def values(**options):
        return draw("normal", (64,), **options)

    np.testing.assert_array_equal(values(seed=1), values(seed=1))
    different = [values(seed=1), values(seed=2), values(seed=1, stream="b"), values(seed=2**100), values(), values()]
    for k, a in enumerate(different):
        assert not any((a == b).any() for b in different[:k])


UNIFORM = {
    "uniform": 1 / math.sqrt(7),
    "xavier_uniform": math.sqrt(6 / 300),
    "glorot_uniform": math.sqrt(6 / 300),
    "he_uniform": math.sqrt(6 / 200),
}
NORMAL = {
    "normal": 1.0,
    "xavier_normal": math.sqrt(2 / 300),
    "glorot_normal": math.sqrt(2 / 300),
    "he_normal": math.sqrt(2 / 200),
}


@pytest.mark.parametrize(("name", "bound"), UNIFORM.items())
def test_uniform_distributions(name, bound):
    values = draw(name, (4 * 100, 200), seed=0, gates=4, size=7, dtype=np.float64) / bound
    # n = 80,000 values of U(-1, 1): the extremes miss the bounds by about 2/n, the moments by about 1/sqrt(n) = 0.0035
    assert -1 <= values.min() < -0.999
    assert 0.999 < values.max() < 1
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - math.sqrt(1 / 3)) < 0.01


@pytest.mark.parametrize(("name", "std"), NORMAL.items())
def test_normal_distributions(name, std):
    values = draw(name, (4 * 100, 200), seed=0, gates=4, size=7, dtype=np.float64) / std
    assert abs(values.mean()) < 0.015
    assert abs(values.std() - 1) < 0.015
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 0.01


@pytest.mark.parametrize("shape", [(7, 7), (9, 4), (4, 9), (1, 1)])
def test_each_gate_of_orthogonal_is_orthogonal(shape):
    rows, cols = shape
    blocks = draw("orthogonal", (3 * rows, cols), seed=0, gates=3, dtype=np.float64).reshape(3, rows, cols)
    for q in blocks:
        gram = q.T @ q if rows >= cols else q @ q.T
        np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-14)
    if shape != (1, 1):
        assert not np.allclose(blocks[0], blocks[1])


def test_orthogonal_has_no_preferred_sign():
    signs = [np.sign(draw("orthogonal", (3, 3), seed=seed)) for seed in range(200)]
    assert np.abs(np.mean(signs, axis=0)).max() < 0.3  # 200 signs: standard deviation 0.07


def test_identity_zeros_ones_and_forget_biases():
    np.testing.assert_array_equal(draw("identity", (6, 3), gates=2), np.vstack([np.eye(3)] * 2))
    np.testing.assert_array_equal(draw("identity", (2, 3)), np.eye(2, 3))
    assert not draw("zeros", (4,)).any()
    assert (draw("ones", (2, 4)) == 1).all()
    np.testing.assert_array_equal(draw("forget_bias", (8,), gates=4), [0, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(draw("forget_bias", (6,), gates=3), [1, 1, 0, 0, 0, 0])  # coupled gates f g o
    np.testing.assert_array_equal(draw("forget_range", (8,), gates=4), [0, 0, 3, 6, 0, 0, 0, 0])
    two_heads = draw("forget_range", (24,), gates=8).reshape(4, 2, 3)
    np.testing.assert_array_equal(two_heads[1], [[3, 4.5, 6], [3, 4.5, 6]])
    assert not two_heads[[0, 2, 3]].any()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("xavier", (2, 2)), {}, ValueError, "name has value 'xavier', expected one of zeros, ones, normal"),
        (("he_normal", (4,)), {}, ValueError, r"shape has value \(4,\) for he_normal, expected \(G\*H, I\)"),
        (("zeros", ()), {}, ValueError, r"shape has value \(\) for zeros"),
        (("zeros", (5, 2)), {"gates": 4}, ValueError, r"shape has value \(5, 2\) .* with G = 4"),
        (("zeros", (0, 2)), {}, ValueError, "shape has value 0, expected an integer >= 1"),
        (("forget_bias", (6,)), {"gates": 2}, ValueError, r"forget_bias has 2 gates, expected the 4 \(3 if coupled\)"),
        (
            ("forget_range", (6,)),
            {"gates": 3},
            ValueError,
            "forget_range has 3 gates, expected the 4 of an sLSTM's bias",
        ),
        (("zeros", (2,)), {"seed": -1}, ValueError, "seed has value -1"),
        (("zeros", (2,)), {"seed": 1.5}, TypeError, "seed has type float, expected an integer"),
        (("zeros", (2,)), {"dtype": np.int8}, TypeError, "dtype has value int8"),
    ],
)
def test_what_cannot_be_drawn(arguments, options, error, message):
    with pytest.raises(error, match=f"init.draw: {message}"):
        draw(*arguments, **options)


def test_default_of_an_lstm():
    lstm = bptt.LSTM(3, 5, peephole=True, seed=0)
    expected = {
        "weight_ih_l0": draw("xavier_uniform", (20, 3), seed=0, stream="weight_ih_l0", gates=4),
        "weight_hh_l0": draw("orthogonal", (20, 5), seed=0, stream="weight_hh_l0", gates=4),
        "bias_l0": np.repeat([0, 1, 0, 0], 5),
        "weight_peephole_l0": np.zeros((3, 5)),
    }
    assert list(lstm.params) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(lstm.params[name], values, err_msg=name)


@pytest.mark.parametrize("layer", [bptt.RNN, bptt.GRU])
def test_default_of_the_others(layer):
    params = layer(3, 5, seed=0).params
    gates = params["weight_hh_l0"].shape[0] // 5
    q = params["weight_hh_l0"].reshape(gates, 5, 5).astype(np.float64)
    np.testing.assert_allclose(q @ q.transpose(0, 2, 1), np.broadcast_to(np.eye(5), q.shape), atol=1e-6)
    assert not params["bias_l0"].any()
    assert "bias_hn_l0" not in params or not params["bias_hn_l0"].any()


def test_pytorch_preset():
    for layer, size in ((bptt.GRU(3, 25, init="pytorch", seed=0), 25), (bptt.Linear(16, 90, init="pytorch"), 16)):
        for name, array in layer.params.items():
            assert np.abs(array).max() <= 1 / math.sqrt(size), name
            assert np.abs(array).max() > 0.8 / math.sqrt(size), name
    assert 0.5 < bptt.Embedding(50, 50, init="pytorch").params["weight"].std() < 1.5


def test_choice_by_name_and_by_mapping():
    irnn = bptt.RNN(3, 4, nonlinearity="relu", init={"weight_hh": "identity", "bias_l0": "uniform"}, seed=0)
    np.testing.assert_array_equal(irnn.params["weight_hh_l0"], np.eye(4))
    assert irnn.params["bias_l0"].all()
    same = bptt.RNN(3, 4, seed=0)
    np.testing.assert_array_equal(irnn.params["weight_ih_l0"], same.params["weight_ih_l0"])

    lstm = bptt.LSTM(4, 4, init="identity", peephole=True)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        np.testing.assert_array_equal(lstm.params[name], np.vstack([np.eye(4)] * 4))
    np.testing.assert_array_equal(lstm.params["bias_l0"], np.repeat([0, 1, 0, 0], 4))
    assert not lstm.params["weight_peephole_l0"].any()
    assert not bptt.Linear(2, 3, init="he_normal").params["bias"].any()


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("xavier", "init has value 'xavier', expected default, pytorch or one of zeros, ones, normal"),
        ({"weight_ih": "xavier"}, "init has value 'xavier'"),
        ({"weight": "zeros"}, "init has key 'weight', expected one of weight_ih_l0, weight_hh_l0, bias_l0"),
        (3, "init has value 3"),
    ],
)
def test_unknown_choices(init, message):
    with pytest.raises(ValueError, match=f"LSTM: {message}"):
        bptt.LSTM(2, 2, init=init)


def test_layers_with_one_seed_are_equal_and_without_differ():
    a, b = bptt.GRU(3, 4, seed=5), bptt.GRU(3, 4, seed=5)
    np.testing.assert_array_equal(a.params.flat, b.params.flat)
    assert (bptt.GRU(3, 4).params["weight_ih_l0"] != bptt.GRU(3, 4).params["weight_ih_l0"]).all()
    double = bptt.GRU(3, 4, seed=5, dtype=np.float64)
    np.testing.assert_array_equal(double.params.flat.astype(np.float32), a.params.flat)
