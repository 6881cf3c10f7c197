# SPDX-License-Identifier: Apache-2.0
"""Chooses the native module of one instruction-set level, registers it as `bptt._core` and exports it as `core`.

The levels are _core_v4, _core_v3, _core_v2 (x86-64) or _core_base; all have the interface of _core.pyi. The best one
that this machine runs and this build has is used; the environment variable BPTT_ISA=v2|v3|v4|base selects another.
`cpu` is the module that knows the processor.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptt import _core as core
    from bptt import _cpu as cpu
else:

    def _module(name: str) -> Any:
        """The module `name` of this package, or None where this build has none."""
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                return None
            raise

    def _choose() -> Any:
        if cpu is None:
            raise ImportError("bptt: the compiled modules are missing; `pip install .` in the source tree builds them")
        supported = cpu.supported()
        wanted = os.environ.get("BPTT_ISA")
        for level in [wanted] if wanted else supported:
            if level in supported and (chosen := _module(f"bptt._core_{level}")):
                return chosen
        if not supported:
            raise ImportError("bptt: this processor is below x86-64-v2 (SSE4.2, POPCNT), the least that bptt supports")
        built = [level for level in supported if _module(f"bptt._core_{level}")]
        possible = f"{', '.join(built) or 'none'} (levels that this build has and this machine runs, best first)"
        if wanted:
            raise ImportError(f"bptt: BPTT_ISA has value {wanted!r}, expected one of {possible}")
        raise ImportError(
            f"bptt: this build has no module for levels {', '.join(supported)}; `pip install .` builds it"
        )

    cpu = _module("bptt._cpu")
    core = sys.modules["bptt._core"] = _choose()

__all__ = ["core", "cpu"]
