# SPDX-License-Identifier: Apache-2.0
"""The `bptt` command in real processes: a whole run, Ctrl-C, and everything that a user can get wrong.

A mistake gives exit code 2, one line on stderr that says what was expected, no traceback, and no changed file.
"""

import math
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import bptt
from bptt import _runtime, charlm, cli, optim, textdata
from command import COMMAND, SMALL, TEXT, assert_refused, call, run, snapshot
from installed import not_editable

posix = pytest.mark.skipif(os.name != "posix", reason="signals, limits and terminals of POSIX")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with text.txt and model.safetensors, and the output of the training."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder, run("train", "text.txt", *SMALL, "--steps", 40, "--threads", 1, cwd=folder)


@pytest.fixture
def folder(tmp_path, trained):
    """A new folder with the same two files."""
    for name, content in snapshot(trained[0]).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_train_tells_what_it_did(trained):
    folder, result = trained
    assert result.returncode == 0, result
    assert sorted(snapshot(folder)) == ["model.safetensors", "text.txt"]
    assert f"text.txt, {len(TEXT):,} characters, {len(set(TEXT))} different\n" in result.stdout
    assert "40 steps of 4 x 16 characters on 1 thread\n" in result.stdout
    assert "Model written to model.safetensors" in result.stdout
    sample = result.stdout.split("A sample")[1].split(":\n\n", 1)[1].rsplit("\n\nFor more: bptt sample", 1)[0]
    assert len(sample) == 400
    lines = result.stderr.splitlines()  # no terminal: a line for each validation, no carriage returns
    assert len(lines) == 10
    pattern = r"step [\d,]+ of 40: loss \d\.\d{3}, validation \d\.\d{3}, grad norm \d+\.\d\d, [\d,]+ characters/s"
    assert all(re.fullmatch(pattern, line) for line in lines), lines


def test_the_validation_loss_printed_is_that_of_the_file_written(trained):
    folder, result = trained
    nats, bits = map(float, re.search(r"held-out text: (\S+) nats = (\S+) bits per character", result.stdout).groups())
    lm = charlm.CharLM.load(folder / "model.safetensors")
    _, tail = textdata.split_tail(lm.vocabulary.encode(TEXT))
    assert nats == pytest.approx(charlm.evaluate(lm, tail), abs=6e-4)
    assert bits == pytest.approx(nats / math.log(2), abs=2e-3)
    assert lm.architecture == charlm.Architecture("lstm", 8, 1, 4)
    assert lm.model.params.size == lm.architecture.parameters(len(lm.vocabulary))


def test_the_same_seed_gives_the_same_file_for_any_number_of_threads(trained, tmp_path):
    folder, _ = trained
    options = [folder / "text.txt", *SMALL, "--steps", 40]
    assert call("train", *options, "--threads", 2, "--out", "two", cwd=tmp_path).returncode == 0
    assert call("train", *options, "--seed", 1, "--out", "other", cwd=tmp_path).returncode == 0
    assert (tmp_path / "two").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "two").read_bytes() != (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        ["--cell", "gru", "--layers", 2, "--epochs", 2, "--clip-norm", 0],
        ["--cell", "rnn", "--optimizer", "sgd", "--lr", 0.1, "--epochs", 3],
    ],
)
def test_other_cells_and_options(folder, options):
    result = call("train", "text.txt", *SMALL, *options, cwd=folder)
    assert result.returncode == 0, result
    model = charlm.CharLM.load(folder / "model.safetensors")
    assert (model.architecture.cell, model.architecture.layers) == (options[1], 2 if "--layers" in options else 1)
    assert model.model.params.size == model.architecture.parameters(len(model.vocabulary))


def test_without_a_file_it_learns_the_manual_of_python(tmp_path):
    result = call("train", "--cell", "gru", "--hidden", 64, "--steps", 150, "--validate-every", 150, cwd=tmp_path)
    assert result.returncode == 0, result
    nats = float(re.search(r"held-out text: (\S+) nats", result.stdout)[1])
    text = textdata.default_text()
    ids = textdata.Vocabulary.of(text).encode(text)
    share = np.bincount(ids) / len(ids)
    unigram = -np.sum(share * np.log(share, where=share > 0, out=np.zeros_like(share)))
    assert nats < 0.75 * unigram  # better than the frequencies of the characters (3.2 nats); measured: 2.0


