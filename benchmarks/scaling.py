# SPDX-License-Identifier: Apache-2.0
"""Training on many cores: `python -m benchmarks.scaling`, ours and PyTorch's, by the number of threads.

Each side has a process for each number of threads, pinned to as many processors: one thread of each core first, caches
one after the other. The sides run in turn, the other one stopped; the least time of all rounds counts. A call is a
forward and a full backward pass (dx and all weight gradients) after a change of the weights. Also measured: what the
estimates of csrc/sequence/planner.h are made of (barriers, multiply-adds, reads), and with `--plans` every division of
the largest number of threads. `--predict` prints those estimates and measures nothing. docs/scaling.md explains.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine, topology

SIZES = (128, 256, 512, 1024)
BATCHES = (32, 128)
STEPS = {128: 50, 256: 50, 512: 20, 1024: 10}
GATES = {"LSTM": 4, "GRU": 3}
SIDES = ("ours", "torch")
PARTS_S = 30.0  # of a limit, for the parts of the estimate
Case = dict[str, Any]


def cases(cells: list[str], sizes: list[int], batches: list[int]) -> list[Case]:
    """What is measured."""
    return [{"cell": c, "H": H, "B": B, "T": STEPS.get(H, 20)} for c in cells for H in sizes for B in batches]


def name(case: Case) -> str:
    return f"{case['cell']} H={case['H']} B={case['B']} T={case['T']}"


def flops(case: Case) -> float:
    """Of the products of a call: two forward, each twice on the way back; I = H."""
    return 12.0 * float(case["T"] * case["B"] * GATES[case["cell"]] * case["H"] ** 2)


class Worker:
    """A process of one side, pinned."""

    def __init__(self, side: str, cpus: list[int]) -> None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "BPTT_NUM_THREADS")
        environ = {**os.environ, **dict.fromkeys(names, str(len(cpus))), "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.scaling_worker", side, ",".join(map(str, cpus))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ, bufsize=1
        )
        self.missing = self._read().get("missing", "")
        if not self.missing:
            self._process.send_signal(signal.SIGSTOP)

    def ask(self, **job: Any) -> dict[str, Any]:
        """The result of a job, for which the process wakes up."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(job) + "\n")
        found = self._read()
        self._process.send_signal(signal.SIGSTOP)
        return found

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return dict(json.loads(line)) if line else {"missing": f"its process ended with {self._process.wait()}"}

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def measure_case(workers: dict[str, Worker], case: Case, rounds: int, budget_s: float) -> dict[str, Any]:
    """The least seconds of each side, in turn."""
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for side, worker in workers.items():
            result = worker.ask(do="train", **case, budget_s=budget_s)
            kept = found.setdefault(side, result)
            for key, value in result.items():
                if key.endswith("s") and isinstance(value, float):
                    kept[key] = min(kept[key], value)
    return found


