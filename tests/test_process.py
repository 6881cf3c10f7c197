# SPDX-License-Identifier: Apache-2.0
"""Long-lived processes: forking, Ctrl-C in a long call, denormals. Each test runs in a new process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGINT")


def run(code: str, timeout_s: float = 60) -> str:
    """The output of a fresh Python that runs `code` and must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@posix
def test_a_forked_child_computes_with_threads_of_its_own() -> None:
    out = run(
        """
        import os, warnings
        import numpy as np, bptt
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of a fork with threads; that is the test
        bptt.set_num_threads(2)
        lstm = bptt.LSTM(64, 256, seed=0)
        x = np.ones((5, 64, 64), np.float32)
        y, _ = lstm(x)
        child = os.fork()
        if child == 0:
            again, _ = lstm(x)
            os._exit(0 if again.tobytes() == y.tobytes() else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), (lstm(x)[0] == y).all())
        """
    )
    assert out.split() == ["0", "True"]


@posix
@pytest.mark.parametrize("options", ["", "recurrent_dropout=0.1"])
def test_children_forked_while_another_thread_trains_compute(options: str) -> None:
    """The child needs each lock that the other thread may hold: those of packing, of masks, of the native module."""
    out = run(
        f"""
        import os, signal, threading, time, warnings
        import numpy as np, bptt
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of a fork with threads; that is the test
        bptt.set_num_threads(2)
        gru = bptt.GRU(64, 512, seed=0, {options})
        x = np.ones((4, 2, 64), np.float32)
        stop = []
        def train():
            optimizer = bptt.optim.Adam(1e-4)
            while not stop:
                y, _, tape = gru.forward(x)
                optimizer.step(gru.params, gru.backward(tape, y)[-1])
        thread = threading.Thread(target=train)
        thread.start()
        time.sleep(0.2)
        for forks in range(1, 41):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                gru(x), gru.forward(x)
                os._exit(0)
            if os.waitpid(child, 0)[1] != 0:
                break
        stop.append(True)
        thread.join()
        print(forks)
        """,
        timeout_s=300,
    )
    assert out.strip() == "40"


@posix
def test_a_lock_that_another_thread_holds_is_free_in_a_forked_child() -> None:
    out = run(
        """
        import os, signal, threading, warnings
        from bptt._locks import ForkSafeLock
        warnings.simplefilter("ignore", DeprecationWarning)
        locks, taken, stop = [ForkSafeLock(), ForkSafeLock()], threading.Event(), threading.Event()
        def hold():
            with locks[0].held:
                taken.set()
                stop.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait()
        with locks[1].held:  # the thread that forks goes on with its own
            child = os.fork()
        if child == 0:
            signal.alarm(30)
            for lock in locks:
                with lock.held:
                    pass
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), not locks[0].held.acquire(blocking=False))
        stop.set()
        thread.join()
        """
    )
    assert out.split() == ["0", "True"]


@posix
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 64])
def test_ctrl_c_ends_a_long_call(threads: int, batch: int) -> None:
    """The call takes seconds (2e11 operations a core); the answer comes 0.1 s after the signal on an idle machine."""
    out = run(
        f"""
        import os, signal, threading, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        import numpy as np, bptt
        bptt.set_num_threads({threads})
        lstm = bptt.LSTM(8, 512, seed=0)
        x = np.ones(({100_000 // batch}, {batch}, 8), np.float32)
        sent = []
        def interrupt():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.3, interrupt).start()
        try:
            lstm(x)
        except KeyboardInterrupt:
            print(time.monotonic() - sent[0])
        y, _ = lstm(x[:2])  # and the library goes on working
        assert np.isfinite(y).all()
        """
    )
    assert float(out) < 1.0


def test_denormals_are_left_as_they_were() -> None:
    out = run(
        """
        import numpy as np, bptt
        bptt.LSTM(4, 8, seed=0)(np.ones((3, 2, 4), np.float32))
        print(float(np.float32(1e-38) * np.float32(0.01)) > 0)
        """
    )
    assert out.strip() == "True"


@posix
@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_are_kept_in_a_signal_handler(threads: int) -> None:
    """The handler runs in the middle of a call, which flushes denormals."""
    out = run(
        f"""
        import signal
        import numpy as np, bptt
        bptt.set_num_threads({threads})
        lstm, small = bptt.LSTM(8, 256, seed=0), bptt.LSTM(8, 8, seed=0)
        x = np.ones((100_000, 16, 8), np.float32)
        lstm(x[:2])
        denormal, seen = 5e-324, []
        def handler(*_):
            small(x[:2])  # a call within the call
            seen.append(denormal * 3)
            if len(seen) == 2:
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise TimeoutError
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        try:
            lstm(x)
        except TimeoutError:
            print(set(seen))
        """
    )
    assert out.strip() == "{1.5e-323}"
