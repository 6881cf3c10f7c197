# SPDX-License-Identifier: Apache-2.0
"""Gradients, memory and units of a model, measured: `gradient_flow`, `lyapunov_exponents`, `diagnose`, `watch`.

`run.py` runs a model and gives the gradient of every state, `kernel.py` one layer step by step in float64; `flow.py`,
`lyapunov.py`, `units.py` and `weights.py` measure, with `propagation.py` and `growth.py` as their arithmetic;
`report.py` and `rules.py` put it into words, `pictures.py` draws it, `watching.py` repeats a part of it during `fit`.
"""

from bptt.insight.flow import GradientFlow, gradient_flow
from bptt.insight.lyapunov import LyapunovSpectrum, lyapunov_exponents
from bptt.insight.report import Report, diagnose
from bptt.insight.watching import Watch, watch

__all__ = [
    "GradientFlow",
    "LyapunovSpectrum",
    "Report",
    "Watch",
    "diagnose",
    "gradient_flow",
    "lyapunov_exponents",
    "watch",
]
