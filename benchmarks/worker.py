# SPDX-License-Identifier: Apache-2.0
"""The process of one peer, with ours in a second one: reads a job from stdin, writes JSON events to stdout.

Job: {peer, threads, cases, budget_s, least, most, until}; `until` is a time.time() at which no new case is begun.
Events: hello (versions, config, note), begin (case), rounds (case, ours_s, peer_s), refused / impossible / failed
(case, why), late (case), missing (why).
"""

import json
import os
import sys
import time
from importlib import metadata
from typing import Any, TextIO

from benchmarks.remote import Remote


def environment(threads: int, cache: str) -> dict[str, str]:
    """The environment that must be set before any library is loaded."""
    n = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BPTT_NUM_THREADS", "NPROC")
    return {
        **dict.fromkeys((*names, "TF_NUM_INTRAOP_THREADS"), n),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": os.path.join(cache, "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": os.path.join(cache, f"inductor{n}"),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONUNBUFFERED": "1",
    }


def pin(threads: int) -> None:
    """Keep this process on `threads` cores, since some libraries have no other setting: on the last ones, since the
    first serves most interrupts.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def private_stdout() -> TextIO:
    """The real stdout; from now on the output of libraries goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """The versions of the distributions that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def measure(job: dict[str, Any], out: TextIO) -> None:
    """Run the job's cases one after the other."""
    import bptt
    from benchmarks import cases, peers
    from benchmarks.peers import ours

    def tell(event: str, **values: Any) -> None:
        out.write(json.dumps({"event": event, **values}) + "\n")
        out.flush()

    bptt.set_num_threads(job["threads"])
    try:
        peer = peers.load(job["peer"])
        peer.setup(job["threads"])
    except ImportError as error:
        tell("missing", why=str(error).splitlines()[0])
        return
    tell("hello", versions=versions(peer.distributions), config=bptt.config(), note=peer.note())
    table = cases.by_name()
    remote = Remote(job["threads"])
    for name in job["cases"]:
        case = table[name]
        if why := ours.lacks(case):
            tell("impossible", case=name, why=why)
            continue
        if why := peer.skips(case, job["threads"]):
            tell("refused", case=name, why=why)
            continue
        if time.time() > job["until"]:
            tell("late", case=name)
            continue
        tell("begin", case=name)
        try:
            tell("rounds", case=name, **pair(peer, case, job, remote))
        except Exception as error:
            tell("failed", case=name, why=f"{type(error).__name__}: {error}"[:300])
    remote.close()


def pair(peer: Any, case: Any, job: dict[str, Any], remote: Remote) -> dict[str, Any]:
    """Parity, then rounds. Ourselves under another condition run in the same process as we do."""
    from benchmarks import parity, timing
    from benchmarks.peers import ours
    from benchmarks.problem import Problem

    problem = Problem(case)
    theirs = peer.make(problem)
    peer_side = timing.Local(theirs)
    our_side: timing.Side
    try:
        if job["peer"].startswith("own-"):
            mine = ours.make(problem)
            our_side, results = timing.Local(mine), mine.results
        else:
            remote.make(case.name)
            our_side, results = remote, remote.results
        call_s = our_side.timed(parity.calls(case)), peer_side.timed(parity.calls(case))
        error = parity.check(case, problem.weights, results(), theirs.results())
        theirs.checked()
        waited_s = remote.wait()
        rounds = timing.alternate(our_side, peer_side, call_s, job["budget_s"], job["least"], job["most"])
    finally:
        theirs.close()
    return {
        "ours_s": [float(f"{t:.5g}") for t in rounds.ours_s],
        "peer_s": [float(f"{t:.5g}") for t in rounds.peer_s],
        "parity": round(error, 4),
        "waited_s": round(waited_s, 2),
    }


def main() -> None:
    out = private_stdout()
    job = json.load(sys.stdin)
    pin(job["threads"])
    measure(job, out)


if __name__ == "__main__":
    main()
