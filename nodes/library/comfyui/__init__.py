"""Recognises workflows of ComfyUI, in JSON files, pictures and clips, and says which model they are for.

sgd does not run them. Other foreign files belong beside this folder.
"""
