# SPDX-License-Identifier: Apache-2.0
"""Training loops around `bptt.torch`: new processes, loaders whose workers run layers, and Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch_cases import bt, one_thread  # noqa: E402, F401
from torch_spawned import Model, Rows, enable, train, trained  # noqa: E402


@pytest.mark.slow
def test_spawned_processes(tmp_path: Path) -> None:
    model, x = Model(), torch.randn(6, 3, 4)
    with bt.enabled():
        model(x).sum().backward()  # threads and stacks of the parent are not those of the child
        model.zero_grad()
        torch.multiprocessing.spawn(train, (model, x, str(tmp_path)), nprocs=1)
        found = torch.load(tmp_path / "0.pt")
        expected = trained(Model(), x).state_dict()
    for name, each in expected.items():
        assert torch.equal(found[name], each), name
        assert torch.equal(model.state_dict()[name], each), name  # PyTorch shares the weights of what it passes on


@pytest.mark.slow
def test_workers_of_a_loader_that_are_spawned() -> None:
    rows = Rows()
    with bt.enabled():
        expected = torch.stack([rows[i] for i in range(4)])
    loader = torch.utils.data.DataLoader(
        rows, batch_size=2, num_workers=2, multiprocessing_context="spawn", worker_init_fn=enable
    )
    found = torch.cat(list(loader))
    assert torch.equal(found, expected)
    assert (found[:, -1] == 1).all()


class Step(torch.nn.Module):
    """A module as Lightning trains it: hooks, a closure, accumulation, clipping, a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def training_step(self, batch: Any) -> Any:
        return self.model(batch).square().mean()


def fit(module: Any, batches: list[Any], path: Path) -> list[Any]:
    """The loop of Lightning's automatic optimization, in short."""
    adam = torch.optim.Adam(module.parameters(), 1e-2)
    module.train()
    for k, batch in enumerate(batches):

        def closure(batch: Any = batch, k: int = k) -> Any:
            loss = module.training_step(batch)
            if k % 2 == 0:
                adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            return loss

        if k % 2:
            adam.step(closure)
        else:
            closure()
        if k == 3:
            torch.save({"module": module.state_dict(), "adam": adam.state_dict()}, path)
            saved = torch.load(path)
            module.load_state_dict(saved["module"])
            adam.load_state_dict(saved["adam"])
    module.eval()
    with torch.inference_mode():
        y = module.model(batches[0])
    return [y, *module.parameters()]


def test_a_loop_with_closures_accumulation_and_checkpoints(tmp_path: Path) -> None:
    batches = list(torch.randn(8, 6, 3, 4))
    theirs = fit(Step(), batches, tmp_path / "theirs")
    bt.explain(reset=True)
    with bt.enabled():
        ours = fit(Step(), batches, tmp_path / "ours")
    found = bt.explain(reset=True)
    assert (sum(found.taken.values()), found.left) == (9, {})
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: Any, number: int) -> Any:
            return self.model(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2)

    def run() -> list[Any]:
        options = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "gradient_clip_val": 0.5, "logger": False}
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": True}
        trainer = lightning.Trainer(**options, **quiet, default_root_dir=tmp_path, accumulate_grad_batches=2)
        module = Module()
        trainer.fit(module, torch.utils.data.DataLoader(list(torch.ones(8, 6, 3, 4)), batch_size=None))
        return list(module.parameters())

    theirs = run()
    bt.explain(reset=True)
    with bt.enabled():
        ours = run()
    found = bt.explain(reset=True)
    assert (sum(found.taken.values()), found.left) == (16, {})
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
