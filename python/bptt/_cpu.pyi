"""Detection of the instruction-set level; compiled with baseline flags, used by `bptt._dispatch` alone."""

def supported() -> list[str]:
    """Levels this machine can run, best first: of v4, v3, v2 on x86-64 (empty below v2), elsewhere ["base"]."""
