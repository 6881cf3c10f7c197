# SPDX-License-Identifier: Apache-2.0
"""The picture of a forecast: the end of the series, what was forecast of the held-out part, and what comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bptt._arrays import cut
from bptt._pictures import COLOURS, INK, PALE, clean, figure
from bptt.forecasting.dates import Dates
from bptt.forecasting.training import Parts

if TYPE_CHECKING:
    from bptt._arrays import Array

__all__ = ["draw"]

SERIES, HELD_OUT, FUTURE = INK, COLOURS[0], COLOURS[1]
SHOWN, MOST = 4, 12  # horizons of the past: at least, and at most, with the held-out part; the forecast must be seen
LEAST_ROWS = 40


def draw(
    name: str,
    values: Array,
    dates: Dates,
    future: Array,
    interval: Array | None = None,
    parts: Parts | None = None,
    held_out: Array | None = None,
) -> Any:
    """Return the picture, a figure of matplotlib.

    Args: name: of the series `values` [T]. future: the forecast [H] from its end. interval: [H,2],
        its lower and upper bounds. parts, held_out: the forecasts [N,H] of the held-out part from `parts.origins`, of
        which those of every H-th origin are shown, up to the end.
    """
    T, H = len(values), len(future)
    held_out_rows = 0 if parts is None else round(1.3 * (T - parts.test))
    first = max(0, T - max(SHOWN * H, LEAST_ROWS, min(held_out_rows, MOST * H)))
    x: list[Any] = [dates.value(k) for k in range(first, T + H)]
    page = figure("bptt forecast", 9, 4)
    axes = page.subplots()
    axes.plot(x[: T - first], values[first:], color=SERIES, linewidth=1.1, label=_plain(name))
    if parts is not None and held_out is not None:
        _draw_held_out(axes, x, first, values, parts, held_out)
    if interval is not None:
        bounds = interval.T
        axes.fill_between(x[T - first :], *bounds, color=FUTURE, alpha=0.18, linewidth=0, label="80 % of past errors")
    axes.plot(x[T - first - 1 :], [values[-1], *future], color=FUTURE, linewidth=1.8, label=f"forecast, {H} steps")
    axes.grid(alpha=0.25)
    clean(axes)
    axes.set_xlabel(_plain(dates.column or "row"))
    axes.set_xmargin(0.01)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=9)
    return page


def _plain(name: str) -> str:
    """A name as it is: not as a formula between dollars, nor left out of the legend because it begins with _."""
    text = cut(name, 40).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _draw_held_out(axes: Any, x: list[Any], first: int, values: Array, parts: Parts, held_out: Array) -> None:
    """The forecasts of every H-th origin of the held-out part, ending with the series; and where that part begins."""
    T, H = parts.T, parts.horizon
    chosen = [k for k in range(len(held_out) - 1, -1, -max(1, H // parts.stride)) if parts.origins[k] >= first]
    for number, k in enumerate(chosen):
        origin = parts.origins[k]
        label = "forecasts of the held-out part" if number == 0 else None
        steps = slice(origin - first, origin - first + H + 1)
        axes.plot(x[steps], [values[origin], *held_out[k]], color=HELD_OUT, linewidth=1.3, alpha=0.85, label=label)
    if first < parts.test < T:
        axes.axvline(x[parts.test - first], color=PALE, linewidth=0.8, linestyle=(0, (4, 3)))
        place = {"transform": axes.get_xaxis_transform(), "va": "top", "fontsize": 8, "color": "#777777"}
        axes.text(x[parts.test - first], 1.0, " held out from here", **place)
