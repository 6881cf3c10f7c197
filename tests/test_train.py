# SPDX-License-Identifier: Apache-2.0
"""fit: the same bits as the loop written out by hand, in every mode; stopping, interrupts, progress, errors."""

import copy

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
    assert list(zip(history.loss, history.grad_norm, history.clipped, strict=True)) == record
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
        return step.number == 3

    model = make_model()
    options = {"loss": losses.cross_entropy, "optimizer": optim.SGD(0.1)}
    history = bptt.fit(model, make_batches(), epochs=9, on_step=on_step, **options)
    assert history.stopped
    assert [(step.number, step.epoch) for step in seen] == [(0, 0), (1, 0), (2, 0), (3, 1)]
    assert [step.loss for step in seen] == history.loss


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
    assert "3step" in err


def test_no_batches_is_an_empty_history():
    options = {"loss": losses.cross_entropy, "optimizer": optim.SGD(0.1)}
    history = bptt.fit(make_model(), [], **options)
    assert (len(history), repr(history)) == (0, "History(0 steps)")
    one_pass = bptt.fit(make_model(), iter(make_batches()), **options)
    assert len(one_pass) == 3


IDS = np.zeros((T, B), int)


@pytest.mark.parametrize(
    ("model", "batches", "options", "error", "message"),
    [
        (bptt.Linear(2, 2), [], {}, TypeError, "model has type Linear, expected a Sequential or a recurrent layer"),
        (make_model(), iter([]), {"epochs": 2}, ValueError, "batches is an iterator, which ends after one epoch"),
        (make_model(), [IDS], {}, ValueError, "batch has type ndarray, expected"),
        (make_model(), [(IDS,)], {}, ValueError, r"batch has length 1, expected \(x, target\)"),
        (
            make_model(),
            [(IDS, IDS[1:])],
            {"tbptt": 2},
            ValueError,
            r"batch has shapes \(7, 2\), \(6, 2\), expected one",
        ),
        (make_model(), [(IDS, 1)], {"tbptt": 2}, ValueError, r"batch has shapes \(7, 2\), \(\), expected one length"),
        (make_model(), [], {"epochs": 0}, ValueError, "epochs has value 0, expected an integer >= 1"),
        (make_model(), [], {"tbptt": 0}, ValueError, "tbptt has value 0, expected an integer >= 1"),
        (make_model(), [], {"tbptt": 1.5}, TypeError, "tbptt has type float, expected an integer"),
    ],
)
def test_wrong_calls_are_named(model, batches, options, error, message):
    with pytest.raises(error, match=f"^fit: {message}"):
        bptt.fit(model, batches, loss=losses.cross_entropy, optimizer=optim.SGD(0.1), **options)
