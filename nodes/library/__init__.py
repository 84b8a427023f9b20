"""The library object, and its answers to `sgd init`, `sgd doctor` and plans that do not fit.

Node types belong to the other folders of `nodes/`.
"""
