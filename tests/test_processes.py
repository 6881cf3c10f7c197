# SPDX-License-Identifier: Apache-2.0
"""fit with `all_reduce`: processes, which are threads here, end as one process that has their joined batches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bptt
from bptt import losses, optim
from bptt.callbacks import EarlyStopping, LambdaCallback
from runs import DATA, RNG, B, T, broken, fitted, mean_error, model_of


class Sum:
    """Adds the arrays of n threads, in the order of the threads, so that all get the same bits."""

    def __init__(self, n: int) -> None:
        self._arrays: list[Any] = [None] * n
        self._barrier = threading.Barrier(n, timeout=10)
        self.sizes: list[int] = []

    def of(self, rank: int) -> Callable[[Any], None]:
        def all_reduce(values: Any) -> None:
            self._arrays[rank] = values
            self._barrier.wait()
            total = sum(self._arrays[1:], self._arrays[0])
            self._barrier.wait()
            values[:] = total
            if rank == 0:
                self.sizes.append(len(values))

        return all_reduce

    def abort(self) -> None:
        self._barrier.abort()


def together(of_rank: Callable[[int], dict[str, Any]], n: int = 2, adds: Sum | None = None) -> list[Any]:
    """What `fitted` returns, or raises, in each of n threads. of_rank: its options, with "data"."""
    found: list[Any] = [None] * n
    adds = Sum(n) if adds is None else adds

    def run(rank: int) -> None:
        options = {"all_reduce": adds.of(rank), **of_rank(rank)}
        try:
            found[rank] = fitted(options.pop("data"), options.pop("model", None), **options)
        except threading.BrokenBarrierError:  # another thread failed
            return
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n)]
    for each in threads:
        each.start()
    while any(each.is_alive() for each in threads):
        failed = any(isinstance(each, Exception) for each in found)
        for each in threads:
            each.join(1)
        if failed and any(each.is_alive() for each in threads):  # they wait for one that failed
            adds.abort()
    return found


def rows(rank: int, data: Any = DATA) -> list[Any]:
    """The rows of each batch that one of two processes has: 1 of 4 or 3 of 4, so that their weights differ."""
    at = slice(0, 1) if rank == 0 else slice(1, B)
    return [tuple(each[:, at] for each in batch) for batch in data]


def assert_as_one(found: list[Any], expected: Any, tolerance: float = 1e-12) -> None:
    """All processes have the same bits, and the results of one up to rounding."""
    for model, history in found:
        np.testing.assert_array_equal(model.params.flat, found[0][0].params.flat)
        np.testing.assert_allclose(model.params.flat, expected[0].params.flat, atol=tolerance)
        np.testing.assert_allclose(history.loss, expected[1].loss, rtol=tolerance)
        assert history.loss == found[0][1].loss
        assert history.grad_norm == found[0][1].grad_norm
        assert history.targets == expected[1].targets
        assert [each.loss for each in history.validation] == [each.loss for each in found[0][1].validation]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"tbptt": 2}, {"tbptt": (2, 4), "stateful": True}, {"stateful": True},
        {"metric": mean_error, "validation": DATA},
    ],
)  # fmt: skip
def test_two_processes_are_one_with_the_joined_batch(dtype: str, options: dict[str, Any]) -> None:
    options = {"epochs": 3, **options}
    clipped = {"clip_norm": 0.05}
    expected = fitted(DATA, model_of(dtype), optimizer=optim.Adam(0.01, **clipped), **options)

    def of(rank: int) -> dict[str, Any]:
        own = {"data": rows(rank), "model": model_of(dtype), "optimizer": optim.Adam(0.01, **clipped), **options}
        return {**own, "validation": rows(rank)} if "validation" in options else own

    found = together(of)
    assert_as_one(found, expected, 1e-6 if dtype == "float32" else 1e-12)
    if "metric" in options:
        np.testing.assert_allclose(found[1][1].metrics["metric"], expected[1].metrics["metric"], rtol=1e-5)
        theirs, ours = expected[1].validation[-1], found[1][1].validation[-1]
        np.testing.assert_allclose(
            [ours.loss, *ours.metrics.values()], [theirs.loss, *theirs.metrics.values()], rtol=1e-5
        )


def test_lengths_and_chunks_without_targets_in_one_process() -> None:
    x, target = DATA[0]
    lengths = [6, 2, 1, 0]
    batch = bptt.Batch(x, target, lengths=lengths)
    expected = fitted([batch], tbptt=2, epochs=2)

    def of(rank: int) -> dict[str, Any]:
        at = slice(0, 1) if rank == 0 else slice(1, B)
        return {"data": [bptt.Batch(x[:, at], target[:, at], lengths=lengths[at])], "tbptt": 2, "epochs": 2}

    assert_as_one(together(of), expected)
    none, adds = bptt.Batch(x, target, lengths=[2] * B), Sum(2)  # two chunks without targets in all processes
    expected = fitted([none], tbptt=2)
    found = together(lambda rank: {"data": [none], "tbptt": 2, "all_reduce": adds.of(rank)})
    assert [len(history) for _, history in found] == [1, 1]
    np.testing.assert_allclose(found[0][0].params.flat, expected[0].params.flat, rtol=1e-12)


def test_one_process_is_a_run_without() -> None:
    found = together(lambda rank: {"data": DATA, "epochs": 2}, 1)
    assert_as_one(found, fitted(epochs=2))


def test_one_exchange_for_each_update() -> None:
    adds = Sum(1)
    model, _ = fitted(all_reduce=adds.of(0), epochs=2)
    update = len(model.params.flat) + 14
    assert adds.sizes[1:-1] == [update] * 2 * (3 + 1)  # three updates and the end of each epoch


@pytest.mark.parametrize("how", ["raise", "skip", "stop"])
def test_what_is_not_finite_in_one_process_concerns_all(how: str) -> None:
    def of(rank: int) -> dict[str, Any]:
        data = rows(rank, broken(1) if rank == 1 else DATA)
        return {"data": data, "on_nonfinite": how}

    expected = {"skip": [DATA[0], DATA[2]], "stop": DATA[:1]}
    found = together(of)
    if how == "raise":
        assert "x has the value nan in update 1" in str(found[1])
        assert "a value that is not finite in another process" in str(found[0])
        return
    assert_as_one(found, fitted(expected[how]))
    assert [history.skipped for _, history in found] == ([1, 1] if how == "skip" else [0, 0])
    assert [history.stopped for _, history in found] == [how == "stop"] * 2


def test_a_gradient_that_is_not_finite_is_so_everywhere() -> None:
    def of(rank: int) -> dict[str, Any]:
        def loss(y: Any, target: Any) -> Any:
            value, dy = losses.mse(y, target)
            return value, dy * np.nan if rank == 0 else dy

        return {"data": rows(rank), "on_nonfinite": "stop", "loss": loss}

    found = together(of)
    assert [len(history) for _, history in found] == [0, 0]
    assert all("gradient has norm nan" in history.stop_reason for _, history in found)


def test_one_process_stops_all_after_the_same_update(tmp_path: Path) -> None:
    def stop(step: Any) -> None:
        if step.number == 3:
            raise bptt.StopTraining("enough")

    def of(rank: int) -> dict[str, Any]:
        return {"data": rows(rank), "epochs": 9, **({"on_step": stop} if rank == 0 else {})}

    found = together(of)
    assert_as_one(found, fitted(epochs=9, max_steps=4))
    assert [history.stop_reason for _, history in found] == ["enough", "another process stopped"]
    (_, one), (_, two) = together(
        lambda rank: {"data": rows(rank), **({"max_time_s": 0.0} if rank else {}), "epochs": 9}
    )
    assert (len(one), len(two), one.stopped, two.stopped) == (1, 1, False, False)


def test_early_stopping_sees_the_joined_loss() -> None:
    held = [(RNG.standard_normal((T, B, 3)), RNG.standard_normal((T, B, 2)))]
    expected = fitted(epochs=50, validation=held, callbacks=[EarlyStopping(patience=2)], lr=1.0)

    def of(rank: int) -> dict[str, Any]:
        stopping = EarlyStopping(patience=2)
        return {"data": rows(rank), "validation": rows(rank, held), "epochs": 50, "callbacks": [stopping], "lr": 1.0}

    found = together(of)
    assert_as_one(found, expected, 1e-9)
    assert found[0][1].stopped


def test_a_run_of_two_goes_on(tmp_path: Path) -> None:
    def of(rank: int, **limits: Any) -> dict[str, Any]:
        model = model_of(zoneout=0.2)
        own = {"data": rows(rank), "model": model, "resume": tmp_path / str(rank), "save_every_s": None}
        return {**own, "epochs": 4, "tbptt": 4, **limits}

    def alone(rank: int) -> dict[str, Any]:
        return {**of(rank), "resume": None}

    for cut in (3, 7):
        together(partial(of, max_steps=cut))
    got, expected = together(of), together(alone)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours[0].params.flat, theirs[0].params.flat)
    (tmp_path / "1").unlink()
    error = next(each for each in together(of) if isinstance(each, ValueError))
    assert str(error).startswith("fit: the processes differ in parameters, expected the same in all of them as the run")


@pytest.mark.parametrize(
    ("differ", "message"),
    [
        (lambda rank: {"data": rows(rank)[rank:]}, "1 of 2 processes have no more batches in this epoch"),
        (lambda rank: {"model": bptt.Sequential(bptt.GRU(3, 2, seed=rank, dtype="float64"))}, "differ in parameters"),
        (lambda rank: {"lr": 0.1 + rank}, "differ in the optimizer and its state"),
        (lambda rank: {"epochs": 1 + rank}, "differ in fit's options"),
        (lambda rank: {"schedule": lambda step: 0.1 + rank}, "differ in the learning rate of update 0"),
        (lambda rank: {"callbacks": [Edits()] if rank else []}, "differ in parameters"),
        (lambda rank: {"all_reduce": lambda values: values + 1}, "all_reduce returned ndarray, expected None"),
        (lambda rank: {"all_reduce": 3}, "all_reduce has type int, expected a function"),
    ],
)  # fmt: skip
def test_processes_that_differ_are_refused(differ: Any, message: str) -> None:
    found = together(lambda rank: {"data": rows(rank), **differ(rank)})
    assert any(message in str(each) for each in found if isinstance(each, Exception)), found


def Edits() -> Any:  # noqa: N802
    def on_step(run: Any, step: Any) -> None:
        with run.model.params.edit() as p:
            p.flat[0] += 1

    return LambdaCallback(on_step=on_step)


def test_bits_that_differ_are_found_out() -> None:
    adds = Sum(2)

    def of(rank: int) -> dict[str, Any]:
        def inexact(values: Any) -> None:
            adds.of(rank)(values)
            if len(values) > 40:
                values[0] += rank * 1e-3

        return {"data": rows(rank), "all_reduce": inexact}

    found = together(of, adds=adds)
    assert any("the processes differ in parameters" in str(each) for each in found)


def test_a_mean_instead_of_the_sum_is_found_out_where_targets_do_not_divide() -> None:
    adds = Sum(2)

    def of(rank: int) -> dict[str, Any]:
        def mean(values: Any) -> None:
            adds.of(rank)(values)
            values /= 2

        return {"data": [tuple(each[:5, : 1 + rank] for each in batch) for batch in DATA], "all_reduce": mean}

    found = together(of, adds=adds)
    assert any("expected the sum over all processes" in str(each) for each in found)
