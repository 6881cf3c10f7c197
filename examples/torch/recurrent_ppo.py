# SPDX-License-Identifier: Apache-2.0
"""Recurrent PPO of sb3-contrib on CartPole: unmodified, and with a policy that runs whole sequences in one call.

sb3-contrib calls its LSTM step by step wherever an episode begins inside a batch of sequences. `WholeSequences` gives
the LSTM the flags of these beginnings instead, as resets. Both find the same losses.

    pip install 'bptt[torch-programs]' && python examples/torch/recurrent_ppo.py
"""

from __future__ import annotations

from typing import Any

import torch
from harness import Compared, compare
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback

import bptt.torch


class WholeSequences(RecurrentActorCriticPolicy):
    """The policy of sb3-contrib with one call of bptt's LSTM for all steps."""

    @staticmethod
    def _process_sequence(
        features: torch.Tensor,
        lstm_states: tuple[torch.Tensor, torch.Tensor],
        episode_starts: torch.Tensor,
        lstm: torch.nn.LSTM,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Features [N*T,I], states [L,N,H] and flags [N*T] to outputs [N*T,H] and the final states."""
        N = lstm_states[0].shape[1]
        if len(episode_starts) == N:  # one step, while a rollout is collected
            return RecurrentActorCriticPolicy._process_sequence(features, lstm_states, episode_starts, lstm)
        x = features.reshape(N, -1, lstm.input_size).transpose(0, 1)
        resets = episode_starts.reshape(N, -1).T.bool()
        dropout = lstm.dropout if lstm.training else 0.0
        y, state = bptt.torch.lstm(x, lstm_states, list(lstm.parameters()), dropout=dropout, resets=resets)
        return y.transpose(0, 1).flatten(0, 1), state


class Losses(BaseCallback):
    """Collects the losses of each training, between two rollouts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        values = self.logger.name_to_value
        if "train/loss" in values:
            names = ("loss", "value_loss", "policy_gradient_loss", "entropy_loss")
            self.found.append([float(values[f"train/{name}"]) for name in names])


def training(policy: Any, epochs: int = 10) -> Any:
    """As many rollouts of 128 steps as asked for, each followed by a training of some epochs."""

    def train(rollouts: int) -> list[Any]:
        model = RecurrentPPO(policy, "CartPole-v1", n_steps=128, n_epochs=epochs, seed=0, device="cpu")
        losses = Losses()
        model.learn(128 * rollouts, callback=losses)
        x = torch.linspace(-1, 1, 4).expand(5, 4)
        outputs = [model.policy.predict_values(x, zero_state(model), torch.zeros(5))]
        return [*losses.found, *outputs]

    return train


def zero_state(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The state of one row."""
    return torch.zeros(model.policy.lstm_hidden_state_shape), torch.zeros(model.policy.lstm_hidden_state_shape)


def main(timed_steps: int = 2, epochs: int = 10) -> list[Compared]:
    theirs = training("MlpLstmPolicy", epochs)
    return [
        compare("sb3-contrib RecurrentPPO, unmodified", theirs, timed_steps=timed_steps),
        compare(
            "sb3-contrib RecurrentPPO, whole sequences",
            training(WholeSequences, epochs),
            theirs,
            timed_steps=timed_steps,
        ),
    ]


if __name__ == "__main__":
    main()
