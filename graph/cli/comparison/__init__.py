"""Two runs, or two pictures or clips, side by side: what differs in file, inputs, environment, times and pixels.

Here are the facts of a comparison, the limits of `--fail-over` and `--min-psnr`, and the comparison as text and as a
page. How alike pixels are is measured by node libraries (`NodeLibrary.likeness`). The difference of two workflow files,
as graphs, is in `graph/cli/difference.py`.
"""
