# SPDX-License-Identifier: Apache-2.0
"""The pictures of gradient flow, of a report and of a watch, by matplotlib without pyplot: no window opens."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._pictures import COLOURS, INK, PALE, clean, figure, legend, written

if TYPE_CHECKING:
    from pathlib import Path

    from bptt._arrays import Array
    from bptt.insight.facts import Figures, FlowFigures, Record

MOST_LINES = 6  # of a panel: more could not be told apart
WIDTH = 185  # characters of a line of the verdict


def flow_picture(flow: FlowFigures, path: str | Path | None) -> Any:
    """Norms over time, and by lag."""
    page = figure("GradientFlow.plot", 10, 3.6)
    left, right = page.subplots(1, 2)
    _norms(left, flow)
    _by_lag(right, flow)
    return written("GradientFlow.plot", page, path)


def report_picture(report: Figures, path: str | Path | None) -> Any:
    """The report as one page: six panels, and the verdict below them."""
    lines = [line for each in report.findings for line in textwrap.wrap(each.text, WIDTH, subsequent_indent="   ")]
    text_height = 0.3 + 0.18 * len(lines)
    page = figure("Report.plot", 13, 7.4 + text_height)
    upper, lower = page.subfigures(2, 1, height_ratios=[7.4, text_height])
    upper.suptitle(f"Diagnosis over {report.steps} steps, loss {report.flow.loss:.4g}", fontsize=12)
    panels = upper.subplots(2, 3)
    _norms(panels[0, 0], report.flow)
    _by_lag(panels[0, 1], report.flow)
    _exponents(panels[0, 2], report)
    _shares(panels[1, 0], report)
    _truncation(panels[1, 1], report)
    _units(panels[1, 2], report)
    lower.text(0.015, 0.97, "\n".join(lines), va="top", ha="left", fontsize=9, color=INK, linespacing=1.35)
    return written("Report.plot", page, path)


def watch_picture(records: list[Record], path: str | Path | None) -> Any:
    """The loss, the norms over updates and steps of each state, and the saturated shares of each gate."""
    names = list(records[0].norms)[:MOST_LINES]
    updates = np.array([record.update for record in records])
    page = figure("Watch.plot", 5 * (len(names) + 1), 3.6)
    panels = np.atleast_1d(page.subplots(1, len(names) + 1))
    for axis, name in zip(panels, names, strict=False):
        values = np.array([record.norms[name] for record in records])
        _map(page, axis, updates, values)
        layer, _, state = name.rpartition(".")
        axis.set(title=f"ln |dL/d{state}|, layer {layer}", xlabel="update", ylabel="time step")
        clean(axis)
    axis = panels[-1]
    for gate, colour in zip(list(records[0].saturation)[:MOST_LINES], COLOURS, strict=False):
        shares = np.array([sum(record.saturation[gate]) for record in records])
        axis.plot(updates, shares, color=colour, label=gate, lw=1.4, marker="." if len(updates) < 3 else "")
    axis.set(title="saturated share of each gate", xlabel="update", ylim=(-0.02, 1.02))
    legend(axis)
    return written("Watch.plot", page, path)


def _nothing(axis: Any, title: str, why: str) -> None:
    axis.set_title(title)
    axis.text(0.5, 0.5, why, ha="center", va="center", color=PALE, transform=axis.transAxes, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    clean(axis)


def _positive(values: Array) -> Array:
    """Values for a logarithmic axis: zeros and what is not finite are left out."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _norms(axis: Any, flow: FlowFigures) -> None:
    for (name, norm), colour in zip(list(flow.norms.items())[:MOST_LINES], COLOURS, strict=False):
        axis.plot(_positive(norm), color=colour, label=name, lw=1.4, marker="." if len(norm) < 3 else "")
    axis.set(title="gradient of each state, |dL/ds_t|", xlabel="time step t", yscale="log")
    legend(axis)


