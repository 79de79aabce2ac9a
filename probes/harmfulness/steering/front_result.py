"""What a comparison of all arms found: the search, the tested points, and what beats asking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from interp.reports import Result
from interp.reports.kept_tables import made_once
from interp.statistics import mean_estimate, paired_share_change, wilson_share
from probes.harmfulness.directions import Openings
from probes.harmfulness.steering.draws import draws_table
from probes.harmfulness.steering.rates import fluency, perplexity_of
from probes.requests import Request

CHOSEN_KEYS = ("arm", "settings", "point")
TEXT = ("fluent", "perplexity_ratio", "repetition", "note")
UNTOUCHED, PROMPT = "untouched", "prompt"
NO_ROLE = "since the chat template has no system role"
MOVED = 1e-5  # nats of KL: a request whose first token is no farther off was left alone
TABLE_NOTE = (
    "refused: replies, judged, Wilson's interval; change: against the untouched model on the same requests (Bonett and "
    "Price 2012). odds: change of the log odds of refusing at the first token, nats. kl: nats, first token. moved: the "
    "share of requests whose first token's distribution changed at all: what a condition let through."
)


@dataclass(frozen=True, eq=False, repr=False)
class SteeringFront(Result, report="probes.harmfulness.steering.front_report", figure="Effect against harm"):
    """Every arm on the same requests. Saved without texts unless asked for.

    Args:
        screen: a row for each point on validation: its effect and KL, and of those that replied their text.
        outcomes: a row for each tested point and request: ``odds`` and ``plain`` (log odds of refusing, under the arm
            and untouched), ``kl``, ``verdict`` and ``reply`` ("" where none was asked for), ``nll``, ``n_tokens``.
        draws: first tokens under added vectors and under random and shuffled-label ones.
        left_out: points that could not be made, with the reason.
        openings: the first tokens that are compared.
        validation: the requests that searched.
        tested: those of the test.
        provenance: what was run, on what.
    """

    screen: pd.DataFrame
    outcomes: pd.DataFrame
    draws: pd.DataFrame
    left_out: Mapping[str, str]
    openings: Openings
    validation: tuple[Request, ...]
    tested: tuple[Request, ...]
    provenance: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.provenance["settings"]

    @made_once
    def to_frame(self) -> pd.DataFrame:
        """A row for each tested point and kind of request: replies refused, the change from the untouched model, the
        first token's change and KL, the text, and what the arm costs (``made_s``: seconds to make it; ``more_tokens``:
        of the prompt)."""
        keys = list(CHOSEN_KEYS)
        plain = {k: part.set_index("id") for k, part in self._of(UNTOUCHED).groupby("kind", sort=False)}
        texts = {
            key: text_table(part, self._of(UNTOUCHED), self.settings["fluency_factor"])
            for key, part in self.outcomes.groupby(keys, sort=False)
        }
        fronts = set(zip(*(self.front()[c] for c in ("arm", "settings")), strict=True))
        rows = []
        for (*key, kind), part in self.outcomes.groupby([*keys, "kind"], sort=False):
            replied = part[part["verdict"] != ""].set_index("id")
            refused = (replied["verdict"] == "refused").astype(float)
            before = (plain[kind].loc[replied.index, "verdict"] == "refused").astype(float)
            row = dict(zip(keys, key, strict=True)) | {"kind": kind, "n": len(replied), "n_first": len(part)}
            row |= wilson_share(refused).columns("refused") | paired_share_change(refused, before).columns("change")
            row |= mean_estimate((part["odds"] - part["plain"]).to_numpy()).columns("odds")
            row |= mean_estimate(part["kl"].to_numpy()).within(0, np.inf).columns("kl")
            row |= {"moved": float((part["kl"] > MOVED).mean()), "on_front": tuple(key[:2]) in fronts}
            row |= {name: texts[tuple(key)][name] for name in TEXT}
            rows.append(row | {"made_s": part["made_s"].iloc[0], "more_tokens": part["more_tokens"].mean()})
        frame = pd.DataFrame(rows)
        frame.attrs["note"] = TABLE_NOTE
        return frame

    def front(self) -> pd.DataFrame:
        """The points of the Pareto front on validation that were tested, by their KL."""
        return self.screen[self.screen["on_front"].eq(True)].sort_values("kl").reset_index(drop=True)

    @made_once
    def beside_prompt(self) -> pd.DataFrame:
        """Each tested point beside the prompt of the largest effect on validation, reply by reply: ``harmful`` and
        ``harmless``, its refusals less the prompt's, with intervals. Empty where no prompt was tested."""
        tested = set(self.outcomes.loc[self.outcomes["arm"] == PROMPT, "settings"])
        prompts = self.screen[(self.screen["arm"] == PROMPT) & self.screen["settings"].isin(tested)]
        if prompts.empty:
            return pd.DataFrame()
        best = prompts.sort_values("effect").iloc[-1]["settings"]
        asked = self._of(PROMPT, best)
        rows = []
        for key, part in self.outcomes.groupby(list(CHOSEN_KEYS), sort=False):
            if key[0] in (PROMPT, UNTOUCHED):
                continue
            row: dict[str, Any] = dict(zip(CHOSEN_KEYS, key, strict=True))
            for kind in ("harmful", "harmless"):
                mine, theirs = (_refused(frame[frame["kind"] == kind]) for frame in (part, asked))
                row |= paired_share_change(mine, theirs.reindex(mine.index)).columns(kind) | {f"n_{kind}": len(mine)}
            rows.append(row)
        return pd.DataFrame(rows)

    def first_tokens(self) -> pd.DataFrame:
        """Each added vector beside random and shuffled-label ones of its norm, at the first token of harmful requests
        (:func:`probes.harmfulness.steering.draws.beside_draws`)."""
        if self.draws.empty:
            return pd.DataFrame()
        before = self.draws.groupby("id")["plain"].first().to_dict()
        table = draws_table(self.draws, before, ("layer",), ("id",))
        table = table[table["sign"] == "+"].drop(columns=["sign", "positions"]).reset_index(drop=True)
        names = table.pop("direction").str.split("|", n=1, expand=True)
        table.insert(0, "arm", names[0])
        table.insert(1, "settings", names[1])
        return table

    def withheld(self) -> SteeringFront:
        """The same without what the model said, as files have it."""
        return replace(self, outcomes=self.outcomes.assign(reply=""))

    def _of(self, arm: str, settings: str | None = None) -> pd.DataFrame:
        rows = self.outcomes[self.outcomes["arm"] == arm]
        return rows if settings is None else rows[rows["settings"] == settings]


