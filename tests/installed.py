# SPDX-License-Identifier: Apache-2.0
"""How the bptt under test is installed."""

from pathlib import Path

import pytest

from bptt import _cpu

# An editable install runs ninja at each import, which takes time and writes files.
not_editable = pytest.mark.skipif(
    "editable" in Path(_cpu.__file__).parts, reason="an editable install is rebuilt on import"
)
