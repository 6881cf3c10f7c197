# SPDX-License-Identifier: Apache-2.0
"""LSTM, GRU and RNN of neuralforecast on its AirPassengers, unmodified.

pip install 'bptt[torch-programs]' && python examples/torch/neuralforecast_passengers.py
"""

from __future__ import annotations

from typing import Any

from harness import Compared, compare, lightning
from neuralforecast import NeuralForecast
from neuralforecast.models import GRU, LSTM, RNN
from neuralforecast.utils import AirPassengersDF
from pytorch_lightning.callbacks import Callback


def training(kind: Any) -> Any:
    def train(steps: int) -> list[Any]:
        losses, trainer = lightning(Callback, steps)
        model = kind(h=12, input_size=24, encoder_hidden_size=128, encoder_n_layers=2, **trainer)
        forecaster = NeuralForecast(models=[model], freq="ME")
        forecaster.fit(AirPassengersDF)
        return [*losses, forecaster.predict()[kind.__name__].to_numpy()]

    return train


def main(timed_steps: int = 10) -> list[Compared]:
    return [
        compare(f"neuralforecast {kind.__name__}", training(kind), timed_steps=timed_steps) for kind in (LSTM, GRU, RNN)
    ]


if __name__ == "__main__":
    main()
