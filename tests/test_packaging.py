# SPDX-License-Identifier: Apache-2.0
"""The installed package: version, metadata, typing, cost of the import, detected levels; the check of built files."""

import importlib.metadata
import importlib.util
import os
import pkgutil
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

import bptt
from bptt import _cpu

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_version_stands_in_one_place():
    literal = re.compile(rf"""["']{re.escape(bptt.__version__)}["']""")
    places = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
    places += [path for folder in ("python", "csrc") for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    texts = {
        path: path.read_text("utf-8")
        for path in places
        if path.suffix in {".py", ".pyi", ".h", ".cpp", ".txt", ".toml"}
    }
    assert [path for path, text in texts.items() if literal.search(text)] == [ROOT / "python/bptt/__init__.py"]
    assert importlib.metadata.version("bptt") == bptt.__version__
    assert sys.modules["bptt._core"].version == bptt.__version__
    assert re.search(
        rf"^## \[{re.escape(bptt.__version__)}\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )


def test_the_metadata():
    metadata = importlib.metadata.metadata("bptt")
    requirements = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {REQUIREMENT.match(line).group() for line in requirements} == {"numpy", "safetensors", "tqdm"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("License-File")) == {"LICENSE", "THIRD_PARTY_NOTICES"}
    assert metadata["Requires-Python"] == ">=3.10"


def test_types_are_shipped():
    for name in ("py.typed", "_core.pyi", "_cpu.pyi"):
        assert (files("bptt") / name).is_file(), name


def test_the_build_group_holds_what_the_build_requires():
    project = pyproject()
    assert set(project["build-system"]["requires"]) <= set(project["dependency-groups"]["build"])


def test_importing_is_cheap():
    """It imports little besides numpy."""
    code = """
import contextlib, sys
import copy, dataclasses, fnmatch, importlib.util, numpy, threading, zlib  # what bptt may import
with contextlib.suppress(ImportError):
    import threadpoolctl
before = set(sys.modules)
import bptt
print(*sorted(set(sys.modules) - before))
"""
    loaded = run_python(code).split()
    assert "bptt" in loaded
    assert [name for name in loaded if name.partition(".")[0] != "bptt"] == []
    late = {"bptt.cli", *(f"bptt.{name}" for name in bptt._LATE)}
    assert late.intersection(loaded) == set()


def test_every_public_module_is_there_after_a_plain_import():
    asked_for = {"cli", "torch"}  # the second one needs PyTorch
    public = [m.name for m in pkgutil.iter_modules(bptt.__path__) if not m.name.startswith("_")]
    public = [name for name in public if name not in asked_for]
    assert set(bptt._LATE) < set(public)
    names = run_python(f"import bptt; print(*dir(bptt)); print(*(getattr(bptt, name).__name__ for name in {public}))")
    listed, found = names.splitlines()
    assert set(public) - {"saving"} <= set(listed.split())
    assert found.split() == [f"bptt.{name}" for name in public]


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'bptt' has no attribute 'LSMT'$"):
        _ = bptt.LSMT
    assert not hasattr(bptt, "__wrapped__")


def test_type_checkers_see_the_modules_and_nothing_else(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(
        "import bptt\n"
        + "".join(f"reveal_type(bptt.{name})\n" for name in bptt._LATE)
        + "reveal_type(bptt.charlm.sample)\nbptt.LSMT\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout
    assert 'Module has no attribute "LSMT"' in errors[0]
    assert "def (lm: bptt.charlm.model.CharLM" in done.stdout


# The names in /proc/cpuinfo of the features that the psABI requires for each level; abm is lzcnt, pni is SSE3.
CPUINFO = {
    "v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}


def test_supported_levels_are_those_the_kernel_reports():
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        assert _cpu.supported() == ["base"]
        return
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("no /proc/cpuinfo to hold it against")
    flags = set(re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE).group(1).split())
    expected = []
    for level, needed in CPUINFO.items():
        if not flags.issuperset(needed.split()):
            break
        expected.insert(0, level)
    assert _cpu.supported() == expected


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nm") is None, reason="reads ELF symbols with nm")
def test_the_modules_export_their_entry_point_alone():
    modules = sorted(Path(_cpu.__file__).parent.glob("_c*.so"))
    assert len(modules) >= 2
    for module in modules:
        command = ["nm", "--dynamic", "--defined-only", "--format=posix", str(module)]
        lines = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
        assert [line.split()[0] for line in lines] == [f"PyInit_{module.name.split('.')[0]}"]


@pytest.fixture(scope="module")
def check_dist():
    path = ROOT / ".ci" / "check_dist.py"
    spec = importlib.util.spec_from_file_location("check_dist", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WHEEL = [
    *(
        "bptt/" + name
        for name in ("__init__.py", "py.typed", "_core.pyi", "_cpu.pyi", "_cpu.cpython-311-x86_64-linux-gnu.so")
    ),
    *(f"bptt/_core_{level}.cpython-311-x86_64-linux-gnu.so" for level in ("v2", "v3", "v4")),
    *("bptt-1.dist-info/" + name for name in ("METADATA", "licenses/LICENSE", "licenses/THIRD_PARTY_NOTICES")),
]


@pytest.mark.parametrize(
    ("add", "drop", "complaint"),
    [
        ([], [], None),
        (["tests/test_a.py"], [], "holds tests/test_a.py"),
        (["bptt/tests/test_a.py"], [], "holds bptt/tests/test_a.py"),
        (["benchmarks/run.py"], [], "holds benchmarks/run.py"),
        (["bptt/core.cpp"], [], "holds bptt/core.cpp"),
        (["bptt.libs/libgomp.so.1"], [], "holds bptt.libs/libgomp.so.1"),
        ([], ["bptt/py.typed"], "lacks bptt/py.typed"),
        ([], ["bptt-1.dist-info/licenses/THIRD_PARTY_NOTICES"], "lacks the licence file THIRD_PARTY_NOTICES"),
        ([], ["bptt/_core_v2.cpython-311-x86_64-linux-gnu.so"], "native modules ['_core_v3', '_core_v4', '_cpu']"),
    ],
)
def test_the_wheel_check(tmp_path, capsys, check_dist, add, drop, complaint):
    path = tmp_path / "bptt-1-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in {*WHEEL, *add} - {*drop}:
            archive.writestr(name, "")
    assert check_dist.main([str(path)]) == (complaint is not None)
    assert (complaint or "as expected") in capsys.readouterr().out


def test_the_wheel_check_knows_modules_with_asserts(tmp_path, capsys, check_dist):
    path = tmp_path / "bptt-1-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in WHEEL:
            archive.writestr(name, "\0__assert_fail\0" if "_core_v3" in name else "")
    assert check_dist.main([str(path)]) == 1
    message = "holds bptt/_core_v3.cpython-311-x86_64-linux-gnu.so, which was built with asserts\n"
    assert capsys.readouterr().out.endswith(message)


def test_the_wheel_check_knows_the_size(tmp_path, capsys, check_dist):
    path = tmp_path / "bptt-1-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in WHEEL:
            archive.writestr(name, "")
        archive.writestr("bptt/large.py", bytes(5_000_000))
    assert check_dist.main([str(path)]) == 1
    assert "expected less than 5000000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("add", "drop", "complaint"),
    [
        ([], [], None),
        (["python/bptt/_core_v4.so"], [], "holds python/bptt/_core_v4.so"),
        (["build/a/CMakeCache.txt"], [], "holds build/a/CMakeCache.txt"),
        ([], ["THIRD_PARTY_NOTICES"], "lacks THIRD_PARTY_NOTICES"),
    ],
)
def test_the_sdist_check(tmp_path, capsys, check_dist, add, drop, complaint):
    path = tmp_path / "bptt-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in {*check_dist.SDIST_NEEDS, *add} - {*drop}:
            archive.addfile(tarfile.TarInfo(f"bptt-1/{name}"))
    assert check_dist.main([str(path)]) == (complaint is not None)
    assert (complaint or "as expected") in capsys.readouterr().out
