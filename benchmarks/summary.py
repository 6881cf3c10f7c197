# SPDX-License-Identifier: Apache-2.0
"""What a run found, in ten lines that a reader without our words understands. Nothing is measured here.

A ratio is the time of another library over ours: above 1, bptt is faster.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.cases import Case, by_name
from benchmarks.peers import CONTEXT, PEERS
from benchmarks.results import Pair, Results, geometric_mean

# Every competitor. A case is measured with those alone that have its arithmetic, and training with those that train.
RIVALS = tuple(name for name in PEERS if name not in CONTEXT and not name.startswith("own-"))
NAMES = {
    "torch": "PyTorch", "torch-compiled": "PyTorch, compiled", "torch-bfloat16": "PyTorch, bfloat16", "jax": "JAX",
    "torch-int8": "PyTorch, int8", "onnxruntime": "ONNX Runtime", "onnxruntime-int8": "ONNX Runtime, int8",
    "openvino": "OpenVINO", "openvino-default": "OpenVINO, its default",
}  # fmt: skip
MODES = {"train": "training", "infer": "inference"}
Fits = Callable[[Case], bool]


@dataclass(frozen=True)
class Ratio:
    """Of one case, with a number of threads, to one peer."""

    case: Case
    threads: int
    peer: str
    value: float

    @property
    def label(self) -> str:
        """All but the ratio."""
        return f"{self.case.name}, {self.threads} thread{'s' if self.threads > 1 else ''}, {self.peer}"


def ratios(results: Results, fits: Fits, peers: Iterable[str] = RIVALS) -> list[Ratio]:
    """For each case that fits, to the fastest of these peers."""
    table, found, chosen = by_name(), [], tuple(peers)
    for name, threads in results.by_case:
        best = results.best(name, threads, chosen)
        if best and fits(table[name]):
            found.append(Ratio(table[name], threads, best.peer, best.ratio))
    return found


def sizes(mode: str) -> Fits:
    """The float32 cases of whole sequences."""
    return lambda case: case.mode == mode and case.group in ("table", "grid")


def short(case: Case) -> bool:
    """One time step."""
    return case.group == "short"


def counted(case: Case) -> bool:
    """All cases in which a loss to another library counts."""
    return case.mode in MODES and case.group in ("table", "grid", "short")


def losses(results: Results, fits: Fits = counted) -> list[Ratio]:
    """The cases in which the fastest peer was faster than ours, the worst first."""
    return sorted((each for each in ratios(results, fits) if each.value < 1), key=lambda each: each.value)


def with_bptt(results: Results) -> list[Ratio]:
    """For each case, PyTorch's time over that with `bptt.torch.enable()`; both were measured against ours."""
    table, found = by_name(), []
    for (name, threads), pairs in results.by_case.items():
        times = {pair.peer: pair.ratio for pair in pairs}
        if {"torch", "own-torch"} <= set(times):
            found.append(Ratio(table[name], threads, "torch", times["torch"] / times["own-torch"]))
    return found


def spread(found: list[Ratio]) -> str:
    """The mean and the ends."""
    values = [each.value for each in found]
    return f"{times(geometric_mean(values))} ({times(min(values))} to {times(max(values))})"


def fastest(found: list[Ratio]) -> str:
    """The same, of ratios to the fastest other library."""
    return f"{spread(found)} as fast as the fastest other library; {len(found)} cases"


def times(ratio: float) -> str:
    """A ratio as it is read."""
    return f"{ratio:.2f}x" if ratio < 9.95 else f"{ratio:.0f}x"


def title(case: Case) -> str:
    """The sizes as they are read."""
    kind = "" if case.dtype == "float32" else f" {case.dtype}"
    kind += "" if case.precision == "highest" else f" {case.precision}"
    return f"{case.cell.upper()} B={case.B} T={case.T} I={case.I} H={case.H}{kind}"


def lines(results: Results) -> list[str]:
    """The ten lines; what was not measured is said to be so."""
    found = []
    for what, line in LINES.items():
        text = line(results)
        found.append(f"**{what}**: {text or 'not measured in this run.'}")
    return found


def _of_mode(mode: str) -> Callable[[Results], str]:
    def line(results: Results) -> str:
        found = ratios(results, sizes(mode))
        if not found:
            return ""
        torch = ratios(results, sizes(mode), ["torch"])
        against = f"; PyTorch alone: {spread(torch)}" if torch else ""
        return f"{fastest(found)}{against}."

    return line


