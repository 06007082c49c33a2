"""Trained networks given to others and taken from them: a folder, or a repository of the Hugging Face hub.

::

    plait.hub.push("runs/five", "hf:org/rooms-five")    # or a folder
    plait.load("hf:org/rooms-five")("photo.jpg")

What is shared is data: weights, a recipe, scores and a card. Nothing of it is ever run.
"""

from plait.hub.backends import Backend, HuggingFace, LocalFolder
from plait.hub.sharing import Pushed, fetch, push

__all__ = ["Backend", "HuggingFace", "LocalFolder", "Pushed", "fetch", "push"]
