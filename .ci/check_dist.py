# SPDX-License-Identifier: Apache-2.0
"""Check built distributions: `python .ci/check_dist.py FILE...`, each a wheel or an sdist; exit code 1 if one is wrong.

A wheel holds the package, its native modules and its licences, and nothing else; an sdist holds sources and no build.
"""

import re
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

WHEEL_LIMIT_BYTES = 5_000_000
SDIST_LIMIT_BYTES = 2_000_000
LICENCES = {"LICENSE", "THIRD_PARTY_NOTICES"}
WHEEL_NEEDS = ("bptt/__init__.py", "bptt/py.typed", "bptt/_core.pyi", "bptt/_cpu.pyi")
SDIST_NEEDS = {
    "CMakeLists.txt", "pyproject.toml", "README.md", "PKG-INFO", "python/bptt/__init__.py", "python/bptt/py.typed",
    "csrc/bindings/detect/cpu.cpp", *LICENCES,
}  # fmt: skip
NATIVE = {".so", ".pyd"}
ASSERT = re.compile(rb"__assert_(fail|rtn)|_wassert")  # what a failing assert calls on Linux, macOS, Windows
BUILT = {".so", ".pyd", ".dll", ".o", ".obj", ".pyc", ".whl", ".safetensors"}


def native_modules(wheel_name: str) -> set[str]:
    """The extension modules that a wheel of this name must hold."""
    platform = wheel_name.removesuffix(".whl").rsplit("-", 1)[1]
    x86_64 = re.search(r"x86_64|amd64", platform) is not None
    return {"_cpu"} | ({"_core_v2", "_core_v3", "_core_v4"} if x86_64 else {"_core_base"})


def wheel_problems(path: Path) -> list[str]:
    """What is wrong with the wheel at `path`; empty if nothing is."""
    with zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
        own = [name for name in names if name.suffix in NATIVE and name.parent == PurePosixPath("bptt")]
        asserting = [name for name in own if ASSERT.search(archive.read(str(name)))]
    info = [name for name in names if name.parts[0].endswith(".dist-info")]
    # bundled libraries (bptt.libs, bptt/.dylibs, as auditwheel and delocate place them) are not part of the package
    package = [name for name in names if name.parts[0] == "bptt" and name.parent.name != ".dylibs"]
    problems = [f"holds {name}" for name in names if name not in info and name not in package]
    allowed = {".py", ".pyi", ".so", ".pyd"}
    problems += [f"holds {name}" for name in package if name.suffix not in allowed and name.name != "py.typed"]
    problems += [f"holds {name}" for name in package if {"tests", "benchmarks", "__pycache__"} & set(name.parts)]
    problems += [f"holds {name}, which was built with asserts" for name in asserting]
    found = {name.name.split(".")[0] for name in own}
    expected = native_modules(path.name)
    if found != expected:
        problems.append(f"holds the native modules {sorted(found)}, expected {sorted(expected)}")
    problems += [f"lacks {name}" for name in WHEEL_NEEDS if PurePosixPath(name) not in package]
    problems += [f"lacks the licence file {name}" for name in LICENCES - {name.name for name in info}]
    if path.stat().st_size >= WHEEL_LIMIT_BYTES:
        problems.append(f"has {path.stat().st_size} bytes, expected less than {WHEEL_LIMIT_BYTES}")
    return problems


def sdist_problems(path: Path) -> list[str]:
    """What is wrong with the sdist at `path`; empty if nothing is."""
    with tarfile.open(path) as archive:
        names = {PurePosixPath(*PurePosixPath(member.name).parts[1:]) for member in archive if member.isfile()}
    problems = [f"lacks {name}" for name in sorted(SDIST_NEEDS - {str(name) for name in names})]
    problems += [f"holds {name}" for name in sorted(names) if name.suffix in BUILT or name.parts[0] == "build"]
    if path.stat().st_size >= SDIST_LIMIT_BYTES:
        problems.append(f"has {path.stat().st_size} bytes, expected less than {SDIST_LIMIT_BYTES}")
    return problems


def main(arguments: list[str]) -> int:
    """Check each file named; 1 if any has a problem, 2 without a file."""
    if not arguments:
        print("check_dist: no file given, expected wheels or sdists", file=sys.stderr)
        return 2
    failed = False
    for path in map(Path, arguments):
        problems = wheel_problems(path) if path.suffix == ".whl" else sdist_problems(path)
        failed = failed or bool(problems)
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {'; '.join(problems) or 'as expected'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
