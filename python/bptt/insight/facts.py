# SPDX-License-Identifier: Apache-2.0
"""The figures that reports, rules and pictures share. Nothing is measured, said or drawn here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from bptt._arrays import Array
    from bptt.insight.lyapunov import LyapunovSpectrum
    from bptt.insight.propagation import Propagation
    from bptt.insight.units import Units
    from bptt.insight.weights import Truncation


class Finding(NamedTuple):
    """The name of a rule, and what it says."""

    rule: str
    text: str


class Record(NamedTuple):
    """A batch after some updates: its loss, the norm of each state's gradient, [T], and the saturated shares of gates.

    update: how many updates were made before; norms: by name, as of `gradient_flow`; saturation: by name, "0.f" for
    gate f of layer 0, the shares at the low and at the high end.
    """

    update: int
    loss: float
    norms: dict[str, Array]
    saturation: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class KernelFacts:
    """One layer in one direction. cell: the kernels' name of it, such as "lstm".

    spectrum: its leading Lyapunov exponents; shares: of each time step in its weights' gradient, [T]. Each is None
    where it is not defined; `Report.notes` says why. x_rms: the largest root mean square of a feature of its input.
    """

    cell: str
    hidden_size: int
    x_rms: float
    units: Units
    spectrum: LyapunovSpectrum | None
    shares: Array | None

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values of Python; NaN and infinities stay what they are."""
        return {
            "cell": self.cell,
            "hidden_size": self.hidden_size,
            "x_rms": self.x_rms,
            "units": self.units.to_dict(),
            "spectrum": None if self.spectrum is None else self.spectrum.to_dict(),
            "shares": None if self.shares is None else self.shares.tolist(),
        }


class FlowFigures(Protocol):
    """What rules and pictures read of a `GradientFlow`."""

    @property
    def loss(self) -> float:
        """The value of the loss."""

    @property
    def norms(self) -> dict[str, Array]:
        """The norm of each gradient at each step."""

    @property
    def whole(self) -> Propagation:
        """The propagated part."""


class Figures(Protocol):
    """What rules and pictures read of a `Report`."""

    @property
    def steps(self) -> int:
        """T."""

    @property
    def flow(self) -> FlowFigures:
        """The gradient flow."""

    @property
    def kernels(self) -> dict[str, KernelFacts]:
        """Each layer and direction, by name."""

    @property
    def truncation(self) -> Truncation | None:
        """The cosines."""

    @property
    def findings(self) -> list[Finding]:
        """What the rules say."""
