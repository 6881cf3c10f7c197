# SPDX-License-Identifier: Apache-2.0
"""Why gradients vanish for |w| < 1 and explode for |w| > 1, one step of time after the other.

One linear unit, h_t = w h_(t-1) + x_t, reads a single 1 at the start; the error is at the end: L = (h_T - target)^2.
Then dL/dh_t = w^(T-t) dL/dh_T: the same factor at each step back. The table shows it with the gradients that the
kernels compute, and what gradient descent makes of them: with w = 0.5 the update is nearly 0, with w = 1.5 it is far
too long.

    python examples/vanishing_and_exploding.py
    python examples/vanishing_and_exploding.py --picture flow.png      # the same for a layer of 32 tanh units
"""

from __future__ import annotations

import argparse

import numpy as np

import bptt

TARGET = 0.5


def unit(w: float) -> bptt.RNN:
    rnn = bptt.RNN(1, 1, nonlinearity="linear", bias=False, dtype="float64")
    rnn.load_state_dict({"weight_ih_l0": [[1.0]], "weight_hh_l0": [[w]]})
    return rnn


def one_update(w: float, T: int, lr: float) -> dict[str, float]:
    """Print the size of dL/dh_t, the share of each step in dL/dw, and one step of gradient descent."""
    rnn = unit(w)
    x = np.zeros((T, 1, 1))
    x[0] = 1.0
    target = np.full((1, 1), TARGET)
    flow = bptt.gradient_flow(bptt.Sequential(rnn, bptt.Last()), x, target, bptt.losses.mse)
    y, _, tape = rnn.forward(x, last=True)
    loss, dy = bptt.losses.mse(y, target)
    _, _, grads = rnn.backward(tape, dy)
    h = rnn(x)[0][:, 0, 0]
    print(f"\nw = {w}: h_T = {h[-1]:.3g}, loss {loss:.3g}")
    print("  step t   |dL/dh_t|      |share of dL/dw| = |h_(t-1) dL/dh_t|")
    for t in sorted({0, 1, T // 4, T // 2, 3 * T // 4, T - 1}):
        before = h[t - 1] if t > 0 else 0.0
        size = flow.norms["0.h"][t]
        print(f"  {t:6d}   {size:<12.3e}   {before * size:.3e}")
    dw = float(grads["weight_hh_l0"][0, 0])
    print(f"  factor per step {flow.decay:.4f}; dL/dw = {dw:.3g}; update: w = {w} - {lr} dL/dw = {w - lr * dw:.4g}")
    return {"decay": flow.decay, "dw": dw}


def main(arguments: list[str] | None = None) -> dict[float, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="T")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument(
        "--picture", metavar="PATH", help="a PNG of the gradient flow of a tanh layer (needs matplotlib)"
    )
    args = parser.parse_args(arguments)
    found = {w: one_update(w, args.steps, args.lr) for w in (0.5, 0.9, 1.0, 1.1, 1.5)}
    if args.picture:
        rng = np.random.default_rng(0)
        model = bptt.Sequential(bptt.RNN(4, 32, seed=0), bptt.Linear(32, 1, seed=1))
        x = rng.standard_normal((100, 8, 4)).astype(np.float32)
        bptt.gradient_flow(model, x, x[:, :, :1], bptt.losses.mse).plot(args.picture)
        print(f"\nThe gradient flow of a tanh layer is in {args.picture}")
    return found


if __name__ == "__main__":
    main()