@posix
def test_the_progress_on_a_terminal_is_one_bar(folder):
    controller, terminal = os.openpty()
    with subprocess.Popen(
        [*COMMAND, "train", "text.txt", *SMALL, "--steps", "300"],
        cwd=folder,
        stderr=terminal,
        stdout=subprocess.DEVNULL,
    ) as process:
        os.close(terminal)
        shown = b""
        with open(controller, "rb", buffering=0) as screen:
            try:
                while part := screen.read(4096):
                    shown += part
            except OSError:  # Linux reports the end of a terminal as an error
                pass
    assert process.returncode == 0
    last = shown.decode().strip().split("\r")[-1]
    assert re.search(r"100% \|.+\| 00:00 left, loss \d\.\d{3}, validation \d\.\d{3}, grad norm \d+\.\d\d", last), last


ABSURD = [
    ("--hidden", "0"),
    ("--hidden", "-5"),
    ("--hidden", "1e9"),
    ("--hidden", "1000000000"),
    ("--layers", "0"),
    ("--embedding", "many"),
    ("--seq-len", "0"),
    ("--seq-len", "100000"),
    ("--batch-size", "0"),
    ("--batch-size", "5000"),
    ("--epochs", "0"),
    ("--steps", "-1"),
    ("--lr", "nan"),
    ("--lr", "inf"),
    ("--lr", "0"),
    ("--lr", "1e30"),
    ("--lr",),
    ("--clip-norm", "-1"),
    ("--optimizer", "newton"),
    ("--cell", "transformer"),
    ("--seed", "-1"),
    ("--threads", "0"),
    ("--threads", str(_runtime.MAX_THREADS + 1)),
    ("--threads", "9" * 30),
    ("--out", ""),
    ("--out", "."),
    ("--out", "text.txt"),
    ("--out", "missing/model"),
    ("--out", "text.txt/model"),
]


@pytest.mark.parametrize("option", ABSURD, ids=" ".join)
def test_train_refuses_absurd_options(folder, option):
    before = snapshot(folder)
    result = call("train", "text.txt", *SMALL, "--steps", "50", *option, cwd=folder)
    assert_refused(result, "train", option[0] if option[0] != "--out" else option[1])
    assert snapshot(folder) == before


@pytest.mark.parametrize("broken", ["gradient", "weights"])
def test_train_reports_what_grew_without_bounds(folder, monkeypatch, capsys, broken):
    def step(_, params, grads):
        if broken == "gradient":
            raise FloatingPointError("Adam.step: gradient has norm inf")
        with params.edit() as p:
            p.flat[-1] = np.inf
        return optim.StepInfo(1.0, False)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(optim.Adam, "step", step)
    before = snapshot(folder)
    assert cli.main(["train", "text.txt", *SMALL, "--steps", "1"]) == 2
    assert capsys.readouterr().err.splitlines(keepends=True)[-1] == (
        "bptt train: the loss grew beyond all numbers, expected a smaller --lr; no model was written\n"
    )
    assert snapshot(folder) == before


@pytest.mark.parametrize("option", ["--hidden 65536", "--layers 64 --hidden 16384"])
def test_train_refuses_sizes_beyond_the_memory(folder, option):
    before = snapshot(folder)
    assert_refused(call("train", "text.txt", *option.split(), cwd=folder), "train", "--hidden")
    assert snapshot(folder) == before


@pytest.mark.parametrize("arguments", ["--steps 5 --epochs 5", "--bogus", "--hid 5", "text.txt more.txt"])
def test_train_refuses_what_it_does_not_know(folder, arguments):
    assert_refused(call("train", *arguments.split(), cwd=folder), "train", "--help")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing", None, ["No such file"]),
        (".", None, ["directory"]),
        ("empty", b"", ["0 characters", "at least"]),
        ("short", b"To be, or not to be", ["19 characters", "--batch-size", "--seq-len"]),
        (
            "latin1",
            "naïve ".encode("latin1") * 1000,
            ["0xef", "position 2", "UTF-8", "iconv -f latin1 -t utf-8 latin1"],
        ),
    ],
)
def test_train_refuses_files_that_are_no_text(folder, name, content, words):
    if content is not None:
        (folder / name).write_bytes(content)
    before = snapshot(folder)
    assert_refused(call("train", name, *SMALL, cwd=folder), "train", name, *words)
    assert snapshot(folder) == before


