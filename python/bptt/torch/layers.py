# SPDX-License-Identifier: Apache-2.0
"""PyTorch's recurrent layers with what ours have: options of the layer, lengths and resets of a call."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from bptt._arrays import check_bool
from bptt.torch.functional import Form, call
from bptt.torch.memory import DTYPES
from bptt.torch.variants import Variant

__all__ = ["GRU", "LSTM", "RNN"]

_FURTHER = ("weight_peephole", "weight_norm", "bias_norm")
_ONES = "weight_norm"  # begins at 1, the others at 0


def _is_graph_for(x: Any) -> bool:
    """Whether torch.compile records this call of a layer, which then runs on the kernels if x has the usual form."""
    return torch.compiler.is_compiling() and isinstance(x, torch.Tensor) and x.dim() == 3


class _Layer(torch.nn.RNNBase):
    """What the three layers share. variant: None for PyTorch's own."""

    variant: Variant | None = None

    def __init__(
        self,
        *args: Any,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        clip_state: float | None = None,
        clip_grad_per_step: float | None = None,
        checkpoint: int | str | None = None,
        _cells: dict[str, bool] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        options: dict[str, Any] = {
            "recurrent_dropout": recurrent_dropout,
            "zoneout": zoneout,
            "clip_state": clip_state,
            "clip_grad_per_step": clip_grad_per_step,
            "checkpoint": checkpoint,
        }
        self._set_variant(_cells or {}, options)

    def _set_variant(self, cells: dict[str, bool], options: dict[str, Any]) -> None:
        """Check the options, and add the parameters that PyTorch's cell does not have."""
        where, first = f"bptt.torch.{type(self).__name__}", self.weight_ih_l0
        dtype = DTYPES.get(first.dtype, DTYPES[torch.float32])
        self.variant = variant = Variant.check(where, dtype, cells, options)
        if variant is None:
            return
        if self.proj_size and variant.cell == "layer_norm":
            raise ValueError(f"{where}: proj_size has value {self.proj_size} with layer_norm, expected 0")
        for names in self._all_weights:
            suffix = names[0].removeprefix("weight_ih")
            for name, rows in variant.extra(self.mode.lower()).items():
                start = 1.0 if name == _ONES else 0.0
                size = (rows, self.hidden_size) if rows > 1 else (self.hidden_size,)
                setattr(self, name + suffix, torch.nn.Parameter(first.detach().new_full(size, start)))
                names.append(name + suffix)
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        self._init_flat_weights()

    def reset_parameters(self) -> None:
        """As of PyTorch's layers; further parameters as at first: weight_norm ones, others zeros."""
        super().reset_parameters()
        for name, parameter in self.named_parameters():
            if name.startswith(_FURTHER):
                torch.nn.init.constant_(parameter, 1.0 if name.startswith(_ONES) else 0.0)

    def extra_repr(self) -> str:
        """The arguments that differ from the defaults."""
        return f"{super().extra_repr()}{self.variant or ''}"

    def forward(self, input: Any, hx: Any = None, *, lengths: Any = None, resets: Any = None) -> Any:
        """As of PyTorch's layer; lengths and resets as of `bptt.torch.lstm`."""
        plain = lengths is None and resets is None and self.variant is None
        if plain and not _is_graph_for(input):
            return super().forward(input, hx)
        where = f"bptt.torch.{type(self).__name__}"
        self._update_flat_weights()
        form = Form(
            where,
            self.mode.lower(),
            self.bidirectional,
            self.batch_first,
            self.dropout if self.training and self.num_layers > 1 else 0.0,
            variant=self.variant,
            training=self.training,
        )
        weights, given = self._flat_weights, lengths is not None or resets is not None
        if isinstance(input, PackedSequence) and not given:
            x, sizes, order, back = input
            state = None if hx is None else self.permute_hidden(hx, order)
            y, *final = call(form._replace(sizes=sizes), x, state, weights, None, None)
            return PackedSequence(y, sizes, order, back), self.permute_hidden(_state(final), back)
        if isinstance(input, torch.Tensor) and input.dim() == 2 and not given:
            axis = 0 if self.batch_first else 1
            state = tuple([each.unsqueeze(1) for each in hx]) if isinstance(hx, tuple) else hx
            state = state.unsqueeze(1) if isinstance(state, torch.Tensor) else state
            y, *final = call(form, input.unsqueeze(axis), state, weights, None, None)
            return y.squeeze(axis), _state([each.squeeze(1) for each in final])
        if not isinstance(input, torch.Tensor) or input.dim() != 3:
            has = f"has {input.dim()} axes" if isinstance(input, torch.Tensor) else f"has type {type(input).__name__}"
            expected = "expected a tensor of 3 axes, or, without lengths and resets, of 2 axes or packed rows"
            raise ValueError(f"{where}: x {has}, {expected}")
        y, *final = call(form, input, hx, weights, lengths, resets)
        return y, _state(final)


def _state(parts: list[Any]) -> Any:
    """The final state: h, or (h, c)."""
    return tuple(parts) if len(parts) > 1 else parts[0]


class LSTM(_Layer, torch.nn.LSTM):
    """`torch.nn.LSTM` with the options of `bptt.LSTM`, whose calls take lengths and resets, as `bptt.torch.lstm` does.

    Args: those of torch.nn.LSTM, and by name:
        recurrent_dropout: p. In training the products of each step see h0 d, d ~ Bernoulli(1-p) / (1-p), drawn once for
            each row, layer, direction and unit (Gal & Ghahramani 2016). Default 0.
        zoneout: p, or (p_h, p_c). In training each unit keeps its old state with probability p, in eval mode s1 becomes
            p s0 + (1-p) s1 (Krueger et al. 2017), without a backward pass. Default 0.
        clip_state: v, or None (default). States are clamped to [-v, v] as they leave a step.
        clip_grad_per_step: v, or None (default). The gradients of the pre-activations are clamped to [-v, v] at each
            step (Graves 2013).
        checkpoint: None (default), "sqrt" or a number of steps k: forward keeps one state every k (or sqrt(T)) steps,
            backward computes the steps between again, with the same bits (Chen et al. 2016).
        peephole: whether the gates see the cell, default False; a further parameter weight_peephole_l0 [3,H], order
            i f o, at first zeros, for each layer and direction.
        layer_norm: whether the products and the cell are normalised, default False, as by `bptt.LSTM`; further
            parameters weight_norm_l0 [9,H], ones, and bias_norm_l0 [H], zeros. Not with peephole or proj_size.

    Without peephole and layer_norm the state dict is PyTorch's, and with the same seed so are the weights. Masks are
    drawn from PyTorch's generator. A call that asks for nothing of this is one of `torch.nn.LSTM`, which `enable`
    brings to the kernels; others are on the kernels always, and so are all in a graph of torch.compile.
    Raises: ValueError for values, TypeError for types, RuntimeError inside autocast, torch.func transforms and the
        like, and by backward of zoneout in eval mode.

    >>> import torch, bptt.torch
    >>> layer, x = bptt.torch.LSTM(3, 4, batch_first=True, peephole=True, zoneout=0.1), torch.ones(2, 5, 3)
    >>> y, (h, c) = layer(x, lengths=[5, 2])
    >>> y.shape, bool((y[1, 2:] == 0).all()), layer.weight_peephole_l0.shape
    (torch.Size([2, 5, 4]), True, torch.Size([3, 4]))
    """

    def __init__(self, *args: Any, peephole: bool = False, layer_norm: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, _cells={"peephole": peephole, "layer_norm": layer_norm}, **kwargs)


class GRU(_Layer, torch.nn.GRU):
    """`torch.nn.GRU` with the options of `bptt.GRU`, whose calls take lengths and resets, as of `bptt.torch.LSTM`.

    Args: those of torch.nn.GRU, and by name recurrent_dropout, zoneout, clip_state, clip_grad_per_step and checkpoint
        as of `bptt.torch.LSTM`, and:
        reset_after: whether r multiplies W_hn h + b_hn (True, the default, as in PyTorch) or h before the product
            (False; then b_hn is outside of the reset).
        layer_norm: whether the products are normalised, default False, as by `bptt.GRU`; a further parameter
            weight_norm_l0 [6,H], ones, for each layer and direction; b_hn is outside of the reset. Only with
            reset_after.
    Raises: as `bptt.torch.LSTM`.

    >>> import torch, bptt.torch
    >>> layer, x = bptt.torch.GRU(3, 4, checkpoint="sqrt"), torch.ones(5, 1, 3)
    >>> resets = torch.tensor([[False], [False], [True], [False], [False]])
    >>> y, h = layer(x, resets=resets)
    >>> bool((y[2] == y[0]).all())
    True
    """

    def __init__(self, *args: Any, reset_after: bool = True, layer_norm: bool = False, **kwargs: Any) -> None:
        before = not check_bool("bptt.torch.GRU", "reset_after", reset_after)
        super().__init__(*args, _cells={"reset_after=False": before, "layer_norm": layer_norm}, **kwargs)


class RNN(_Layer, torch.nn.RNN):
    """`torch.nn.RNN` with the options of `bptt.RNN`, whose calls take lengths and resets, as of `bptt.torch.LSTM`.

    Args: those of torch.nn.RNN, and by name recurrent_dropout, zoneout, clip_state, clip_grad_per_step and checkpoint
        as of `bptt.torch.LSTM`.
    Raises: as `bptt.torch.LSTM`.

    >>> import torch, bptt.torch
    >>> layer, x = bptt.torch.RNN(3, 4, nonlinearity="relu", clip_state=5.0), torch.ones(5, 2, 3)
    >>> y, h = layer(x, lengths=[5, 2])
    >>> bool((h[0, 1] == y[1, 1]).all())
    True
    """
