# SPDX-License-Identifier: Apache-2.0
"""The character model without its command: probabilities, losses, and files whose parts do not fit together."""

import numpy as np
import pytest

import bptt
from bptt import charlm, checkpoint, textdata

TEXT = "what we know is a drop, what we don't know is an ocean.\n" * 40


@pytest.fixture(scope="module")
def lm():
    vocabulary = textdata.Vocabulary.of(TEXT)
    lm = charlm.CharLM.create(charlm.Architecture("lstm", hidden=8, layers=1, embedding=4), vocabulary, seed=0)
    streams = textdata.Streams(vocabulary.encode(TEXT), batch_size=4, seq_len=16)
    charlm.train(lm, streams, charlm.Settings(steps=40))
    return lm


@pytest.fixture
def path(tmp_path, lm):
    lm.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_model_comes_back_from_its_file(path, lm):
    again = charlm.CharLM.load(path)
    assert (again.architecture, again.vocabulary.characters) == (lm.architecture, lm.vocabulary.characters)
    np.testing.assert_array_equal(again.model.params.flat, lm.model.params.flat)


@pytest.mark.parametrize("cell", charlm.CELLS)
@pytest.mark.parametrize("layers", [1, 3])
def test_parameters_counts_the_weights(cell, layers):
    architecture = charlm.Architecture(cell, hidden=5, layers=layers, embedding=3)
    model = charlm.CharLM.create(architecture, textdata.Vocabulary("abcd")).model
    assert model.params.size == architecture.parameters(4)


@pytest.mark.parametrize("cell", charlm.CELLS)
@pytest.mark.parametrize("layers", [1, 3])
def test_memory_needed_is_a_lower_bound(cell, layers):
    """At most the layers' own estimates plus the arrays between them; above the size of the gates alone."""
    architecture = charlm.Architecture(cell, hidden=20, layers=layers, embedding=3)
    settings = charlm.Settings(batch_size=4, seq_len=50)
    model = charlm.CharLM.create(architecture, textdata.Vocabulary("abcd")).model
    arrays = 4 * (4 * model.params.size + 50 * 4 * (3 + layers * 20 + 2 * 4))
    kernels = charlm.memory_needed(architecture, 4, settings) - arrays
    recurrent = model.layers[1:-1]
    gates = sum(50 * 4 * layer.params["bias_l0"].size * 4 for layer in recurrent)
    between = (layers - 1) * 2 * 50 * 4 * 20 * 4  # y and its gradient, from one layer to the next
    assert gates < kernels <= sum(layer.estimate_memory(50, 4) for layer in recurrent) + between


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"hidden": 0}, ValueError, "hidden has value 0, expected an integer >= 1"),
        ({"layers": -1}, ValueError, "layers has value -1, expected an integer >= 1"),
        ({"embedding": 2.0}, TypeError, "embedding has type float, expected an integer"),
        ({"hidden": True}, TypeError, "hidden has type bool, expected an integer"),
        ({"dropout": 1.0}, ValueError, "dropout has value 1.0, expected 0 <= dropout < 1"),
        (
            {"cell": "transformer"},
            ValueError,
            "cell has 'transformer', expected one of lstm, gru, rnn, slstm, peephole",
        ),
    ],
)
def test_sizes_that_no_layer_takes_are_named(sizes, error, message):
    with pytest.raises(error, match=f"^Architecture: {message}$"):
        charlm.Architecture(**sizes)


def test_layers_of_equal_shape_start_differently():
    lm = charlm.CharLM.create(charlm.Architecture(hidden=4, layers=3, embedding=4), textdata.Vocabulary("ab"), seed=0)
    first, second, third = (lm.model.params[f"{k}.weight_hh_l0"] for k in (1, 2, 3))
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)


