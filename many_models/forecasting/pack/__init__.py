"""Packs: the model that a pack holds, and the loader that travels in it."""
