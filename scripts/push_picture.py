"""Draw the way of a push, from the caller to the container, as docs/push.svg.

Usage: python -m scripts.push_picture [FILE]   (docs/push.svg by default)

The picture has a transparent background and takes dark text in a light page and light text in a dark one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 960
HEIGHT: Final = 330
_TOP: Final = 60
_BOTTOM: Final = 300

_STYLE: Final = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328; }
  .who { font-weight: 600; font-size: 15px; }
  .small { font-size: 12px; fill: #57606a; }
  .box { fill: none; stroke: #57606a; stroke-width: 1.5; }
  .line { stroke: #afb8c1; stroke-dasharray: 4 4; }
  .arrow { stroke: #0969da; stroke-width: 1.8; fill: none; marker-end: url(#tip); }
  .tip { fill: #0969da; }
  .step { fill: #0969da; }
  .number { font-size: 12px; font-weight: 600; fill: #ffffff; text-anchor: middle; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .small { fill: #9198a1; }
    .box { stroke: #9198a1; }
    .line { stroke: #3d444d; }
    .arrow { stroke: #4493f8; }
    .tip, .step { fill: #4493f8; }
    .number { fill: #0d1117; }
  }
"""
_TIP: Final = (
    '<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="tip" d="M0 0 L10 5 L0 10 z"/></marker>'
)


@dataclass(frozen=True, slots=True)
class Actor:
    """A column of the picture."""

    name: str
    about: str
    x: int


@dataclass(frozen=True, slots=True)
class Step:
    """An arrow between two columns."""

    text: str
    start: int
    end: int


ACTORS: Final = (
    Actor("client", "longshore, Python, gRPC", 110),
    Actor("server", "database and spool", 360),
    Actor("worker", "any number, anywhere", 610),
    Actor("container", "LXD, Incus, a folder", 850),
)
STEPS: Final = (
    Step("upload motd", 0, 1),
    Step("accepted: file and task are durable", 1, 0),
    Step("task, when a worker is free", 1, 2),
    Step("write and check a temporary file", 2, 3),
    Step("may I rename?", 2, 1),
    Step("granted, durably", 1, 2),
    Step("rename: the whole new file", 2, 3),
    Step("done", 2, 1),
    Step("every change, to each watcher", 1, 0),
)


def picture() -> str:
    """Return the picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">',
        '<title id="title">A push on its way from the client over server and worker into a container</title>',
        f"<style>{_STYLE}</style>",
        f"<defs>{_TIP}</defs>",
    ]
    for actor in ACTORS:
        parts += [
            f'<rect class="box" x="{actor.x - 85}" y="8" width="170" height="44" rx="6"/>',
            f'<text class="who" x="{actor.x}" y="27" text-anchor="middle">{escape(actor.name)}</text>',
            f'<text class="small" x="{actor.x}" y="44" text-anchor="middle">{escape(actor.about)}</text>',
            f'<path class="line" d="M{actor.x} 52 V{_BOTTOM + 20}"/>',
        ]
    gap = (_BOTTOM - _TOP) / len(STEPS)
    for number, step in enumerate(STEPS, start=1):
        y = round(_TOP + gap * number)
        start, end = ACTORS[step.start].x, ACTORS[step.end].x
        middle = (start + end) // 2
        parts += [
            f'<path class="arrow" d="M{start} {y} H{end}"/>',
            f'<circle class="step" cx="{start}" cy="{y}" r="9"/>',
            f'<text class="number" x="{start}" y="{y + 4}">{number}</text>',
            f'<text class="small" x="{middle}" y="{y - 6}" text-anchor="middle">{escape(step.text)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1] if sys.argv[1:] else "docs/push.svg").write_text(picture())
