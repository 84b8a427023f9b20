"""Several processes that compute one run: torch's groups, the exchange of values, the start of processes.

The parts of a model that are cut over processes are in `nodes/models/parallel/`.
"""
