# SPDX-License-Identifier: Apache-2.0
"""PyTorch's layers give the same outputs and gradients with `bptt.torch`, whatever their arguments."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import CELLS, KINDS, assert_agree, bt, every_cell, every_kind, flat, layer, one_thread, results  # noqa: E402, F401

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def states_for(model: Any, batch: tuple[int, ...], dtype: Any) -> Any:
    """Random initial states that require gradients; batch () for an unbatched input."""
    D, L = 1 + model.bidirectional, model.num_layers
    widths = [model.proj_size or model.hidden_size] + [model.hidden_size] * isinstance(model, torch.nn.LSTM)
    made = [torch.randn(D * L, *batch, width, dtype=dtype, requires_grad=True) for width in widths]
    return tuple(made) if len(made) > 1 else made[0]


@every_kind
@every_dtype
@pytest.mark.parametrize(("layers", "both_ways"), [(1, False), (2, True)])
def test_every_argument(kind: str, dtype: Any, layers: int, both_ways: bool) -> None:
    for bias, batch_first, with_state in itertools.product([True, False], repeat=3):
        model = layer(kind, dtype=dtype, num_layers=layers, bidirectional=both_ways, bias=bias, batch_first=batch_first)
        x = torch.randn(4, 3, 5, dtype=dtype, requires_grad=True)
        state = states_for(model, (4 if batch_first else 3,), dtype) if with_state else None
        assert_agree(
            lambda model=model, x=x, state=state: results(model, *([x] if state is None else [x, state])), calls=1
        )


@every_kind
def test_random_sizes(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(6):
        I, H, T, B = (rng.randint(1, most) for most in (40, 40, 12, 20))  # noqa: E741
        if kind == "lstm_projected":
            H += 3
        dtype = rng.choice([torch.float32, torch.float64])
        model = layer(kind, I, H, dtype=dtype, num_layers=rng.randint(1, 3), bidirectional=rng.random() < 0.5)
        x = torch.randn(T, B, I, dtype=dtype, requires_grad=True)
        assert_agree(lambda model=model, x=x: results(model, x), calls=1)


@every_kind
def test_unbatched_input(kind: str) -> None:
    model = layer(kind, num_layers=2, bidirectional=True)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert_agree(lambda: results(model, x), calls=1)
    state = states_for(model, (), torch.float64)
    assert_agree(lambda: results(model, x, state), calls=1)


@every_kind
@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_rows_and_states_in_the_callers_order(kind: str, is_sorted: bool) -> None:
    lengths = [6, 4, 4, 1] if is_sorted else [4, 1, 6, 4]
    model = layer(kind, num_layers=2, bidirectional=True)
    state = states_for(model, (4,), torch.float64)
    padded = torch.randn(6, 4, 5, dtype=torch.float64, requires_grad=True)

    class Packs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any, *given: Any) -> Any:
            rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=is_sorted)
            y, final = self.model(rows, *given)
            return torch.nn.utils.rnn.pad_packed_sequence(y)[0], final

    assert_agree(lambda: results(Packs(), padded), calls=1)
    assert_agree(lambda: results(Packs(), padded, state), calls=1)


@every_cell
@every_dtype
def test_cells(kind: str, dtype: Any) -> None:
    for bias, batched, with_state in itertools.product([True, False], repeat=3):
        model = layer(kind, dtype=dtype, bias=bias)
        batch = (3,) if batched else ()
        x = torch.randn(*batch, 5, dtype=dtype, requires_grad=True)
        h, c = (torch.randn(*batch, 7, dtype=dtype, requires_grad=True) for _ in range(2))
        state = (h, c) if kind == "lstm_cell" else h
        assert_agree(lambda model=model, x=x, given=[state] * with_state: results(model, x, *given), calls=1)


@every_cell
def test_a_loop_of_cells(kind: str) -> None:
    model = layer(kind)
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)

    class Loop(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = model

        def forward(self, x: Any) -> Any:
            state, all_of = None, []
            for x_t in x:
                state = self.cell(x_t, state)
                all_of.append(state)
            return all_of

    assert_agree(lambda: results(Loop(), x), calls=4)


@pytest.mark.parametrize("shape", ["expanded", "transposed", "sliced", "states of another layout"])
@every_kind
def test_tensors_of_any_layout(kind: str, shape: str) -> None:
    model = layer(kind)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    if shape == "expanded":
        x = torch.randn(4, 1, 5, dtype=torch.float64).expand(4, 3, 5)
    elif shape == "transposed":
        x = torch.randn(5, 3, 4, dtype=torch.float64).permute(2, 1, 0)
    elif shape == "sliced":
        x = torch.randn(9, 3, 8, dtype=torch.float64)[1:8:2, :, 2:7]
    else:
        width = model.proj_size or 7
        h = torch.randn(1, 1, width, dtype=torch.float64).expand(1, 3, width)
        c = torch.randn(1, 7, 3, dtype=torch.float64).mT
        assert_agree(lambda: results(model, x, (h, c) if kind.startswith("lstm") else h), calls=1)
    assert_agree(lambda: results(model, x), calls=1)


def test_weights_of_any_layout() -> None:
    model = layer("gru")
    with torch.no_grad():
        weight = model.weight_ih_l0.clone()
    del model.weight_ih_l0
    model.weight_ih_l0 = torch.nn.Parameter(weight.t().contiguous().t())
    assert not model.weight_ih_l0.is_contiguous()
    assert_agree(
        lambda: results(model, torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator())), calls=1
    )


@every_kind
def test_dropout_comes_from_pytorchs_generator(kind: str) -> None:
    model, x = layer(kind, num_layers=3, dropout=0.4), torch.randn(6, 8, 5, dtype=torch.float64)
    with bt.enabled():
        torch.manual_seed(1)
        first, second = model(x)[0], model(x)[0]
        torch.manual_seed(1)
        again = model(x)[0]
        assert torch.equal(first, again)
        assert not torch.equal(first, second)
        model.eval()
    assert_agree(lambda: flat(model(x)), calls=1)


def test_dropout_has_the_probability_and_scale_of_pytorchs() -> None:
    """A layer that copies: y of layer 0 is tanh(x); layer 1 shows what it was given. 40,000 trials: 6 sigma = 0.015."""
    model = layer("rnn_relu", 1, 1, num_layers=2, dropout=0.25, bias=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(0.0 if "hh" in name else 1.0)
    with bt.enabled():
        y = model(torch.ones(200, 200, 1, dtype=torch.float64))[0].detach()
    kept = y != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.75))
    assert abs(float(kept.double().mean()) - 0.75) < 0.015


def test_gradients_with_dropout_are_those_of_the_masks_drawn() -> None:
    model = layer("gru", 3, 4, num_layers=2, dropout=0.5)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)

    def of(x: Any) -> Any:
        torch.manual_seed(5)
        return model(x)[0]

    with bt.enabled():
        assert torch.autograd.gradcheck(of, (x,))


@pytest.mark.parametrize("kind", [*KINDS, *CELLS])
def test_gradients_by_finite_differences(kind: str) -> None:
    options = {} if kind in CELLS else {"num_layers": 2, "bidirectional": True}
    model = layer(kind, 2, 4, **options)
    x = torch.randn(*([2, 2] if kind in CELLS else [3, 2, 2]), dtype=torch.float64, requires_grad=True)
    weights = [each.detach().clone().requires_grad_() for each in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    state = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    if kind in KINDS:
        state = [*states_for(model, (2,), torch.float64)] if kind.startswith("lstm") else []
        state = state or [states_for(model, (2,), torch.float64)]
    elif not kind.startswith("lstm"):
        state = state[:1]

    def of(x: Any, *others: Any) -> Any:
        given = others[: len(state)]
        named = dict(zip(names, others[len(state) :], strict=True))
        return tuple(flat(torch.func.functional_call(model, named, (x, given if len(given) > 1 else given[0]))))

    with bt.enabled():
        assert torch.autograd.gradcheck(of, (x, *state, *weights))
