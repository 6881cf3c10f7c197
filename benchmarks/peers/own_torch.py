# SPDX-License-Identifier: Apache-2.0
"""PyTorch's layers on our kernels (`bptt.torch.enable`), as `torch_eager` calls them.

PyTorch's time over this one is what `bptt.torch.enable()` brings; both were measured against ours.
"""

import bptt.torch
from benchmarks.cases import Case
from benchmarks.peers.torch_eager import TorchEager


class TorchOnBptt(TorchEager):
    """For whole sequences of the table, single steps and whole training steps."""

    def setup(self, threads: int) -> None:
        super().setup(threads)
        bptt.torch.enable()

    def refuses(self, case: Case, threads: int) -> str:
        chosen = case.group in ("table", "short", "step") and case.precision == "highest"
        return "" if chosen else "is for some groups only"
