# SPDX-License-Identifier: Apache-2.0
"""From data to batches: windows of a time series, padded and packed sequences, batches, a split in time, a scaler.

Nothing here knows of models. `docs/data.md` shows the way from a series to a saved model.
"""

from bptt.data.batches import Batches, batches
from bptt.data.scaler import Scaler
from bptt.data.sequences import pack, pad
from bptt.data.windows import split, windows

__all__ = ["Batches", "Scaler", "batches", "pack", "pad", "split", "windows"]
