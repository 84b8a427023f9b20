"""The language of workflow files, their compiler, their executor and the command line.

Nothing here knows the subject of a node: models and pictures belong to `nodes/`. Imports point one way:
cli → runtime → compiler → language → contract.
"""
