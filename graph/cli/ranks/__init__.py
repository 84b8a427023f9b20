"""`sgd exec` in several processes: options, the process that starts the ranks and watches them, a rank other than 0.

What a rank does in a run belongs to `graph/runtime/ranks/`; the start itself to node libraries.
"""