def measure_threads(threads: int, args: argparse.Namespace, all_cases: list[Case], stop: float) -> dict[str, Any]:
    """All cases at one number of threads: {name of the case: {side: result}}, and under "pinned" and "plans" ours
    with each thread on its own processor and by division.
    """
    cpus = topology.order()[:threads]
    sides = [side for side in SIDES if side not in args.without]
    workers = {side: Worker(side, cpus) for side in sides}
    for side in [side for side, worker in workers.items() if worker.missing]:
        print(f"{side} is missing: {workers[side].missing}", file=sys.stderr)
        workers.pop(side).close()
    found: dict[str, Any] = {"cases": {}, "pinned": {}, "plans": {}}
    most = threads == max(args.threads)
    for case in all_cases:
        if time.monotonic() > stop:
            break
        found["cases"][name(case)] = measure_case(workers, case, args.rounds, args.seconds)
        print(f"{threads} threads, {name(case)}: {_line(found['cases'][name(case)])}", file=sys.stderr, flush=True)
    for case in all_cases if args.plans and most and threads > 1 else []:
        ways: list[dict[str, Any]] = []
        for members in [m for m in range(1, threads + 1) if threads % m == 0]:
            if time.monotonic() > stop:
                break
            division = [threads // members, members]
            result = workers["ours"].ask(do="train", **case, budget_s=args.seconds, division=division)
            ways.append({"division": division, **result})
        found["plans"][name(case)] = ways
    for case in all_cases if most and threads > 1 else []:  # last: threads stay pinned
        if time.monotonic() > stop:
            break
        found["pinned"][name(case)] = workers["ours"].ask(
            do="train", **case, budget_s=args.seconds, pin=True, cpus=cpus
        )
    for worker in workers.values():
        worker.close()
    return found


def _line(found: dict[str, Any]) -> str:
    return ", ".join(f"{side} {1e3 * result['s']:.2f} ms" for side, result in found.items())


def measure_barriers(threads: list[int]) -> list[dict[str, Any]]:
    """Seconds of a wait by number of threads, on processors of one cache where they fit, and of several in turn."""
    orders = {"domain by domain": topology.order()}
    if len(topology.domains()) > 1:
        orders["across domains"] = topology.order(across=True)
    found = []
    for how, order in orders.items():
        for n in [n for n in threads if 1 < n <= len(order)]:
            worker = Worker("ours", order[:n])
            result = worker.ask(do="barrier", cpus=order[:n], waits=2000)
            found.append({"how": how, "threads": n, **result})
            worker.close()
    return found


def measure_machine(args: argparse.Namespace) -> dict[str, Any]:
    """The parts: barriers, the rate of multiply-adds and of reads with one processor busy and with all."""
    from bptt._dispatch import core

    threads = max(args.threads)
    parts = {"barriers": measure_barriers(args.threads), "level": core.level}
    if args.probe:
        output = subprocess.run([args.probe, str(threads), "0.004"], check=True, capture_output=True, text=True).stdout
        return parts | {"probe": {**json.loads(output), "how": "the program that was given"}}
    return parts | {"probe": machine.probe(threads, core.level, args.quick)}


def predict(all_cases: list[Case], threads: list[int], per_cache: int) -> None:
    """Print the estimates of the planner."""
    from bptt._dispatch import core

    core.set_processors([], per_cache)
    print(
        f"Estimates, {per_cache} cores to a cache: milliseconds (times as fast as one thread), groups x members back\n"
    )
    print(f"| training | {' | '.join(f'{n} threads' for n in threads)} |\n|---|{'---|' * len(threads)}")
    for case in all_cases:
        stack = core.Stack(case["cell"].lower(), "float32", case["H"], case["H"], True)
        row, one = [name(case)], 0.0
        for n in threads:
            core.set_num_threads(n)
            ways = [stack.plan(case["T"], case["B"], backward) for backward in (False, True)]
            ms = 1e3 * case["T"] * sum(way["step_time_s"] for way in ways)
            one = one or ms
            row.append(f"{ms:.2f} ({one / ms:.1f}x) {ways[1]['groups']}x{ways[1]['members']}")
        print(f"| {' | '.join(row)} |")


def report(found: dict[str, Any]) -> str:
    """The tables of a run, in Markdown."""
    probe = found["parts"]["probe"]
    peak = probe["peak_gflops"]
    most = str(max(int(n) for n in peak))
    lines = [
        f"{found['machine']['processor']}; {found['cores']} cores, {len(found['domains'])} last-level caches; level "
        f"{found['parts']['level']}; multiply-adds {float(peak['1']):.0f} GF/s of one processor alone, "
        f"{float(peak[most]) / int(most):.0f} of each of {most} ({probe['how']}).",
    ]
    threads = list(found["threads"])
    tables = {
        "Ours, ms (times as fast as one thread, % of the peak of one x threads)": _ours,
        "PyTorch, ms (times the time of ours)": _peer,
    }
    for title, cell in tables.items():
        lines += ["", f"| {title} | {' | '.join(threads)} |", f"|---|{'---|' * len(threads)}"]
        for case in found["all"]:
            row = [cell(found, case, n, float(peak["1"]) * 1e9) for n in threads]
            lines.append(f"| {name(case)} | {' | '.join(row)} |")
    lines += ["", "| a wait at the barrier, us | threads | |", "|---|---|---|"]
    for each in found["parts"]["barriers"]:
        lines.append(f"| {each['how']} | {each['threads']} | {1e6 * each.get('barrier_s', float('nan')):.2f} |")
    lines += ["", "| reads, GB/s of a processor | one alone | each of all |", "|---|---|---|"]
    lines += [f"| {kib} KiB | {one:.0f} | {each:.0f} |" for kib, one, each in probe["read_gbs"]]
    return "\n".join(lines + _more(found, threads[-1]))


def _ours(found: dict[str, Any], case: Case, n: str, peak: float) -> str:
    seconds = _seconds(found, case, n, "ours")
    one = _seconds(found, case, next(iter(found["threads"])), "ours")
    if not seconds or not one:
        return "-"
    return f"{1e3 * seconds:.2f} ({one / seconds:.2f}x, {100 * flops(case) / seconds / (peak * int(n)):.0f} %)"


def _peer(found: dict[str, Any], case: Case, n: str, peak: float) -> str:
    ours, peer = (_seconds(found, case, n, side) for side in SIDES)
    return f"{1e3 * peer:.2f} ({peer / ours:.2f}x)" if ours and peer else "-"


def _seconds(found: dict[str, Any], case: Case, n: str, side: str) -> float:
    return float(found["threads"][n]["cases"].get(name(case), {}).get(side, {}).get("s", 0.0))


def _more(found: dict[str, Any], n: str) -> list[str]:
    """Ours on the most threads: pinned, and by division."""
    last = found["threads"][n]
    lines = ["", f"| {n} threads | as planned, ms | pinned, ms | groups x members: ms |", "|---|---|---|---|"]
    for case in found["all"]:
        pinned = last["pinned"].get(name(case), {}).get("s")
        ways = [f"{g}x{m}: {1e3 * way['s']:.2f}" for way in last["plans"].get(name(case), [])
                for g, m in [way["division"]]]  # fmt: skip
        cells = [name(case), f"{1e3 * _seconds(found, case, n, 'ours'):.2f}", f"{1e3 * pinned:.2f}" if pinned else "-"]
        lines.append(f"| {' | '.join([*cells, ', '.join(ways) or '-'])} |")
    return lines


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", nargs="+", default=["LSTM"], choices=[*GATES])
    parser.add_argument("--sizes", nargs="+", type=int, default=[*SIZES], help="I = H")
    parser.add_argument("--batches", nargs="+", type=int, default=[*BATCHES])
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1, 2, 4, ... to the processors there are")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a round of a case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="within 240 s")
    parser.add_argument("--limit", type=float, help="seconds, after which no case begins; default 220 with --quick")
    parser.add_argument("--plans", action="store_true", help="every division of the most threads")
    parser.add_argument("--without", nargs="+", default=[], choices=["torch"])
    parser.add_argument("--probe", help="benchmarks/probe.cpp compiled, where this machine has no compiler")
    parser.add_argument("--out", type=Path, help="a file for the figures, as JSON")
    parser.add_argument("--predict", nargs="+", type=int, help="numbers of threads: print estimates only")
    parser.add_argument("--cores-per-cache", type=int, default=8, help="of --predict")
    args = parser.parse_args(arguments)
    if args.quick:
        args.seconds, args.rounds, args.limit = min(args.seconds, 0.12), min(args.rounds, 2), args.limit or 220.0
    processors = len(topology.order())
    args.threads = sorted(args.threads or {n for n in (1, 2, 4, 8, 16, 32, 64) if n < processors} | {processors})
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    all_cases = cases(args.cells, args.sizes, args.batches)
    if args.predict:
        predict(all_cases, args.predict, args.cores_per_cache)
        return
    start = time.monotonic()
    stop = start + (args.limit or float("inf"))
    found: dict[str, Any] = {
        "machine": machine.describe(), "cores": topology.cores(), "domains": topology.domains(), "all": all_cases,
        "threads": {},
    }  # fmt: skip
    stop -= PARTS_S if args.limit else 0.0
    # The most threads first: where time runs out, one thread is the easiest to do without.
    for n in sorted(args.threads, reverse=True):
        found["threads"] = {str(n): measure_threads(n, args, all_cases, stop), **found["threads"]}
        if args.out:
            args.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    found["parts"] = measure_machine(args)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(report(found))
    print(f"\n{time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