def test_train_is_truncated_bptt_with_a_carried_state(lm):
    """Two passes against the same steps written out: state from batch to batch, zeros at each pass, cosine rate."""
    streams = textdata.Streams(lm.vocabulary.encode(TEXT)[:300], batch_size=3, seq_len=40)
    settings = charlm.Settings(steps=2 * len(streams), lr=0.01, clip_norm=0.5)
    ours, plain = (charlm.CharLM.create(lm.architecture, lm.vocabulary, seed=5) for _ in range(2))
    steps = []
    history = charlm.train(ours, streams, settings, steps.append)
    optimizer = bptt.optim.Adam(lr=0.01, clip_norm=0.5)
    expected = []
    for _ in range(2):
        state = None
        for x, y in streams:
            optimizer.lr = 0.005 * (1 + np.cos(np.pi * len(expected) / settings.steps))
            logits, state, tape = plain.model.forward(x, state)
            loss, dlogits = bptt.losses.cross_entropy(logits, y)
            info = optimizer.step(plain.model.params, plain.model.backward(tape, dlogits)[2])
            expected.append((len(expected), loss, info.grad_norm, x.size))
    assert [(s.number, s.loss, s.grad_norm, s.targets) for s in steps] == expected
    assert history.loss == [loss for _, loss, *_ in expected]
    assert not history.stopped
    np.testing.assert_array_equal(ours.model.params.flat, plain.model.params.flat)


def test_train_ends_inside_a_pass_or_where_on_step_stops_it(lm):
    streams = textdata.Streams(lm.vocabulary.encode(TEXT)[:300], batch_size=3, seq_len=40)
    short, stopped = (charlm.CharLM.create(lm.architecture, lm.vocabulary, seed=5) for _ in range(2))
    assert len(streams) == 3
    assert len(charlm.train(short, streams, charlm.Settings(steps=5))) == 5

    def on_step(step):
        if step.number == 3:
            raise bptt.StopTraining

    history = charlm.train(stopped, streams, charlm.Settings(steps=5), on_step)
    assert (len(history), history.stopped) == (4, True)
    assert not np.array_equal(stopped.model.params.flat, short.model.params.flat)


@pytest.mark.parametrize(
    ("cell", "optimizer"),
    [*((cell, "adam") for cell in charlm.CELLS), *(("lstm", each) for each in charlm.OPTIMIZERS if each != "adam")],
)
def test_every_cell_and_every_optimizer_learn(cell, optimizer):
    vocabulary = textdata.Vocabulary.of(TEXT)
    lm = charlm.CharLM.create(charlm.Architecture(cell, hidden=16), vocabulary, seed=0)
    streams = textdata.Streams(vocabulary.encode(TEXT), batch_size=8, seq_len=16)
    before = charlm.evaluate(lm, vocabulary.encode(TEXT))
    charlm.train(lm, streams, charlm.Settings(steps=80, optimizer=optimizer))
    assert before == pytest.approx(np.log(len(vocabulary)), rel=0.1)  # small random weights: close to guessing
    assert charlm.evaluate(lm, vocabulary.encode(TEXT)) < 0.7 * before


@pytest.mark.parametrize(
    ("schedule", "first", "middle", "last"),
    [
        ("cosine", 1.0, 0.5, 0.0),
        ("linear", 1.0, 0.5, 0.0),
        ("constant", 1.0, 1.0, 1.0),
        ("exponential", 1.0, 0.1, 0.01),
        ("one-cycle", 0.04, None, 0.0),
    ],
)
def test_the_learning_rate_follows_the_schedule(lm, schedule, first, middle, last):
    streams = textdata.Streams(lm.vocabulary.encode(TEXT)[:300], batch_size=3, seq_len=40)
    again = charlm.CharLM.create(lm.architecture, lm.vocabulary)
    history = charlm.train(again, streams, charlm.Settings(steps=20, lr=0.01, schedule=schedule))
    rates = [lr / 0.01 for lr in history.lr]
    assert rates[0] == pytest.approx(first)
    assert rates[10] == pytest.approx(max(rates) / 2 if middle is None else middle, rel=0.5)
    # a step before the end, at most a twentieth of the way from it but for the exponential, whose steps are equal
    assert rates[-1] == pytest.approx(last, abs=0.06)
    assert max(rates) <= 1


