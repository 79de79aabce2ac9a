"""Measure a model's negative bias on a set of questions: by first token and by text, as a whole and by domain."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from interp.door import public
from interp.figures.heads import interval_bars
from interp.models import Model
from interp.records import clear_parts, keeps_work, now, run_batches
from interp.reports import Findings, is_whole, load_findings, mass_of, saved_run, with_mass
from probes.negative_bias.answers import (
    MEASURES,
    Answers,
    Channel,
    answers_from_arrays,
    bias_measures,
    by_length,
    score_prompts,
)
from probes.questions import Instruction, Question, build_prompts, describe_questions
from probes.studies import mass_read, parts_identity, require_place, study_provenance

ALL = "all"  # stands in the column "domain" for the whole set
CHANNELS: dict[Channel, str] = {"token": "first token", "text": "generated text", "margin": "forced choice"}
FEW = 20

CITATIONS = [
    "Yu, S., et al. (2025). Correcting Negative Bias in Large Language Models through Negative Attention Score "
    "Alignment. NAACL 2025. arXiv:2408.00137.",
    "Song, J., Yu, S., Yoon, S. (2025). A Multifaceted Analysis of Negative Bias in Large Language Models through the "
    "Lens of Parametric Knowledge. arXiv:2511.10881.",
    "Guo, C., Pleiss, G., Sun, Y., Weinberger, K. Q. (2017). On Calibration of Modern Neural Networks. ICML. "
    "arXiv:1706.04599.",
]
CAVEATS = [
    "Bias and knowledge are entangled in every measure but AUROC: a model that knows little and leans to No, and one "
    "that knows the No answers only, can look the same.",
    "All of it is of one wording and one order of the options.",
    "Intervals are of these questions, drawn by whole pairs and passages; they have no width where all answers agree.",
    "Generated text is read by a rule: the first option word it names.",
]


@dataclass(frozen=True, eq=False)
class BiasReport:
    """The bias of a model on a set of questions. ``measures``: one row for each domain ("all" first), channel and
    measure, with columns domain, channel, measure, value, ci_low, ci_high, n."""

    answers: Answers
    questions: tuple[Question, ...]
    measures: pd.DataFrame
    provenance: Mapping[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """The measures, tidy."""
        return self.measures.copy()

    def value(self, measure: str, channel: Channel = "token", domain: str = ALL) -> float:
        """One measure's value."""
        return float(self._row(measure, channel, domain)["value"])

    @property
    def channels(self) -> list[Channel]:
        """The ways of reading an answer that this report has: ``"text"`` only if replies were generated."""
        return list(dict.fromkeys(self.measures["channel"]))

    def agreement(self) -> pd.DataFrame:
        """Counts of answers: said by the first token (rows) and said in the text (columns), "outside" last."""
        names = [*self.answers.instruction.options, "outside"]
        said, in_text = self.answers.said, self.answers.said_by("text")
        table = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(table, (said, in_text), 1)  # -1, outside, is the last
        return pd.DataFrame(table, index=pd.Index(names, name="first token"), columns=names)

    def disagreements(self) -> pd.DataFrame:
        """The questions whose first token and text say different things, with both, and the reply."""
        differ = self.answers.said != self.answers.said_by("text")
        frame = self.answers.select(differ).to_frame()
        frame.insert(1, "question", [q.text for q, d in zip(self.questions, differ, strict=True) if d])
        return frame[["id", "question", "gold", "said", "said_in_text", "reply"]]

    def plot(self, by: Literal["measure", "domain"] = "measure") -> go.Figure:
        """The measures of the whole set, or the negative bias of each domain, with their intervals."""
        frame = self.measures.replace({"channel": CHANNELS})
        title = f"Negative bias of {self.provenance['model']['name']}"
        if by == "measure":
            frame, x = frame[frame["domain"] == ALL], "measure"
            title = f"{title}: {len(self.answers)} questions"
        elif by == "domain":
            frame, x = frame[frame["measure"] == "negative_bias"], "domain"
            title = f"{title} by domain"
        else:
            raise ValueError(f"by={by!r}; expected 'measure' or 'domain'.")
        labels = {"value": "value" if by == "measure" else "negative bias", "channel": "read from"}
        return interval_bars(frame, x, "value", "ci_low", "ci_high", color="channel", title=title, labels=labels)

    def statement(self) -> list[str]:
        """What was found, in sentences, the verdict first."""
        no, yes, *_ = self.answers.instruction.options
        name, n = self.provenance["model"]["name"], len(self.answers)
        bias = self._row("negative_bias")
        if bias["ci_low"] > 0:
            verdict = f"{name} leans to {no!r}"
        elif bias["ci_high"] < 0:
            verdict = f"{name} leans to {yes!r}"
        else:
            verdict = f"{name} is not shown to lean to either answer"
        sentences = [
            f"{verdict}: negative bias {_with_interval(bias)} on {n} questions, by the first token "
            f"(+1: always {no!r}, -1: always {yes!r}).",
            f"It says {yes!r} to {self.value('says_yes'):.1%} of the questions; it is the answer to "
            f"{self.answers.gold.mean():.1%}. Precision {_with_interval(self._row('precision'))}, "
            f"recall {_with_interval(self._row('recall'))}.",
            f"Accuracy {_with_interval(self._row('accuracy'))}; AUROC {_with_interval(self._row('auroc'))}, which no "
            "offset between the two answers could change.",
        ]
        if (outside := self.value("share_outside")) > 0:
            sentences.append(f"{outside:.1%} of the first tokens begin no option: wrong, but not {no!r}.")
        if "text" in self.channels:
            same = (self.answers.said == self.answers.said_by("text")).mean()
            sentences.append(
                f"Generated text says the same as the first token in {same:.1%}; by the text, negative bias is "
                f"{_with_interval(self._row('negative_bias', 'text'))}, and {self.value('share_outside', 'text'):.1%} "
                "of the replies name no option."
            )
        domains = self._domains()
        if domains["value"].nunique() > 1:
            most, least = domains.iloc[0], domains.iloc[-1]
            sentences.append(
                f"By domain, negative bias is between {least['value']:+.2f} ({least['domain']}) and "
                f"{most['value']:+.2f} ({most['domain']})."
            )
        if n < FEW:
            sentences.append(f"{n} questions are few: below {FEW}, the intervals are too narrow.")
        return with_mass(sentences, self.provenance, low_first=True)

    def to_findings(self) -> Findings:
        """All of it as a report that can be saved."""
        figures = {"Measures": self.plot()}
        tables = {"Measures": self._wide_measures()}
        if self.measures["domain"].nunique() > 2:
            figures["Negative bias by domain"] = self.plot("domain")
        tables["By domain"] = self._wide_domains()
        if "text" in self.channels:
            agreement = self.agreement()
            agreement.attrs["note"] = "Rows: said by the first token. Columns: said in the text. Counts of questions."
            tables |= {"First token and text": agreement, "Where they disagree": self.disagreements()}
        answers = self.answers.to_frame()
        answers.insert(1, "question", [q.text for q in self.questions])
        return Findings(
            title=f"Negative bias of {self.provenance['model']['name']}",
            statement=self.statement(),
            tables=tables | {"Answers": answers},
            figures=figures,
            provenance=self.provenance,
            arrays=self._arrays(),
        )

    @keeps_work
    def save(self, out: str | Path, overwrite: bool = False) -> Path:
        """Write the report (``Findings.save``) into a folder; returns it."""
        return self.to_findings().save(out, overwrite=overwrite)

    def _row(self, measure: str, channel: Channel = "token", domain: str = ALL) -> pd.Series:
        m = self.measures
        found = m[(m["measure"] == measure) & (m["channel"] == channel) & (m["domain"] == domain)]
        if found.empty:
            raise KeyError(
                f"there is no {measure!r} by {channel!r} in domain {domain!r}; there are {list(MEASURES)}, by "
                f"{self.channels}, in {list(dict.fromkeys(m['domain']))}."
            )
        return found.iloc[0]

    def _domains(self) -> pd.DataFrame:
        m = self.measures
        chosen = (m["measure"] == "negative_bias") & (m["channel"] == "token") & (m["domain"] != ALL)
        return m[chosen & ~m["value"].isna()].sort_values("value", ascending=False)

    def _wide_measures(self) -> pd.DataFrame:
        """One row for each measure, its value and interval by each channel side by side."""
        whole = self.measures[self.measures["domain"] == ALL]
        names = list(dict.fromkeys(whole["measure"]))
        table = pd.DataFrame({"measure": names, "meaning": [MEASURES[name] for name in names]})
        for channel in self.channels:
            rows = whole[whole["channel"] == channel].set_index("measure").loc[names]
            label = CHANNELS[channel]
            for column, end in (("value", ""), ("ci_low", "_low"), ("ci_high", "_high")):
                table[label + end] = rows[column].to_numpy()
            table["n_" + label] = rows["n"].to_numpy()
        table.attrs["note"] = "n: how many answers a value rests on. Forced choice: the likelier of the two options."
        return table

    def _wide_domains(self) -> pd.DataFrame:
        """One row for each domain, some measures side by side, by the first token."""
        rows = []
        for domain, part in self.measures[self.measures["channel"] == "token"].groupby("domain", sort=False):
            part = part.set_index("measure")
            row: dict[str, Any] = {"domain": domain, "n": part.loc["accuracy", "n"]}
            for name in ("negative_bias", "precision_recall_gap", "accuracy", "auroc", "option_mass"):
                row |= {name: part.loc[name, "value"]}
                row |= {f"{name}_low": part.loc[name, "ci_low"], f"{name}_high": part.loc[name, "ci_high"]}
            rows.append(row)
        table = pd.DataFrame(rows)
        table.attrs["note"] = "By the first token."
        return table

    def _arrays(self) -> dict[str, np.ndarray]:
        """What :func:`measure` reads back: the arrays of ``score_prompts``, in the order of the questions."""
        arrays = {"log_probs": self.answers.log_probs, "top": self.answers.top}
        if self.answers.replies is not None:
            replies = [reply.encode() for reply in self.answers.replies]
            arrays["reply_bytes"] = np.frombuffer(b"".join(replies), dtype=np.uint8)
            arrays["reply_lengths"] = np.array([len(reply) for reply in replies])
        return arrays


