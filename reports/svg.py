"""From a figure to SVG text: drawn by matplotlib in seaborn's style, then made fit to stand inside a page."""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import numpy as np

from trajectory_tools.reports.figure import Figure
from trajectory_tools.reports.style import GRID, INK, MUTED, SURFACE, THEME, RunStyle

__all__ = ["draw", "standalone", "themed"]

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"

_SETTINGS: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.linewidth": 0.7,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "path.simplify": False,
    "patch.edgecolor": SURFACE,
    "svg.fonttype": "none",
    "svg.hashsalt": "trajectory-tools",  # the same data gives the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a label such as "$x_1$" is a name, no formula
    "xtick.color": MUTED,
    "xtick.labelsize": 7.5,
    "xtick.major.size": 3,
    "xtick.major.width": 0.7,
    "ytick.color": MUTED,
    "ytick.labelsize": 7.5,
    "ytick.major.size": 0,
}


def draw(figure: Figure, style: RunStyle, key: str) -> str:
    """The figure as SVG in stand-in colours; ``key`` sets its ids apart from those of the page's other figures."""
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    buffer = BytesIO()
    with mpl.rc_context(sns.axes_style("ticks") | _SETTINGS), warnings.catch_warnings():
        # Text is written as text: a letter that matplotlib's own font lacks, the reader's has.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        canvas = Canvas(layout="constrained")
        FigureCanvasSVG(canvas)
        figure.paint(canvas, figure.data, style)
        for axes in canvas.axes:
            sns.despine(ax=axes)
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    description = f"{figure.title}. {figure.finding or figure.shows}"
    return _made_inline(buffer.getvalue(), key, description)


def themed(svg: str) -> str:
    """For the page: its CSS variables give the colours."""
    return _recolored(svg, {stand_in: f"var({name})" for stand_in, (name, _, _) in THEME.items()})


def standalone(svg: str) -> str:
    """For a file of its own: the light colours, on white, with the page's size."""
    white = _recolored(svg, {stand_in: light for stand_in, (_, light, _) in THEME.items()})
    return white.replace(">", ' font-family="sans-serif"><rect width="100%" height="100%" fill="#fff"/>', 1)


def _recolored(svg: str, colors: dict[str, str]) -> str:
    return re.sub("(?<=:)#0[1-5][0-9a-f]{4}", lambda found: colors.get(found[0], found[0]), svg)


def _made_inline(svg: bytes, key: str, description: str) -> str:
    """Without what would reach out of the figure into the page (ids, global styles, fonts), and shorter."""
    root = ElementTree.fromstring(svg)
    for child in [child for child in root if child.tag == f"{SVG}metadata"]:
        root.remove(child)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{SVG}style":
                parent.remove(child)
    names: dict[str, str] = {}
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name is not None and element.tag != f"{SVG}g":
            names[name] = f"{key}-{len(names)}"
            element.set("id", names[name])
    for element in root.iter():
        _shorten(element, names)
    _flatten(root)
    _, _, width, height = root.get("viewBox", "0 0 720 360").split()
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {width} {height}",
            "width": f"{width}",
            "height": f"{height}",
            "role": "img",
            "aria-label": description,
            "stroke-linejoin": "round",
        }
    )
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    return ElementTree.tostring(root, encoding="unicode")


def _shorten(element: ElementTree.Element, names: dict[str, str]) -> None:
    if (target := element.attrib.pop(HREF, None)) is not None:
        element.set("href", f"#{names[target.removeprefix('#')]}")
    if (clip := element.get("clip-path")) is not None:
        element.set("clip-path", f"url(#{names[clip[5:-1]]})")
    if (path := element.get("d")) is not None:
        element.set("d", short_path(path))
    if (look := element.get("style")) is not None:
        # The page's font: matplotlib's own would be a serif one wherever it is not installed.
        look = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", look).replace("; ", ";").replace(": ", ":")
        element.set("style", re.sub(r"font-family:[^;]*;?", "", look))
    for name in ("x", "y", "width", "height"):
        if re.fullmatch(r"-?\d+\.\d{3,}", value := element.get(name, "")):
            element.set(name, f"{float(value):.2f}")
    if (move := element.get("transform")) is not None:
        element.set("transform", re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", move))
        if re.match(r"rotate\(-?0 ", move):
            del element.attrib["transform"]
    if element.tag != f"{SVG}text":
        element.text = element.tail = None
    element.tail = None


def _flatten(root: ElementTree.Element) -> None:
    """Take out groups that say nothing, which is most of them."""
    for parent in list(root.iter())[::-1]:
        children: list[ElementTree.Element] = []
        for child in parent:
            children.extend(list(child) if child.tag == f"{SVG}g" and not child.attrib else [child])
        parent[:] = children


def short_path(path: str, decimals: int = 1) -> str:
    """The path in relative steps of a tenth of a point, where it has straight lines only.

    >>> short_path("M 10.04 20 L 11.06 19.5 L 12.06 19.5 z")
    'M10,20l1.1-.5,1,0z'
    """
    pieces = []
    for subpath in re.findall(r"M[^M]*", path):
        closed = subpath.rstrip().endswith("z")
        commands = re.findall("[A-Za-z]", subpath)
        if set(commands[1 : len(commands) - closed]) - {"L"}:
            return " ".join(path.split())
        points = np.array(re.findall(r"-?[\d.]+(?:e-?\d+)?", subpath), float).reshape(-1, 2)
        grid = np.round(points * 10**decimals).astype(int)
        steps = np.diff(grid, axis=0)
        start = ",".join(_plain(value, decimals) for value in grid[0])
        moves = ",".join(_joined(step, decimals) for step in steps).replace(",-", "-")
        pieces.append(f"M{start}{'l' + moves if moves else ''}{'z' * closed}")
    return "".join(pieces) or path


def _joined(step: Any, decimals: int) -> str:
    x, y = (_plain(value, decimals) for value in step)
    return x + (y if y.startswith("-") else f",{y}")


def _plain(tenths: int, decimals: int) -> str:
    text = f"{tenths / 10**decimals:.{decimals}f}".rstrip("0").rstrip(".")
    text = (
        text.replace("-0.", "-.")
        if text.startswith("-0.")
        else text.removeprefix("0")
        if text.startswith("0.")
        else text
    )
    return text or "0"
