"""A trained run as a page in the browser: pictures in, all of its tasks side by side out.

::

    with plait.demo.serving(plait.load("runs/five")) as demo:
        print(demo.address)                     # http://127.0.0.1:7860
        demo.wait()

A prediction becomes what the browser needs by :mod:`plait.demo.view`, with the words of
:mod:`plait.demo.words` and the surface of :mod:`plait.demo.mesh`; :mod:`plait.demo.gate` decides which
requests are answered at all.
"""

from plait.demo.mesh import Mesh, mesh
from plait.demo.server import Demo, serving
from plait.demo.view import view
from plait.demo.words import Words, words

__all__ = ["Demo", "Mesh", "Words", "mesh", "serving", "view", "words"]
