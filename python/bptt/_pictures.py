# SPDX-License-Identifier: Apache-2.0
"""What all pictures share: colours, figures of matplotlib without pyplot (no window opens), axes, and their files.

matplotlib is an extra, imported where a picture is drawn. What is drawn is not decided here.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

from bptt._arrays import cut
from bptt._atomic_file import check_replaceable, replace_file

__all__ = ["COLOURS", "INK", "PALE", "clean", "figure", "legend", "written"]

COLOURS = ("#1982c4", "#c1121f", "#2a9d8f", "#6a4c93", "#ee964b", "#8d99ae")
INK, PALE = "#333333", "#bbbbbb"
KINDS = ("png", "svg", "pdf")
DPI = 120


def figure(where: str, width: float, height: float) -> Any:
    """An empty Figure of this size in inches. where: the operation, for the error without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{where}: matplotlib is not installed, expected the extra: pip install 'bptt[plot]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained", dpi=DPI, facecolor="white")


def written(where: str, figure: Any, path: str | os.PathLike[str] | None) -> Any:
    """The figure, after it is written to `path`, completely or not at all; None: nothing is written.

    Raises: ValueError for an ending that is none of KINDS; OSError where the file cannot be written.
    """
    if path is not None:
        kind = Path(path).suffix[1:].lower() or "png"
        if kind not in KINDS:
            has = f"path has the ending {cut('.' + kind, 40)}"
            raise ValueError(f"{where}: {has}, expected one of .{', .'.join(KINDS)}")
        check_replaceable(path)  # before the time for drawing is spent
        contents = io.BytesIO()
        with catch_warnings():
            filterwarnings("ignore", "Glyph")  # a character that the font has not is drawn as a box
            figure.savefig(contents, format=kind)
        replace_file(path, contents.getvalue())
    return figure


def clean(axes: Any) -> None:
    """Two spines only, and small text."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8)
    axes.title.set_fontsize(10)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)


def legend(axes: Any, **place: Any) -> None:
    """The same with a legend, where anything has a name. place: as of matplotlib's legend."""
    clean(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7.5, frameon=False, **place)