def test_train_learns_the_shortest_text_that_it_accepts(folder):
    for length in range(1, 60):
        (folder / "short").write_text("ab" * length)
        result = call("train", "short", *SMALL, "--batch-size", 1, "--seq-len", 1, "--steps", 3, cwd=folder)
        if result.returncode == 0:
            break
        assert_refused(result, "train")
    assert length == 10


@posix
@not_editable
def test_a_full_disk_leaves_the_old_model(folder):
    import resource

    before = snapshot(folder)
    result = run(
        *["train", "text.txt", *SMALL, "--steps", 3, "--threads", 1],
        cwd=folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert result.returncode == 2, result
    assert result.stderr.splitlines()[-1].startswith("bptt train: cannot write 'model.safetensors' (File too large)")
    assert "Traceback" not in result.stderr
    assert snapshot(folder) == before


def test_sample_writes_and_repeats_itself_for_a_seed(trained):
    folder, _ = trained
    first, again, other = (
        call("sample", "model.safetensors", "--prompt", "12 green", "--length", 50, "--seed", seed, cwd=folder)
        for seed in (3, 3, 4)
    )
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("12 green")
    assert len(first.stdout) == len("12 green") + 50 + 1
    assert first.stdout == again.stdout != other.stdout


def test_sample_at_temperature_zero_takes_the_likeliest(trained):
    folder, _ = trained
    results = [call("sample", "model.safetensors", "--temperature", 0, "--length", 30, cwd=folder) for _ in range(2)]
    assert results[0].stdout == results[1].stdout
    lm = charlm.CharLM.load(folder / "model.safetensors")
    logits, _ = lm.model(lm.vocabulary.encode("\n\n").astype(np.int64)[:, None])
    assert results[0].stdout[0] == lm.vocabulary.characters[int(logits[-1, 0].argmax())]


def test_sample_survives_a_narrow_terminal_and_a_closed_pipe(trained):
    folder, _ = trained
    narrow = run(
        *["sample", "model.safetensors", "--prompt", "—", "--length", "10"],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert narrow.returncode == 0, narrow
    assert narrow.stdout.startswith("\\u2014")
    with subprocess.Popen(
        [*COMMAND, "sample", "model.safetensors", "--length", "300000"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prompt", "Größe"], ["'ß' 'ö'", "prompt"]),
        (["--temperature", "-1"], ["--temperature"]),
        (["--temperature", "nan"], ["--temperature"]),
        (["--length", "0"], ["--length"]),
        (["--seed", "x"], ["--seed"]),
    ],
)
def test_sample_refuses_absurd_options(trained, options, words):
    assert_refused(call("sample", "model.safetensors", *options, cwd=trained[0]), "sample", *words)


def test_sample_refuses_what_is_no_model(folder):
    good = (folder / "model.safetensors").read_bytes()
    (folder / "short").write_bytes(good[:-1])
    (folder / "changed").write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
    (folder / "empty").touch()
    save_file({"weight": np.zeros((2, 2), np.float32)}, folder / "foreign")
    for name in ("missing", ".", "text.txt", "short", "changed", "empty", "foreign"):
        assert_refused(call("sample", name, cwd=folder), "sample", name, "model")


def test_the_page_names_every_option(capsys):
    docs = Path(__file__).parent.parent / "docs"
    commands = (docs / "command_line.md").read_text("utf-8")
    for command in ("train", "sample", "forecast", "info", "diagnose"):
        assert f"## bptt {command}\n" in commands
        page = (docs / "forecasting.md").read_text("utf-8") if command == "forecast" else commands
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        for option in re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE):
            assert f"`{option}" in page or f" {option} " in page, (command, option)


def test_help_and_version(tmp_path):
    assert call("--version", cwd=tmp_path).stdout == f"bptt {bptt.__version__}\n"
    for arguments in (["--help"], ["train", "--help"], ["sample", "--help"], ["info", "--help"], ["diagnose", "-h"]):
        result = call(*arguments, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert "usage: bptt" in result.stdout
    bare = call(cwd=tmp_path)
    assert (bare.returncode, bare.stdout, bare.stderr) == (0, call("--help", cwd=tmp_path).stdout, "")
    assert_refused(call("--bogus", cwd=tmp_path), "", "--bogus", "--help")
    assert_refused(call("fly", cwd=tmp_path), "", "--help")
