"""One process that runs one stage: a contiguous run of a Nemotron-H model's layers.

This package also owns the contract that the coordinator imports: `worker.protocol`, `worker.spec` and `worker.errors`.
"""
