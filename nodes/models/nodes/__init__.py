"""The node types `model.*`, one file for each.

The other folders of `nodes/models/` hold the code that these nodes call.
"""
