# SPDX-License-Identifier: Apache-2.0
"""The README's Python blocks run, one after the other in one namespace, and print what they say they print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_blocks_run(capsys: Any) -> None:
    assert len(BLOCKS) >= 3
    namespace: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), namespace)
        printed = capsys.readouterr().out
        for line in re.findall(r"^print\(.*\n# (.*)$", block, re.MULTILINE):
            assert line in printed
