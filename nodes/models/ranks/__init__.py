"""Several processes that compute one run: torch's groups, the exchange of values, the start of processes.

The protocols are in `graph/contract/processes.py` and `graph/contract/rank_start.py`.
"""
