"""A report of headings, text, tables and figures, as Markdown and as one HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """An SVG or PNG file and what it shows."""

    file: Path
    caption: str


Block = Heading | Text | Table | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """Figures are links to files beside the page."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Table(head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Figure(file, caption):
            return f"![{caption}]({file.name})\n\n{caption}"


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
       color: #222; background: #fff; }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } figure svg, figure img { max-width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #555; }
img { image-rendering: pixelated; }
"""


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One page that needs no other file."""
    body = "\n".join(map(_html, blocks))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Table(head, rows):
            cells = "".join(f"<th>{html.escape(one)}</th>" for one in head)
            lines = [
                f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in row)}</tr>" for row in rows
            ]
            return (
                f"<table><thead><tr>{cells}</tr></thead>\n<tbody>{''.join(lines)}</tbody></table>"
            )
        case Figure(file, caption):
            shown = f"<figcaption>{html.escape(caption)}</figcaption>"
            return f"<figure>{_embedded(file, caption)}{shown}</figure>"


def _embedded(file: Path, caption: str) -> str:
    if file.suffix == ".svg":
        text = file.read_text(encoding="utf-8")
        return text[text.index("<svg") :]
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
