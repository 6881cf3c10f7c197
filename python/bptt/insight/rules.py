# SPDX-License-Identifier: Apache-2.0
"""The table of rules that turns figures into a verdict; docs/insight.md has the same table in words.

Each rule is a function from a report to sentences, each with the numbers it rests on; none where it does not apply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bptt.insight.facts import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bptt.insight.facts import Figures

VANISHED, EXPLODED = 1e-3, 1e3  # what is left of a gradient after the whole sequence
SHORT = 0.1  # of T: a memory shorter than that
MOSTLY = 0.5  # of the values of a gate
RECENT, RECENT_SHARE = 0.1, 0.9  # this part of the steps has that share of dW
LARGE = 30.0  # root mean square of a feature: layers are made for features of about 1
ROUNDING = 1e-5  # a matrix that is orthogonal but for rounding has norm 1, and exponents of 0
SURE = 2.0  # standard errors from zero


def findings(report: Figures) -> list[Finding]:
    """What all rules say."""
    return [Finding(name, text) for name, rule in RULES.items() for text in rule(report)]


def _finite(report: Figures) -> Iterator[str]:
    norms = report.flow.norms
    bad = [name for name, norm in norms.items() if not np.isfinite(norm).all()]
    if not np.isfinite(report.flow.loss):
        yield f"The loss is {report.flow.loss}: nothing below can be relied on."
    elif bad:
        yield f"Gradients overflow: those of {', '.join(bad)} are not finite at some steps."
    elif not any(norm.any() for norm in norms.values()):
        yield "The loss gives no gradient to any state: all are zero."


def _inputs(report: Figures) -> Iterator[str]:
    for name, facts in report.kernels.items():
        if facts.x_rms > LARGE and not name.endswith("_reverse"):
            yield (
                f"The input of layer {name} is large: a feature has a root mean square of {facts.x_rms:.3g}, which "
                "saturates units. Scale it to about 1, as bptt.data.Scaler does, before anything else."
            )


def _decay(report: Figures) -> Iterator[str]:
    whole, T = report.flow.whole, report.steps
    low, high = whole.decay_interval
    if np.isnan(whole.decay):
        yield f"The sequence of {T} steps is too short, or its gradient too small, to fit a rate per step."
        return
    if whole.decay == 0:
        yield "The gradient vanishes: nothing of it is left one step back."
        return
    with np.errstate(over="ignore"):
        left = float(np.float64(whole.decay) ** (T - 1))
    rate = f"by a factor of {whole.decay:.4g} per step (95 % interval {low:.4g} to {high:.4g})"
    across = f"{left:.2g} of it is left after {T - 1} steps"
    if high < 1:
        word = "vanishes" if left < VANISHED else "fades"
        yield f"The gradient {word}: it changes {rate}, half is left after {whole.half_life:.3g} steps, {across}."
    elif low > 1:
        word = "explodes" if left > EXPLODED else "grows"
        yield f"The gradient {word}: it changes {rate}, and is multiplied by {left:.2g} over {T - 1} steps."
    else:
        yield f"The gradient neither vanishes nor explodes for certain: it changes {rate}, {across}."


def _exponents(report: Figures) -> Iterator[str]:
    for name, facts in report.kernels.items():
        spectrum = facts.spectrum
        if spectrum is None:
            continue
        first, error = float(spectrum.exponents[0]), float(spectrum.error[0])
        zero = max(SURE * error, ROUNDING)
        has = f"largest Lyapunov exponent {first:.4g} +- {error:.2g} per step"
        if np.isnan(first):
            continue  # the rule `finite` speaks
        if not np.isfinite(first):
            yield f"Layer {name} forgets its state entirely within the sequence (all Lyapunov exponents are -inf)."
        elif not spectrum.converged_each[0]:
            yield f"Layer {name}: the {has} has not converged; longer sequences would help."
        elif first > zero:
            yield f"Layer {name} is chaotic: {has}; small differences grow, and gradients with them."
        elif first < -zero:
            yield f"Layer {name} is stable: {has}; it forgets its state within about {-1 / first:.3g} steps."
        else:
            yield f"Layer {name} is at the edge of chaos: {has}."


def _bounds(report: Figures) -> Iterator[str]:
    for name, facts in report.kernels.items():
        if not facts.cell.startswith("rnn_") or facts.shares is None:  # with zoneout or masks the bound does not hold
            continue
        matrix = facts.units.matrices["h"]
        if np.isnan(matrix.norm):
            yield f"Layer {name}: weight_hh is not finite."
        elif matrix.norm < 1 - ROUNDING:
            yield (
                f"Layer {name}: gradients must vanish whatever the input, since the largest singular value of "
                f"weight_hh is {matrix.norm:.4g} < 1 (they shrink at least by that factor per step)."
            )
        elif matrix.norm <= 1 + ROUNDING:
            yield (
                f"Layer {name}: gradients cannot grow, whatever the input, since the largest singular value of "
                f"weight_hh is 1; spectral radius {matrix.radius:.4g}."
            )
        else:
            yield (
                f"Layer {name}: the largest singular value of weight_hh is {matrix.norm:.4g} > 1, so that gradients "
                f"may grow, by at most that factor per step; spectral radius {matrix.radius:.4g}."
            )


def _memory(report: Figures) -> Iterator[str]:
    whole = report.flow.whole
    vanishes = whole.decay_interval[1] < 1 and whole.decay ** (report.steps - 1) < VANISHED
    for name, facts in report.kernels.items():
        constants = facts.units.time_constants
        if constants is None:
            if facts.cell.startswith("rnn_") and vanishes:
                yield (
                    f"Layer {name} is a simple RNN, which multiplies the gradient by weight_hh and by the derivative "
                    "of its nonlinearity at each step. An LSTM or a GRU has a direct path that can keep it, and so has "
                    "a ReLU RNN with init={'weight_hh': bptt.init.identity()}."
                )
            continue
        middle, long = np.quantile(constants, (0.5, 0.9), method="lower")
        has = f"time constants of its gates: median {middle:.3g}, 90 % quantile {long:.3g} of {report.steps} steps"
        if long < SHORT * report.steps and whole.decay_interval[1] < 1:
            gate = "f" if "f" in facts.units.matrices else "z"
            larger = f"a larger bias of gate {gate}, as of init={{'bias': bptt.init.chrono({report.steps})}}"
            yield f"Layer {name} remembers briefly ({has}); {larger}, would lengthen its memory."


def _saturated(report: Figures) -> Iterator[str]:
    for name, facts in report.kernels.items():
        for gate, (low, high) in facts.units.saturation.items():
            if low + high > MOSTLY:
                what = "h" if gate == "h" else f"gate {gate}"
                yield (
                    f"Layer {name}: {what} is saturated in {low + high:.0%} of its values ({low:.0%} at the low end, "
                    f"{high:.0%} at the high end): its own weights get little gradient."
                )


def _dead(report: Figures) -> Iterator[str]:
    for name, facts in report.kernels.items():
        n = len(facts.units.dead)
        if n:
            what = "are never active" if facts.cell == "rnn_relu" else "never move"
            yield f"Layer {name}: {n} of {facts.hidden_size} units {what}."


def _truncated(report: Figures) -> Iterator[str]:
    found = report.truncation
    if found is None or found.enough is None:
        return
    if found.enough < report.steps:
        cosine = found.cosines[found.enough]
        of = f"{found.enough} of {report.steps} steps"
        yield f"Truncation to {of} gives a gradient whose cosine with the full one is {cosine:.4f}."
    else:
        best = max((k for k in found.cosines if k < report.steps), default=0)
        less = f"; truncation to {best} gives {found.cosines[best]:.4f}" if best else ""
        yield f"Truncation: only the whole sequence of {report.steps} steps gives a cosine of 0.99{less}."


def _recent(report: Figures) -> Iterator[str]:
    for name, facts in report.kernels.items():
        if facts.shares is None or not np.isfinite(facts.shares).all():
            continue
        n, reverse = max(1, round(RECENT * len(facts.shares))), name.endswith("_reverse")
        share = float(facts.shares[:n].sum() if reverse else facts.shares[-n:].sum())
        if share <= RECENT_SHARE or len(facts.shares) < 10:
            continue
        where = f"the {'first' if reverse else 'last'} {n} of {report.steps} steps"
        if share <= 1:
            yield f"Layer {name}: {share:.0%} of the weights' gradient comes from {where}."
        else:
            yield f"Layer {name}: the weights' gradient comes from {where}; the others together work against it."


RULES: dict[str, Callable[[Figures], Iterator[str]]] = {
    "finite": _finite,
    "inputs": _inputs,
    "decay": _decay,
    "exponents": _exponents,
    "bounds": _bounds,
    "memory": _memory,
    "saturated": _saturated,
    "dead": _dead,
    "truncation": _truncated,
    "recent": _recent,
}
