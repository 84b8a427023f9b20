"""`sgd exec --overlap`: the last calls of a loop's turn run in a second thread, beside the next turn.

`graph/compiler/overlaps.py` finds those calls. The order of the device's work belongs to node libraries
(`graph/contract/second_stream.py`), and so do values on their way to another device (`--overlap-device`).
"""
