# SPDX-License-Identifier: Apache-2.0
"""The report: gradient flow, spectra, units and weights of a model on one batch, with a verdict in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt._engine.lengths import within
from bptt.insight.facts import KernelFacts
from bptt.insight.flow import flow_of
from bptt.insight.kernel import trajectories
from bptt.insight.lyapunov import spectrum_of, why_not
from bptt.insight.rules import findings
from bptt.insight.run import Run, kernel_names
from bptt.insight.units import units_of
from bptt.insight.weights import shares, truncation, why_no_truncation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bptt._arrays import ArrayIn
    from bptt.insight.facts import Finding
    from bptt.insight.flow import GradientFlow
    from bptt.insight.lyapunov import LyapunovSpectrum
    from bptt.insight.run import Part, Steps
    from bptt.insight.weights import Truncation
    from bptt.train.model_and_loss import Loss, Model

MOST_BYTES = 64 << 20  # for what one layer does, in float64
MOST_ROWS, MOST_STEPS, MOST_EXPONENTS = 2, 1000, 8  # of the Lyapunov exponents
LEAST_STEPS = 10


@dataclass(frozen=True)
class Report:
    """What `diagnose` found: `str(report)` is the text, `report.plot(path)` the picture.

    steps: T. flow: as of `gradient_flow`. kernels: the facts of each layer and direction, by name. truncation: None
    where `notes` say why. findings: what each rule says.
    """

    steps: int
    flow: GradientFlow
    kernels: dict[str, KernelFacts]
    truncation: Truncation | None
    notes: tuple[str, ...]

    @property
    def findings(self) -> list[Finding]:
        """The rules that apply, with their sentences."""
        return findings(self)

    @property
    def verdict(self) -> str:
        """The findings as a text, a sentence in each line."""
        return "\n".join(each.text for each in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values of Python; NaN and infinities stay what they are."""
        return {
            "steps": self.steps,
            "verdict": self.verdict,
            "findings": [each._asdict() for each in self.findings],
            "flow": self.flow.to_dict(),
            "kernels": {name: each.to_dict() for name, each in self.kernels.items()},
            "truncation": None if self.truncation is None else self.truncation.to_dict(),
            "notes": list(self.notes),
        }

    def plot(self, path: str | Path | None = None) -> Any:
        """The report as one page. Returns matplotlib's Figure, written to `path` where it is given.

        Raises: ModuleNotFoundError without matplotlib, which the extra `plot` installs.
        """
        from bptt.insight.pictures import report_picture

        return report_picture(self, path)

    def __str__(self) -> str:
        return "\n".join([*self._verdict_lines(), "", "Figures:", *self._figure_lines(), *self._note_lines()])

    def _verdict_lines(self) -> Iterator[str]:
        yield f"Diagnosis over {self.steps} steps, loss {self.flow.loss:.4g}"
        yield from (f"- {each.text}" for each in self.findings)

    def _figure_lines(self) -> Iterator[str]:
        for name, facts in self.kernels.items():
            yield f"  layer {name} ({facts.cell}, {facts.hidden_size} units)"
            of = self.flow.layers[name]
            yield f"    gradient per step: {of.decay:.4g} ({of.decay_interval[0]:.4g} to {of.decay_interval[1]:.4g})"
            for gate, matrix in facts.units.matrices.items():
                low_high = facts.units.saturation.get(gate)
                ends = "" if low_high is None else f", saturated {low_high[0]:.0%} low, {low_high[1]:.0%} high"
                yield f"    {gate}: spectral radius {matrix.radius:.3g}, largest singular value {matrix.norm:.3g}{ends}"
            if facts.spectrum is not None:
                leading = ", ".join(f"{value:.4g}" for value in facts.spectrum.exponents[:4])
                yield f"    Lyapunov exponents: {leading}{', ...' if len(facts.spectrum.exponents) > 4 else ''}"

    def _note_lines(self) -> Iterator[str]:
        yield from (f"  not measured: {note}" for note in self.notes)


