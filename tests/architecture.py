# SPDX-License-Identifier: Apache-2.0
"""The rules of the house, each a function from a tree to a list of violations; test_architecture.py applies them.

They read text and syntax trees only: nothing is imported or compiled, so they hold for code of every platform.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from cpp_functions import cpp_functions

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_CPP_PARAMETERS = 7

# "file: function" that is over a limit of functions, to be mended; an entry that is not needed is a violation, too.
LONG_FUNCTIONS: set[str] = set()
MANY_PARAMETERS = {
    "csrc/core/gemm/product.h: narrow_product",
    "csrc/core/gemm/product.h: product",
    "csrc/nn/linear.h: linear_backward",
    "csrc/nn/linear.h: linear_forward",
    "csrc/sequence/input_products.h: block_products",
    "csrc/sequence/multi_stage_forward.h: products",
    "csrc/sequence/weight_gradient.h: add",
    "csrc/sequence/weight_gradient.h: add_rows",
}
# Functions whose parameters others decide: the contract of cells, and the keywords of a Python call.
PARAMETERS_DECIDED_ELSEWHERE = ("csrc/cells/", "csrc/bindings/")

# folder of csrc -> the folders it may include
MAY_INCLUDE = {
    "core": {"core"},
    "cells": {"cells"},
    "sequence": {"sequence", "cells", "core"},
    "stack": {"stack", "sequence", "cells", "core"},
    "optim": {"optim", "core"},
    "nn": {"nn", "core"},
    "bindings": {"bindings", "stack", "optim", "nn", "cells", "core"},
}
# C++ library -> the folders that may include it
CPP_LIBRARIES = {"Eigen": {"core"}, "pybind11": {"bindings"}}
CELLS_STANDARD_HEADERS = {"cmath", "type_traits"}

# Modules or packages that connect a library of the same name to ours.
ADAPTERS = {"torch", "jax", "onnx", "sklearn"}
# Python library -> the modules of bptt that may import it
PYTHON_LIBRARIES = {
    "matplotlib": {"_pictures"},
    "narwhals": {"data"},
    "safetensors": {"checkpoint"},
    "threadpoolctl": {"_threads"},
    "tqdm": {"_terminal", "train"},
    **{name: {name} for name in ADAPTERS},
}
NATIVE = re.compile(r"_core(_\w+)?|_cpu")
# The rooms of the package, lowest floor first; "" is bptt/__init__. A module imports from its own floor and from those
# below, also for its types. The reference is apart: it imports nothing of ours.
FLOORS: tuple[set[str], ...] = (
    {"_core", "_cpu"},
    {
        "_arrays",
        "_atomic_file",
        "_dispatch",
        "_locks",
        "_precision",
        "_signature",
        "_startup",
        "_threads",
        "_topology",
        "_views",
    },
    {"_engine"},
    {"_pictures", "_runtime", "checkpoint", "params", "textdata"},
    {"init", "losses", "optim"},
    {"layers"},
    {"saving", "train"},
    {"data"},
    {"callbacks", "insight"},
    {"charlm", "forecasting", "_memory", *ADAPTERS},
    {"_terminal", ""},
    {"cli"},
    {"__main__"},
)
# The command line and what only it uses: the library must not know of them.
APPLICATION = {"__main__", "cli", "_memory", "_terminal", "charlm", "forecasting"}

# What only one file of the library may use, since others would get it wrong; the file says why.
ONE_FILE = {
    r"gil_scoped_\w+|PyGILState_\w+|PyEval_\w+Thread|Py_BEGIN_ALLOW_THREADS": "csrc/bindings/gil.h",
    r"threading\.R?Lock\b": "python/bptt/_locks.py",
}

INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>|(\S+))', re.MULTILINE)


def cpp_files(csrc: Path) -> list[Path]:
    """Every C++ file below `csrc`."""
    return sorted(path for path in csrc.rglob("*") if path.suffix in {".h", ".cpp"})


def include_problems(csrc: Path) -> list[str]:
    """Includes that run against MAY_INCLUDE, and libraries where they do not belong."""
    problems = []
    for path in cpp_files(csrc):
        folder = path.relative_to(csrc).parts[0]
        if folder not in MAY_INCLUDE:
            problems.append(f"{path.relative_to(csrc)}: has no place in MAY_INCLUDE")
            continue
        for own, library, other in INCLUDE.findall(path.read_text("utf-8")):
            complaint = _own_problem(csrc, path, folder, own) if own else _library_problem(folder, library, other)
            if complaint:
                problems.append(f"{path.relative_to(csrc)}: includes {own or library or other}, {complaint}")
    return problems


def _own_problem(csrc: Path, path: Path, folder: str, name: str) -> str:
    found = [place / name for place in (csrc, path.parent) if (place / name).is_file()]
    if not found:
        return "which is not in csrc"
    target = found[0].resolve().relative_to(csrc.resolve()).parts[0]
    return "" if target in MAY_INCLUDE[folder] else f"but {folder} must not know {target}"


def _library_problem(folder: str, library: str, other: str) -> str:
    if other:
        return "which is no literal name"
    top = library.split("/")[0]
    if top in CPP_LIBRARIES and folder not in CPP_LIBRARIES[top]:
        return f"but {folder} must not know {top}"
    if folder == "cells" and library not in CELLS_STANDARD_HEADERS:
        return f"but cells include only {sorted(CELLS_STANDARD_HEADERS)}"
    return ""


def level_problems(csrc: Path) -> list[str]:
    """Files of the bindings, which are compiled once for all levels, that reach what differs by level."""
    return [
        f"{path.relative_to(csrc)}: reaches {each.relative_to(csrc)}, expected nothing that depends on the level"
        for path in cpp_files(csrc / "bindings")
        for each in sorted(_reached(csrc, path, set()))
        if _depends_on_level(each)
    ]


def _depends_on_level(path: Path) -> bool:
    """Whether a file includes Eigen, whose types differ by level, or asks for an instruction set itself."""
    text = path.read_text("utf-8")
    eigen = any(library.startswith("Eigen") for _, library, _ in INCLUDE.findall(text))
    return eigen or re.search(r"__(AVX|SSE|FMA)\w*", text) is not None


def _reached(csrc: Path, path: Path, seen: set[Path]) -> set[Path]:
    """A file and all of ours that it includes."""
    seen.add(path)
    for own, _, _ in INCLUDE.findall(path.read_text("utf-8")):
        found = [place / own for place in (csrc, path.parent) if own and (place / own).is_file()]
        if found and found[0] not in seen:
            _reached(csrc, found[0], seen)
    return seen


def one_file_problems(root: Path) -> list[str]:
    """Files of the library that use what ONE_FILE allows another one alone."""
    problems = []
    for path in source_files(root):
        name = path.relative_to(root).as_posix()
        for pattern, owner in ONE_FILE.items():
            found = re.search(pattern, path.read_text("utf-8"))
            if found and name != owner and name.startswith(("csrc/", "python/")):
                problems.append(f"{name}: uses {found.group()}, expected {owner} alone to")
    return problems


def text_problems(root: Path) -> list[str]:
    """Files over the size limit, without an SPDX line at the top, or (in csrc) with characters beyond ASCII."""
    problems = []
    for path in source_files(root):
        name = path.relative_to(root)
        text = path.read_text("utf-8")
        lines = text.splitlines()
        if len(lines) > MAX_FILE_LINES:
            problems.append(f"{name}: has {len(lines)} lines, expected at most {MAX_FILE_LINES}")
        if path.suffix != ".pyi" and not any("SPDX-License-Identifier: Apache-2.0" in line for line in lines[:2]):
            problems.append(f"{name}: lacks the SPDX line")
        if name.parts[0] == "csrc" and not text.isascii():
            problems.append(f"{name}: is not ASCII")
    return problems


def source_files(root: Path) -> Iterator[Path]:
    """C++ and Python files of every folder that holds code."""
    for folder in ("csrc", "python", "tests", "benchmarks", "examples", ".ci"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in {".h", ".cpp", ".py", ".pyi"}:
                yield path


def function_problems(root: Path, long_functions: Iterable[str] = (), many_parameters: Iterable[str] = ()) -> list[str]:
    """Functions over the limits but for the "file: function" given, and those given that are over no limit.

    Lines are those of Python and C++ functions without the docstring; parameters those of C++ functions.
    """
    long, many = _long_functions(root), _many_parameters(root)
    problems = [f"{name} has {lines} lines" for name, lines in long if name not in long_functions]
    problems += [f"{name} has {count} parameters" for name, count in many if name not in many_parameters]
    for allowed, found in ((long_functions, long), (many_parameters, many)):
        names = {name for name, _ in found}
        problems += [f"{name}: is an exception that nothing needs" for name in sorted(allowed) if name not in names]
    return problems


def _long_functions(root: Path) -> list[tuple[str, int]]:
    found = []
    for path in source_files(root):
        text = path.read_text("utf-8")
        if path.suffix == ".py":
            lengths = list(_python_lengths(ast.parse(text)))
        elif path.suffix in {".h", ".cpp"}:
            lengths = [(each.name, each.lines) for each in cpp_functions(text)]
        else:
            continue
        here = path.relative_to(root).as_posix()
        found += [(f"{here}: {name}", lines) for name, lines in lengths if lines > MAX_FUNCTION_LINES]
    return found


def _many_parameters(root: Path) -> list[tuple[str, int]]:
    found = []
    for path in source_files(root):
        here = path.relative_to(root).as_posix()
        if path.suffix in {".h", ".cpp"} and not here.startswith(PARAMETERS_DECIDED_ELSEWHERE):
            found += [(f"{here}: {each.name}", each.parameters) for each in cpp_functions(path.read_text("utf-8"))]
    return [(name, count) for name, count in found if count > MAX_CPP_PARAMETERS]


def _python_lengths(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if ast.get_docstring(node) is not None:
            length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
        yield node.name, length


@dataclass(frozen=True)
class Import:
    """`module` imports `target`, both without the leading `bptt.` if `ours`; not `at_run_time`: for its types alone."""

    module: str
    target: str
    ours: bool
    at_run_time: bool

    @property
    def native(self) -> bool:
        """Whether the target is a compiled module."""
        return self.ours and NATIVE.fullmatch(_room(self.target)) is not None


def imports(package: Path) -> list[Import]:
    """Every import of every module, also inside functions and below `if TYPE_CHECKING:`; "" is bptt/__init__."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        anchor = parts[:-1]
        for node, at_run_time in _nodes(ast.parse(path.read_text("utf-8"))):
            for name in _imported_names(node, anchor, package):
                top, _, rest = name.partition(".")
                ours = top == "bptt"
                found.append(Import(module, rest if ours else top, ours, at_run_time))
    return found


