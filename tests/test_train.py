# SPDX-License-Identifier: Apache-2.0
"""fit: the same bits as the loop written out by hand, in every mode; stopping, interrupts, progress, errors."""

import copy
import re

import numpy as np
import pytest

import bptt
from bptt import losses, optim

T, B, V = 7, 2, 5


def make_model(batch_first=False):
    return bptt.Sequential(
        bptt.Embedding(V, 3, seed=0), bptt.LSTM(3, 4, batch_first=batch_first, seed=1), bptt.Linear(4, V, seed=2)
    )


def make_batches(count=3, lead=(T, B)):
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(0, V, (2, *lead))) for _ in range(count)]


def by_hand(model, chunks, optimizer):
    """Chunks are (x, target, ..., fresh): fresh where the state starts from zeros."""
    state, record = None, []
    for x, *rest, fresh in chunks:
        y, state, tape = model.forward(x, None if fresh else state)
        value, dy = losses.cross_entropy(y, *rest)
        grads = model.backward(tape, dy)[2]
        record.append((value, *optimizer.step(model.params, grads)))
    return record


def assert_same_as_by_hand(batches, chunks, model=None, **options):
    model = make_model() if model is None else model
    twin = copy.deepcopy(model)
    options = {"loss": losses.cross_entropy, "optimizer": optim.Adam(0.01, clip_norm=0.1), **options}
    history = bptt.fit(model, batches, **options)
    record = by_hand(twin, chunks, optim.Adam(0.01, clip_norm=0.1))
    assert [*zip(history.loss, history.grad_norm, history.clipped, history.clipped_norm, strict=True)] == record
    np.testing.assert_array_equal(model.params.flat, twin.params.flat)
    return history


def test_one_update_per_batch():
    batches = make_batches()
    history = assert_same_as_by_hand(batches, [(x, t, True) for _ in range(2) for x, t in batches], epochs=2)
    assert len(history) == 6
    assert repr(history) == f"History(6 steps, last loss {history.loss[-1]:.4g})"
    assert not history.stopped


def test_truncated_bptt_carries_the_state_within_a_batch():
    batches = make_batches()
    cuts = [(slice(0, 3), True), (slice(3, 6), False), (slice(6, 7), False)]
    assert_same_as_by_hand(batches, [(x[cut], t[cut], fresh) for x, t in batches for cut, fresh in cuts], tbptt=3)


def test_truncated_bptt_with_batch_first():
    batches = make_batches(lead=(B, T))
    cuts = [(slice(0, 4), True), (slice(4, 7), False)]
    chunks = [(x[:, cut], t[:, cut], fresh) for x, t in batches for cut, fresh in cuts]
    assert_same_as_by_hand(batches, chunks, model=make_model(batch_first=True), tbptt=4)


def test_stateful_carries_the_state_through_an_epoch():
    batches = make_batches()
    chunks = [(x, t, k == 0) for _ in range(2) for k, (x, t) in enumerate(batches)]
    assert_same_as_by_hand(batches, chunks, epochs=2, stateful=True)
    cuts = [slice(0, 5), slice(5, 7)]
    chunks = [(x[cut], t[cut], k + n == 0) for k, (x, t) in enumerate(batches) for n, cut in enumerate(cuts)]
    assert_same_as_by_hand(batches, chunks, stateful=True, tbptt=5)


def test_lists_and_longer_chunks_than_the_batch():
    batches = make_batches()
    lists = [(x.tolist(), t.tolist()) for x, t in batches]
    assert_same_as_by_hand(lists, [(x, t, True) for x, t in batches], tbptt=100)


