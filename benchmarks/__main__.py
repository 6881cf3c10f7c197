# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks`: the command line."""

import argparse
import os
import sys
from pathlib import Path

from benchmarks import cases, peers, report, summary
from benchmarks.process import ROOT
from benchmarks.results import Results
from benchmarks.runner import Plan, Runner

FULL_S, QUICK_S = 38.5 * 60, 165.0
QUICK_PEERS = [name for name in peers.competitors() if name != "torch-compiled"]  # which compiles for a minute


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time bptt and every peer that is installed in turn, and compare with the limit of this machine.",
        epilog="The full run takes up to 40 minutes and writes to docs/benchmarks; what is quick or chosen by --peers "
        "or --cases goes to build/benchmarks.",
    )
    parser.add_argument("--quick", action="store_true", help="a few cases of each kind, at most 3 minutes")
    parser.add_argument("--peers", help=f"comma-separated, of {', '.join(peers.PEERS)}; default all but keras")
    parser.add_argument(
        "--cases",
        help="comma-separated names, patterns, or groups: table, grid, short, precision, step, stream, float64",
    )
    parser.add_argument("--threads", help="comma-separated numbers of threads; default 1,2 as far as cores go")
    parser.add_argument("--out", type=Path, help="folder for results.json, report.md and pictures")
    parser.add_argument("--repeats", type=int, help="processes for each peer and number of threads; default 5, quick 1")
    parser.add_argument("--minutes", type=float, help="when to end; default 38.5, quick 2.75")
    parser.add_argument("--list", action="store_true", help="list the cases and peers, and end")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan; ValueError for an invalid option."""
    table = cases.quick_cases() if options.quick and not options.cases else cases.all_cases()
    chosen = cases.select(table, _parts(options.cases))
    if not chosen:
        raise ValueError(f"--cases has value {options.cases!r}, expected a name, group or pattern of --list")
    default = (QUICK_PEERS if options.quick else peers.competitors()) + peers.own()
    named = _parts(options.peers) or default
    if unknown := [name for name in named if name not in peers.PEERS]:
        raise ValueError(f"--peers has {', '.join(unknown)}, expected some of {', '.join(peers.PEERS)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        threads = [int(n) for n in _parts(options.threads)] or [n for n in (1, 2) if n <= cores]
    except ValueError:
        threads = [0]
    if not all(1 <= n <= cores for n in threads):
        raise ValueError(f"--threads has value {options.threads!r}, expected numbers from 1 to {cores}")
    return Plan(
        chosen,
        named,
        sorted(set(threads)),
        options.repeats or (1 if options.quick else 5),
        budget_s=0.1,
        limit_s=60 * options.minutes if options.minutes else QUICK_S if options.quick else FULL_S,
        quick=options.quick,
        extras=not options.cases and not options.peers,
    )


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def say_summary(results: Results) -> None:
    """The ten lines."""
    print()
    for line in summary.lines(results):
        print(line.replace("**", ""))


def main() -> int:
    """Run and report; 2 for invalid options."""
    options = parse(sys.argv[1:])
    if options.list:
        print("\n".join(f"{case.name}  ({case.group})" for case in cases.all_cases()))
        print("peers:", ", ".join(peers.PEERS))
        return 0
    try:
        plan = plan_of(options)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    results = Runner(plan).run()
    full = not (options.quick or options.cases or options.peers)
    out = options.out or ROOT / ("docs" if full else "build") / "benchmarks"
    path = report.write(results, out)
    say_summary(results)
    print(f"\nreport: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
