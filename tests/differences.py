# SPDX-License-Identifier: Apache-2.0
"""Central differences in float64, with a tolerance that follows from their errors.

With the step h = eps^(1/3), (f(x+h) - f(x-h)) / 2h is off by h^2/6 |f'''| (truncation; f''' is itself measured, with
the wider step eps^(1/5)) and by n eps M / h = n eps^(2/3) M (rounding), where n counts the roundings on the longest
chain of operations and M is the sum of the magnitudes that f adds up.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Terms = tuple[float, float]  # a value, and the sum of the magnitudes it was added up from
EPS = float(np.finfo(np.float64).eps)


def check_gradient(
    f: Callable[[list[Array]], Terms], point: list[Array], gradient: Sequence[Array], roundings: int
) -> None:
    """Two directions through all elements at once, then one element of each array."""
    rng = np.random.default_rng(len(point))
    assert [g.shape for g in gradient] == [a.shape for a in point]
    size = sum(a.size for a in point)
    directions = [[rng.choice([-1.0, 1.0], a.shape) / math.sqrt(size) for a in point] for _ in range(2)]
    for n, a in enumerate(point):
        if a.size:
            directions.append([np.zeros_like(b) for b in point])
            directions[-1][n].flat[rng.integers(a.size)] = 1.0
    for u in directions:

        def along(s: float, u: list[Array] = u) -> Terms:
            return f([a + s * b for a, b in zip(point, u, strict=True)])

        h, k = EPS ** (1 / 3), EPS ** (1 / 5)
        numerical = (along(h)[0] - along(-h)[0]) / (2 * h)
        third = (along(2 * k)[0] - 2 * along(k)[0] + 2 * along(-k)[0] - along(-2 * k)[0]) / (2 * k**3)
        tolerance = h**2 / 6 * abs(third) * 1.5 + roundings * EPS / h * along(0.0)[1]  # 1.5: the next order of Taylor
        analytic = sum(float(np.vdot(g, b)) for g, b in zip(gradient, u, strict=True))
        assert abs(analytic - numerical) <= tolerance, (analytic, numerical, tolerance)