def _by_lag(axis: Any, flow: FlowFigures) -> None:
    title = "propagated part alone, by lag"
    curve, decay = flow.whole.by_lag, flow.whole.decay
    if len(curve) < 2 or np.isnan(_positive(curve.median[1:])).all():
        _nothing(axis, title, "no gradient to follow" if len(curve) < 2 else "nothing is left one step back")
        return
    lags = np.arange(len(curve))
    axis.fill_between(lags, _positive(curve.low), _positive(curve.high), color=COLOURS[0], alpha=0.2, lw=0)
    axis.plot(_positive(curve.median), color=COLOURS[0], lw=1.6, label="median, 10 to 90 %")
    if 0 < decay < np.inf:
        anchor = min(10, len(curve) // 2)
        with np.errstate(over="ignore", under="ignore"):
            line = curve.median[anchor] * decay ** (lags - anchor)
        axis.plot(_positive(line), color=COLOURS[1], lw=1, ls="--", label=f"{decay:.4g} per step")
    axis.set(title=title, xlabel="lag k", yscale="log")
    axis.axhline(1, color=PALE, lw=0.8, zorder=0)
    legend(axis)


def _exponents(axis: Any, report: Figures) -> None:
    title = "Lyapunov exponents, per step"
    found = [(name, facts.spectrum) for name, facts in report.kernels.items() if facts.spectrum is not None]
    if not found:
        _nothing(axis, title, "not defined for this model")
        return
    if not any(np.isfinite(spectrum.exponents).any() for _, spectrum in found):
        _nothing(axis, title, "all are minus infinity")
        return
    for (name, spectrum), colour in zip(found[:MOST_LINES], COLOURS, strict=False):
        finite = np.isfinite(spectrum.exponents)
        order = np.arange(1, len(finite) + 1)[finite]
        mark = "o" if spectrum.converged_each[0] else "x"
        label = f"layer {name}" + ("" if spectrum.converged_each[0] else ", not converged")
        axis.errorbar(order, spectrum.exponents[finite], 2 * spectrum.error[finite], color=colour, fmt=mark, ms=4, lw=1,
                      label=label)  # fmt: skip
    axis.axhline(0, color=INK, lw=0.8)
    axis.set(title=title, xlabel="number")
    legend(axis)


def _shares(axis: Any, report: Figures) -> None:
    title = "share of each step in the gradient of the weights"
    found = [(name, facts.shares) for name, facts in report.kernels.items() if facts.shares is not None]
    if not found:
        _nothing(axis, title, "not defined for this model")
        return
    if not any(np.isfinite(values).any() for _, values in found):
        _nothing(axis, title, "the gradient of the weights is zero")
        return
    for (name, values), colour in zip(found[:MOST_LINES], COLOURS, strict=False):
        axis.plot(values, color=colour, lw=1.2, label=f"layer {name}")
    axis.axhline(1 / report.steps, color=PALE, lw=0.8, ls="--", zorder=0)
    axis.set(title=title, xlabel="time step t")
    legend(axis)


def _truncation(axis: Any, report: Figures) -> None:
    title = "cosine of the gradient truncated to k steps"
    found = report.truncation
    if found is None or found.enough is None:
        _nothing(axis, title, "not defined for this model")
        return
    axis.plot(list(found.cosines), list(found.cosines.values()), color=COLOURS[0], marker="o", ms=3.5, lw=1.4)
    axis.axhline(0.99, color=PALE, lw=0.8, ls="--", zorder=0)
    axis.axvline(found.enough, color=COLOURS[1], lw=1, ls="--", label=f"k = {found.enough}")
    axis.set(title=title, xlabel="k", xscale="log")
    legend(axis)


def _units(axis: Any, report: Figures) -> None:
    """Time constants where there are any, otherwise the saturated shares."""
    constants = {n: f.units.time_constants for n, f in report.kernels.items() if f.units.time_constants is not None}
    if constants:
        for (name, values), colour in zip(list(constants.items())[:MOST_LINES], COLOURS, strict=False):
            ordered = np.sort(values)
            axis.plot(np.arange(1, len(ordered) + 1) / len(ordered), _positive(ordered), color=colour, lw=1.4,
                      label=f"layer {name}")  # fmt: skip
        axis.axhline(report.steps, color=INK, lw=0.8, ls=":", label=f"T = {report.steps}")
        axis.set(title="time constants of units, in steps", xlabel="share of units below", yscale="log")
        legend(axis)
        return
    bars = [(name, *shares) for name, f in report.kernels.items() for shares in f.units.saturation.values()][:12]
    if not bars:
        _nothing(axis, "saturated shares", "no unit saturates")
        return
    names = [f"layer {name}" for name, _, _ in bars]
    low, high = np.array([bar[1] for bar in bars]), np.array([bar[2] for bar in bars])
    axis.barh(range(len(bars)), low, color=COLOURS[0], label="low end")
    axis.barh(range(len(bars)), high, left=low, color=COLOURS[1], label="high end")
    axis.set_yticks(range(len(bars)), names)
    axis.set(title="share of saturated values of h", xlim=(0, 1), ylim=(-0.8, len(bars)))  # with room for the legend
    legend(axis, loc="upper left", ncols=2)


def _map(page: Any, axis: Any, updates: Array, values: Array) -> None:
    """Norms [updates,T] as colours."""
    logs = np.log(_positive(values))
    between = (updates[1:] + updates[:-1]) / 2
    edges = np.concatenate([updates[:1] - 0.5, between, updates[-1:] + 0.5])  # of one record, too
    mesh = axis.pcolormesh(edges, np.arange(values.shape[1] + 1) - 0.5, logs.T, cmap="viridis")
    page.colorbar(mesh, ax=axis).ax.tick_params(labelsize=8)
