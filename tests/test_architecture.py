# SPDX-License-Identifier: Apache-2.0
"""The direction of dependencies and the sizes of files, on this tree; and that each rule can fail, on made-up trees."""

from pathlib import Path

import pytest

import architecture

ROOT = Path(__file__).resolve().parents[1]
SPDX = "SPDX-License-Identifier: Apache-2.0\n"


def test_includes_run_one_way():
    assert architecture.include_problems(ROOT / "csrc") == []


def test_the_bindings_do_not_depend_on_the_level():
    assert architecture.level_problems(ROOT / "csrc") == []


def test_what_one_file_may_use():
    assert architecture.one_file_problems(ROOT) == []


def test_imports_run_one_way():
    assert architecture.import_problems(ROOT / "python" / "bptt") == []


def test_files_are_small_and_marked():
    assert architecture.text_problems(ROOT) == []


def test_functions_are_small():
    problems = architecture.function_problems(ROOT, architecture.LONG_FUNCTIONS, architecture.MANY_PARAMETERS)
    assert problems == []


def test_the_rules_see_the_tree():
    assert len(architecture.cpp_files(ROOT / "csrc")) > 10
    modules = {each.module for each in architecture.imports(ROOT / "python" / "bptt")}
    assert {"", "_dispatch", "reference", "cli"} <= modules


def make_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


GOOD_CPP = {
    "core/simd/vec.h": "#include <Eigen/Core>\n#include <cstdint>\n",
    "cells/cell.h": "#include <cmath>\n",
    "cells/lstm.h": '#include "cells/cell.h"\n',
    "sequence/forward.h": '#include "core/simd/vec.h"\n#include "cells/lstm.h"\n',
    "optim/sgd.h": '#include "core/simd/vec.h"\n',
    "nn/linear.h": '#include "core/simd/vec.h"\n',
    "stack/stack.h": "#include <memory>\n",
    "bindings/module.cpp": '#include <pybind11/pybind11.h>\n#include "arrays.h"\n#include "stack/stack.h"\n',
    "bindings/arrays.h": "",
}


def test_includes_that_may_be(tmp_path):
    assert architecture.include_problems(make_tree(tmp_path, GOOD_CPP)) == []


def test_bindings_that_depend_on_the_level(tmp_path):
    tree = make_tree(tmp_path, {**GOOD_CPP, "stack/stack.h": '#include "core/simd/vec.h"\n'})
    (problem,) = architecture.level_problems(tree)
    assert problem.startswith("bindings/module.cpp: reaches core/simd/vec.h")
    tree = make_tree(tmp_path, {**GOOD_CPP, "stack/stack.h": "#if defined(__AVX2__)\n#endif\n"})
    (problem,) = architecture.level_problems(tree)
    assert problem.startswith("bindings/module.cpp: reaches stack/stack.h")


def test_what_only_another_file_may_use(tmp_path):
    files = {"csrc/bindings/gil.h": "PyEval_SaveThread();", "csrc/bindings/bad.h": "py::gil_scoped_release release;"}
    files |= {"python/bptt/bad.py": "threading.Lock()", "tests/test_good.py": "threading.Lock()"}
    assert architecture.one_file_problems(make_tree(tmp_path, files)) == [
        "csrc/bindings/bad.h: uses gil_scoped_release, expected csrc/bindings/gil.h alone to",
        "python/bptt/bad.py: uses threading.Lock, expected python/bptt/_locks.py alone to",
    ]


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("core/bad.h", '#include "sequence/forward.h"\n', "core must not know sequence"),
        ("core/bad.h", '#include "../cells/lstm.h"\n', "core must not know cells"),
        ("optim/bad.h", '#include "nn/linear.h"\n', "optim must not know nn"),
        ("nn/bad.h", '#include "optim/sgd.h"\n', "nn must not know optim"),
        ("sequence/bad.h", "  #  include <pybind11/numpy.h>\n", "sequence must not know pybind11"),
        ("sequence/bad.h", "#include <Eigen/Core>\n", "sequence must not know Eigen"),
        ("cells/bad.h", '#include "core/simd/vec.h"\n', "cells must not know core"),
        ("cells/bad.h", "#include <vector>\n", "cells include only ['cmath', 'type_traits']"),
        ("core/bad.h", '#include "core/gone.h"\n', "which is not in csrc"),
        ("core/bad.h", "#include HEADER\n", "which is no literal name"),
        ("bindings/bad.h", '#include "sequence/forward.h"\n', "bindings must not know sequence"),
        ("new/bad.h", "", "has no place in MAY_INCLUDE"),
        ("bad.h", "", "has no place in MAY_INCLUDE"),
    ],
)
def test_includes_that_may_not_be(tmp_path, path, text, complaint):
    (problem,) = architecture.include_problems(make_tree(tmp_path, {**GOOD_CPP, path: text}))
    assert problem.startswith(path)
    assert complaint in problem


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("csrc/core/bad.h", "// " + SPDX + "// 4 µs\n", "is not ASCII"),
        ("csrc/core/bad.h", "// no licence\n", "lacks the SPDX line"),
        ("python/bptt/bad.py", "# " + SPDX + "\n" * 400, "has 401 lines"),
        ("tests/bad.py", "", "lacks the SPDX line"),
        ("python/bptt/bad.pyi", "\n" * 401, "has 401 lines"),
    ],
)
def test_text_that_may_not_be(tmp_path, path, text, complaint):
    good = {
        "csrc/core/good.h": "// " + SPDX,
        "python/bptt/good.py": "# " + SPDX + "\n" * 399,
        "tests/a.py": "#!\n# " + SPDX,
    }
    (problem,) = architecture.text_problems(make_tree(tmp_path, {**good, path: text}))
    assert problem.startswith(path)
    assert complaint in problem


