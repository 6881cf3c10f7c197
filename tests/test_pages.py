# SPDX-License-Identifier: Apache-2.0
"""The Python blocks of the README and of the pages in docs, run in order in one namespace for each page.

The comment lines after a `print` are what it prints, all of it; "..." stands for any text within a line.
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


def shown_in(block: str) -> list[str]:
    """For each print with comment lines after it, a pattern of these lines."""
    found = re.findall(r"^ *print\(.*\n((?:#.*\n)+)", block, re.MULTILINE)
    return ["^" + re.escape(re.sub("^# ?", "", text, flags=re.MULTILINE)).replace(r"\.\.\.", ".*") for text in found]


def test_shown_lines_are_compared_as_a_whole() -> None:
    block = "print(report)\n# ok    a\n# LOOK  b ... 3\nfor x in y:\n    print(x)\n# 1\n# 2\n"
    report, numbers = shown_in(block)
    assert re.search(report, "0\nok    a\nLOOK  b 2 and 3\n", re.MULTILINE)
    assert re.search(numbers, "1\n2\n", re.MULTILINE)
    for other in (
        "ok    a\n",
        "ok    a\nLOOK  b 2 and 4\n",
        "ok    a\nmore\nLOOK  b 2 and 3\n",
        " ok    a\nLOOK  b 3 and 3\n",
    ):
        assert not re.search(report, other, re.MULTILINE)


def test_the_pages_with_examples_are_found() -> None:
    assert {"README.md", "docs/features.md"} < set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_run(page: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(page)
    if any("import torch" in block for block in blocks):
        pytest.importorskip("torch")
    if any(".plot(" in block for block in blocks):
        pytest.importorskip("matplotlib")
    shutil.copytree(ROOT / "docs" / "data", tmp_path / "docs" / "data")  # as in the root of a clone
    monkeypatch.chdir(tmp_path)  # for the files that a page writes
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
        printed = capsys.readouterr().out
        for shown in shown_in(block):
            assert re.search(shown, printed, re.MULTILINE), f"{page} says\n{shown}\nand prints\n{printed}"
