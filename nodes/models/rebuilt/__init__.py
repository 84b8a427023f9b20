"""The blocks of each family's transformer, rebuilt from row kernels and matrix products.

A rebuilt block has the arguments and results of diffusers' block and works on that block's weights. It takes the place
of the block's `forward` on a view, so that gates, offloading, and the transformer's own forward call it as before.
`rebuilding` lists the families. Kernels, which know no family, are in `nodes/models/row_kernels/`.
"""
