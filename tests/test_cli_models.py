# SPDX-License-Identifier: Apache-2.0
"""`bptt info` and `bptt diagnose`: what they say of files, and what they refuse."""

import os
import re
import zipfile

import numpy as np
import pytest

import bptt
from bptt import charlm, checkpoint, cli, textdata
from command import TEXT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, in which the test runs, with a character model, another model, data for both, and what is neither."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    architecture = charlm.Architecture("gru", hidden=8, layers=1, embedding=4, dropout=0.1)
    charlm.CharLM.create(architecture, textdata.Vocabulary.of(TEXT)).save("letters")
    model = bptt.Sequential(bptt.LSTM(2, 4, num_layers=2, zoneout=0.1, seed=0), bptt.Linear(4, 1, seed=0))
    bptt.save(model, "model", extra={"unit": "kWh", "mean": np.array([3.5, 0.1])})
    bptt.save(bptt.Linear(2, 1), "linear")
    x = np.random.default_rng(0).standard_normal((40, 3, 2)).astype(np.float32)
    np.savez("data.npz", x=x, target=x[:, :, :1])
    np.savez("ragged.npz", x=x, target=x[:, :, :1], lengths=[40, 20, 30])
    np.savez("half.npz", x=x)
    np.savez("wide.npz", x=x, target=x)
    np.savez("words.npz", x=np.array(["a"]), target=x)
    np.savez("objects.npz", x=np.array([{}], object), target=x)
    with zipfile.ZipFile("bytes.npz", "w") as file:
        file.writestr("x", b"no array")
        file.writestr("target", b"no array")
    (tmp_path / "text.png").write_text("text")
    bptt.save(bptt.Linear(2, 1), "named", extra={"forecaster": "of the week"})
    np.save("one.npy", x)
    checkpoint.save("foreign", {"w": np.zeros(3)}, {"sizes": [3]})
    return tmp_path


def printed(capsys, *arguments):
    assert cli.main([*arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    assert cli.main([*arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"bptt {arguments[0]}: ")
    assert message.count("\n") == 1
    assert "expected" in message
    return message


def rows(text):
    return dict(line.split(None, 1) for line in text.splitlines() if not line.startswith(" "))


def test_info_names_the_build(capsys):
    found = rows(printed(capsys, "info"))
    assert found["version"] == bptt.__version__
    for name, value in bptt.config().items():
        assert found[name].startswith(str(value))
    level = bptt.config()["level"]
    assert re.fullmatch(rf"{level} \(this build has .*{level}.*\)", found["level"])


def test_info_says_what_a_character_model_is(folder, capsys):
    os.utime("letters", (1e9, 1e9))
    text = printed(capsys, "info", "letters")
    found = rows(text)
    model = charlm.CharLM.load("letters").model
    assert found["kind"] == "character model"
    assert found["size"] == f"{os.path.getsize('letters'):,} bytes"
    assert found["written"].startswith("2001-09-0")
    assert found["parameters"] == f"{model.params.size:,} numbers of float32 in {len(model.params)} arrays"
    assert found["characters"].startswith(f"{len(set(TEXT))}: ")
    for layer in ("0 Embedding(", "1 GRU(4, 8, ", "2 Dropout(0.1)", "3 Linear(8, "):
        assert layer in text
    for name, array in model.params.items():
        shape = re.escape(str(list(array.shape)))
        assert re.search(rf"^ +{re.escape(name)} +{shape} +{array.size:,}$", text, re.MULTILINE)


def test_info_says_what_any_model_is(folder, capsys):
    text = printed(capsys, "info", "model")
    assert rows(text)["kind"] == "model"
    assert rows(text)["extra"] == "unit, mean"
    assert "0 LSTM(2, 4, num_layers=2, " in text
    assert "zoneout=0.1" in text
    assert rows(printed(capsys, "info", "linear"))["layers"].startswith("0 Linear(2, 1")
    assert rows(printed(capsys, "info", "named"))["kind"] == "model"


@pytest.mark.parametrize("name", ["text.txt", "missing", ".", "foreign", "data.npz"])
def test_info_refuses_other_files(folder, capsys, name):
    assert name in refused(capsys, "info", name)


def test_diagnose_reports_on_the_held_out_text(folder, capsys):
    text = printed(capsys, "diagnose", "letters", "--data", "text.txt", "--steps", "50", "--rows", "2")
    lm = charlm.CharLM.load("letters")
    _, tail = textdata.split_tail(lm.vocabulary.encode(TEXT))
    x, y = next(iter(textdata.Streams(tail, 2, 50)))
    report = bptt.diagnose(lm.model, x, y, bptt.losses.cross_entropy)
    assert f"Diagnosis over 50 steps, loss {report.flow.loss:.4g}\n" in text
    assert "Data:  text.txt, 50 steps of 2 rows, loss cross_entropy\n" in text
    assert report.verdict.splitlines()[0][:12] in text


@pytest.mark.parametrize("options", [[], ["--loss", "huber"]])
def test_diagnose_reports_on_arrays(folder, capsys, options):
    with np.load("ragged.npz") as data:
        loss = bptt.losses.huber if options else bptt.losses.mse
        report = bptt.diagnose(bptt.load("model"), data["x"], data["target"], loss, data["lengths"])
    text = printed(capsys, "diagnose", "model", "--data", "ragged.npz", *options)
    assert text.endswith(f"\n{report}\n")


def test_diagnose_draws(folder, capsys):
    pytest.importorskip("matplotlib")
    text = printed(capsys, "diagnose", "model", "--data", "data.npz", "--plot", "report.svg")
    assert text.endswith("\nPicture written to report.svg\n")
    assert b"<svg" in (folder / "report.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("missing", ["missing"]),
        ("foreign", ["foreign", "no model"]),
        ("model", ["--data FILE.npz"]),
        ("model --data missing.npz", ["missing.npz", "No such file"]),
        ("model --data text.txt", ["text.txt", ".npz"]),
        ("model --data one.npy", ["one.npy", "x and target"]),
        ("model --data half.npz", ["half.npz", "x and target"]),
        ("model --data objects.npz", ["objects.npz"]),
        ("model --data bytes.npz", ["bytes.npz", "bytes in place of the array x"]),
        ("model --data words.npz", ["x has"]),
        ("model --data data.npz --plot text.png", ["is not a picture"]),
        ("model --data wide.npz", ["target has shape (40, 3, 2), expected (40, 3, 1)"]),
        ("model --data data.npz --loss cross_entropy", ["integers"]),
        ("model --data data.npz --steps 5", ["--steps"]),
        ("model --data data.npz --plot data.npz", ["--data and --plot"]),
        ("model --data data.npz --plot text.txt", [".png"]),
        ("linear --data data.npz", ["recurrent layer"]),
        ("letters", ["the manual of this Python has", "--data"]),
        ("letters --data text.txt --loss mse", ["cross_entropy"]),
        ("letters --data text.txt --steps 5000", ["text.txt has", "--steps 5000 and --rows 8"]),
    ],
)
def test_diagnose_refuses_what_does_not_fit(folder, capsys, arguments, words):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    message = refused(capsys, "diagnose", *arguments.split())
    for word in words:
        assert word in message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