def test_masks_reach_the_loss_and_a_masked_chunk_makes_no_update():
    ((x, t),) = make_batches(1)
    mask = np.ones((T, B), bool)
    mask[2:4] = False
    mask[5, 0] = False
    cuts = [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    model, twin = make_model(), make_model()
    history = bptt.fit(model, [(x, t, mask)], loss=losses.cross_entropy, optimizer=optim.SGD(0.1), tbptt=2)
    assert len(history) == 3
    state, optimizer = None, optim.SGD(0.1)
    for cut in cuts:
        y, state, tape = twin.forward(x[cut], state)
        if mask[cut].any():
            value, dy = losses.cross_entropy(y, t[cut], mask[cut])
            optimizer.step(twin.params, twin.backward(tape, dy)[2])
            assert value in history.loss
    np.testing.assert_array_equal(model.params.flat, twin.params.flat)


def test_a_single_recurrent_layer_can_be_trained():
    layer, rng = bptt.GRU(2, 3, seed=0), np.random.default_rng(0)
    x, target = rng.standard_normal((T, B, 2)), np.full((T, B, 3), 0.5)
    history = bptt.fit(layer, [(x, target)], loss=losses.mse, optimizer=optim.Adam(0.05), epochs=60)
    assert history.loss[-1] < 0.2 * history.loss[0]


def test_on_step_sees_every_update_and_can_stop():
    seen = []

    def on_step(step):
        seen.append(step)
        if step.number == 3:
            raise bptt.StopTraining

    model = make_model()
    options = {"loss": losses.cross_entropy, "optimizer": optim.SGD(0.1)}
    history = bptt.fit(model, make_batches(), epochs=9, on_step=on_step, **options)
    assert history.stopped
    assert [(step.number, step.epoch) for step in seen] == [(0, 0), (1, 0), (2, 0), (3, 1)]
    assert [step.loss for step in seen] == history.loss


@pytest.mark.parametrize("max_steps", [1, 4, 6, 7])
def test_max_steps_ends_the_run_also_inside_an_epoch(max_steps):
    batches, seen = make_batches(), []
    chunks = [(x, t, True) for _ in range(2) for x, t in batches][:max_steps]
    history = assert_same_as_by_hand(batches, chunks, epochs=2, max_steps=max_steps, on_step=seen.append)
    assert [step.number for step in seen] == list(range(min(max_steps, 6)))
    assert not history.stopped


def test_no_batch_is_asked_for_after_the_last_update():
    def batches():
        yield from make_batches(2)
        raise AssertionError("a third batch was asked for")

    options = {"loss": losses.cross_entropy, "optimizer": optim.SGD(0.1)}
    assert len(bptt.fit(make_model(), batches(), max_steps=2, **options)) == 2


def test_a_schedule_is_an_assignment_in_on_step():
    ((x, t),) = make_batches(1)
    model, twin, sgd = make_model(), make_model(), optim.SGD(0.1)

    def on_step(step):
        sgd.lr = 0.1 / (2 + step.number)

    bptt.fit(model, [(x, t)], loss=losses.cross_entropy, optimizer=sgd, epochs=3, on_step=on_step)
    for k in range(3):
        bptt.fit(twin, [(x, t)], loss=losses.cross_entropy, optimizer=optim.SGD(0.1 / (1 + k)))
    np.testing.assert_array_equal(model.params.flat, twin.params.flat)


def test_a_step_has_the_number_of_its_targets():
    (x, t), (x1, t1) = make_batches(1)[0], [ids[:, 0] for ids in make_batches(1)[0]]
    mask = np.zeros((T, B), bool)
    mask[:3, 0] = True
    packed = bptt.Packed(x[:, 0][:5], [2, 2, 1])
    batches = [(x, t), (x1, t1), (x, t, mask), bptt.Batch(x, t, lengths=[T, 2]), (packed, t[:, 0][:5])]
    seen = []
    options = {"loss": losses.cross_entropy, "optimizer": optim.SGD(0.1), "on_step": seen.append}
    bptt.fit(make_model(), batches, **options)
    assert [step.targets for step in seen] == [T * B, T, 3, T + 2, 5]
    seen.clear()
    bptt.fit(make_model(), batches[:1] + batches[3:4], tbptt=4, **options)
    assert [step.targets for step in seen] == [4 * B, 3 * B, 4 + 2, 3]


@pytest.mark.parametrize("returned", [True, 1, "stop", StopIteration])
def test_what_on_step_returns_does_not_stop(returned):
    options = {"loss": losses.cross_entropy, "optimizer": optim.SGD(0.1)}
    history = bptt.fit(make_model(), make_batches(), on_step=lambda step: returned, **options)
    assert len(history) == 3
    assert not history.stopped


def test_only_on_step_can_stop():
    def loss(y, target):
        raise bptt.StopTraining

    with pytest.raises(bptt.StopTraining):
        bptt.fit(make_model(), make_batches(), loss=loss, optimizer=optim.SGD(0.1))


def test_an_interrupt_leaves_whole_updates():
    def interrupting(y, target):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return losses.cross_entropy(y, target)

    calls, batches, model, twin = [], make_batches(5), make_model(), make_model()
    with pytest.raises(KeyboardInterrupt):
        bptt.fit(model, batches, loss=interrupting, optimizer=optim.Adam())
    bptt.fit(twin, batches[:2], loss=losses.cross_entropy, optimizer=optim.Adam())
    np.testing.assert_array_equal(model.params.flat, twin.params.flat)
    np.testing.assert_array_equal(model(batches[0][0])[0], twin(batches[0][0])[0])


def test_progress_goes_to_stderr(capsys):
    options = {"loss": losses.cross_entropy, "optimizer": optim.SGD(0.1)}
    bptt.fit(make_model(), make_batches(), **options)
    assert capsys.readouterr() == ("", "")
    bptt.fit(make_model(), make_batches(), progress=True, **options)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err


def test_an_iterator_is_gone_through_once():
    history = bptt.fit(make_model(), iter(make_batches()), loss=losses.cross_entropy, optimizer=optim.SGD(0.1))
    assert len(history) == 3
    assert repr(bptt.History()) == "History(0 steps)"


class Once:
    """Batches that end after one epoch, though they are not an iterator."""

    def __init__(self):
        self.batches = iter(make_batches())

    def __iter__(self):
        yield from self.batches


IDS = np.zeros((T, B), int)
FORMS = r"expected \(x, target\), \(x, target, mask\) or bptt.Batch$"
BOTH = bptt.GRU(V, V, bidirectional=True)


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([], {}, ValueError, "batches has no batch in epoch 0, expected at least one"),
        ((batch for batch in ()), {}, ValueError, "batches has no batch in epoch 0, expected at least one"),
        (Once(), {"epochs": 2}, ValueError, "batches has no batch in epoch 1, expected at least one"),
        (iter([]), {"epochs": 2}, ValueError, "batches is an iterator, which ends after one epoch"),
        (3, {}, TypeError, "batches has type int, expected a list or other iterable of batches"),
        ([IDS, IDS], {}, ValueError, "batches is a list with arrays, each of which would be a batch"),
        ([IDS], {}, TypeError, f"batch has type ndarray, {FORMS}"),
        ([{"x": IDS, "target": IDS}], {}, TypeError, f"batch has type dict, {FORMS}"),
        ([(IDS,)], {}, ValueError, f"batch has length 1, {FORMS}"),
        ([(IDS, IDS, None, IDS)], {}, ValueError, f"batch has length 4, {FORMS}"),
        ([(IDS[:0], IDS[:0])], {}, ValueError, r"x has shape \(0, 2\), expected at least one step of at least one row"),
        ([(IDS[:, :0], IDS[:, :0])], {"tbptt": 2}, ValueError, r"x has shape \(7, 0\), expected at least one step"),
        ([(3, 3)], {}, ValueError, r"x has shape \(\), expected at least one step of at least one row"),
        ([(IDS, IDS[1:])], {"tbptt": 2}, ValueError, r"batch has shapes \(7, 2\), \(6, 2\), expected one length along"),
        ([(IDS, 1)], {"tbptt": 2}, ValueError, r"batch has shapes \(7, 2\), \(\), expected one length"),
        ([(IDS, IDS)], {"epochs": 0}, ValueError, "epochs has value 0, expected an integer >= 1"),
        ([(IDS, IDS)], {"max_steps": 0}, ValueError, "max_steps has value 0, expected an integer >= 1"),
        ([(IDS, IDS)], {"max_steps": 1.5}, TypeError, "max_steps has type float, expected an integer"),
        ([(IDS, IDS)], {"tbptt": 0}, ValueError, "tbptt has value 0, expected an integer >= 1"),
        ([(IDS, IDS)], {"tbptt": 1.5}, TypeError, "tbptt has type float, expected an integer"),
        ([(IDS, IDS)], {"loss": "mse"}, TypeError, "loss has type str, expected a function such as bptt.losses.mse"),
        ([(IDS, IDS)], {"loss": lambda y, t: 1.0}, TypeError, r"loss returned float, expected \(value, gradient"),
        ([(IDS, IDS)], {"optimizer": optim.Adam}, TypeError, "optimizer is the class Adam, expected an object such as"),
        ([(IDS, IDS)], {"optimizer": "adam"}, TypeError, "optimizer has type str, expected an object such as bptt.opt"),
        ([(IDS, IDS)], {"on_step": 1}, TypeError, "on_step has type int, expected a function of a Step"),
        (
            [(IDS, IDS)],
            {"model": bptt.Linear(2, 2)},
            TypeError,
            "model has type Linear, expected a Sequential or a rec",
        ),
        (
            [(IDS, IDS)],
            {"model": bptt.GRU},
            TypeError,
            "model is the class GRU, expected a Sequential or a recurrent layer",
        ),
        (
            [(IDS, IDS)],
            {"model": BOTH, "tbptt": 9},
            ValueError,
            "layer 0, GRU, is bidirectional, expected one direction",
        ),
        ([(IDS, IDS)], {"model": BOTH, "stateful": True}, ValueError, "layer 0, GRU, is bidirectional, expected one d"),
    ],
)
def test_wrong_calls_are_named(batches, options, error, message):
    options = {"model": make_model(), "loss": losses.cross_entropy, "optimizer": optim.SGD(0.1), **options}
    with pytest.raises(error, match=f"^fit: {message}") as caught:
        bptt.fit(batches=batches, **options)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("option", [{"tbptt": 3}, {"tbptt": (2, 100)}, {"stateful": True}])
