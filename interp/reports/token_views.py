"""Prompts token by token, as a page shows them: spans with what the tooltip says and the strength of the colour."""

from __future__ import annotations

import math
from typing import Any

from interp.figures import TokenView, head_label


def shown_view(view: TokenView) -> dict[str, Any]:
    """A prompt as spans: text, what the tooltip says, and the strength of the colour from 0 to 1."""
    from interp.figures import visible

    heads = []
    for (layer, head), values in view.heads.items():
        panels = {}
        for kind, array in values.items():
            largest = float(abs(array).max()) if len(array) else 0.0
            spans = []
            for i, (token, value) in enumerate(zip(view.tokens, array.tolist(), strict=True)):
                share = abs(value) / largest if largest > 0 else 0.0
                share = math.sqrt(share) if kind == "attention" else share
                sign = "negative" if value < 0 else "positive"
                spans.append(
                    {
                        "text": visible(token) + ("\n" if "\n" in token else ""),
                        "tooltip": f"{i}: {visible(token)!r} {kind} {value:.4g}",
                        "share": f"{share:.2f}",
                        "kind": "attention" if kind == "attention" else sign,
                    }
                )
            panels[kind] = {"spans": spans, "largest": largest, "sum": float(array.sum())}
        heads.append({"label": head_label(layer, head), "panels": panels})
    return {"example_id": view.example_id, "title": view.title, "heads": heads}