def test_functions_that_may_not_be(tmp_path):
    def function(name: str, lines: int) -> str:
        return f"def {name}():\n" + '    """One.\n\n    Two.\n    """\n' + "    pass\n" * (lines - 1)

    def cpp(name: str, lines: int) -> str:
        return f"void {name}() {{\n" + "  f();\n" * (lines - 2) + "}\n"

    files = {
        "python/bptt/a.py": function("good", 60) + function("bad", 61),
        "csrc/nn/a.h": cpp("good", 60) + cpp("bad", 61),
        "csrc/nn/b.h": "void good(int a, B<int, int> b, C c, D d, E e, F f, G g) {}\n"
        "void bad(int a, B<int, int> b, C c, D d, E e, F f, G g, H h) {}\n",
    }
    many = "csrc/nn/b.h: bad"
    too_long = ["csrc/nn/a.h: bad has 61 lines", "python/bptt/a.py: bad has 61 lines"]
    make_tree(tmp_path, files)
    assert architecture.function_problems(tmp_path) == [*too_long, f"{many} has 8 parameters"]
    assert architecture.function_problems(tmp_path, (), [many]) == too_long
    assert architecture.function_problems(tmp_path, ["csrc/nn/a.h: good"], [many]) == [
        *too_long,
        "csrc/nn/a.h: good: is an exception that nothing needs",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int f(int a,\n      int b) {\n  return a;\n}\n", [("f", 1, 4, 2)]),
        ("template <class T,\n          int N = (1 > 0)>\nvoid f() {}\n", [("f", 1, 3, 0)]),
        ("struct A {\n public:\n  A(int a) : a_(a), b_{1, 2} {\n  }\n  int a_ = 0, b_[2]{};\n};\n", [("A", 3, 2, 1)]),
        ("namespace a::b {\nclass alignas(64) C final : public D<int> {\n  ~C() {}\n};\n}\n", [("~C", 3, 1, 0)]),
        ("auto f() {\n  return [&](auto x) {\n    struct S { void g() {} };\n  };\n}\n", [("f", 1, 5, 0)]),
        ("T operator()(std::function<int(int, int)> f, A (&a)[2]) const {}\n", [("operator()", 1, 1, 2)]),
        ("bool operator<(const A& b) const noexcept override { return x < b.x; }\n", [("operator<", 1, 1, 1)]),
        ('// } {\n/* { */ void f(char a = \'{\') { g("}\\"", R"({)", 1); }\n', [("f", 2, 1, 1)]),
        ("#define F(x) { \\\n  {\nvoid f() {}\n", [("f", 3, 1, 0)]),
        (
            "int a[] = {1, 2};\nstatic const B b{{1}, {2}};\nenum class E { kA, kB };\nvoid f();\nvoid g() {}\n",
            [("g", 5, 1, 0)],
        ),
        ("template <>\nvoid A<int>::f() {}\n", [("f", 1, 2, 0)]),
        ("PYBIND11_MODULE(NAME, m) {\n}\n", [("PYBIND11_MODULE", 1, 2, 2)]),
        ("struct A f(struct B b) {}\n", [("f", 1, 1, 1)]),
    ],
)
def test_functions_of_cpp(text, expected):
    found = architecture.cpp_functions(text)
    assert [(each.name, each.line, each.lines, each.parameters) for each in found] == expected


