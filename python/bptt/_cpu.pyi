"""Detection of the instruction-set level and of the processor; compiled with baseline flags."""

def supported() -> list[str]:
    """Levels this machine can run, best first: of v4, v3, v2 on x86-64 (empty below v2), elsewhere ["base"]."""

def processor() -> tuple[str, int, list[str]]:
    """Vendor and family by CPUID ("", 0: not known), and its features.

    Those of avx512_bf16, avx512_vnni, amx_tile, amx_bf16 that run here.
    """
