# SPDX-License-Identifier: Apache-2.0
"""Runs the `bptt` command, in a process or in this one, and checks its exit code, output and files."""

import contextlib
import io
import os
import subprocess
import sys
import time

import bptt
from bptt import cli
from stacks import threads

COMMAND = [sys.executable, "-m", "bptt"]
TEXT = "".join(f"{i} green bottles hanging on the wall — and if one should fall, {i - 1}.\n" for i in range(40, 0, -1))
SMALL = ["--hidden", "8", "--embedding", "4", "--seq-len", "16", "--batch-size", "4"]


def run(*arguments, cwd, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, encoding="utf-8", timeout=120, **options
    )


def call(*arguments, cwd):
    """As `run`, in this process: for what does not depend on signals, streams and limits. A process starts slowly."""
    out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with threads(bptt.get_num_threads()), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main([*map(str, arguments)])
    except SystemExit as end:
        code = end.code
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def assert_refused(result, command, *words):
    assert result.returncode == 2, result
    assert result.stderr.startswith(f"bptt {command}".strip() + ": "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    for word in ("expected", *words):
        assert word in result.stderr


def interrupt(arguments, cwd, *numbers, pause_s=0.0):
    """Start a training run that would take hours, send signals once it trains; return its exit code and output."""
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        head = ""
        while "Training" not in head:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            head += line
        time.sleep(0.5)  # some steps
        for number in numbers:
            process.send_signal(number)
            time.sleep(pause_s)
        out, err = process.communicate(timeout=60)
        return process.returncode, head + out, err
