"""`python -m benchmarks.site.schematic`: the picture of the inequality, and of what each objective puts into its two slots."""

from __future__ import annotations

from html import escape

from benchmarks.site.sources import ROOT

PICTURE = ROOT / "docs" / "images" / "inequality.svg"
#: objective -> its estimate of the entropy, its measure of the agreement of the views
ROWS = [
    ("VICReg", "variance and covariance terms", "squared distance"),
    ('VICRegEntropy("log_det")', "log det of the covariance", "squared distance"),
    ('VICRegEntropy("pairwise")', "pairwise distances", "squared distance"),
    ("SimCLR, DCL", "pairwise, of both views together", "cosine similarity"),
    ("alignment + uniformity", "quadratic Renyi entropy", "cosine similarity"),
    ("FroSSL", "spectrum of the correlations", "squared distance"),
    ("I-VNE", "spectrum of the similarities", "cosine similarity"),
    ("LeJEPA (SIGReg)", "minus the distance from N(0, I)", "squared distance"),
    ("DINOv2 with KoLeo", "distance to the nearest sample", "DINOv2's own loss"),
    ("BYOL, SimSiam", "none", "cosine similarity"),
    ("BYOL + EntropyRegularizer", "your choice", "cosine similarity"),
]
WIDTH, TOP, STEP = 760, 150, 34
#: left edges and widths of the two slots, and their colours
SLOTS = [(262, 244, "#2a78d6"), (530, 200, "#c76a00")]


def text(x: float, y: float, words: str, *, size: float = 14, anchor: str = "middle", colour: str = "#222") -> str:
    """The text at these coordinates."""
    place = f'x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(words, quote=False)}</text>"


def box(x: float, y: float, width: float, height: float, colour: str, *, opacity: float) -> str:
    """A rounded box in a pale colour with a border."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7"'
    return f'<rect {place} fill="{colour}" fill-opacity="{opacity:g}" stroke="{colour}"/>'


def picture() -> str:
    """The picture as SVG, on a white card, so that it can be read on light and on dark pages."""
    height = TOP + STEP * len(ROWS) + 14
    entropy, likelihood = ((x + width / 2, x, width, colour) for x, width, colour in SLOTS)
    parts = [f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#fff"/>']
    parts += [text(235, 60, "I(Z; X′)  ≥", size=24, anchor="end"), text(518, 60, "+", size=24)]
    for (middle, x, width, colour), formula, role in (
        (entropy, "H(Z)", "entropy: the embeddings spread out"),
        (likelihood, "E[ log q(z | z′) ]", "likelihood: two views agree"),
    ):
        parts += [box(x, 28, width, 48, colour, opacity=0.12), text(middle, 60, formula, size=24)]
        parts.append(text(middle, 100, role, size=13, colour=colour))
    parts.append(text(20, 133, "what an objective puts into the two slots", size=13, anchor="start", colour="#666"))
    for i, (objective, *fillings) in enumerate(ROWS):
        y = TOP + STEP * i
        parts.append(text(20, y + 18, objective, anchor="start"))
        for (middle, x, width, colour), filling in zip((entropy, likelihood), fillings, strict=True):
            none = filling == "none"
            parts.append(box(x, y, width, 26, colour, opacity=0 if none else 0.12))
            parts.append(text(middle, y + 18, filling, colour="#888" if none else "#222"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" role="img">'
    title = "<title>The bound on mutual information, and the two terms that each objective puts into it</title>"
    return "\n".join([head, title, *parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture())
    print(f"written: {PICTURE}")
