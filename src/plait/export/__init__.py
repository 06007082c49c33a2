"""Trained networks for other runtimes: one file that takes pictures and gives maps in units, checked.

::

    from plait.export import export

    made = export("runs/shared", "onnx", dynamic=True)  # shared.onnx and shared.onnx.json
    made.comparisons                                    # how far it is from the network, on real pictures
"""

from plait.export.export import Export, export

__all__ = ["Export", "export"]