def _nodes(tree: ast.AST, at_run_time: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, and whether what they say is done at run time."""
    for child in ast.iter_child_nodes(tree):
        yield child, at_run_time
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            below = ast.Module(child.body, []), ast.Module(child.orelse, [])
            negated = ast.unparse(child.test).startswith("not ")
            yield from _nodes(below[negated], False)
            yield from _nodes(below[not negated], at_run_time)
        else:
            yield from _nodes(child, at_run_time)


def _imported_names(node: ast.AST, anchor: tuple[str, ...], package: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = (node.module or "").split(".") if node.module else []
        if node.level:
            base = ["bptt", *anchor[: len(anchor) - node.level + 1], *base]
        for alias in node.names:
            yield ".".join([*base, alias.name] if _is_module(package, [*base, alias.name]) else base)


def _is_module(package: Path, name: list[str]) -> bool:
    if name[0] != "bptt":
        return False
    place = package.joinpath(*name[1:])
    return place.is_dir() or place.with_suffix(".py").is_file() or NATIVE.fullmatch(name[-1]) is not None


def _room(module: str) -> str:
    """The file or folder of the package that a module is in."""
    return module.split(".")[0]


def import_problems(package: Path) -> list[str]:
    """Imports against the direction drawn in the design, third-party imports in the wrong place, cycles."""
    problems = []
    graph: dict[str, set[str]] = {}
    for each in imports(package):
        complaint = _ours_problem(each) if each.ours else _third_party_problem(each)
        if complaint:
            problems.append(f"{each.module or '__init__'}: imports {each.target or 'bptt'}, {complaint}")
        if each.ours:
            graph.setdefault(each.module, set()).add(each.target)
    rooms = {_room(module) for module in graph}
    problems += [f"{room}: has no place in FLOORS" for room in sorted(rooms - {"reference"}) if _floor(room) < 0]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        problems.append("cycle: " + " <- ".join(name or "__init__" for name in error.args[1]))
    return problems


def _floor(room: str) -> int:
    """The floor of a room, -1 for one that has none."""
    return next((floor for floor, rooms in enumerate(FLOORS) if room in rooms), -1)


def _ours_problem(each: Import) -> str:
    room, target = _room(each.module), _room(each.target)
    if room == "reference":
        return "" if target == "reference" else "but reference imports nothing of ours"
    if not each.at_run_time and each.native:
        return ""  # its types
    if each.module == "_dispatch" and not each.native:
        return "but _dispatch knows only the native modules"
    if each.native and each.module != "_dispatch":
        return "but only _dispatch knows the native modules"
    if target == "reference" and each.at_run_time:
        return "but the reference serves tests alone"
    if target in APPLICATION and room not in APPLICATION and (each.at_run_time or room):
        return "but the library must not know the application"
    if target in ADAPTERS and room != target:
        return "but nothing of ours imports an adapter"
    if 0 <= _floor(room) < _floor(target):
        return f"but {room} must not know {target or 'bptt'}"
    return ""


def _third_party_problem(each: Import) -> str:
    if each.target in sys.stdlib_module_names or each.target == "numpy" or not each.at_run_time:
        return ""
    if _room(each.module) == "reference":
        return "but reference imports numpy only"
    owners = PYTHON_LIBRARIES.get(each.target)
    if owners is None:
        return "which has no place in PYTHON_LIBRARIES"
    return "" if _room(each.module) in owners else f"expected only {sorted(owners)} to"