def screen_table(outcomes: pd.DataFrame, goal: str) -> pd.DataFrame:
    """A row for each point on validation: ``effect``, the change of the log odds of refusing on harmful requests
    towards the goal, ``harmless``, the same change on harmless ones, and ``kl`` on these, all in nats."""
    sign, rows = 1.0 if goal == "refuse" else -1.0, []
    for key, part in outcomes.groupby(list(CHOSEN_KEYS), sort=False):
        of = {kind: part[part["kind"] == kind] for kind in ("harmful", "harmless")}
        change = {kind: (rows_["odds"] - rows_["plain"]).to_numpy() * sign for kind, rows_ in of.items()}
        row = dict(zip(CHOSEN_KEYS, key, strict=True)) | {"n": len(part)}
        row |= mean_estimate(change["harmful"]).columns("effect") | mean_estimate(change["harmless"]).columns(
            "harmless"
        )
        rows.append(row | mean_estimate(of["harmless"]["kl"].to_numpy()).within(0, np.inf).columns("kl"))
    return pd.DataFrame(rows)


def pareto(rows: pd.DataFrame) -> Bool[np.ndarray, " row"]:
    """Which rows no other one beats: more ``effect`` than every row of as little ``kl`` or less, and above 0."""
    order = np.lexsort((-rows["effect"].to_numpy(), rows["kl"].to_numpy()))
    best, kept = 0.0, np.zeros(len(rows), dtype=bool)
    for i in order:
        if (effect := float(rows["effect"].iloc[i])) > best:
            best, kept[i] = effect, True
    return kept


def text_table(part: pd.DataFrame, untouched: pd.DataFrame, factor: float) -> dict[str, Any]:
    """How the replies of a point read, beside those of the untouched model: ``fluent`` and what it rests on."""
    replied, plain = (frame[frame["verdict"] != ""] for frame in (part, untouched))
    kinds = [rows for _, rows in plain.groupby("kind")]
    base = max((perplexity_of(rows).value for rows in kinds), default=np.nan)
    repeated = max((rows["repetition"].mean() for rows in kinds), default=np.nan)
    row = {"perplexity_ratio": perplexity_of(replied).value / base, "repetition": replied["repetition"].mean()}
    return row | fluency(row, repeated, factor)


def _refused(rows: pd.DataFrame) -> pd.Series:
    rows = rows[rows["verdict"] != ""]
    return (rows.set_index("id")["verdict"] == "refused").astype(float)
