"""Runs the notebooks of this folder and keeps their outputs: ``python docs/run_notebooks.py``.

Run it after a change to a notebook, or to what it shows. Each takes less than a minute on one core and needs
no network.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))


class ThisPython(KernelSpecManager):
    """One kernel, of the interpreter that runs this, whatever is registered on the machine."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=start, display_name="Python 3", language="python")


def executed(path: Path, folder: Path, *, timeout: int = 300) -> Any:
    """A notebook, run from its first cell to its last.

    Args:
        path: The notebook; it is not changed.
        folder: Where it runs and leaves its files.
        timeout: Seconds that a cell may take.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    with tempfile.TemporaryDirectory() as sockets:  # which nobody else can reach, unlike ports
        kernel = AsyncKernelManager(
            kernel_spec_manager=ThisPython(), transport="ipc", connection_file=f"{sockets}/kernel.json"
        )
        client = NotebookClient(notebook, km=kernel, timeout=timeout, record_timing=False, resources=place)
        client.execute(env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of whoever ran it
    return notebook


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, default=NOTEBOOKS, help="by default all of them")
    parser.add_argument("--out", type=Path, help="a folder to write to, in place of the notebooks themselves")
    parsed = parser.parse_args()
    for notebook in parsed.notebooks:
        with tempfile.TemporaryDirectory() as scratch:
            found = executed(notebook, Path(scratch))
        nbformat.write(found, parsed.out / notebook.name if parsed.out else notebook)
        print(notebook)
