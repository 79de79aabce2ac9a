"""Regenerate every number of the negative-bias study, for one model: the causal test, NASA, knowledge and scenarios.

    python -m tests.benchmarks.negative_bias DATA MODEL [PART ...]

DATA is a folder with strategyqa_train.jsonl, gsm8k.jsonl and ar_lsat.jsonl. Each part writes its report under
reports/evaluate/MODEL (a killed run continues where it was) and its tables to tests/benchmarks/negative_bias/MODEL.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForCausalLM

import interp
from interp.reports.markdown import write_page
from interp.statistics import Estimate
from probes import negative_bias
from probes.negative_bias.ability import edit_cost
from probes.negative_bias.alignment_report import target_sentences
from probes.negative_bias.answers import bias_measures
from probes.negative_bias.nasa import RIVALS
from probes.questions.questions import load_questions
from tests.benchmarks.known_questions import known_questions
from tests.benchmarks.probing_sets import (
    SEEN,
    balanced,
    by_subject,
    held_out,
    known_sets,
    probing_sets,
    reworded,
    shipped,
    twins,
)

TABLES = Path(__file__).parent / "negative_bias"
LEAST_AUROC = 0.7  # of the untouched margin, from which a model knows something of a set
FIT: dict[str, object] = {"every_format": True, "keep": 0.0, "batch_size": 8, "k": 4, "steps": 4, "check_every": 2}
REPORTS = Path("reports/evaluate")


@dataclass(frozen=True)
class Size:
    """How much is asked of a model: a slow one is asked less, and every table says its n."""

    ranked: int  # questions of the ranking that the causal test is about
    causal: int  # held-out questions of the causal test, at the answer
    draws: int  # random sets of heads
    causal_all: int  # and at all positions
    known: int  # questions sorted by knowledge and put in every scenario
    reasoning: int  # tokens of a chain of thought
    texts: int  # ordinary texts, for perplexity
    open: int  # open questions of unseen domains
    held_out: float  # share of the held-out questions
    open_forms: tuple[int, int]  # shipped open forms, and questions of each made kind, that are sorted by knowledge
    known_set: int  # held-out questions of each known set
    fits: tuple[tuple[str, int, dict, tuple[str, ...]], ...]  # of NASA on known sets: name, seed, settings, rivals
    swapped: int  # questions in all wordings, pairs and orders of the options
    swapped_effects: int  # and of them with effects of heads
    rivals: tuple[str, ...] = RIVALS


BESIDE = ("random heads", "constant offset")
FITS = (
    ("NASA", 0, {}, BESIDE[1:]),
    ("NASA", 1, {}, ()),
    ("NASA", 2, {}, ()),
    ("NASA", 0, {}, BESIDE),
    ("NASA", 1, {}, BESIDE[:1]),
    ("NASA", 2, {}, BESIDE[:1]),
    ("NASA with keys", 0, {"key_group": True}, ()),
)
SIZES = {
    "smollm2-135m": Size(100, 60, 20, 10, 80, 48, 60, 152, 1.0, (150, 30), 60, FITS, 40, 12),
    "qwen2.5-coder-0.5b": Size(
        60, 40, 20, 6, 40, 32, 20, 40, 0.3, (80, 16), 40, FITS, 20, 6, ("scaled heads", "constant offset")
    ),
    "qwen2.5-coder-1.5b": Size(
        40, 20, 20, 4, 40, 32, 20, 40, 0.2, (60, 16), 40, FITS[:1], 8, 0, ("scaled heads", "constant offset")
    ),
}


class Evaluation:
    def __init__(self, data: Path, name: str) -> None:
        self.data, self.name, self.size = data, name, SIZES.get(name, SIZES["qwen2.5-coder-0.5b"])
        self.model = interp.load(name)
        self.out = REPORTS / name
        self.training, self.validation, self.strategyqa_test = probing_sets(data / "strategyqa_train.jsonl")

    def order(self) -> None:
        """Does a ranking by NAS outlive another order, wording or pair of options?"""
        plain = [q for q in self.training if q.domain == "strategyqa"]
        found = negative_bias.order_swap(
            self.model,
            balanced(plain, self.size.swapped),
            n_effects=self.size.swapped_effects,
            out=self.out / "order",
            resume=True,
        )
        self.write("order", {"Verdict": found.statement(), **found.to_findings().tables})

    def untouched_by_set(self) -> pd.DataFrame:
        """What the untouched model knows of each set of :func:`known_sets`, on validation: a set is known from an
        AUROC of ``LEAST_AUROC`` on."""
        rows = []
        for name, parts in known_sets(self.data, self.size.known_set).items():
            answers = negative_bias.answer(self.model, parts["validation"])
            row = bias_measures(answers, channel="margin").set_index("measure")
            of_set: dict[str, object] = {"set": name, "n": len(answers)}
            for measure in ("auroc", "negative_bias", "accuracy", "option_mass"):
                of_set |= {measure: row.value[measure]}
                of_set |= {f"{measure}_low": row.ci_low[measure], f"{measure}_high": row.ci_high[measure]}
            of_set |= {"known": row.value["auroc"] >= LEAST_AUROC}
            rows.append(of_set | {"leans_to_no": Estimate.from_row(of_set, "negative_bias").side_of(0) > 0})
        return pd.DataFrame(rows)

    def known(self) -> None:
        """NASA where there is something to align: trained, stopped and tested on sets that the model knows a bit of,
        in three seeds, beside random heads, a constant, and heads tuned with their key slices."""
        by_set = self.untouched_by_set()
        known = by_set[by_set["known"]].sort_values("auroc", ascending=False)
        leaning, others = (list(known["set"][known["leans_to_no"] == leans]) for leans in (True, False))
        chosen = [*leaning[:4], *others[:2]] if leaning else []
        knows = "What the untouched model knows, on validation"
        found = f"Of {len(by_set)} sets {self.name} knows {len(known)} (AUROC of {LEAST_AUROC} or more)"
        self.write("known", {"Verdict": [f"{found}; {len(leaning)} of them lean to No."], knows: by_set})
        if not chosen:
            return
        sets = known_sets(self.data, self.size.known_set)
        parts = {
            part: [q for name in chosen for q in twins(sets[name][part], 12)] for part in ("training", "validation")
        }
        tests = {name: sets[name]["test"] for name in chosen}
        tables, methods = [], []
        for run, seed, settings, rivals in self.size.fits:
            found = negative_bias.align(
                self.model,
                parts["training"],
                parts["validation"],
                settings=negative_bias.Settings(**FIT, **settings, seed=seed),
                rivals=rivals,
                out=self.out / "known" / f"{run}-{seed}".replace(" ", "_"),
                resume=True,
                overwrite=True,
            )
            named = {"NASA": f"{run}, seed {seed}", "random heads": f"random heads, draw {seed}"}
            seen = {m for of_run in tables for m in of_run["method"]}
            new = [m.name for m in found.methods if named.get(m.name, m.name) not in seen]
            table = found.test(self.model, tests, methods=new)
            table = table.assign(method=table["method"].replace(named))
            tables.append(table[~table["method"].isin(seen)])
            fitted = found.methods_table()
            fitted = fitted.assign(method=fitted["method"].replace(named))
            methods.append(fitted[~fitted["method"].isin(seen)])
            self.write(
                "known",
                {
                    "Verdict": target_sentences(pd.concat(tables)),
                    knows: by_set,
                    "Held-out questions": pd.concat(tables).sort_values("set", kind="stable"),
                    "Methods": pd.concat(methods),
                },
            )

    def causality(self) -> None:
        """Point 2: are the NAS heads causal? Ranked on training questions, tested on held-out ones."""
        plain = [q for q in self.training if q.domain == "strategyqa"]
        ranking = negative_bias.rank_heads(
            self.model, balanced(plain, self.size.ranked), n_views=0, out=self.out / "ranking", resume=True
        )
        tested = balanced(self.strategyqa_test, self.size.causal, seed=3)
        found = negative_bias.causal_test(
            self.model,
            tested,
            ranking,
            n_random=self.size.draws,
            out=self.out / "causality_answer",
            resume=True,
        )
        everywhere = negative_bias.causal_test(
            self.model,
            balanced(tested, self.size.causal_all),
            ranking,
            by=("nas",),
            positions=("all",),
            edits=("zero",),
            ks_all=(1, 5, 10),
            n_random_all=self.size.draws,
            out=self.out / "causality_all",
            resume=True,
        )
        self.write(
            "causality",
            {
                "Verdict": [*found.statement(), *everywhere.statement()],
                "Effects of sets of heads, at the answer": found.to_frame(),
                "Effects of sets of heads, at all positions": everywhere.to_frame(),
                "Correlation of scores with single-head effects": found.correlations(),
            },
        )

    def alignment(self) -> None:
        """Points 3 and 4: NASA and its rivals, on what none of them saw; ability kept; other wordings; the fold."""
        found = negative_bias.align(
            self.model,
            self.training,
            self.validation,
            rivals=self.size.rivals,
            out=self.out / "alignment",
            resume=True,
            overwrite=True,
        )
        sets = held_out(self.data, self.strategyqa_test, self.size.held_out)
        table = found.test(self.model, sets)
        others = reworded(self.strategyqa_test, round(80 * self.size.held_out))
        wordings = found.test(self.model, others, methods=["NASA"])
        tests = {
            "Held-out questions": table,
            "Unseen wordings": wordings,
            "Ability kept": self.ability(found),
            "Folded and exported": self.fold(found),
        }
        found.with_tests(tests).save(self.out / "alignment", overwrite=True)
        self.write(
            "alignment",
            {
                "Verdict": found.with_tests(tests).statement(),
                **tests,
                "Methods": found.methods_table(),
                "Validation, look by look": found.history,
            },
        )

    def ability(self, found) -> pd.DataFrame:
        """Perplexity of ordinary text, and short answers to open questions of the unseen domains."""
        texts = [t.text for t in negative_bias.load_texts()][: self.size.texts]
        _, unseen = shipped()
        by_subject = {q.subject: q for q in unseen if q.open_question}  # twins share one
        open_questions = list(by_subject.values())[: self.size.open]
        edits = {m.name: m.edit for m in found.methods if m.edit is not None}
        return edit_cost(self.model, edits, texts, open_questions=open_questions)

    def fold(self, found) -> pd.DataFrame:
        """NASA's edit exported: plain transformers' logits beside the hooked model's."""
        directory = self.out / "nasa_folded"
        shutil.rmtree(directory, ignore_errors=True)  # of an earlier edit, perhaps
        found.edit.export(self.model, directory)
        prompts = negative_bias.build_prompts(self.model, balanced(self.strategyqa_test, 8, seed=4))
        with found.edit.apply(self.model):
            hooked = self.model.final_logits(prompts)
        clean = self.model.final_logits(prompts)
        plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        with torch.no_grad():
            folded = torch.stack([plain(torch.tensor([p.token_ids])).logits[0, -1] for p in prompts])
        return pd.DataFrame(
            [
                {
                    "prompts": len(prompts),
                    "largest difference, folded in plain transformers vs hooked": (folded - hooked).abs().max().item(),
                    "largest change that the edit makes": (hooked - clean).abs().max().item(),
                }
            ]
        )

    def insufficient(self) -> None:
        """Does the model say No where its knowledge is insufficient? On as many questions as time allows, in log odds
        where NB is at its ceiling, and within domains: what is known is of other domains than what is not."""
        shipped_ones = by_subject([q for q in load_questions() if q.open_question], self.size.open_forms[0])
        made = known_questions(n=self.size.open_forms[1])
        questions = [*shipped_ones, *made]
        known = negative_bias.sort_by_knowledge(
            self.model,
            questions,
            n_samples=3,
            max_new_tokens=12,
            out=self.out / "insufficient_knowledge",
            resume=True,
        )
        found = negative_bias.scenarios(
            self.model,
            questions,
            known,
            which=("plain", "idk"),
            out=self.out / "insufficient",
            resume=True,
        )
        self.write(
            "insufficient",
            {
                "Verdict": found.statement(),
                "Knowledge": known.counts(),
                "Claims of the paper": found.claims(),
                "By subset and scenario": found.to_frame(),
            },
        )

    def knowledge(self) -> None:
        """Point 5: NB by what the model knows, and by scenario; passages on StrategyQA too."""
        questions = balanced([q for q in load_questions() if q.open_question], self.size.known)
        known = negative_bias.sort_by_knowledge(
            self.model, questions, n_samples=4, out=self.out / "knowledge", resume=True
        )
        found = negative_bias.scenarios(
            self.model,
            questions,
            known,
            n_reasoning_tokens=self.size.reasoning,
            out=self.out / "scenarios",
            resume=True,
        )
        passages = negative_bias.scenarios(
            self.model,
            balanced(self.strategyqa_test, self.size.known, seed=5),
            which=(
                "plain",
                "relevant_passage",
                "irrelevant_passage",
                "idk",
                "swapped_order",
                "turned_round",
                "wrapped",
            ),
            out=self.out / "scenarios_strategyqa",
            resume=True,
        )
        self.write(
            "knowledge",
            {
                "Knowledge": known.counts(),
                "Thresholds": known.sensitivity(),
                "Claims of the paper, on the shipped questions": found.claims(),
                "Claims of the paper, on StrategyQA": passages.claims(),
                "Parts": found.parts(),
                "Negative bias by subset and scenario": found.to_frame(),
                "Negative bias by scenario, StrategyQA": passages.to_frame(),
            },
        )

    def measures(self) -> None:
        """Point 1 on every set, by first token and by text."""
        rows = []
        sets = held_out(self.data, self.strategyqa_test, 0.4)
        for name, questions in sets.items():
            answers = negative_bias.answer(self.model, balanced(questions, 40), generate_tokens=6)
            for channel in ("token", "text", "margin"):
                frame = bias_measures(answers, channel=channel)
                rows.append(frame.assign(set=name, channel=channel))
        table = pd.concat(rows)[["set", "channel", "measure", "value", "ci_low", "ci_high", "n"]]
        self.write("measures", {"Measures": table})

    def write(self, part: str, content: dict) -> None:
        write_page(TABLES / self.name / f"{part}.md", f"{part}: {self.name}", content)


def main() -> None:
    data, name, *parts = sys.argv[1:]
    evaluation = Evaluation(Path(data), name)
    for part in parts or ("order", "known", "insufficient", "measures", "causality", "alignment", "knowledge"):
        began = time.perf_counter()
        getattr(evaluation, part)()
        print(f"{name}: {part} in {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()

__all__ = ["SEEN", "Evaluation"]
