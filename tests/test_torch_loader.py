# SPDX-License-Identifier: Apache-2.0
"""fit with a DataLoader of PyTorch and with sequences that are tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bptt.data import batches
from runs import DATA, B, assert_same_run, fitted, model_of
from test_batch_forms import sequences


def test_batches_of_a_pytorch_loader() -> None:
    torch = pytest.importorskip("torch")
    x, target = (np.concatenate([each[k].swapaxes(0, 1) for each in DATA]) for k in (0, 1))
    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(target))
    loader = torch.utils.data.DataLoader(data, batch_size=B)
    turned = [(x[k : k + B], target[k : k + B]) for k in range(0, len(x), B)]
    got = fitted(loader, model_of(batch_first=True), epochs=2, validation=loader)
    assert_same_run(got, fitted(turned, model_of(batch_first=True), epochs=2))
    sequence = [torch.tensor(each) for each in sequences()[0]], [torch.tensor(each) for each in sequences()[1]]
    assert_same_run(fitted([sequence]), fitted([sequences()[2]]))
    (batch,) = batches(*sequence, batch_size=B)
    np.testing.assert_array_equal(batch.target, sequences()[2].target)


def test_a_run_with_a_shuffling_loader_goes_on(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def run(**options: Any) -> Any:
        x, target = (torch.tensor(np.concatenate([each[k].swapaxes(0, 1) for each in DATA])) for k in (0, 1))
        data = torch.utils.data.TensorDataset(x, target)
        generator = torch.Generator().manual_seed(0)
        loader = torch.utils.data.DataLoader(data, batch_size=B, shuffle=True, generator=generator)
        return fitted(loader, model_of(batch_first=True), epochs=3, **options)

    for cut in (2, 3, 7):
        run(resume=tmp_path / "state", max_steps=cut)
    assert_same_run(run(resume=tmp_path / "state"), run())
