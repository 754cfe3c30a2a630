"""How much memory this process may count on, and which memory that is."""

import os
import platform

import mlx.core as mx

# the rest is for activations of a prompt's pieces, for state that moves between batches, and for everybody else
SHARE_OF_GPU = 0.95  # measured: Super in 8 bits with 16 sequences of 4096 tokens peaks at 0.94 of an H200
SHARE_OF_MACHINE = 0.75  # of a CPU's memory, which all programs share


def memory_name() -> str:
    """The same for two processes exactly if they share the memory: the machine's name, or a CUDA device's."""
    return str(mx.device_info().get("uuid", platform.node()))


def usable_bytes() -> int:
    """Bytes of that memory for weights and state: of what Metal recommends, of what a CUDA device or a machine has."""
    info = mx.device_info()
    gpu = info.get("max_recommended_working_set_size") or info.get("total_memory")
    if gpu:
        return int(int(gpu) * SHARE_OF_GPU)
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * SHARE_OF_MACHINE)
