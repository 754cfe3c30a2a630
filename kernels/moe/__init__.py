"""Mixture of experts: the router and the routed experts."""

from kernels.moe.reference import Experts, experts, relu2, route

__all__ = ["Experts", "experts", "relu2", "route"]
