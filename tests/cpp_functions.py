# SPDX-License-Identifier: Apache-2.0
"""The functions of a C++ file, found by their braces: names, lines and parameters. No compiler, no preprocessor.

It knows the C++ of this project. Text whose braces do not match, as where the branches of an #if open a brace each, is
an error, so that no function is left out unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Function", "cpp_functions"]

# What may hold braces and is no code: comments, raw strings, strings, characters, and preprocessor lines.
NO_CODE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"(?P<end>[^\s()\\]*)\(.*?\)(?P=end)"|"(?:\\.|[^"\\\n])*"|(?<!\w)'(?:\\.|[^'\\\n])+'"""
    r"""|^[ \t]*\#(?:\\\n|[^\n])*""",
    re.DOTALL | re.MULTILINE,
)
LABEL = re.compile(r"\s*(?:public|protected|private)\s*:(?!:)")
OUTER = re.compile(r"(?:inline\s+)?namespace\b|extern\b|(?:class|struct|union|enum)\b")
OPERATOR = re.compile(r"\boperator\s*(?:\(\s*\)|[^\w\s(]+)")


@dataclass(frozen=True)
class Function:
    """One function with a body; `lines` counts from its first word, `template` included, to its closing brace."""

    name: str
    line: int
    lines: int
    parameters: int


def cpp_functions(text: str) -> list[Function]:
    """Every function, method and constructor that is defined in `text`; what is inside one belongs to it.

    Raises: ValueError where braces do not match.
    """
    code = NO_CODE.sub(_blank, text)
    found = []
    scopes: list[tuple[str, int]] = []  # what each open brace opened, and where its head began
    head = 0  # where the declaration began that is being read
    for match in re.finditer(r"[{};]", code):
        inside = scopes[-1][0] if scopes else "outer"
        if match.group() == "{":
            scopes.append((_opened(code[head : match.start()]) if inside == "outer" else inside, head))
        elif match.group() == "}":
            if not scopes:
                raise ValueError(f"line {_line(code, match.start())} closes a brace that nothing opens")
            kind, began = scopes.pop()
            if kind == "function" and inside == kind and (not scopes or scopes[-1][0] == "outer"):
                found.append(_function(code, began, match.end()))
            if kind == "value" and (not scopes or scopes[-1][0] == "outer"):
                continue  # the declaration goes on
        if match.group() == "{" and scopes[-1][0] != "outer":
            continue
        if not scopes or scopes[-1][0] == "outer":
            head = match.end()
    if scopes:
        raise ValueError(f"the brace of line {_line(code, scopes[-1][1])} is not closed")
    return found


def _blank(match: re.Match[str]) -> str:
    """As many lines, and no code; a string stays a word."""
    return re.sub(r"[^\n]", " ", match.group()) if match.group()[0] != '"' else '""'


def _line(code: str, place: int) -> int:
    return code.count("\n", 0, place) + 1


def _opened(head: str) -> str:
    """What the brace after `head` opens: "outer" (a namespace or type), "function" or "value"."""
    head = _without_templates(_without_label(head)).strip()
    opening = _parameters_begin(head)
    if opening is None:
        return "outer" if OUTER.match(head) else "value"
    after = head[_closing(head, opening) + 1 :]
    initialises = re.search(r"(?<!:):(?!:)", after)
    return "value" if initialises and re.search(r"[\w>]$", head) else "function"


def _without_label(head: str) -> str:
    while match := LABEL.match(head):
        head = head[match.end() :]
    return head


def _without_templates(head: str) -> str:
    """`head` without the leading template <...>."""
    while match := re.match(r"\s*template\s*(?=<)", head):
        head = head[match.end() :]
        head = head[next(_outside_arguments(head, ">")) + 1 :]
    return head


def _parameters_begin(head: str) -> int | None:
    """Where the parameter list opens: the first parenthesis outside of template arguments, which alignas's is not."""
    operator = OPERATOR.search(head)
    first = operator.end() if operator else 0
    for place in _outside_arguments(head[first:], "("):
        word = re.search(r"(\w+)\s*$", head[: first + place])
        if word is None or word.group(1) not in {"alignas", "decltype", "__attribute__"}:
            return first + place
    return None


def _outside_arguments(text: str, wanted: str) -> Iterator[int]:
    """Places of a character that are within no angle brackets and no parentheses but its own."""
    angles = parentheses = 0
    for place, character in enumerate(text):
        if character == ")":
            parentheses -= 1
        if character == ">" and angles and not parentheses:
            angles -= 1
        if character == wanted and not angles and not parentheses:
            yield place
        if character == "(":
            parentheses += 1
        if character == "<" and not parentheses:
            angles += 1


def _closing(text: str, opening: int) -> int:
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return len(text)


def _function(code: str, began: int, end: int) -> Function:
    text = code[began:end]
    skipped = len(text) - len(_without_label(text).lstrip())
    head = _without_templates(text[skipped:])
    opening = _parameters_begin(head)
    assert opening is not None
    name = re.search(rf"(?:{OPERATOR.pattern}|operator [\w ]+|~?\w+)\s*$", head[:opening])
    inside = head[opening + 1 : _closing(head, opening)]
    first = _line(code, began + skipped)
    parameters = len(list(_outside_arguments(inside, ","))) + bool(inside.strip())
    return Function(name.group().strip() if name else "?", first, _line(code, end) - first + 1, parameters)
