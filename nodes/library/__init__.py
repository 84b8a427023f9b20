"""Answers of the standard library to `sgd init`, `sgd doctor` and plans that do not fit.

Node types belong to the other folders of `nodes/`.
"""
