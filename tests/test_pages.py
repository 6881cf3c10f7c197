# SPDX-License-Identifier: Apache-2.0
"""The Python blocks of the README and of the pages in docs, run in order in one namespace for each page.

What a page says a block prints is compared with its output.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    page
    for page in ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
    if "```python" in (ROOT / page).read_text("utf-8")
]


def blocks_of(page: str) -> list[str]:
    """The blocks, each after as many empty lines as stand before it: a failure then names the page's own line."""
    text = (ROOT / page).read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text[: each.start(1)].count("\n") + each.group(1) for each in found]


def test_the_pages_with_examples_are_found() -> None:
    assert {"README.md", "docs/features.md"} < set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_run(page: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(page)
    if any(".plot(" in block for block in blocks):
        pytest.importorskip("matplotlib")
    shutil.copytree(ROOT / "docs" / "data", tmp_path / "docs" / "data")  # as in the root of a clone
    monkeypatch.chdir(tmp_path)  # for the files that a page writes
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
        printed = capsys.readouterr().out
        for line in re.findall(r"^print\(.*\n# (.*)$", block, re.MULTILINE):
            assert line in printed
