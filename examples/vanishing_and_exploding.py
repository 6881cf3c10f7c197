# SPDX-License-Identifier: Apache-2.0
"""Why gradients vanish for |w| < 1 and explode for |w| > 1, one step of time after the other.

One linear unit, h_t = w h_(t-1) + x_t, reads a single 1 at the start; the error is at the end: L = (h_T - target)^2.
Then dL/dh_t = w^(T-t) dL/dh_T: the same factor at each step back. The tables show it with the gradients that the
kernels compute, and what gradient descent makes of them: with w = 0.5 the update is nearly 0, with w = 1.5 it is far
too long. (Each step adds the same to dL/dw, because h_(t-1) shrinks or grows as its gradient does the other way.)

    python examples/vanishing_and_exploding.py
    python examples/vanishing_and_exploding.py --picture flow.png      # and for layers of 32 units (needs matplotlib)
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


def one_update(w: float, T: int, lr: float) -> dict[str, float | np.ndarray]:
    """Print the size of dL/dh_t, what each step adds to dL/dw, and one step of gradient descent."""
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
    print("  step t   |dL/dh_t|      added to dL/dw: |h_(t-1) dL/dh_t|")
    for t in sorted({0, 1, T // 4, T // 2, 3 * T // 4, T - 1}):
        before = h[t - 1] if t > 0 else 0.0
        size = flow.norms["0.h"][t]
        print(f"  {t:6d}   {size:<12.3e}   {before * size:.3e}")
    dw = float(grads["weight_hh_l0"][0, 0])
    print(f"  factor per step {flow.decay:.4f}; dL/dw = {dw:.3g}; update: w = {w} - {lr} dL/dw = {w - lr * dw:.4g}")
    return {"decay": flow.decay, "dw": dw, "norms": flow.norms["0.h"]}


def draw(units: dict[float, dict[str, float | np.ndarray]], path: str) -> None:
    """The gradients of the units over time; and of layers as they are made, by the number of steps back."""
    from matplotlib.figure import Figure

    page = Figure(figsize=(10, 3.8), layout="constrained", dpi=120)
    left, right = page.subplots(1, 2)
    for w, found in units.items():
        left.plot(found["norms"], label=f"w = {w}")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set(title="one linear unit: |dL/dh_t|", xlabel="time step t", yscale="log")
    x = np.random.default_rng(0).standard_normal((100, 8, 4)).astype(np.float32)
    slow = bptt.LSTM(4, 32, seed=0, init={"bias": bptt.init.chrono(100)})
    layers = {"tanh RNN": bptt.RNN(4, 32, seed=0), "GRU": bptt.GRU(4, 32, seed=0), "LSTM, chrono": slow}
    for name, layer in layers.items():
        model = bptt.Sequential(layer, bptt.Linear(32, 1, seed=1))
        flow = bptt.gradient_flow(model, x, x[:, :, :1], bptt.losses.mse)
        right.plot(flow.by_lag.median, label=f"{name}: {flow.decay:.2f} per step")
    right.set(title="layers of 32 units: what is left of a gradient", xlabel="steps back", yscale="log")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    page.savefig(path)


def main(arguments: list[str] | None = None) -> dict[float, dict[str, float | np.ndarray]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="T (default: 20)")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate of the update (default: 0.1)")
    parser.add_argument("--picture", metavar="PATH", help="draw the gradients (needs matplotlib)")
    args = parser.parse_args(arguments)
    found = {w: one_update(w, args.steps, args.lr) for w in (0.5, 0.9, 1.0, 1.1, 1.5)}
    if args.picture:
        draw(found, args.picture)
        print(f"\nPicture written to {args.picture}")
    return found


if __name__ == "__main__":
    main()
