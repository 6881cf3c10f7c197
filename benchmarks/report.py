# SPDX-License-Identifier: Apache-2.0
"""The report: results.json, README.md (one picture and ten lines), report.md and its pictures in one folder.

`python -m benchmarks.report results.json` writes all again from a file.
"""

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import summary
from benchmarks.cases import CELLS, Case, by_name
from benchmarks.peers import PEERS
from benchmarks.results import Ours, Pair, Results, geometric_mean
from benchmarks.summary import title
from benchmarks.terminal import duration

WORST = 10
BUSY_CORES = 0.1  # used by other programs: from here on the report warns
METHOD = """\
For each library and number of threads one process holds the library and one holds ours, both pinned to the same cores;
the library's is stopped while ours is timed, since idle threads may spin. Both get the same weights and inputs; outputs
and all gradients are compared first, with a tolerance that grows with the square root of the terms summed, or that of
rounding to bfloat16 or int8 (`benchmarks/parity.py`). Then they are called in turn, A B A B; a sample is the mean of
calls that take 0.5 ms together, after one that is not counted. Our
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
    (folder / "README.md").write_text("\n".join(page(results, made)) + "\n", encoding="utf-8")
    path = folder / "report.md"
    path.write_text("\n".join(lines(results, made)) + "\n", encoding="utf-8")
    return path


def page(results: Results, made: list[str]) -> list[str]:
    """The summary's text, for a reader who has a minute."""
    about = results.about
    peers = [f"{name} {about['versions'][key]}" for key, name in LIBRARIES.items() if key in about["versions"]]
    threads = " and ".join(map(str, about["threads"]))
    return [
        "# How fast is bptt?",
        "",
        *_warnings(about),
        f"bptt {about['bptt'].get('version', '')} compared with {', '.join(peers) or 'no other library'} on "
        f"{about['machine']['processor']}; threads: {threads}; float32; {about['when'][:10]}. "
        "Ratios are another library's time over ours: geometric mean (least to most). "
        "Other machines give other figures: `python -m benchmarks --quick` measures yours in three minutes.",
        "",
        *([f"![ratio to the fastest other library, a dot for each size]({SUMMARY})", ""] if SUMMARY in made else []),
        *(f"- {line}" for line in summary.lines(results)),
        "",
        "Every case, how it was measured, and what limits it: [report.md](report.md). What each feature costs: "
        "[performance.md](../performance.md)."
        if not about["quick"]
        else "Every case: [report.md](report.md).",
    ]


def lines(results: Results, made: list[str]) -> list[str]:
    """The report's text."""
    parts = [
        ["# Benchmark", "", "The summary is [README.md](README.md).", "", *_about(results)],
        ["## Means", "", *_means(results)],
        ["## The worst ten", "", *_worst(results)],
        ["## Where a peer was faster", "", *_losses(results)],
        *([f"![{name.removesuffix('.png')}]({name})"] for name in made if name != SUMMARY),
        *(_table(results, *section) for section in SECTIONS),
        ["## Precision", "", *_precision(results)],
        ["## PyTorch with bptt", "", *_torch(results)],
        ["## Ourselves under other conditions", "", *_own(results)],
        ["## Sweep", "", *_sweep(results)],
        ["## Not measured", "", *_gaps(results)],
        ["## How", "", *METHOD.splitlines()],
    ]
    return [line for part in parts for line in (*part, "")][:-1]