def _losses(results: Results) -> str:
    cases, lost = ratios(results, counted), losses(results)
    if not cases:
        return ""
    if not lost:
        return f"none of {len(cases)} cases."
    worst = [
        f"{title(each.case)} {MODES[each.case.mode]} on {each.threads} thread{'s' if each.threads > 1 else ''} "
        f"({NAMES[each.peer]}, {each.value:.2f}x)"
        for each in lost[:3]
    ]
    more = f"; {len(lost) - 3} more in the report" if len(lost) > 3 else ""
    return f"{len(lost)} of {len(cases)} cases: {', '.join(worst)}{more}."


def _large(results: Results) -> str:
    parts = []
    for mode, word in MODES.items():
        found = ratios(results, lambda case, mode=mode: case.mode == mode and case.regime == "compute")  # type: ignore[misc]
        parts += [f"{word} {spread(found)}"] if found else []
    text = "; ".join(parts)
    return f"{text}: little is left to gain where products of matrices take nearly all the time." if parts else ""


def _short(results: Results) -> str:
    found = ratios(results, short)
    return f"training {fastest(found)}." if found else ""


def _of(results: Results, prefix: str, peer: str) -> list[Pair]:
    return [pair for pair in results.pairs if pair.peer == peer and pair.case.startswith(prefix)]


def _step(results: Results) -> str:
    table, parts = by_name(), []
    for name in dict.fromkeys(pair.case for pair in _of(results, "", "torch") if table[pair.case].mode == "step"):
        values = sorted(pair.ratio for pair in _of(results, name, "torch"))
        parts.append(f"{title(table[name])} {times(values[0])} to {times(values[-1])}")
    return f"a whole training step of {', '.join(parts)} as fast as PyTorch." if parts else ""


def _small(results: Results) -> str:
    return " ".join(text for text in (_step(results), _stream(results)) if text)


def _stream(results: Results) -> str:
    ours = [o.time_s[1] * 1e6 for o in results.ours if o.case.startswith("lstm-stream")]
    theirs = [pair.ratio for pair in _of(results, "lstm-stream", "onnxruntime")]
    if not ours:
        return ""
    return f"One streaming step (LSTM, H = 32): {max(ours):.2f} us" + (
        f"; ONNX Runtime takes {times(min(theirs))} as long." if theirs else "."
    )


def _precision(results: Results) -> str:
    config, parts, same = results.about["bptt"], [], []
    for precision in ("high", "medium", "bfloat16", "int8"):
        for mode, word in MODES.items():
            found = ratios(results, lambda case, p=precision, m=mode: (case.precision, case.mode) == (p, m))  # type: ignore[misc]
            if found and config.get(f"{precision}_products") == "fma":
                same.append(f'"{precision}"')  # it may be compared with an emulation: that would say nothing
            elif found:
                parts.append(f'"{precision}" {word} {spread(found)}')
    text = f"{', '.join(parts)} as fast as the fastest other library of the same arithmetic." if parts else ""
    equal = f'{" and ".join(dict.fromkeys(same))} multiply as "highest" on this machine.' if same else ""
    return f"{text} {equal}".strip()


def _threads(results: Results) -> str:
    one, busy = _of(results, "", "own-one-thread"), _of(results, "", "own-busy")
    if not one:
        return ""
    values = [pair.ratio for pair in one]
    text = f"{min(values):.2f} to {max(values):.2f} times as fast as one where steps are long"
    return text + (f"; while another program keeps a core busy, {_span(busy)} times as long as alone." if busy else ".")


def _torch(results: Results) -> str:
    found, parts = with_bptt(results), []
    for what, fits in (("training", sizes("train")), ("inference", sizes("infer")), ("single steps", short)):
        chosen = [each for each in found if fits(each.case)]
        parts += [f"{what} {spread(chosen)}"] if chosen else []
    return f"{', '.join(parts)} as fast as without." if parts else ""


def _span(pairs: list[Pair]) -> str:
    values = [pair.ratio for pair in pairs]
    return f"{min(values):.2f} to {max(values):.2f}"


def _memory(results: Results) -> str:
    found = results.memory_bytes
    if not {"ours", "torch"} <= set(found):
        return ""
    share = found["ours"] / found["torch"]
    return f"{share:.2f} of PyTorch's at the peak of a training step (LSTM B=64 T=128 I=128 H=256)."


LINES: dict[str, Callable[[Results], str]] = {
    "Training": _of_mode("train"),
    "Inference": _of_mode("infer"),
    "Another library is faster in": _losses,
    "Large layers (B >= 32, H >= 128)": _large,
    "One time step (T = 1)": _short,
    "Small models": _small,
    "PyTorch's layers after `bptt.torch.enable()`": _torch,
    "Faster arithmetic": _precision,
    "All threads": _threads,
    "Memory": _memory,
}
