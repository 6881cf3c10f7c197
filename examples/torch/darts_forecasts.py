# SPDX-License-Identifier: Apache-2.0
"""RNNModel and BlockRNNModel of darts on a noisy sine, unmodified: an LSTM, a GRU and a simple RNN of each.

pip install 'bptt[torch-programs]' && python examples/torch/darts_forecasts.py
"""

from __future__ import annotations

from typing import Any

from darts.models import BlockRNNModel, RNNModel
from darts.utils.timeseries_generation import gaussian_timeseries, sine_timeseries
from harness import Compared, compare, lightning
from pytorch_lightning.callbacks import Callback

SIZES = {"hidden_dim": 25, "batch_size": 32, "random_state": 0, "n_rnn_layers": 2}


def training(kind: Any, cell: str) -> Any:
    own = {"output_chunk_length": 12} if kind is BlockRNNModel else {"training_length": 48}

    def train(steps: int) -> list[Any]:
        sine = sine_timeseries(length=32 * 60, value_frequency=0.02, freq="D")
        series = (sine + 0.1 * gaussian_timeseries(length=len(sine), freq="D")).astype("float32")
        losses, trainer = lightning(Callback, steps)
        model = kind(input_chunk_length=36, model=cell, n_epochs=100, pl_trainer_kwargs=trainer, **SIZES, **own)
        model.fit(series, verbose=False)
        return [*losses, model.predict(24, series=series, verbose=False).values()]

    return train


def main(timed_steps: int = 10) -> list[Compared]:
    return [
        compare(f"darts {kind.__name__} {cell}", training(kind, cell), timed_steps=timed_steps)
        for kind in (RNNModel, BlockRNNModel)
        for cell in ("LSTM", "GRU", "RNN")
    ]


if __name__ == "__main__":
    main()