SUMMARY = "summary.png"
LIBRARIES = {"torch": "PyTorch", "jax": "JAX", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
SECTIONS = (
    ("Training", "train", False),
    ("Training, one time step", "train", True),
    ("Inference", "infer", False),
    ("A whole training step", "step", False),
    ("One streaming step", "stream", False),
)
TORCH_KINDS: dict[str, summary.Fits] = {
    "training": lambda case: case.mode == "train" and case.group != "short",
    "training, one time step": summary.short,
    "inference": lambda case: case.mode == "infer",
    "a whole training step": lambda case: case.mode == "step",
}


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
    return [
        *_warnings(about),
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


def _warnings(about: dict[str, Any]) -> list[str]:
    others = about["other_programs_cores"]
    shared = others is not None and others > BUSY_CORES
    return ["**The machine was shared during this run: its figures are no basis for a claim.**", ""] if shared else []


def _means(results: Results) -> list[str]:
    """Geometric means by mode, cell and threads, and the least ratio."""
    table, rows = by_name(), []
    measured = [(table[o.case], o.threads) for o in results.ours if summary.counted(table[o.case])]
    for mode, cell, n in itertools.product(("train", "infer"), CELLS, results.about["threads"]):
        names = [case.name for case, threads in measured if (case.mode, case.cell, threads) == (mode, cell, n)]
        columns = []
        for peers in (summary.RIVALS, ("torch",)):
            ratios = [best.ratio for name in names if (best := results.best(name, n, peers))]
            columns += [f"{geometric_mean(ratios):.2f}", f"{min(ratios):.2f}"] if ratios else ["", ""]
        rows.append([f"{cell.upper()} {mode}", str(n), str(len(names)), *columns])
    return _grid(["", "threads", "cases", "best peer, mean", "least", "PyTorch, mean", "least"], rows)


def _worst(results: Results) -> list[str]:
    """By ratio to the best peer."""
    ours = {(o.case, o.threads): o for o in results.ours}
    worst = sorted(summary.ratios(results, summary.counted), key=lambda each: each.value)[:WORST]
    rows = []
    for each in worst:
        own = ours[each.case.name, each.threads]
        threads, ratio = str(each.threads), f"{each.value:.2f}"
        rows.append([each.case.name, threads, each.peer, ratio, f"{own.rate:.1f}", _fraction(own), each.case.regime])
    return _grid(["case", "threads", "best peer", "ratio", "GF/s", "of limit", "bound by"], rows)


def _losses(results: Results) -> list[str]:
    found = summary.losses(results, lambda case: summary.counted(case) or case.group == "precision")
    return [f"- {each.label}: {each.value:.2f}x" for each in found] or ["In no case."]


def _fraction(ours: Ours) -> str:
    return "" if ours.fraction is None else f"{ours.fraction:.2f}"


def _pair(pair: Pair | None) -> str:
    return "" if pair is None else f"{duration(pair.peer_s[1])} ({pair.ratio:.2f}x)"


def _table(results: Results, heading: str, mode: str, short: bool) -> list[str]:
    """All cases of a mode: ours, the floor, and every peer with its ratio; the interval is that of the best."""
    table = by_name()

    def belongs(case: Case) -> bool:
        return case.mode == mode and case.group != "precision" and (case.group == "short") == short

    ours = [o for o in results.ours if belongs(table[o.case])]
    peers = _peers(results, belongs)
    rows = []
    for entry in ours:
        pairs = {p.peer: p for p in results.by_case[entry.case, entry.threads]}
        best = results.best(entry.case, entry.threads, summary.RIVALS)
        rows.append([
            title(table[entry.case]),
            str(entry.threads),
            duration(entry.time_s[1]),
            f"{duration(entry.time_s[0])} - {duration(entry.time_s[2])}",
            f"{entry.rate:.1f}",
            "" if entry.floor_s is None else duration(entry.floor_s),
            _fraction(entry),
            *(_pair(pairs.get(name)) for name in peers),
            *_certainty(best),
        ])  # fmt: skip
    names = ["case", "threads", "ours", "quartiles", "GF/s", "floor", "of limit", *peers]
    return [f"## {heading}", "", *_grid([*names, "best peer's ratio, 95 %", "processes / rounds"], rows)]


def _peers(results: Results, belongs: summary.Fits) -> list[str]:
    """The peers that were measured with such cases, in the order of the list of peers."""
    table = by_name()
    measured = {p.peer for p in results.pairs if belongs(table[p.case]) and not p.peer.startswith("own-")}
    return [name for name in PEERS if name in measured]


def _certainty(best: Pair | None) -> list[str]:
    if best is None:
        return ["", ""]
    return [f"{best.interval[0]:.2f} - {best.interval[1]:.2f}", f"{best.processes} / {best.rounds}"]


def _precision(results: Results) -> list[str]:
    """Each precision with the peers of the same arithmetic, and with our "highest"."""
    table, about = by_name(), results.about

    def belongs(case: Case) -> bool:
        return case.group == "precision"

    peers, rows = _peers(results, belongs), []
    for entry in results.ours:
        case = table[entry.case]
        if not belongs(case):
            continue
        pairs = {p.peer: p for p in results.by_case[entry.case, entry.threads]}
        best = results.best(entry.case, entry.threads, summary.RIVALS)
        mean = [title(replace(case, precision="highest")), summary.MODES[case.mode], case.precision]
        names = ("own-highest", *peers)
        times = [str(entry.threads), duration(entry.time_s[1]), *(_pair(pairs.get(name)) for name in names)]
        rows.append([*mean, *times, *_certainty(best)])
    if not rows:
        return ["Not run."]
    kinds = [f"{name} is {about['bptt'][f'{name}_products']}" for name in ("high", "medium")
             if f"{name}_products" in about["bptt"]]  # fmt: skip
    notes = [f"- {peer}: {note}" for peer, note in about.get("notes", {}).items()]
    header = ["case", "", "precision", "threads", "ours", '"highest"', *peers]
    return [
        "Compared is what has the same arithmetic: high with float32, medium and weights in bfloat16 with bfloat16, "
        f"int8 with int8. Products on this machine: {', '.join(kinds)} (fma: as with highest).",
        "",
        *notes,
        "",
        *_grid([*header, "best peer's ratio, 95 %", "processes / rounds"], rows),
    ]


def _torch(results: Results) -> list[str]:
    """What `bptt.torch.enable()` brings to PyTorch, and where it is slower."""
    found = summary.with_bptt(results)
    rows = []
    for (kind, fits), cell, n in itertools.product(TORCH_KINDS.items(), CELLS, results.about["threads"]):
        ratios = [each.value for each in found if fits(each.case) and (each.case.cell, each.threads) == (cell, n)]
        if ratios:
            numbers = [geometric_mean(ratios), min(ratios), max(ratios)]
            rows.append([f"{cell.upper()} {kind}", str(n), str(len(ratios)), *(f"{each:.2f}" for each in numbers)])
    if not rows:
        return ["Not run."]
    slower = sorted((each for each in found if each.value < 1), key=lambda each: each.value)
    return [
        "PyTorch's time over that of the same program after `bptt.torch.enable()` ([pytorch.md](../pytorch.md)).",
        "",
        *_grid(["", "threads", "cases", "mean", "least", "most"], rows),
        "",
        f"Slower in {len(slower)} of {len(found)} cases{':' if slower else '.'}",
        "",
        *(f"- {title(each.case)} {each.case.mode}, threads {each.threads}: {each.value:.2f}x" for each in slower),
    ]


def _own(results: Results) -> list[str]:
    rows = [
        [p.case, str(p.threads), p.peer.removeprefix("own-"), duration(p.ours_s[1]), duration(p.peer_s[1]),
         f"{p.ratio:.2f}", f"{p.interval[0]:.2f} - {p.interval[1]:.2f}"]
        for p in results.pairs
        if p.peer.startswith("own-") and p.peer != "own-torch"
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
    for why in dict.fromkeys(about["not_possible"].values()):
        names = [case for case, reason in about["not_possible"].items() if reason == why]
        found.append(f"- {', '.join(names)}: {why}")
    found += [f"- failed: {what}" for what in about["failed"]]
    found += [f"- out of time: {what}" for what in about["out_of_time"]]
    return found or ["Nothing: every case ran with every peer that can run it."]


if __name__ == "__main__":
    source = Path(sys.argv[1])
    print(write(Results.from_json(json.loads(source.read_text("utf-8"))), source.parent))