def test_the_weights_do_not_depend_on_the_dropout_beside_them(tmp_path):
    vocabulary = textdata.Vocabulary.of(TEXT)
    plain, dropping = (
        charlm.CharLM.create(charlm.Architecture(hidden=8, layers=2, embedding=4, dropout=p), vocabulary, seed=3)
        for p in (0.0, 0.5)
    )
    np.testing.assert_array_equal(plain.model.params.flat, dropping.model.params.flat)
    assert [type(each).__name__ for each in dropping.model.layers] == [
        *("Embedding", "LSTM", "Dropout", "LSTM", "Dropout", "Linear")
    ]
    dropping.save(tmp_path / "dropping")
    again = charlm.CharLM.load(tmp_path / "dropping")
    assert again.architecture.dropout == 0.5
    ids = vocabulary.encode("what").astype(np.int64)[:, None]
    np.testing.assert_array_equal(again.model(ids)[0], plain.model(ids)[0])  # at inference nothing is dropped


def test_files_of_versions_without_dropout_are_those_of_models_without_it(path):
    _, config = checkpoint.load(path)
    assert config["architecture"] == {"cell": "lstm", "hidden": 8, "layers": 1, "embedding": 4}
    assert charlm.CharLM.load(path).architecture.dropout == 0.0


def test_training_ends_with_the_best_weights_when_patience_does(lm):
    streams = textdata.Streams(lm.vocabulary.encode(TEXT), batch_size=4, seq_len=16)
    held_out = lm.vocabulary.encode("we is a drop, what don't ocean know.\n" * 20)
    again = charlm.CharLM.create(lm.architecture, lm.vocabulary)
    settings = charlm.Settings(steps=2000, lr=0.1, schedule="constant", validate_every=5, patience=2)
    history = charlm.train(again, streams, settings, held_out=held_out)
    losses = [each.loss for each in history.validation]
    assert history.stop_reason == "EarlyStopping: validation_loss has not improved for 2 values"
    assert len(losses) < 400
    assert charlm.evaluate(again, held_out) == min(losses) == losses[-3]


def test_evaluate_carries_the_state_and_counts_every_character(lm):
    ids = lm.vocabulary.encode(TEXT)[:1000].astype(np.int64)
    logits, _ = lm.model(ids[:-1, None])
    loss, _ = bptt.losses.cross_entropy(logits, ids[1:, None])
    # float32 sums in another order; relative to a mean of about 3
    assert charlm.evaluate(lm, ids, streams=1, seq_len=7) == pytest.approx(loss, rel=1e-5)


def test_sample_draws_by_the_models_probabilities(lm):
    logits, _ = lm.model(lm.vocabulary.encode("w").astype(np.int64)[:, None])
    for temperature in (0.5, 1.0):
        p = np.exp(logits[-1, 0].astype(np.float64) / temperature)
        p /= p.sum()
        n = 2000
        drawn = "".join(next(charlm.sample(lm, "w", length=1, temperature=temperature, seed=i)) for i in range(n))
        counts = np.array([drawn.count(c) for c in lm.vocabulary.characters])
        # five standard deviations of each binomial count, and one of rounding for the rare ones
        assert (abs(counts - n * p) <= 5 * np.sqrt(n * p * (1 - p)) + 1).all()


def test_sample_carries_the_state(lm):
    """Step by step the same choices as from the whole text so far at once."""
    text = "what we"
    for _ in range(12):
        logits, _ = lm.model(lm.vocabulary.encode(text).astype(np.int64)[:, None])
        text += lm.vocabulary.characters[int(logits[-1, 0].argmax())]
    assert text == "what we" + "".join(charlm.sample(lm, "what we", length=12, temperature=0))


