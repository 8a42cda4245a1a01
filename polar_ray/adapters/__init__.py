"""Adapters: the pool as the reward of a trainer, one small file for each trainer.

They import `client` only, so that they install without torch and, over HTTP, without ray. A
trainer's own base classes are imported when the name that needs them is asked for.
"""
