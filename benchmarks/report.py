# SPDX-License-Identifier: Apache-2.0
"""The report: results.json, report.md and its pictures in one folder. `python -m benchmarks.report results.json` writes
the report again from a file.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.cases import CELLS, Case, by_name
from benchmarks.results import Ours, Pair, Results, geometric_mean
from benchmarks.terminal import duration

WORST = 10
BUSY_CORES = 0.1  # used by other programs: from here on the report warns
METHOD = """\
For each library and number of threads one process holds the library and one holds ours, both pinned to the same cores;
the library's is stopped while ours is timed, since idle threads may spin. Both get the same weights and inputs; outputs
and all gradients are compared first, with a tolerance that grows with the square root of the terms summed. Then they
are called in turn, A B A B; a sample is the mean of calls that take 0.5 ms together, after one that is not counted. Our
weights count as changed before each training call, so packing them is in our time. Times are medians over the rounds of
all processes, with quartiles; ratios are medians of the rounds' ratios, with a 95 % bootstrap interval over processes
and rounds. The floor is the
formula in `benchmarks/limits.py` with the figures measured in this run: the better of its start and its end."""


def write(results: Results, folder: Path) -> Path:
    """Write everything; the path of the report."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results.as_json(), indent=1) + "\n", encoding="utf-8")
    try:
        from benchmarks import pictures

        made = pictures.draw(results, folder)
    except ImportError as error:
        print(f"no pictures: {error}")
        made = []
    path = folder / "report.md"
    path.write_text("\n".join(lines(results, made)) + "\n", encoding="utf-8")
    return path


def lines(results: Results, made: list[str]) -> list[str]:
    """The report's text."""
    parts = [
        ["# Benchmark", "", *_about(results)],
        ["## Summary", "", *_summary(results)],
        ["## Means", "", *_means(results)],
        ["## The worst ten", "", *_worst(results)],
        ["## Where a peer was faster", "", *_losses(results)],
        *([f"![{name.removesuffix('.png')}]({name})"] for name in made),
        *(_table(results, mode, title) for mode, title in SECTIONS.items()),
        ["## Ourselves under other conditions", "", *_own(results)],
        ["## Sweep", "", *_sweep(results)],
        ["## Not measured", "", *_gaps(results)],
        ["## How", "", METHOD],
    ]
    return [line for part in parts for line in (*part, "")][:-1]


SECTIONS = {"train": "Training", "infer": "Inference", "step": "A whole training step", "stream": "One streaming step"}


