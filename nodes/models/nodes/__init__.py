"""The node types whose names begin with `model.`, one file for each.

Their work is done in the other folders of `nodes/models/`.
"""
