# SPDX-License-Identifier: Apache-2.0
"""`bptt train`: the training state and its kills, the log, the picture, and what is refused of these."""

import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

import bptt
from bptt import checkpoint, cli
from bptt.cli import files
from command import COMMAND, SMALL, TEXT, assert_refused, call, interrupt, run, snapshot

fcntl = pytest.importorskip("fcntl", reason="pipes of POSIX")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills and pipes of POSIX")

DROPPING = [*SMALL, "--layers", "2", "--dropout", "0.2", "--threads", "1"]
KEPT = ["--resume", "--save-every", "7", "--log", "run.jsonl"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with text.txt, in which the test runs."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *arguments):
    """The message of a command, in this process, which refuses its arguments and changes no file."""
    before = snapshot(Path())
    assert cli.main([*map(str, arguments)]) == 2
    assert snapshot(Path()) == before
    message = capsys.readouterr().err
    assert message.startswith(f"bptt {arguments[0]}: ")
    assert message.count("\n") == 1
    assert "expected" in message
    return message


def killed_after(lines, arguments, cwd):
    """Kill a run that has printed so many lines of progress.

    Its pipe holds few more, so that it waits for its reader and is never done before the kill.
    """
    reader, writer = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen([*COMMAND, *arguments], cwd=cwd, stderr=writer, stdout=subprocess.DEVNULL) as process:
        os.close(writer)
        with open(reader, encoding="utf-8") as progress:
            for _ in range(lines):
                assert progress.readline().startswith("step "), process.poll()
            process.kill()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_run_that_is_resumed_writes_the_same_model(folder):
    options = ["train", "../text.txt", *DROPPING, *KEPT, "--validate-every", "1", "--steps", "300"]
    whole, killed = folder / "whole", folder / "killed"
    whole.mkdir()
    killed.mkdir()
    assert run(*options, cwd=whole).returncode == 0
    for lines in (20, 40):
        killed_after(lines, options, killed)
        assert not (killed / "model.safetensors").exists()
    result = run(*options, cwd=killed)
    made = int(re.search(r"^Resumes:  model\.safetensors\.state, after (\d+) steps$", result.stdout, re.MULTILINE)[1])
    assert made >= 35
    assert made % 7 == 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    logs = [bptt.History.read(each / "run.jsonl") for each in (whole, killed)]
    assert logs[0].loss == logs[1].loss
    assert len(logs[0]) == 300
    assert [each.loss for each in logs[0].validation] == [each.loss for each in logs[1].validation]

    again = run(*options, cwd=killed)
    assert "This run had ended before: it has made all its 300 steps\n" in again.stdout
    assert again.returncode == 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_an_interrupted_run_goes_on_too_and_may_be_longer_at_a_constant_rate(folder):
    options = ["train", "text.txt", *DROPPING, "--schedule", "constant"]
    code, out, err = interrupt([*options, "--resume", "--steps", "100000000"], folder, signal.SIGINT)
    assert code == 130, err
    assert out.endswith("To go on, give the same command again.\n")
    made = int(
        re.search(r"updates +([\d,]+)", call("info", "model.safetensors.state", cwd=folder).stdout)[1].replace(",", "")
    )
    steps = ["--steps", made + 20]
    result = call(*options, *steps, "--resume", cwd=folder)
    assert f"Resumes:  model.safetensors.state, after {made:,} steps\n" in result.stdout
    other = call(*options, *steps, "--out", "other", cwd=folder)
    assert "Resumes" not in other.stdout
    assert (folder / "model.safetensors").read_bytes() == (folder / "other").read_bytes()
    assert not (folder / "other.state").exists()


def test_a_state_of_another_command_is_refused(folder, capsys):
    options = ["train", "text.txt", *SMALL, "--steps", 3]
    assert call(*options, "--resume", cwd=folder).returncode == 0
    for other, has in (
        (["--hidden", 9], "--hidden 9, expected 8"),
        (["--steps", 4], "--steps 4, expected 3"),
        (["--lr", 0.1], "--lr 0.1, expected its default"),
        (["--seed", 1], "--seed 1, expected 0"),
        (["--schedule", "constant"], "--schedule constant, expected cosine"),
        (["--patience", 3], "--patience 3, expected its default"),
    ):
        message = refused(capsys, *options, *other, "--resume")
        assert f"{has} as in 'model.safetensors.state', or that file removed" in message
    (folder / "text.txt").write_text(TEXT.replace("green", "grown"), encoding="utf-8")
    assert "another text" in refused(capsys, *options, "--resume")
    note = call(*options, cwd=folder).stdout
    assert (
        "Note:     model.safetensors.state of an earlier run stays as it is; --resume goes on with that run\n" in note
    )


def test_a_state_of_another_program_is_refused(folder, capsys):
    options = ["train", "text.txt", *SMALL, "--steps", 3, "--resume"]
    checkpoint.save("model.safetensors.state", bptt.GRU(2, 3).params, {"kind": "other"})
    assert "no training state" in refused(capsys, *options)
    gru, x = bptt.GRU(2, 2), np.ones((1, 1, 2))
    os.remove("model.safetensors.state")
    bptt.fit(gru, (x, x), loss=bptt.losses.mse, optimizer=bptt.optim.SGD(0.1), resume="model.safetensors.state")
    assert "another program" in refused(capsys, *options)


def test_the_log_and_the_picture_are_those_of_the_run(folder):
    pytest.importorskip("matplotlib")
    options = ["train", "text.txt", *SMALL, "--steps", 25, "--log", "run.jsonl", "--plot", "run.png"]
    result = call(*options, "--validate-every", 10, cwd=folder)
    assert "Picture written to run.png\n" in result.stdout
    assert (folder / "run.png").read_bytes().startswith(b"\x89PNG")
    log = bptt.History.read(folder / "run.jsonl")
    assert len(log) == 25
    assert [each.step for each in log.validation] == [10, 20, 25]
    shown = re.search(r"held-out text: (\S+) nats", result.stdout)[1]
    assert f"{log.validation[-1].loss:.3f}" == shown
    assert call(*options, cwd=folder).returncode == 0  # a log is replaced
    assert len(bptt.History.read(folder / "run.jsonl").validation) == 9


def test_patience_ends_a_run_and_says_so(folder):
    options = [*SMALL, "--steps", 5000, "--lr", 0.3, "--schedule", "constant", "--validate-every", 5, "--patience", 2]
    result = call("train", "text.txt", *options, cwd=folder)
    assert result.returncode == 0, result
    assert re.search(r"Learned from .*; EarlyStopping: validation_loss has not improved for 2 values\n", result.stdout)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--plot run.txt", ["run.txt", ".png"]),
        ("--plot missing/run.png", ["missing/run.png", "No such file"]),
        ("--log text.txt", ["FILE and --log both name"]),
        ("--log notes.txt", ["notes.txt", "no log"]),
        ("--log missing/run.jsonl", ["missing/run.jsonl", "No such file"]),
        ("--log model.safetensors", ["--out and --log both name 'model.safetensors'"]),
        ("--log model.safetensors.state", ["the training state and --log both name"]),
        ("--log ./a.png --plot a.png", ["--log and --plot both name 'a.png'"]),
        ("--out text.txt", ["FILE and --out both name"]),
        ("--save-every 5", ["--save-every", "--resume"]),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_the_training(folder, capsys, options, words):
    (folder / "notes.txt").write_text("mine")
    message = refused(capsys, "train", "text.txt", *SMALL, "--steps", 3, *options.split())
    for word in words:
        assert word in message


def test_a_picture_needs_matplotlib_before_the_training(folder, capsys, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda _: None)
    message = refused(capsys, "train", "text.txt", *SMALL, "--plot", "run.png")
    assert "pip install 'bptt[plot]'" in message


@pytest.mark.parametrize("option", ["--dropout 1", "--schedule steps", "--patience 0", "--validate-every 0", "--log"])
def test_absurd_values_are_refused(folder, option):
    before = snapshot(folder)
    assert_refused(call("train", "text.txt", *SMALL, *option.split(), cwd=folder), "train", option.split()[0])
    assert snapshot(folder) == before


def test_a_state_of_another_structure_is_refused(folder, capsys):
    options = ["train", "text.txt", *SMALL, "--steps", 3, "--resume"]
    assert cli.main([*map(str, options)]) == 0
    capsys.readouterr()
    arrays, config = checkpoint.load("model.safetensors.state")
    others = {"position": {"number": "x"}, "optimizer": {}, "callbacks": [1], "batches": None, "settings": 7}
    for name, value in others.items():
        checkpoint.save("model.safetensors.state", arrays, {**config, name: value})
        refused(capsys, *options)