def _grid(header: list[str], rows: list[list[str]]) -> list[str]:
    if not rows:
        return ["Nothing was measured."]
    right = ["---", *["--:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, right, *rows)]


def _about(results: Results) -> list[str]:
    about = results.about
    described, probe = about["machine"], about["probe"]
    peaks = ", ".join(f"{rate:.0f} GF/s on {n}" for n, rate in probe["peak_gflops"].items())
    others = about["other_programs_cores"]
    shared = ["**The machine was shared during this run: its figures are no basis for a claim.**", ""]
    return [
        *(shared if others is not None and others > BUSY_CORES else []),
        f"{about['when']}, {about['minutes']} minutes{', a quick run' if about['quick'] else ''}; "
        f"threads {', '.join(map(str, about['threads']))}; up to {about['repeats']} processes for each figure.",
        "",
        f"- Machine: {described['processor']}, {described['cores']} cores, {', '.join(described['caches'])}, "
        f"{described['memory_gib']} GiB; {described['system']}, Python {described['python']}",
        f"- bptt: {', '.join(f'{k} {v}' for k, v in about['bptt'].items() if k not in ('threads', 'python'))}",
        f"- Peers: {', '.join(f'{k} {v}' for k, v in about['versions'].items())}",
        f"- Limits, by {probe['how']}: peak {peaks} core(s), round trip between cores {probe['round_trip_us']:.2f} us",
        f"- Other programs kept {'an unknown number of' if others is None else others} cores busy meanwhile",
        f"- Waited {about['waited_s']} s in all for processors that were no whole cores then (`benchmarks/steady.py`)",
        "",
        *_grid(
            ["read, KiB", *(str(kib) for kib, _, _ in probe["read_gbs"])],
            [
                ["one core, GB/s", *(f"{one:.0f}" for _, one, _ in probe["read_gbs"])],
                ["each of all", *(f"{each:.0f}" for _, _, each in probe["read_gbs"])],
            ],
        ),
    ]


def _summary(results: Results) -> list[str]:
    rows = []
    for found in summary.summarise(results):
        value = "not measured" if found.value is None else f"{found.value:.2f}{found.figure.unit}"
        rows.append([found.figure.what, value, str(found.count)])
    return _grid(["", "", "cases"], rows)


def _means(results: Results) -> list[str]:
    """Geometric means by mode, cell and threads, and the least ratio."""
    table, rows = by_name(), []
    measured = [(table[o.case], o.threads) for o in results.ours if table[o.case].dtype == "float32"]
    for mode, cell, n in itertools.product(("train", "infer"), CELLS, results.about["threads"]):
        names = [case.name for case, threads in measured if (case.mode, case.cell, threads) == (mode, cell, n)]
        columns = []
        for peers in (summary.TRAINERS if mode == "train" else summary.INFERENCE, ("torch",)):
            ratios = [best.ratio for name in names if (best := results.best(name, n, peers))]
            columns += [f"{geometric_mean(ratios):.2f}", f"{min(ratios):.2f}"] if ratios else ["", ""]
        rows.append([f"{cell.upper()} {mode}", str(n), str(len(names)), *columns])
    return _grid(["", "threads", "cases", "best peer, mean", "least", "PyTorch, mean", "least"], rows)


def _worst(results: Results) -> list[str]:
    """By ratio to the best peer."""
    table, found = by_name(), []
    for ours in results.ours:
        case = table[ours.case]
        peers = summary.TRAINERS if case.mode == "train" else summary.INFERENCE
        best = results.best(ours.case, ours.threads, peers)
        if best and case.mode in ("train", "infer") and case.dtype == "float32":
            found.append((best.ratio, ours, best))
    found.sort(key=lambda entry: entry[0])
    rows = [
        [ours.case, str(ours.threads), best.peer, f"{best.ratio:.2f}", f"{ours.rate:.1f}", _fraction(ours), case_regime]
        for _, ours, best in found[:WORST]
        for case_regime in [table[ours.case].regime]
    ]
    return _grid(["case", "threads", "best peer", "ratio", "GF/s", "of limit", "bound by"], rows)


def _losses(results: Results) -> list[str]:
    return [f"- {what}: {ratio:.2f}x" for what, ratio in summary.losses(results)] or ["In no case."]


def _fraction(ours: Ours) -> str:
    return "" if ours.fraction is None else f"{ours.fraction:.2f}"


def _pair(pair: Pair | None) -> str:
    return "" if pair is None else f"{duration(pair.peer_s[1])} ({pair.ratio:.2f}x)"


def _table(results: Results, mode: str, title: str) -> list[str]:
    """All cases of a mode: ours, the floor, and every peer with its ratio; the interval is that of the best."""
    table = by_name()
    ours = [o for o in results.ours if table[o.case].mode == mode]
    measured = {p.peer for p in results.pairs if table[p.case].mode == mode and not p.peer.startswith("own-")}
    peers = [name for name in summary.INFERENCE if name in measured] + sorted(measured - set(summary.INFERENCE))
    rows = []
    for entry in ours:
        pairs = {p.peer: p for p in results.by_case[entry.case, entry.threads]}
        best = results.best(entry.case, entry.threads, summary.INFERENCE)
        rows.append([
            _title(table[entry.case]),
            str(entry.threads),
            duration(entry.time_s[1]),
            f"{duration(entry.time_s[0])} - {duration(entry.time_s[2])}",
            f"{entry.rate:.1f}",
            "" if entry.floor_s is None else duration(entry.floor_s),
            _fraction(entry),
            *(_pair(pairs.get(name)) for name in peers),
            f"{best.interval[0]:.2f} - {best.interval[1]:.2f}" if best else "",
            f"{best.processes} / {best.rounds}" if best else "",
        ])  # fmt: skip
    names = ["case", "threads", "ours", "quartiles", "GF/s", "floor", "of limit", *peers]
    return [f"## {title}", "", *_grid([*names, "best peer's ratio, 95 %", "processes / rounds"], rows)]


def _title(case: Case) -> str:
    dtype = "" if case.dtype == "float32" else f" {case.dtype}"
    return f"{case.cell.upper()} B={case.B} T={case.T} I={case.I} H={case.H}{dtype}"


def _own(results: Results) -> list[str]:
    rows = [
        [p.case, str(p.threads), p.peer.removeprefix("own-"), duration(p.ours_s[1]), duration(p.peer_s[1]),
         f"{p.ratio:.2f}", f"{p.interval[0]:.2f} - {p.interval[1]:.2f}"]
        for p in results.pairs
        if p.peer.startswith("own-")
    ]  # fmt: skip
    sizes = [f"{name} {size / 1e6:.0f} MB" for name, size in results.memory_bytes.items()]
    memory = [f"Peak memory of a training step: {', '.join(sizes) or 'not measured'}."]
    return [*_grid(["case", "threads", "other condition", "ours", "there", "there / ours", "95 %"], rows), "", *memory]


def _sweep(results: Results) -> list[str]:
    found = results.sweep
    if not found:
        return ["Not run."]
    rows = [
        [name, f"{t['worst']:.2f}", t["where"], f"{t['worst_small']:.2f}", t["where_small"]]
        for name, t in found["tables"].items()
    ]
    size = f"H {found['H'][0]} to {found['H'][-1]}, B {found['B'][0]} to {found['B'][-1]}"
    text = f"{size}, {len(found['H']) * len(found['B'])} sizes, T={found['T']}, I={found['I']}, one thread."
    header = ["", "larger neighbour's time per flop, at most", "where", "smaller neighbour's, at most", "where"]
    return [text + " The second figure is the fixed cost of calls and steps.", "", *_grid(header, rows)]


def _gaps(results: Results) -> list[str]:
    about: dict[str, Any] = results.about
    found = [f"- {peer} is not installed: {why}" for peer, why in about["missing"].items()]
    found += [f"- {case}: {why}" for case, why in about["not_possible"].items()]
    found += [f"- failed: {what}" for what in about["failed"]]
    found += [f"- out of time: {what}" for what in about["out_of_time"]]
    return found or ["Nothing: every case ran with every peer that can run it."]


if __name__ == "__main__":
    source = Path(sys.argv[1])
    print(write(Results.from_json(json.loads(source.read_text("utf-8"))), source.parent))
