"""The operations of a step between its matrix products, one row at a time, and the products themselves.

`rows` chooses for each call: Triton kernels on a GPU, and the same formulas in torch (`row_twins`) elsewhere. Nothing
here knows a family of models; the blocks of families are in `nodes/models/rebuilt/`.
"""