@pytest.mark.parametrize("text", ["void f() {\n", "}\n", "#if A\nvoid f() {\n#else\nvoid f(int) {\n#endif\n}\n"])
def test_functions_of_cpp_whose_braces_do_not_match(text):
    with pytest.raises(ValueError, match=r"line \d"):
        architecture.cpp_functions(text)


TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
GOOD_PYTHON = {
    "__init__.py": "from bptt import losses, optim\nfrom ._dispatch import core\nfrom .layers import LSTM\n",
    "_dispatch.py": "import sys\nfrom importlib import import_module\nfrom bptt import _cpu\n",
    "layers/__init__.py": "from bptt.layers.recurrent import LSTM\n",
    "_engine/tape.py": "from bptt._dispatch import core\n",
    "layers/base.py": "from bptt._engine.tape import Tape\n",
    "layers/recurrent.py": (
        "from typing import TYPE_CHECKING\nimport numpy as np\nfrom .._dispatch import core\n"
        "if TYPE_CHECKING:\n    from bptt._core import Tape\n    from bptt.layers.base import Layer\n"
    ),
    "losses.py": "from ._dispatch import core\n",
    "optim.py": "from bptt._dispatch import core\n",
    "reference.py": "from dataclasses import dataclass\nimport numpy as np\n",
    "checkpoint.py": "from safetensors.numpy import save\n",
    "charlm.py": "from bptt import checkpoint, optim\n",
    "cli.py": "def main():\n    import bptt\n    from bptt import charlm\n",
    "torch.py": "import torch\nfrom bptt.layers import LSTM\n",
}


def test_imports_that_may_be(tmp_path):
    assert architecture.import_problems(make_tree(tmp_path, GOOD_PYTHON)) == []


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("bad.py", "from bptt._core import LSTM\n", "only _dispatch knows the native modules"),
        ("bad.py", "def f():\n    from . import _core_v3\n", "only _dispatch knows the native modules"),
        ("_dispatch.py", "from bptt.losses import mse\n", "_dispatch knows only the native modules"),
        ("reference.py", "from bptt.losses import mse\n", "reference imports nothing of ours"),
        ("reference.py", "import scipy\n", "reference imports numpy only"),
        ("bad.py", "from bptt import reference\n", "the reference serves tests alone"),
        ("bad.py", "def f():\n    from bptt.cli import main\n", "must not know the application"),
        ("layers/bad.py", "from ..charlm import train\n", "must not know the application"),
        ("bad.py", "from bptt import torch\n", "nothing of ours imports an adapter"),
        ("bad.py", "import torch.nn\n", "expected only ['torch'] to"),
        (
            "bad.py",
            "try:\n    from tqdm import tqdm\nexcept ImportError:\n    pass\n",
            "expected only ['_terminal', 'train'] to",
        ),
        ("bad.py", "import pandas\n", "has no place in PYTHON_LIBRARIES"),
        ("layers/recurrent.py", "from . import LSTM\n", "cycle"),
        ("losses.py", "def f():\n    import bptt\n", "cycle"),
        ("layers/base.py", f"{TYPES}    from bptt.layers.recurrent import LSTM\n", "cycle"),
        ("layers/base.py", "from .recurrent import LSTM\n", "cycle"),
        ("_engine/bad.py", "from bptt.layers import LSTM\n", "_engine must not know layers"),
        ("_engine/bad.py", f"{TYPES}    from bptt.layers.base import Layer\n", "_engine must not know layers"),
        ("_engine/bad.py", f"{TYPES}    from ..optim import SGD\n", "_engine must not know optim"),
        ("losses.py", f"{TYPES}    from bptt.layers import LSTM\n", "losses must not know layers"),
        ("layers/bad.py", f"{TYPES}    from bptt.cli import main\n", "must not know the application"),
        (
            "layers/bad.py",
            "if not TYPE_CHECKING:\n    from bptt import _core\n",
            "only _dispatch knows the native modules",
        ),
        ("bad.py", "import bptt.losses\n", "bad: has no place in FLOORS"),
    ],
)
def test_imports_that_may_not_be(tmp_path, path, text, complaint):
    problems = architecture.import_problems(make_tree(tmp_path, {**GOOD_PYTHON, path: text}))
    assert any(complaint in problem for problem in problems), problems
    here = path.removesuffix(".py").replace("/", ".")
    assert all(problem.startswith((here, "cycle")) for problem in problems)
