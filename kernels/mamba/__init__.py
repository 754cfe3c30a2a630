"""The Mamba-2 mixer between its two projections."""

from kernels.mamba.reference import Parameters, scan, step

__all__ = ["Parameters", "scan", "step"]