def diagnose(model: Model, x: ArrayIn, target: Any, loss: Loss, lengths: ArrayIn | None = None) -> Report:
    """Say how gradients, memory and units of a model do on one batch, in figures and in words.

    It has `gradient_flow`; the Lyapunov exponents of each layer (at most 8, of up to 2 of the longest rows and their
    first 1000 steps); the spectral radius and the largest singular value of each recurrent matrix; time constants,
    saturated gates and dead units; the share of each time step in the weights' gradient; and the cosine between the
    gradient truncated to k steps and the full one. `docs/insight.md` says what each figure means and has the table of
    rules behind `verdict`.

    Args: as of `gradient_flow`. The model stays as it is. Units and shares are measured on as many rows as
        fit 64 MiB. It takes as long as some 40 to 90 training passes over the batch.
    Returns: `Report`, with `.verdict`, `str(report)`, `.to_dict()` and `.plot(path)`.
    Raises: TypeError and ValueError for arguments that do not fit; what the layers and the loss raise.
    Source: Pascanu et al. 2013; Engelken et al. 2020; Tallec & Ollivier 2018 (time constants).

    >>> import numpy as np, bptt
    >>> model = bptt.Sequential(bptt.RNN(2, 8, seed=0, init={"weight_hh": "orthogonal"}), bptt.Linear(8, 1, seed=0))
    >>> x = np.random.default_rng(0).standard_normal((60, 4, 2))
    >>> report = diagnose(model, x, x[:, :, :1], bptt.losses.mse)
    >>> print(report.verdict.splitlines()[0])
    The gradient vanishes: ...
    """
    run = Run("diagnose", model, x, target, loss, lengths)
    flow = flow_of(run)
    dsteps = run.steps(run.dy)
    notes: list[str] = []
    kernels: dict[str, KernelFacts] = {}
    for part in run.parts:
        kernels |= _facts(run, part, dsteps, notes)
    cut = None
    reason = why_no_truncation(run) or ("the loss is not finite" if not run.finite else "")
    if reason:
        notes.append(f"truncation, since {reason}")
    else:
        cut = truncation(run)
    return Report(run.T, flow, kernels, cut, tuple(notes))


def _facts(run: Run, part: Part, dsteps: Steps, notes: list[str]) -> dict[str, KernelFacts]:
    """The facts of a layer's kernels."""
    layer, names = part.layer, kernel_names(part.number, part.layer)
    info, widths = layer._stack.structure.info, layer._stack.structure.widths
    of_row = run.T * layer.hidden_size * 8 * (len(info.kept) + 2 * len(widths)) * layer.num_directions
    rows = slice(0, max(1, min(run.B, MOST_BYTES // of_row)))
    lengths = None if run.lengths is None else run.lengths[rows]
    x = part.x[:, rows]
    inside = within(np.full(x.shape[1], run.T) if lengths is None else lengths, run.T)
    if not inside.any():
        notes.append(f"units of layer {part.number}, since no row has a step")
        return {}
    options = layer._stack.state_options
    exact = not options.random and np.isinf(options.clip_state) and np.isinf(options.clip_grad_per_step)
    if not exact:
        what = "zoneout, recurrent dropout or clipping"
        notes.append(f"shares of steps in the weights of layer {part.number}, since it has {what}")
    spectra = _spectra(run, part, notes)
    x_rms = float(np.sqrt(np.square(x[inside], dtype=np.float64).mean(axis=0).max()))
    found = {}
    for name, (kernel, path) in zip(names, trajectories(layer, x, None, lengths), strict=True):
        own = tuple(d[:, rows] for d in dsteps[name])
        found[name] = KernelFacts(
            kernel.structure.cell,
            layer.hidden_size,
            x_rms,
            units_of(kernel, path, inside),
            spectra.get(name),
            shares(kernel, path, own, inside) if exact else None,
        )
    return found


def _spectra(run: Run, part: Part, notes: list[str]) -> dict[str, LyapunovSpectrum]:
    """The exponents of a layer's kernels, on the longest rows; by name."""
    layer = part.layer
    longest = run.T if run.lengths is None else int(run.lengths.max())
    T = min(longest, MOST_STEPS)
    reason = why_not(layer)
    if T < LEAST_STEPS:
        reason = f"fewer than {LEAST_STEPS} steps"
    if reason:
        notes.append(f"Lyapunov exponents of layer {part.number}, since it has {reason}")
        return {}
    rows = np.arange(run.B) if run.lengths is None else np.flatnonzero(run.lengths == longest)
    x = part.x[:T, rows[:MOST_ROWS]]
    names = kernel_names(part.number, layer)
    return {
        name: spectrum_of(kernel, path, min(MOST_EXPONENTS, kernel.size), T // 10)
        for name, (kernel, path) in zip(names, trajectories(layer, x, None), strict=True)
    }
