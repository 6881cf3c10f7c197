# SPDX-License-Identifier: Apache-2.0
"""Random masks as functions of a counter and a key: Philox4x32-7 (Salmon et al. 2011), with NumPy's integers.

The counter of a decision is (unit // 2, row, step, kind), the word 2 (unit % 2) + state; kind 0 is zoneout (state 0 for
h, 1 for every other state, which a unit keeps together), 1 recurrent dropout (step 0, state 0), 2 dropout of a layer's
input, whose element j has the word of unit 16 (j // 32) + j % 16 and state j // 16 % 2; the key is the call's seed, 64
bits. A decision of probability p is word < floor(2^32 p).
"""

import numpy as np
from numpy.typing import NDArray

from bptt.reference.common import Array

Words = NDArray[np.uint64]
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox(counter: tuple[Words, Words, Words, Words], seed: int) -> tuple[Words, Words, Words, Words]:
    """Four words of 32 bits for each counter of four such words; arrays that broadcast.

    >>> zero = np.zeros(1, np.uint64)
    >>> [f"{int(word[0]):08x}" for word in philox((zero, zero, zero, zero), 0)]
    ['5f6fb709', '0d893f64', '4f121f81', '4f730a48']
    """
    x0, x1, x2, x3 = np.broadcast_arrays(*counter)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(7):
        p, q = np.uint64(0xD2511F53) * x0, np.uint64(0xCD9E8D57) * x2
        x0, x1 = (q >> _SHIFT) ^ x1 ^ np.uint64(k0), q & _LOW
        x2, x3 = (p >> _SHIFT) ^ x3 ^ np.uint64(k1), p & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return x0, x1, x2, x3


def _axis(n: int, place: int) -> Words:
    shape = [1, 1, 1]
    shape[place] = n
    return np.arange(n, dtype=np.uint64).reshape(shape)


def _words(seed: int, T: int, B: int, H: int, kind: int) -> tuple[Words, Words]:
    """The words of h and of the other states for each step, row and unit, [T,B,H]."""
    half = -(-H // 2)
    words = philox((_axis(half, 2), _axis(B, 1), _axis(T, 0), np.full(1, kind, np.uint64)), seed)
    each = [np.stack([words[state], words[2 + state]], axis=-1).reshape(T, B, 2 * half)[..., :H] for state in (0, 1)]
    return each[0], each[1]


def zoneout_masks(seed: int, T: int, B: int, H: int, p: tuple[float, ...]) -> tuple[Array, ...]:
    """Return m [T,B,H] for each state, 1 where a unit keeps its old value. T counts a row's steps in its own order.

    >>> zoneout_masks(1, 100, 10, 10, (0.25,))[0].mean().round(1)
    np.float64(0.2)
    """
    words = _words(seed, T, B, H, 0)
    return tuple((words[min(i, 1)] < np.uint64(int(q * 2**32))).astype(float) for i, q in enumerate(p))


def recurrent_dropout_mask(seed: int, B: int, H: int, p: float) -> Array:
    """Return d [B,H]: 0 with probability p, else 1 / (1 - p).

    >>> sorted(set(recurrent_dropout_mask(1, 10, 10, 0.5).ravel().tolist()))
    [0.0, 2.0]
    """
    word, _ = _words(seed, 1, B, H, 1)
    return np.where(word[0] < np.uint64(int(p * 2**32)), 0.0, 1 / (1 - p))


def input_dropout_mask(seed: int, T: int, B: int, width: int, p: float) -> Array:
    """Return m / (1 - p) [T,B,width]: 0 with probability p, else 1 / (1 - p).

    >>> sorted(set(input_dropout_mask(1, 2, 3, 40, 0.5).ravel().tolist()))
    [0.0, 2.0]
    """
    blocks = -(-width // 32)
    halves = [word.reshape(T, B, blocks, 1, 16) for word in _words(seed, T, B, 16 * blocks, 2)]
    word = np.concatenate(halves, axis=3).reshape(T, B, 32 * blocks)[..., :width]
    return np.where(word < np.uint64(int(p * 2**32)), 0.0, 1 / (1 - p))
