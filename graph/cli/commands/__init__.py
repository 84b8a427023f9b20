"""One module for each command of `sgd`; `graph/cli/main.py` imports the one that was called.

Helpers of several commands are in `graph/cli/command_line.py`, arguments of several in `common_arguments.py`.
"""
