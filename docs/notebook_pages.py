"""Pages of the notebooks for the site, as a hook of mkdocs: what is committed is shown, nothing is run.

A notebook ``notebooks/NAME.ipynb`` becomes the page ``notebooks/NAME.md`` with its pictures beside it. Links
to notebooks in other pages lead to these pages; in the repository they lead to the notebooks themselves.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"\]\(((?:\.\./)*(?:notebooks/)?\w+)\.ipynb\)(?!\{)")  # those to download it stay
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and their pictures to the site."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        folder, name = notebook.src_uri.removesuffix(".ipynb").rsplit("/", 1)
        parts, pictures = [], {}
        cells = json.loads(notebook.content_string)["cells"]
        for number, cell in enumerate(cells):
            parts.append(source(cell))
            for place, (text, picture) in enumerate(outputs(cell)):
                if picture:
                    file = f"{name}-{number}-{place}.png"
                    pictures[file] = picture
                    text = f"![{text}]({file})"
                parts.append(text)
        title, *rest = parts
        told = f"As a notebook: [{name}.ipynb]({name}.ipynb){{: download }}"
        page = "\n\n".join([title, *rest, told])
        files.append(File.generated(config, f"{folder}/{name}.md", content=page))
        for file, content in pictures.items():
            files.append(File.generated(config, f"{folder}/{file}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links to notebooks to their pages."""
    return LINK.sub(r"](\1.md)", markdown)


def source(cell: dict[str, Any]) -> str:
    """A cell as Markdown."""
    text = "".join(cell["source"])
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"


def outputs(cell: dict[str, Any]) -> Iterator[tuple[str, bytes | None]]:
    """What a cell showed: Markdown, or a picture with what it is called."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        plain = "".join(output.get("text", data.get("text/plain", "")))
        if "image/png" in data:
            yield "Figure of the code above", base64.b64decode("".join(data["image/png"]))
        else:
            yield f"```text\n{COLOURS.sub('', plain).rstrip()}\n```", None
