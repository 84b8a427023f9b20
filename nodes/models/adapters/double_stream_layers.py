"""Layer names that FLUX and HunyuanVideo share, since both have blocks with two streams and with one. Torch-free.

A block with two streams has one attention over image and text, and a modulation and a feed-forward for each stream. A
block with a single stream computes queries, keys, values and the first layer of the feed-forward in `linear1`.
"""

from __future__ import annotations

from .layer_table import TableBuilder

STREAMS = (
    ("img", "1", ("to_q", "to_k", "to_v"), "to_out.0", "norm1", "ff", ("norm_q", "norm_k")),
    (
        *("txt", "2", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out"),
        *("norm1_context", "ff_context", ("norm_added_q", "norm_added_k")),
    ),
)


def double_block(table: TableBuilder, index: int, width: int, inner: int, head: int, *, norms: bool = True) -> None:
    """Add a block with two streams, and its names in the original repositories of FLUX and of HunyuanVideo."""
    block, original = f"transformer_blocks.{index}", f"double_blocks.{index}"
    for stream, number, projections, out, norm, feed_forward, head_norms in STREAMS:
        table.layer(f"{block}.{norm}.linear", 6 * width, width)
        layers = [f"{block}.attn.{name}" for name in projections]
        for layer in layers:
            table.layer(layer, width, width)
        table.layer(f"{block}.attn.{out}", width, width)
        table.feed_forward(f"{block}.{feed_forward}", width, inner)
        if norms:
            for name, short in zip(head_norms, ("query", "key"), strict=True):
                table.norm(f"{block}.attn.{name}", head)
                table.alias(f"{original}.{stream}_attn.norm.{short}_norm", f"{block}.attn.{name}")
                table.alias(f"{original}.{stream}_attn.norm.{short}_norm.scale", f"{block}.attn.{name}")
                table.alias(f"{original}.{stream}_attn_{short[0]}_norm", f"{block}.attn.{name}")
        for fused in (f"{stream}_attn.qkv", f"processor.qkv{number}"):
            table.alias(f"{original}.{fused}", *layers)
        for layer, letter in zip(layers, "qkv", strict=True):
            table.alias(f"{original}.{stream}_attn.{letter}", layer)
            table.alias(f"{original}.{stream}_attn.{letter}_proj", layer)
            table.alias(f"{original}.{stream}_attn.to_{letter}", layer)
        for projection in (f"{stream}_attn.proj", f"processor.proj{number}"):
            table.alias(f"{original}.{projection}", f"{block}.attn.{out}")
        for modulation in ("lin", "linear"):
            table.alias(f"{original}.{stream}_mod.{modulation}", f"{block}.{norm}.linear")
        for first, second in (("0", "2"), ("fc1", "fc2")):
            table.alias(f"{original}.{stream}_mlp.{first}", f"{block}.{feed_forward}.net.0.proj")
            table.alias(f"{original}.{stream}_mlp.{second}", f"{block}.{feed_forward}.net.2")


def single_block(table: TableBuilder, index: int, width: int, inner: int, head: int, *, norms: bool = True) -> None:
    """Add a block with a single stream, and its names in the original repositories of FLUX and of HunyuanVideo."""
    block, original = f"single_transformer_blocks.{index}", f"single_blocks.{index}"
    layers = [f"{block}.attn.to_{letter}" for letter in "qkv"]
    for layer in layers:
        table.layer(layer, width, width)
    table.layer(f"{block}.norm.linear", 3 * width, width)
    table.layer(f"{block}.proj_mlp", inner, width)
    table.layer(f"{block}.proj_out", width, width + inner)
    if norms:
        for name, short in (("norm_q", "query"), ("norm_k", "key")):
            table.norm(f"{block}.attn.{name}", head)
            table.alias(f"{original}.norm.{short}_norm", f"{block}.attn.{name}")
            table.alias(f"{original}.norm.{short}_norm.scale", f"{block}.attn.{name}")
            table.alias(f"{original}.{short[0]}_norm", f"{block}.attn.{name}")
    table.alias(f"{original}.linear1", *layers, f"{block}.proj_mlp")
    table.alias(f"{original}.processor.qkv", *layers)
    for layer, letter in zip(layers, "qkv", strict=True):
        table.alias(f"{original}.linear1.{letter}", layer)
    for second in ("linear2", "processor.proj"):
        table.alias(f"{original}.{second}", f"{block}.proj_out")
    for modulation in ("lin", "linear"):
        table.alias(f"{original}.modulation.{modulation}", f"{block}.norm.linear")


def outside(table: TableBuilder) -> None:
    """Add the original names of the layers outside of the blocks: the embeddings and the last layers."""
    embed = "time_text_embed"
    for short, name in (("time_in", "timestep"), ("guidance_in", "guidance"), ("vector_in", "text")):
        for number, layers in (("1", ("in_layer", "mlp.0")), ("2", ("out_layer", "mlp.2"))):
            for layer in layers:
                table.alias(f"{short}.{layer}", f"{embed}.{name}_embedder.linear_{number}")
    table.alias("final_layer.linear", "proj_out")
    table.swapped("final_layer.adaLN_modulation.1", "norm_out.linear")
