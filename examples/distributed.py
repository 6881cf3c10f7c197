# SPDX-License-Identifier: Apache-2.0
"""One model, several processes: each learns from its own rows of each batch, and all have the same weights.

    torchrun --nproc-per-node 2 examples/distributed.py --by torch      # over Gloo, of PyTorch; no model of PyTorch
    mpirun -n 2 python -m mpi4py examples/distributed.py --by mpi       # pip install mpi4py, and an MPI
    python examples/distributed.py                                      # one process, the same batches

The processes end with the same bits. Against one process the weights differ by rounding, 6e-7 after 200 updates.
`--save NAME` keeps them in NAME.0.npy, NAME.1.npy and so on, for a comparison. docs/distributed.md says what fit does
with `all_reduce`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

import bptt

Sum = Callable[[np.ndarray], None]


def by_torch() -> tuple[int, int, Sum]:
    """The rank of this process, the number of processes, and the sum of an array over all, from torchrun."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size(), lambda a: dist.all_reduce(torch.from_numpy(a))


def by_mpi() -> tuple[int, int, Sum]:
    """The same, from mpirun."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return world.Get_rank(), world.Get_size(), lambda a: world.Allreduce(MPI.IN_PLACE, a)


def waves(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of 16 noisy waves of 40 steps, and their next values: x and target [40,16,1]."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        t = np.arange(41)[:, None] * rng.uniform(0.2, 0.4, 16) + rng.uniform(0, 6, 16)
        wave = (np.sin(t) + 0.1 * rng.standard_normal(t.shape))[:, :, None].astype(np.float32)
        found.append((wave[:-1], wave[1:]))
    return found


def main(arguments: list[str] | None = None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--by", choices=["none", "torch", "mpi"], default="none")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--save", help="the beginning of the names of files for the weights")
    args = parser.parse_args(arguments)
    rank, count, all_reduce = {"torch": by_torch, "mpi": by_mpi, "none": lambda: (0, 1, None)}[args.by]()

    mine = [(x[:, rank::count], target[:, rank::count]) for x, target in waves(20)]
    model = bptt.Sequential(bptt.LSTM(1, 32, seed=0), bptt.Linear(32, 1, seed=1))  # the same seeds everywhere
    history = bptt.fit(
        model,
        mine,
        loss=bptt.losses.mse,
        optimizer=bptt.optim.SGD(0.3, momentum=0.9, clip_norm=1.0),
        epochs=args.epochs,
        all_reduce=all_reduce,
        progress=rank == 0 and args.save is None,
    )
    print(f"process {rank} of {count}: loss {history.loss[-1]:.6f}, weights {bytes(model.params.flat[:4]).hex()}")
    if args.save:
        np.save(f"{args.save}.{rank}.npy", model.params.flat)
    if args.by == "torch":
        import torch.distributed as dist

        dist.destroy_process_group()
    return history


if __name__ == "__main__":
    main()
