"""The language of workflow files, their compiler, their executor and the command line.

Nothing here names diffusion: models, prompts and latents belong to `nodes/`. Imports point one way:
cli → runtime → compiler → language → contract.
"""
