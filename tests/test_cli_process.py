# SPDX-License-Identifier: Apache-2.0
"""The `bptt` command among other processes: signals, closed and full streams, memory limits, files that it replaces."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import bptt
from bptt import _memory, _terminal, charlm, checkpoint, textdata
from bptt._terminal import StopRequest
from command import SMALL, TEXT, assert_refused, call, interrupt, run, snapshot

resource = pytest.importorskip("resource", reason="limits of POSIX")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, limits and streams of POSIX")

ENDLESS = ["train", "text.txt", *SMALL, "--hidden", "9", "--steps", "100000000"]


@pytest.fixture
def folder(tmp_path):
    """A folder with text.txt and an untrained model.safetensors."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    architecture = charlm.Architecture("gru", hidden=8, layers=2, embedding=4)
    charlm.CharLM.create(architecture, textdata.Vocabulary.of(TEXT)).save(tmp_path / "model.safetensors")
    return tmp_path


def assert_saved(folder):
    lm = charlm.CharLM.load(folder / "model.safetensors")
    assert lm.architecture.hidden == 9
    untrained = charlm.CharLM.create(lm.architecture, lm.vocabulary, 0)
    assert not np.array_equal(lm.model.params.flat, untrained.model.params.flat)
    assert sorted(snapshot(folder)) == ["model.safetensors", "text.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_what_has_been_learned(folder, number):
    code, out, err = interrupt(ENDLESS, folder, number)
    assert code == 130, err
    assert re.search(r"Stopped after [\d,]+ characters", out)
    assert "Model written to model.safetensors" in out
    assert re.search(r"held-out text: \S+ nats", out)
    assert "Traceback" not in err
    assert_saved(folder)


@pytest.mark.parametrize("pause_s", [0, 0.02, 0.1])
def test_a_second_interrupt_soon_after_is_the_same_request(folder, pause_s):
    code, _, err = interrupt(ENDLESS, folder, signal.SIGINT, signal.SIGINT, signal.SIGINT, pause_s=pause_s)
    assert code == 130, err
    assert "Traceback" not in err
    assert_saved(folder)


def test_a_later_interrupt_is_an_exception_and_the_handlers_come_back(monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr(_terminal.time, "monotonic", lambda: now_s)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        now_s += 0.9
        signal.raise_signal(signal.SIGINT)
        now_s += 0.2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("form", ["module", "script"])
@pytest.mark.parametrize("imported", ["numpy.version", "numpy.linalg", "bptt._dispatch", "bptt.train"])
def test_an_interrupt_during_the_imports_has_no_traceback(folder, form, imported):
    """-X importtime writes a line as soon as a module has been imported: numpy is what bptt imports first."""
    program = ["-m", "bptt"]
    if form == "script":  # as pip writes it
        (folder / "bptt").write_text("import sys\nfrom bptt.cli import main\nsys.exit(main())\n")
        program = ["bptt"]
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", *program, *ENDLESS],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == imported:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err


def test_other_programs_keep_their_handler(tmp_path):
    (tmp_path / "mine.py").write_text("import signal, bptt\nprint(signal.getsignal(signal.SIGINT).__name__)")
    for arguments in (["mine.py"], ["mine.py", "-m", "bptt"], ["-m", "mine", "bptt"], ["-c", "import mine", "bptt"]):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert done.stdout == "default_int_handler\n"


def test_work_of_minutes_shows_how_far_it_is_and_that_of_seconds_does_not(monkeypatch, capsys):
    now_s = itertools.count(0, 8)
    monkeypatch.setattr(_terminal.time, "perf_counter", lambda: next(now_s))
    assert list(_terminal.watched("validation")(range(20))) == list(range(20))
    # 8 s for each: after more than 10 s, then more than 60 s later
    assert capsys.readouterr().err == "validation: 5%\nvalidation: 45%\nvalidation: 85%\n"
    assert list(_terminal.watched("validation")(range(1))) == [0]
    assert capsys.readouterr().err == ""


COMMANDS = {
    "info": 0,
    "--help": 0,
    "": 0,
    "fly": 2,
    "sample missing": 2,
    "sample model.safetensors --length 3000": 0,
    f"train text.txt {' '.join(SMALL)} --steps 3": 0,
}


def shell(folder, *commands):
    """The result of each of these shell commands, which run in parallel, with Python's own buffering."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = kept | {"BPTT": sys.executable}
    results = []
    with contextlib.ExitStack() as stack:
        started = [subprocess.Popen(["bash", "-c", command], cwd=folder, env=env, **pipes) for command in commands]
        for process in started:
            stack.enter_context(process)
        for process in started:
            out, err = process.communicate(timeout=60)
            assert "Traceback" not in err
            assert "Exception" not in err
            results.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return results


@pytest.mark.parametrize("command", COMMANDS)
def test_closed_streams_are_as_good_as_dev_null(folder, command):
    all_closed = (">&-", "2>&-", "<&- >&- 2>&-")
    results = shell(folder, *(f'"$BPTT" -m bptt {command} {closed}' for closed in all_closed))
    for closed, done in zip(all_closed, results, strict=True):
        assert done.returncode == COMMANDS[command]
        assert (done.stdout == "") or not closed.startswith(">")
    if command.startswith("train"):
        assert charlm.CharLM.load(folder / "model.safetensors").architecture.cell == "lstm"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", COMMANDS)
def test_full_streams_give_one_line_and_no_other_exit_code(folder, command):
    full, no_errors = shell(folder, *(f'"$BPTT" -m bptt {command} {stream}>/dev/full' for stream in (1, 2)))
    assert full.returncode == 2
    lines = [line for line in full.stderr.splitlines() if not line.startswith("step")]
    assert len(lines) == 1
    assert "expected" in lines[0]
    assert no_errors.returncode == COMMANDS[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_streams_that_nobody_reads_give_no_traceback(folder, command):
    streams = ("2>errors", "2>&1")
    results = shell(
        folder, *(f'"$BPTT" -m bptt {command} {each} | true; echo "${{PIPESTATUS[0]}}"' for each in streams)
    )
    assert [int(each.stdout) for each in results] == [COMMANDS[command] or 141] * 2
    assert "Traceback" not in (folder / "errors").read_text()


def test_a_run_goes_on_when_nobody_reads_its_progress(folder):
    (done,) = shell(folder, f'"$BPTT" -m bptt train text.txt {" ".join(SMALL)} --steps 200 2> >(head -n 1)')
    assert done.returncode == 0
    assert charlm.CharLM.load(folder / "model.safetensors").architecture.cell == "lstm"


def limited(kilobytes):
    return {
        "preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (kilobytes * 1024,) * 2),
        "env": os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # NumPy takes memory for each thread
    }


def test_a_text_beyond_the_memory_is_what_the_message_names(folder):
    with (folder / "large.txt").open("wb") as file:
        file.truncate(300_000_000)  # a sparse file, which takes no room on the disk
    before = (folder / "model.safetensors").read_bytes()
    for limit in (450_000, 550_000):  # refused by its size; refused where the allocation fails
        result = run("train", "large.txt", *SMALL, "--threads", 1, cwd=folder, **limited(limit))
        assert_refused(result, "train", "large.txt takes", "memory", "shorter text")
        assert "--hidden" not in result.stderr
    assert (folder / "model.safetensors").read_bytes() == before


def test_sizes_beyond_a_limit_are_refused_before_the_training(folder):
    result = run("train", "text.txt", "--hidden", 8192, cwd=folder, **limited(2_000_000))
    assert_refused(result, "train", "--hidden", "2.0 GB that this process may use")


def test_the_memory_limits_of_control_groups(tmp_path):
    for path, content in {
        "a/memory.max": "max\n",
        "a/b/memory.max": "6000000000\n",
        "memory/c/memory.limit_in_bytes": "7000000000\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }.items():
        (tmp_path / "sys/fs/cgroup" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/fs/cgroup" / path).write_text(content)
    (tmp_path / "proc/self").mkdir(parents=True)
    for line, expected in {
        "0::/a/b/d": {6000000000},
        "0::/a": set(),
        "4:memory:/c": {7000000000, 9223372036854771712},
        "1:cpu:/a/b": set(),
    }.items():
        (tmp_path / "proc/self/cgroup").write_text(line + "\n")
        assert set(_memory._cgroup_limits(str(tmp_path))) == expected
    assert _memory.memory_limit() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_train_says_which_model_it_replaces(folder):
    os.utime(folder / "model.safetensors", (time.mktime((2024, 2, 3, 4, 5, 6, 0, 0, -1)),) * 2)
    first, second, other = (
        call("train", "text.txt", *SMALL, "--steps", 1, "--out", out, cwd=folder)
        for out in ("model.safetensors", "model.safetensors", "new")
    )
    line = "Replaces: model.safetensors (2 x gru with 8 hidden units, written 2024-02-03 04:05)\n"
    assert line in first.stdout
    assert first.stdout.index(line) < first.stdout.index("Training: 1 step of 4 x 16 characters")
    assert "Replaces: model.safetensors (1 x lstm with 8 hidden units, written " in second.stdout
    assert "Replaces" not in other.stdout
    assert (first.returncode, second.returncode, other.returncode) == (0, 0, 0)


@pytest.mark.parametrize("config", [{}, {"kind": "forecast"}, {"kind": "charlm", "architecture": "transformer"}])
def test_train_refuses_to_replace_the_files_of_other_programs(folder, config):
    checkpoint.save(folder / "weights", bptt.GRU(2, 3).params, config)
    before = snapshot(folder)
    result = call("train", "text.txt", *SMALL, "--steps", 1, "--out", "weights", cwd=folder)
    assert_refused(result, "train", "'weights' exists and holds no character model", "another name")
    assert snapshot(folder) == before


def test_one_is_singular(folder):
    result = call("train", "text.txt", *SMALL, "--hidden", 1, "--steps", 1, "--seq-len", 1, "--threads", 1, cwd=folder)
    assert "1 x lstm with 1 hidden unit," in result.stdout
    assert "1 step of 4 x 1 character on 1 thread\n" in result.stdout
    assert not re.search(r"\b1 \w+s\b(?! in)", result.stdout.split("Model written")[0])
