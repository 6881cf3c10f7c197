# SPDX-License-Identifier: Apache-2.0
"""PyTorch's recurrent layers with the arguments of ours: lengths and resets of a call."""

from __future__ import annotations

from typing import Any

import torch

from bptt.torch import functional

__all__ = ["GRU", "LSTM", "RNN"]


def _called(layer: Any, run: Any, x: Any, hx: Any, options: dict[str, Any]) -> Any:
    """A call of a layer with options that PyTorch's has not."""
    where = f"bptt.torch.{type(layer).__name__}"
    if not isinstance(x, torch.Tensor) or x.dim() != 3:
        has = f"has {x.dim()} axes" if isinstance(x, torch.Tensor) else f"has type {type(x).__name__}"
        raise ValueError(f"{where}: x {has}, expected a tensor of 3 axes where lengths or resets are given")
    return run(
        x,
        hx,
        layer._flat_weights,
        bidirectional=layer.bidirectional,
        batch_first=layer.batch_first,
        dropout=layer.dropout if layer.training and layer.num_layers > 1 else 0.0,
        **options,
    )


def _is_graph_for(x: Any) -> bool:
    """Whether torch.compile records this call of a layer, which then runs on the kernels if x has the usual form."""
    return torch.compiler.is_compiling() and isinstance(x, torch.Tensor) and x.dim() == 3


class LSTM(torch.nn.LSTM):
    """`torch.nn.LSTM`, whose calls take lengths and resets, as `bptt.torch.lstm` does. The state dict is the same.

    A call without them is one of `torch.nn.LSTM`, which `enable` brings to the kernels; one with them is on the kernels
    always.

    >>> import torch, bptt.torch
    >>> layer, x = bptt.torch.LSTM(3, 4, batch_first=True), torch.ones(2, 5, 3)
    >>> y, (h, c) = layer(x, lengths=[5, 2])
    >>> y.shape, bool((y[1, 2:] == 0).all())
    (torch.Size([2, 5, 4]), True)
    """

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None, resets: Any = None) -> Any:
        """As of torch.nn.LSTM; lengths and resets as of `bptt.torch.lstm`."""
        if lengths is None and resets is None and not _is_graph_for(input):
            return super().forward(input, hx)
        return _called(self, functional.lstm, input, hx, {"lengths": lengths, "resets": resets})


class GRU(torch.nn.GRU):
    """`torch.nn.GRU`, whose calls take lengths and resets, as those of `bptt.torch.LSTM`.

    >>> import torch, bptt.torch
    >>> layer, x = bptt.torch.GRU(3, 4), torch.ones(5, 1, 3)
    >>> resets = torch.tensor([[False], [False], [True], [False], [False]])
    >>> y, h = layer(x, resets=resets)
    >>> bool((y[2] == y[0]).all())
    True
    """

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None, resets: Any = None) -> Any:
        """As of torch.nn.GRU; lengths and resets as of `bptt.torch.gru`."""
        if lengths is None and resets is None and not _is_graph_for(input):
            return super().forward(input, hx)
        return _called(self, functional.gru, input, hx, {"lengths": lengths, "resets": resets})


class RNN(torch.nn.RNN):
    """`torch.nn.RNN`, whose calls take lengths and resets, as those of `bptt.torch.LSTM`.

    >>> import torch, bptt.torch
    >>> layer, x = bptt.torch.RNN(3, 4, nonlinearity="relu"), torch.ones(5, 2, 3)
    >>> y, h = layer(x, lengths=[5, 2])
    >>> bool((h[0, 1] == y[1, 1]).all())
    True
    """

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None, resets: Any = None) -> Any:
        """As of torch.nn.RNN; lengths and resets as of `bptt.torch.rnn`."""
        if lengths is None and resets is None and not _is_graph_for(input):
            return super().forward(input, hx)
        options = {"lengths": lengths, "resets": resets, "nonlinearity": self.nonlinearity}
        return _called(self, functional.rnn, input, hx, options)