def test_a_bidirectional_layer_anywhere_in_a_model_needs_whole_sequences(option):
    lstm = bptt.LSTM(3, 4, num_layers=2, bidirectional=True, seed=0)
    model = bptt.Sequential(bptt.Embedding(V, 3, seed=0), lstm, bptt.Linear(8, V, seed=1))
    options = {"loss": losses.cross_entropy, "optimizer": optim.SGD(0.1)}
    message = f"layer 1, LSTM, is bidirectional, expected one direction with {next(iter(option))}: the other needs the"
    with pytest.raises(ValueError, match=f"^fit: {message} future$"):
        bptt.fit(model, make_batches(), **options, **option)
    assert len(bptt.fit(model, make_batches(), **options)) == 3


def regression(dtype="float32"):
    model = bptt.Sequential(bptt.GRU(2, 3, seed=0, dtype=dtype), bptt.Linear(3, 1, seed=1, dtype=dtype))
    rng = np.random.default_rng(0)
    return model, [(rng.standard_normal((T, B, 2)), rng.standard_normal((T, B, 1))) for _ in range(3)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("tbptt", [None, 3, (3, 5)])
def test_values_that_are_not_finite_are_named_where_they_came_in(value, tbptt):
    """1e300 is finite, but not as float32."""
    per_batch = 1 if tbptt is None else 3
    for place, name in ((0, "x"), (1, "target")):
        model, batches = regression()
        batches[1][place][4, 1, 0] = value
        number = per_batch + (0 if tbptt is None else 1)
        twin = copy.deepcopy(model)
        options = {"loss": losses.mse, "tbptt": tbptt}
        message = re.escape(f"{name} has the value {value} in update {number}, expected finite float32 numbers")
        with pytest.raises(FloatingPointError, match=f"^fit: {message}; nothing changed$"), np.errstate(all="ignore"):
            bptt.fit(model, batches, optimizer=optim.SGD(0.1), **options)

        def on_step(step, last=number - 1):
            if step.number == last:
                raise bptt.StopTraining

        bptt.fit(twin, regression()[1], optimizer=optim.SGD(0.1), on_step=on_step, **options)
        np.testing.assert_array_equal(model.params.flat, twin.params.flat)


def test_parameters_that_are_not_finite_are_named():
    model, batches = regression()
    with model.params.edit() as p:
        p["1.weight"][0, 2] = np.nan
    batches[0][1][0, 0, 0] = np.nan  # masked: not looked at
    mask = np.ones((T, B), bool)
    mask[0, 0] = False
    with pytest.raises(FloatingPointError, match=r"^fit: parameter 1.weight has the value nan in update 0, expected"):
        bptt.fit(model, [(*batches[0], mask)], loss=losses.mse, optimizer=optim.SGD(0.1))


def test_a_loss_or_gradient_that_is_not_finite_by_itself_is_named():
    model, batches = regression()
    before = model.params.flat.copy()
    for value, slope, message in (
        (np.inf, 0.0, r"loss has the value inf, expected a finite one; nothing changed \(update 0; x, target and"),
        (1.0, np.nan, r"SGD.step: gradient has norm nan .*\(update 0; x, target and parameters are finite\)"),
    ):
        with pytest.raises(FloatingPointError, match=f"^fit: {message}") as caught:
            bptt.fit(model, batches, loss=lambda y, t, v=value, s=slope: (v, y * 0 + s), optimizer=optim.SGD(0.1))
        assert len(str(caught.value)) < 200
        np.testing.assert_array_equal(model.params.flat, before)


def test_padding_that_is_not_finite_is_named_only_where_it_matters():
    x, target = regression()[1][0]
    x[5:, 1] = np.nan
    batch = bptt.Batch(x, target, lengths=[T, 5])
    bptt.fit(regression()[0], [batch], loss=losses.mse, optimizer=optim.SGD(0.1))  # the GRU does not look at it
    model = bptt.Sequential(bptt.Linear(2, 2, seed=0), bptt.GRU(2, 1, seed=1))  # but the Linear does
    with pytest.raises(FloatingPointError, match=r"^fit: x beyond its lengths has the value nan in update 0"):
        bptt.fit(model, [batch], loss=losses.mse, optimizer=optim.SGD(0.1))
