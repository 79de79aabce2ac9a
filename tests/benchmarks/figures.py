"""The figures of docs/results: estimates of committed tables with their intervals, drawn as SVG.

`python -m tests.benchmarks.figures` draws them anew. A row of a figure names its cell as the pages do
(`tests/benchmarks/numbers.py`), so a figure can't say anything else than the tables; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np

from tests.benchmarks.numbers import ROOT, Number, cells_at

FOLDER = ROOT / "docs" / "results"
WIDTH, LABELS, VALUES, ROW, HEAD, FOOT = 800, 290, 190, 26, 58, 36
INK, SOFT, NULL = "#1a2333", "#5b6675", "#b35900"


@dataclass(frozen=True)
class Panel:
    """Rows on one axis. ``rows``: what is read, and its cell as ``file > section > row > column``. ``null``: the value
    that would mean nothing, and its name. ``scale``: 100 for per cent."""

    title: str
    rows: tuple[tuple[str, str], ...]
    null: tuple[float, str] | None = None
    scale: float = 1.0
    decimals: int = 2


def estimate(place: str) -> Number:
    """The number of one cell."""
    (cell,) = cells_at(*place.split(" > "))
    return cell.numbers[0]


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round values that hold low and high between them."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 7)
    return [float(i * step) for i in range(int(np.floor(low / step)), int(np.ceil(high / step)) + 1)]


def rounded(value: float, decimals: int) -> str:
    """A number of a table as it is read: halves away from 0, with a minus sign."""
    return f"{value + np.sign(value) * 1e-9:.{decimals}f}".replace("-", "−")


def drawn(title: str, panels: tuple[Panel, ...]) -> str:
    """The figure as SVG, with a title and all its numbers as the description that a screen reader reads."""
    body, spoken, top = [], [], 34
    left, right = LABELS + 10, WIDTH - VALUES - 10
    for panel in panels:
        shown = []
        for label, place in panel.rows:
            found = estimate(place)
            shown.append((label, found.value * panel.scale, [end * panel.scale for end in found.ends or ()]))
        values = [v for _, value, ends in shown for v in (value, *ends)] + ([panel.null[0]] if panel.null else [])
        marks = ticks(min(values), max(values))

        def x(value: float, marks: list[float] = marks) -> float:
            return left + (value - marks[0]) / (marks[-1] - marks[0]) * (right - left)

        above, bottom = top + HEAD - 8, top + HEAD + ROW * len(shown)
        body.append(text(16, top + 20, panel.title, weight=600))
        for mark in marks:
            body.append(line((x(mark), above), (x(mark), bottom), "#dde2ea"))
            body.append(text(x(mark), bottom + 16, f"{mark:g}".replace("-", "−"), "middle", SOFT, 12))
        if panel.null is not None:
            at = x(panel.null[0])
            body.append(line((at, above), (at, bottom), NULL, 'stroke-dasharray="4 3"'))
            body.append(text(at, above - 5, panel.null[1], "middle", NULL, 12))
        spoken.append(f"{panel.title}:")
        for i, (label, value, ends) in enumerate(shown):
            y = top + HEAD + ROW * (i + 0.5)
            value_said, *ends_said = (rounded(v, panel.decimals) for v in (value, *ends))
            said = value_said + (f" [{', '.join(ends_said)}]" if ends else "")
            if ends:
                body.append(line((x(ends[0]), y), (x(ends[1]), y), INK, 'stroke-width="2"'))
            fill = INK if ends else "#ffffff"  # hollow: no interval
            body.append(f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{INK}"/>')
            body += [text(LABELS, y + 4, label, "end"), text(right + 16, y + 4, said)]
            spoken.append(f"{label} {said};")
        top = bottom + FOOT
    size = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="system-ui, sans-serif">'
    told = [f"<title>{escape(title)}</title>", f"<desc>{escape(' '.join(spoken))}</desc>"]
    ground = f'<rect width="{WIDTH}" height="{top}" rx="6" fill="#ffffff"/>'
    return "\n".join([head, *told, ground, text(16, 24, title, size=15, weight=600), *body, "</svg>", ""])


def line(start: tuple[float, float], end: tuple[float, float], stroke: str, more: str = "") -> str:
    """A straight line of the figure."""
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" {more}/>'


def text(
    x: float, y: float, said: str, anchor: str = "start", fill: str = INK, size: int = 13, weight: int = 400
) -> str:
    """One line of text of the figure."""
    style = f'text-anchor="{anchor}" fill="{fill}" font-size="{size}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(said)}</text>'


SCENES = "visual_semantics/scenes-smollm2/levels.md"
SHARED = f"{SCENES} > Within and between levels > S+ / score / yes/no and open / overlap"
CLAIMS = f"{SCENES} > Claims"
OWN = "change on their own level less that of random heads of the same layers (20 sets)"
OTHERS = "change on the other levels less that of random heads of the same layers (20 sets)"
QWEN = "harmfulness/qwen2.5-coder-{}b"
TOLD = f"{QWEN}/pairs.md > Held-out pairs, read at t_inst"
SMALL_PAIRS, LARGE_PAIRS = TOLD.format("0.5"), TOLD.format("1.5")
ASKED = QWEN.format("0.5")
GUARD = f"{QWEN.format('0.5')}/guard_pairs.md > Rules and rivals on pairs"
MOVED = f"{QWEN.format('0.5')}/guard_pairs.md > Thresholds between data sets"
ORDER = "negative_bias/{model}/order.md"
SHARE = f"{ORDER} > Where the variance lies > {{part}} > nas"
AGREE = f"{ORDER} > Rankings that differ in one thing > {{score}} / {{facet}} > spearman"
SMOL, HALF, LARGER = "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"
ALIGNED = f"negative_bias/{SMOL}/alignment.md > Held-out questions > StrategyQA"
KNOWN = f"negative_bias/{HALF}/known.md > Held-out questions"
SHORTCUT = f"negative_bias/{SMOL}/insufficient.md > Claims of the paper"
SHIPPED = "negative_bias/{}/knowledge.md > Claims of the paper, on the shipped questions"
FORM = "|word part| less |meaning part| (wrapped, turned_round) / all"
IDK = "what was answered with that option, less plain / all"
CIRCUITS = "circuits/smollm2-135m.md"
CIRCUITS_HALF = "circuits/qwen2.5-coder-0.5b.md"
FIGURES: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "circuits": (
        "How few heads carry an answer?",
        (
            Panel(
                "What is left with only these heads, on pairs that did not choose them (1: all)",
                (
                    ("other name, SmolLM2: L23H3", f"{CIRCUITS} > Curves > other_name / 1 > kept"),
                    ("… smallest set found: 4", f"{CIRCUITS} > Minimal sets > other_name > sufficiency"),
                    ("… the first 8", f"{CIRCUITS} > Sets > other_name / first 8 > sufficiency"),
                    ("agreement, SmolLM2: L26H0", f"{CIRCUITS} > Curves > agreement / 1 > kept"),
                    ("… smallest set found: 2", f"{CIRCUITS} > Minimal sets > agreement > sufficiency"),
                    ("… the first 8", f"{CIRCUITS} > Sets > agreement / first 8 > sufficiency"),
                    ("agreement, Qwen-0.5B: L19H4", f"{CIRCUITS_HALF} > Curves > agreement / 1 > kept"),
                    ("… smallest set found: 2", f"{CIRCUITS_HALF} > Minimal sets > agreement > sufficiency"),
                ),
                (0.0, "no head"),
            ),
            Panel(
                "What is left without them",
                (
                    ("other name, SmolLM2: L23H3", f"{CIRCUITS} > Curves > other_name / 1 > removed"),
                    ("… the first 2", f"{CIRCUITS} > Curves > other_name / 2 > removed"),
                    ("… the first 8", f"{CIRCUITS} > Curves > other_name / 8 > removed"),
                    ("agreement, SmolLM2: L26H0", f"{CIRCUITS} > Curves > agreement / 1 > removed"),
                    ("… the first 2", f"{CIRCUITS} > Curves > agreement / 2 > removed"),
                    ("agreement, Qwen-0.5B: L19H4", f"{CIRCUITS_HALF} > Curves > agreement / 1 > removed"),
                    ("… the first 2", f"{CIRCUITS_HALF} > Curves > agreement / 2 > removed"),
                ),
                (0.0, "nothing"),
            ),
        ),
    ),
    "refusal": (
        "What moves refusal in Qwen2.5-Coder-0.5B",
        (
            Panel(
                "Log odds of refusing at the first token, change in nats",
                tuple(
                    (label, f"{ASKED}/dimensions.md > Subspaces > {row} > change margin")
                    for label, row in (
                        ("+ 1 dimension of refusal", "add / refusal / paired differences / 1 / harmless"),
                        ("+ 8 dimensions of refusal", "add / refusal / paired differences / 8 / harmless"),
                        ("+ 1 dimension of harmfulness", "add / harmfulness / paired differences / 1 / harmless"),
                        ("− 1 dimension of refusal", "remove / refusal / paired differences / 1 / harmful"),
                        ("− 1 dimension of harmfulness", "remove / harmfulness / paired differences / 1 / harmful"),
                        ("− refusal, while + harmfulness", "remove / refusal / paired differences / 1 / harmfulness"),
                        ("− harmfulness, while + refusal", "remove / harmfulness / paired differences / 1 / refusal"),
                    )
                ),
                (0.0, "nothing"),
            ),
            Panel(
                "Refused of 16 harmful requests, %, fine-tuned on pairs",
                tuple(
                    (label, f"{ASKED}/finetuning.md > Refusals and guard > {row} / harmful > refusal rate")
                    for label, row in (
                        ("none", "nothing / 0"),
                        ("50 harmful ones", "harmful / 50"),
                        ("50 harmless ones", "harmless / 50"),
                        ("400 harmful ones", "harmful / 400"),
                        ("400 harmless ones", "harmless / 400"),
                    )
                ),
                scale=100,
                decimals=0,
            ),
            Panel(
                "Accepted of refused requests, %, in wrappers",
                tuple(
                    (label, f"{ASKED}/jailbreaks.md > Attack success > {row} > success")
                    for label, row in (
                        ("prefix injection", "prefix_injection"),
                        ("template", "template"),
                        ("persuasion", "persuasion"),
                        ("suffix", "suffix"),
                        ("neutral: presses for nothing", "neutral"),
                    )
                ),
                scale=100,
                decimals=0,
            ),
        ),
    ),
    "knowledge": (
        "Does the bias follow knowledge, or form?",
        (
            Panel(
                "Log odds of No, nats",
                (
                    (
                        "insufficient less correct, SmolLM2",
                        f"{SHORTCUT} > plain: insufficient less correct knowledge > log odds no",
                    ),
                    ("… within domains", f"{SHORTCUT} > the same, within domains and gold answers > log odds no"),
                    ("word less meaning, SmolLM2", f"{SHIPPED.format(SMOL)} > {FORM} > log odds no"),
                    ("word less meaning, Qwen-0.5B", f"{SHIPPED.format(HALF)} > {FORM} > log odds no"),
                    (
                        "with the fact, Qwen-0.5B",
                        f"{SHIPPED.format(HALF)} > relevant passage less plain / all > log odds no",
                    ),
                    (
                        "chain of thought, Qwen-0.5B",
                        f"{SHIPPED.format(HALF)} > chain of thought less plain / all > log odds no",
                    ),
                ),
                (0.0, "no difference"),
            ),
            Panel(
                'Negative bias with the option "I don\'t know", less without',
                (
                    ("SmolLM2", f"{SHORTCUT} > {IDK} > negative bias"),
                    ("Qwen-0.5B", f"{SHIPPED.format(HALF)} > {IDK} > negative bias"),
                ),
                (0.0, "no change"),
            ),
        ),
    ),
    "harmfulness": (
        "150 pairs of a harmful request and its harmless twin, held out",
        (
            Panel(
                "Harmful twin scores higher, share of pairs",
                (
                    ("direction, 1.5B", f"{LARGE_PAIRS} > direction > within pairs"),
                    ("direction, 0.5B", f"{SMALL_PAIRS} > direction > within pairs"),
                    ("… over the spread, 0.5B", f"{SMALL_PAIRS} > direction, whitened > within pairs"),
                    ("words", f"{SMALL_PAIRS} > words (TF-IDF) > within pairs"),
                    ("characters", f"{SMALL_PAIRS} > characters (TF-IDF) > within pairs"),
                    ("layer 0, mean over the text", f"{SMALL_PAIRS} > layer 0, mean over the text > within pairs"),
                ),
                (0.5, "by chance"),
            ),
            Panel(
                "Guards of the 0.5B: balanced accuracy on the pairs",
                (
                    ("the guard", f"{GUARD} > whitened > balanced on pairs"),
                    ("the guard at t_post", f"{GUARD} > whitened at t_post > balanced on pairs"),
                    ("the paper's rule", f"{GUARD} > paper > balanced on pairs"),
                    ("own refusal", f"{GUARD} > own refusal > balanced on pairs"),
                    ("words", f"{GUARD} > words (TF-IDF) > balanced on pairs"),
                    ("characters", f"{GUARD} > characters (TF-IDF) > balanced on pairs"),
                    ("the model asked", f"{GUARD} > asked, calibrated > balanced on pairs"),
                ),
                (0.5, "by chance"),
            ),
            Panel(
                "The guard elsewhere: fitted on, tested on; balanced accuracy",
                (
                    (
                        "pairs, AdvBench and Alpaca",
                        f"{MOVED} > shipped pairs / AdvBench and Alpaca / whitened > balanced accuracy",
                    ),
                    (
                        "pairs, SORRY-Bench and XSTest",
                        f"{MOVED} > shipped pairs / SORRY-Bench and XSTest / whitened > balanced accuracy",
                    ),
                    (
                        "AdvBench and Alpaca, pairs",
                        f"{MOVED} > AdvBench and Alpaca / shipped pairs / whitened > balanced accuracy",
                    ),
                    (
                        "SORRY-Bench and XSTest, pairs",
                        f"{MOVED} > SORRY-Bench and XSTest / shipped pairs / whitened > balanced accuracy",
                    ),
                ),
                (0.5, "by chance"),
            ),
        ),
    ),
    "nasa": (
        "NASA beside a constant and a coin, on held-out questions",
        (
            Panel(
                "NB of SmolLM2 on StrategyQA",
                tuple(
                    (name, f"{ALIGNED} / {name} > negative bias")
                    for name in ("untouched", "NASA", "constant offset", "LoRA", "random heads", "a coin")
                ),
                (0.0, "no bias"),
            ),
            Panel(
                "NB of Qwen-0.5B on sets that it can tell apart",
                tuple(
                    (f"{label}: {name}", f"{KNOWN} > {label} / {method} > negative bias")
                    for label in ("letters as candidates", "numbers as candidates", "kinds")
                    for name, method in (
                        ("untouched", "untouched"),
                        ("NASA", "NASA, seed 0"),
                        ("a constant", "constant offset"),
                    )
                ),
                (0.0, "no bias"),
            ),
        ),
    ),
    "negative-attention": (
        "Negative Attention Score: the word, or its place",
        (
            Panel(
                "Share of the variance of NAS between heads, %",
                tuple(
                    (f"{name}: {label}", SHARE.format(model=model, part=part))
                    for name, model in (("SmolLM2-135M", SMOL), ("Qwen2.5-0.5B", HALF), ("Qwen2.5-1.5B", LARGER))
                    for label, part in (
                        ("the order of options", "order, alone or with others"),
                        ("the head itself", "the head"),
                        ("the wording", "wording"),
                    )
                ),
                scale=100,
                decimals=1,
            ),
            Panel(
                "Spearman of two rankings that differ in one thing",
                tuple(
                    (f"{name}: {label}", AGREE.format(model=model, score=score, facet=facet))
                    for name, model in (("SmolLM2-135M", SMOL), ("Qwen2.5-0.5B", HALF))
                    for label, score, facet in (
                        ("NAS, order", "nas", "order"),
                        ("NAS, wording", "nas", "wording"),
                        ("effects, order", "effects", "order"),
                    )
                ),
                (0.0, "unrelated"),
            ),
        ),
    ),
    "vseam": (
        "V-SEAM: heads of scenes-smollm2",
        (
            Panel(
                "Heads shared, of the first ten of each group",
                (
                    ("positive, within a level", f"{SHARED} > within"),
                    ("positive, between levels", f"{SHARED} > between"),
                    (
                        "negative, between levels",
                        f"{SCENES} > Within and between levels > S− / score / halves of the forms / overlap > between",
                    ),
                ),
                (0.37, "by chance"),
                decimals=1,
            ),
            Panel(
                "Zeroed: change of accuracy beyond random heads of the same layers, points",
                (
                    ("positive heads, own level", f"{CLAIMS} > S+ heads zeroed, accuracy, {OWN} > value"),
                    ("positive heads, other levels", f"{CLAIMS} > S+ heads zeroed, accuracy, {OTHERS} > value"),
                    ("negative heads, other levels", f"{CLAIMS} > S− heads zeroed, accuracy, {OTHERS} > value"),
                    (
                        "… on questions answered wrongly",
                        f"{CLAIMS} > S− heads zeroed, accuracy of questions answered wrongly, {OTHERS} > value",
                    ),
                ),
                (0.0, "as random heads"),
                scale=100,
                decimals=0,
            ),
        ),
    ),
}


def main() -> None:
    for page, (title, panels) in FIGURES.items():
        (FOLDER / f"{page}.svg").write_text(drawn(title, panels), encoding="utf-8")


if __name__ == "__main__":
    main()