@public
@keeps_work
def measure(
    model: Model,
    questions: Sequence[Question],
    instruction: Instruction | None = None,
    *,
    forms: str = "in_context",
    generate_tokens: int = 8,
    batch_size: int = 16,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> BiasReport:
    """How far a model leans to No: every measure of ``probes.negative_bias.answers.MEASURES`` with its interval, by the
    first token's probability, by a greedy reply of ``generate_tokens`` tokens (0: none) and by the forced choice, as a
    whole and by domain; and where token and text disagree.

    With ``out``, each batch is kept there as it comes, so that ``resume=True`` continues a run that was killed (or
    reads back a finished one), and the report is saved there. ``overwrite`` replaces another run's report.

    Costs two passes over each prompt (one without text) and a short pass for each token generated. Warns if the options
    hold less than 10 % of the probability: the model then answers with something else, and the measures say little.

    Raises ``ValueError`` for no questions or questions of one gold answer only (bias is a difference between the two),
    ``FileExistsError`` for a folder with another run's work.
    """
    began = time.perf_counter()
    instruction = instruction or Instruction()
    _require_both_answers(questions)
    if generate_tokens < 0:
        raise ValueError(f"generate_tokens={generate_tokens}; expected 0 (no text) or more.")
    prompts = build_prompts(model, questions, instruction, forms=forms)
    settings = {"instruction": asdict(instruction), "forms": forms, "generate_tokens": generate_tokens}
    data = describe_questions(questions, origin)
    described = study_provenance("Negative bias", model, prompts, data, settings, CITATIONS, CAVEATS, began, out)
    settings |= {"batch_size": batch_size}  # no part of the run's id: it changes nothing but rounding
    out = None if out is None else Path(out)
    kept = {"run_id": described["run_id"], **parts_identity(described), "n_items": len(questions)} | settings
    if out is not None:
        require_place(out, described["run_id"], kept, resume, overwrite, need_mib=30)
        if resume and (saved_run(out) or {}).get("run_id") == described["run_id"] and is_whole(out):
            found = load_findings(out)
            answers = answers_from_arrays(dict(found.arrays), questions, instruction)
            if (mass := mass_of(found.provenance)) is not None:
                mass.warn()
            return _report(answers, questions, found.provenance)
    order = by_length(prompts)
    arrays = run_batches(
        [prompts[i] for i in order],
        lambda batch: score_prompts(model, batch, instruction, generate_tokens),
        batch_size=batch_size,
        directory=out,
        settings=kept,
        resume=resume,
        title="Negative bias",
    )
    answers = answers_from_arrays(arrays, [questions[i] for i in order], instruction).select(np.argsort(order))
    held = np.exp(answers.log_probs).sum(1)
    provenance = described | mass_read(model, prompts, batch_size, held) | {"settings": settings, "created": now()}
    provenance["seconds"] = round(time.perf_counter() - began, 1)
    report = _report(answers, questions, provenance)
    if out is not None:
        report.save(out, overwrite=overwrite)
        clear_parts(out)
    return report


def _report(answers: Answers, questions: Sequence[Question], provenance: Mapping[str, Any]) -> BiasReport:
    channels = [c for c in CHANNELS if c != "text" or answers.replies is not None]
    domains = list(dict.fromkeys(answers.domains))
    parts = [(ALL, answers)] + [(d, answers.select(np.array(answers.domains) == d)) for d in domains if d]
    tables = [
        bias_measures(part, channel=channel).assign(domain=domain, channel=channel)
        for domain, part in parts
        for channel in channels
    ]
    measures = pd.concat(tables, ignore_index=True)
    columns = ["domain", "channel", "measure", "value", "ci_low", "ci_high", "n"]
    return BiasReport(answers, tuple(questions), measures[columns], provenance)


def _require_both_answers(questions: Sequence[Question]) -> None:
    if not questions:
        raise ValueError("no questions were given; give at least one of each gold answer.")
    if len(golds := {q.answer for q in questions}) == 1:
        raise ValueError(
            f"all {len(questions)} questions have the gold answer {golds.pop()!r}; expected both. Bias is the "
            "difference between the two: give a set with Yes and No answers."
        )


def _with_interval(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return "undefined"
    return f"{row['value']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
