# SPDX-License-Identifier: Apache-2.0
"""The choice of the native module by BPTT_ISA and by the machine, in fresh interpreters; threads and configuration."""

import importlib.util
import os
import subprocess
import sys

import pytest

import bptt
from bptt import _cpu

BUILT = [level for level in _cpu.supported() if importlib.util.find_spec(f"bptt._core_{level}")]
LEVEL = "import bptt; print(bptt.config()['level'])"


def run_python(code, **environment):
    environment = {**{k: v for k, v in os.environ.items() if k != "BPTT_ISA"}, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


@pytest.mark.parametrize("environment", [{}, {"BPTT_ISA": ""}])
def test_the_best_level_is_the_default(environment):
    result = run_python(LEVEL, **environment)
    assert (result.stdout.strip(), result.stderr) == (BUILT[0], "")


@pytest.mark.parametrize("level", BUILT)
def test_each_level_can_be_asked_for(level):
    result = run_python(LEVEL, BPTT_ISA=level)
    assert (result.stdout.strip(), result.stderr) == (level, "")


@pytest.mark.parametrize("level", ["v9", "avx2", "V3", "base" if "base" not in BUILT else "v3", "../x"])
def test_a_level_that_is_not_there_is_an_import_error(level):
    result = run_python("import bptt", BPTT_ISA=level)
    assert result.returncode == 1
    message = f"ImportError: bptt: BPTT_ISA has value {level!r}, expected one of {', '.join(BUILT)} (levels that"
    assert message in result.stderr


def without(*missing, supported=None):
    """Code that imports bptt as if these modules had not been built, or the processor had other levels."""
    return f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in {missing!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hide())
if {supported!r} is not None:
    import types
    sys.modules["bptt._cpu"] = types.SimpleNamespace(
        supported=lambda: {supported!r}, processor=lambda: ("", 0, [])
    )
{LEVEL}
"""


def test_a_level_that_was_not_built_is_passed_over():
    levels = ["imaginary", *BUILT]
    assert run_python(without("bptt._core_imaginary", supported=levels)).stdout.strip() == BUILT[0]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (without("bptt._cpu"), "the compiled modules are missing; `pip install .` in the source tree builds them"),
        (
            without(*(f"bptt._core_{level}" for level in BUILT)),
            f"this build has no module for levels {_cpu.supported()[0]}",
        ),
        (without(supported=[]), "this processor is below x86-64-v2"),
    ],
)
def test_a_build_that_cannot_run_says_why(code, message):
    result = run_python(code)
    assert result.returncode == 1
    assert f"ImportError: bptt: {message}" in result.stderr


def test_the_native_module_is_known_by_one_name():
    code = "import bptt, bptt._core as a, sys; from bptt import _core as b; print(a is b is sys.modules['bptt._core'])"
    assert run_python(code).stdout.strip() == "True"


@pytest.fixture
def threads():
    before = bptt.get_num_threads()
    yield
    bptt.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_threads():
    for n in (1, 2, 5):
        bptt.set_num_threads(n)
        assert bptt.get_num_threads() == bptt.config()["threads"] == n
    for wrong, error in ((0, ValueError), (-1, ValueError), (10**9, ValueError), (2.0, TypeError), ("2", TypeError)):
        with pytest.raises(error, match=r"^set_num_threads: n "):
            bptt.set_num_threads(wrong)
    assert bptt.get_num_threads() == 5


def test_the_configuration_is_shown(capsys):
    bptt.show_config()
    shown = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert shown == {key: str(value) for key, value in bptt.config().items()}
    assert {"version", "level", "compiler", "eigen", "threads", "matmul_precision", "numpy", "python"} <= shown.keys()
