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
        x = features.reshape(N, -1, lstm.input_size).transpose(0, 1)
        resets = episode_starts.reshape(N, -1).T.bool()
        y, state = bptt.torch.lstm(x, lstm_states, list(lstm.parameters()), resets=resets)
        return y.transpose(0, 1).flatten(0, 1), state


class Losses(BaseCallback):
    """Collects the losses of each update."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[float]] = []

    def _on_step(self) -> bool:
        return True

    def collect(self) -> None:
        values = self.model.logger.name_to_value
        names = ("train/loss", "train/value_loss", "train/policy_gradient_loss", "train/entropy_loss")
        self.found.append([float(values[name]) for name in names])


class Train:
    """A training of some updates. Each begins with a rollout of 128 steps."""

    def __init__(self, policy: Any, epochs: int) -> None:
        self.policy, self.epochs = policy, epochs

    def __call__(self, updates: int) -> list[list[float]]:
        model = RecurrentPPO(self.policy, "CartPole-v1", n_steps=128, n_epochs=self.epochs, seed=0, device="cpu")
        losses, train = Losses(), model.train
        losses.init_callback(model)

        def trained() -> None:
            train()
            losses.collect()

        model.train = trained
        model.learn(128 * updates, callback=losses)
        return losses.found
