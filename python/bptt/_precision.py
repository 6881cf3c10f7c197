# SPDX-License-Identifier: Apache-2.0
"""By which arithmetic recurrent layers multiply: what a user may choose, and what that becomes on this processor.

The choice is made from what the processor says of itself, by the one table below, and never from a timing: the same
machine always computes the same bits.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from bptt._arrays import brief
from bptt._dispatch import core, cpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["get_matmul_precision", "matmul_precision", "set_matmul_precision"]

PRECISIONS = ("highest", "high", "medium")
FMA = "fma"  # chains of FMAs: what every level has, every cell and both dtypes


class Rule(NamedTuple):
    """Products that pay on some processors. None: whatever it is."""

    products: str
    vendor: str | None = None
    family: int | None = None
    feature: str | None = None

    def holds(self, vendor: str, family: int, features: list[str]) -> bool:
        """Whether it is for this processor."""
        return (
            self.vendor in (None, vendor)
            and self.family in (None, family)
            and (self.feature is None or self.feature in features)
        )


# The first rule that holds decides, where the level in use has its products; without one they are chains of FMAs.
# Measured with forward steps of an LSTM, B = 36, I = H = 256, one core (docs/precision.md has whole calls); on Emerald
# Rapids, instruction by instruction.
TABLE: dict[str, tuple[Rule, ...]] = {
    # Zen 4 (family 25 with AVX-512; Zen 3 has none): EPYC at 3.695 GHz, 150 GF/s where chains of FMAs reach 113:
    # additions have pipes of their own there. Not measured, and so left out: AMD family 26 (Zen 5). On Intel's
    # processors additions and FMAs share their pipes (Emerald Rapids: two additions and an FMA take 1.57 cycles, three
    # FMAs 1.52): nothing can be gained. AMX with values split into three bfloat16 parts, six products for one, was
    # slower than FMAs in 26 of 36 whole calls there (0.60 to 1.28x).
    "high": (Rule("winograd", vendor="AuthenticAMD", family=25),),
    # VDPBF16PS: the same EPYC, 206 GF/s instead of 113. Emerald Rapids needs 2 cycles for one, and half a cycle for an
    # FMA, which makes half as many products: a loss. Other processors of AMD that have it were not measured.
    "medium": (
        Rule("amx_bfloat16", feature="amx_bf16"),
        Rule("bfloat16", vendor="AuthenticAMD", feature="avx512_bf16"),
    ),
}
# What overrides the table: environment variable, and the products that it may name.
VARIABLES = {
    "high": ("BPTT_HIGH", (FMA, "winograd")),
    "medium": ("BPTT_MEDIUM", (FMA, "bfloat16", "amx_bfloat16")),
}


def chosen(environ: Mapping[str, str], processor: tuple[str, int, list[str]], runs: list[str]) -> dict[str, str]:
    """The products of each precision on a processor, at a level that has the products `runs`.

    Raises: ImportError for a variable that names anything else.
    """
    found = {"highest": FMA}
    for precision, (variable, names) in VARIABLES.items():
        possible = [name for name in names if name in runs]
        rules = (rule.products for rule in TABLE[precision] if rule.holds(*processor))
        wanted = environ.get(variable, "").strip()
        if wanted and wanted not in possible:
            expected = f"expected {' or '.join(possible)} (what level {core.level} has on this processor)"
            raise ImportError(f"bptt: {variable} has value {brief(wanted)}, {expected}")
        usual = next(rules, FMA)
        found[precision] = wanted or (usual if usual in possible else FMA)
    return found


_products = chosen(os.environ, cpu.processor(), core.products)
_current = "highest"


def products_of(precision: str) -> str:
    """What a precision becomes on this machine: fma, winograd, bfloat16 or amx_bfloat16."""
    return _products[precision]


def narrow_products(weights: str) -> str:
    """The products of weights that are stored as "int8" or "bfloat16", on this machine."""
    if weights == "bfloat16":
        return "bfloat16_weights"
    return "int8_vnni" if "int8_vnni" in core.narrow_products else "int8"  # the same numbers


def check_precision(where: str, name: str, precision: object) -> str:
    """One of PRECISIONS; TypeError or ValueError for anything else."""
    if not isinstance(precision, str):
        what = f"{name} has type {type(precision).__name__}"
        raise TypeError(f"{where}: {what}, expected 'highest', 'high' or 'medium'")
    if precision not in PRECISIONS:
        raise ValueError(f"{where}: {name} has value {brief(precision)}, expected 'highest', 'high' or 'medium'")
    return precision


def set_matmul_precision(precision: str) -> None:
    """Choose how recurrent layers that are made from now on multiply, in float32.

    Args: precision:
        "highest" (the default): chains of FMAs.
        "high": float32 by Winograd's inner product where the processor gains from it (AMD's Zen 4); errors of products
            are a few times as large. Elsewhere as "highest".
        "medium": factors rounded to bfloat16, sums in float32, where the processor gains from such an instruction
            (AMD's AVX512_BF16, Intel's AMX); products have a relative error of about 0.3 %. Elsewhere as "highest".

    The page docs/precision.md has errors and times.

    It concerns products alone: states, equations, sums, weights and gradients are float32. Layers of float64, those of
    several heads or several stages (layer normalisation, projection, a GRU with reset_after=False) and all layers but
    the recurrent ones multiply as with "highest". A layer keeps the choice of the time when it was made, also in
    copies and pickles; its argument `precision` is a choice for it alone. The setting is that of the process, all
    threads included. The environment variables BPTT_HIGH=fma|winograd and
    BPTT_MEDIUM=fma|bfloat16|amx_bfloat16 say what "high" and "medium" become instead.
    Raises: ValueError for another value, TypeError for what is no string.

    >>> from bptt import LSTM
    >>> set_matmul_precision("high")
    >>> lstm = LSTM(3, 4)
    >>> set_matmul_precision("highest")
    >>> lstm.precision, LSTM(3, 4).precision
    ('high', 'highest')
    """
    global _current
    _current = check_precision("set_matmul_precision", "precision", precision)


def get_matmul_precision() -> str:
    """Return the choice of `set_matmul_precision`.

    >>> get_matmul_precision()
    'highest'
    """
    return _current


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Make the layers of a `with` block with this precision (`set_matmul_precision`), and set the old one at its end.

    Raises: ValueError for another value, TypeError for what is no string.

    >>> from bptt import GRU
    >>> with matmul_precision("medium"):
    ...     gru = GRU(3, 4)
    >>> gru.precision, get_matmul_precision()
    ('medium', 'highest')
    """
    before = get_matmul_precision()
    set_matmul_precision(check_precision("matmul_precision", "precision", precision))
    try:
        yield
    finally:
        set_matmul_precision(before)