@pytest.mark.parametrize(("length", "temperature"), [(-1, 1.0), (5, -0.1), (5, np.nan), (5, np.inf)])
def test_sample_refuses_impossible_numbers(lm, length, temperature):
    with pytest.raises(ValueError, match=r"^sample: (length|temperature) has value .*, expected "):
        charlm.sample(lm, length=length, temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-320, 1e300])
def test_sample_stands_extreme_temperatures(lm, temperature):
    assert len("".join(charlm.sample(lm, length=5, temperature=temperature, seed=0))) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"vocabulary": "aa"},
        {"vocabulary": 5},
        {"vocabulary": [5]},
        {"vocabulary": ["a", "b"]},
        {"vocabulary": None},
        {"vocabulary": {"a": 0}},
        {"kind": ["charlm"]},
        {"kind": "x" * 10_000},
        {"architecture": {}},
        {"architecture": {"cell": "lstm", "hidden": 10**9, "layers": 10**9, "embedding": 10**9}},
        {"architecture": {"cell": "lstm", "hidden": 8.0, "layers": 1, "embedding": 4}},
        {"architecture": {"cell": "lstm", "hidden": 8, "layers": 1, "embedding": 4, "extra": 1}},
        {"architecture": {"cell": "gru", "hidden": 8, "layers": 1, "embedding": 4}},
        {"architecture": {"cell": ["lstm"], "hidden": 8, "layers": 1, "embedding": 4}},
        {"architecture": {"cell": "x" * 10_000, "hidden": 8, "layers": 1, "embedding": 4}},
        {"architecture": {"cell": "lstm", "hidden": 10**1000, "layers": 1, "embedding": 4}},
        {"architecture": {"x" * 10_000: 1}},
        {"architecture": 7},
    ],
    ids=lambda value: str(value)[:50],
)
def test_load_refuses_what_does_not_fit_together(path, change):
    arrays, config = checkpoint.load(path)
    checkpoint.save(path, arrays, config | change)
    assert_refused(path)


def assert_refused(path, words=""):
    with pytest.raises(
        ValueError, match=f"no usable character model .*{words}.*expected a file from 'bptt train'$"
    ) as e:
        charlm.CharLM.load(path)
    message = str(e.value).removeprefix(repr(str(path)))
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize("entry", ["kind", "architecture", "vocabulary"])
def test_load_refuses_what_lacks_a_part(path, entry):
    arrays, config = checkpoint.load(path)
    del config[entry]
    checkpoint.save(path, arrays, config)
    assert_refused(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(path, lm, value):
    before = path.read_bytes()
    arrays, config = checkpoint.load(path)
    broken = charlm.CharLM.create(lm.architecture, lm.vocabulary)
    with broken.model.params.edit() as p:
        p["1.weight_hh_l0"][3, 2] = value
    with pytest.raises(FloatingPointError, match=r"^CharLM.save: 1.weight_hh_l0 has values that are NaN or infinite"):
        broken.save(path)
    assert path.read_bytes() == before
    checkpoint.save(path, arrays | {"1.weight_hh_l0": broken.model.params["1.weight_hh_l0"]}, config)
    assert_refused(path, "1.weight_hh_l0")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, bool])
def test_load_refuses_arrays_of_other_dtypes(path, dtype):
    arrays, config = checkpoint.load(path)
    checkpoint.save(path, {name: array.astype(dtype) for name, array in arrays.items()}, config)
    assert_refused(path, "dtype float32")


def test_load_refuses_arrays_of_other_names_or_shapes(path):
    arrays, config = checkpoint.load(path)
    name = "0.weight"
    renamed = {("x" if key == name else key): array for key, array in arrays.items()}
    for wrong in (renamed, arrays | {name: arrays[name].T}):
        checkpoint.save(path, wrong, config)
        assert_refused(path)
