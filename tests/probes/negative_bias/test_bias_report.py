"""The report of a bias: what it says, where token and text part, saving, resuming, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.records.folder_lock import OtherRunError
from interp.reports.findings import load_findings
from probes.negative_bias import measures as bias_report
from probes.negative_bias.answers import bias_measures
from probes.negative_bias.asking import answer
from probes.negative_bias.bias_result import BiasReport
from probes.negative_bias.measures import measure
from probes.questions.instructions import build_prompts
from probes.questions.questions import Question
from tests.tiny import tiny, tiny_tokenizer

SUBJECTS = ["sky", "kettle", "water", "day", "heat", "question", "context", "answer", "note", "boiling"]
QUESTIONS = [
    Question(
        f"q{i}", f"Is the {SUBJECTS[i % 10]} {'clear ' * (i % 3)}{i}?", "Yes" if i % 2 else "No", domain="ab"[i // 12]
    )
    for i in range(24)
]


@pytest.fixture(scope="module")
def model() -> interp.Model:
    """A model planted to say Yes to every sixth question, all of them gold Yes, something else to the first two, and No
    to the others: the unembedding's rows solve for these logits."""
    hf = tiny("llama", vocab_size=400, max_position_embeddings=512)
    model = interp.load(hf, tokenizer=tiny_tokenizer())
    prompts = build_prompts(model, QUESTIONS)
    with torch.no_grad():
        hidden = torch.stack([hf.model(torch.tensor([p.token_ids])).last_hidden_state[0, -1] for p in prompts])
        yes = torch.tensor([30.0 if i % 6 == 5 else -30.0 for i in range(24)])
        no = -yes
        no[:2] = yes[:2] = -30.0
        for word, wanted in (("No", no), ("Yes", yes)):
            hf.lm_head.weight[prompts[0].answers[word][0]] = torch.linalg.pinv(hidden) @ wanted
    return model


@pytest.fixture(scope="module")
def report(model) -> BiasReport:
    return measure(model, QUESTIONS, generate_tokens=3)


def test_the_planted_bias_is_found(report):
    assert report.value("precision") == 1 and report.value("recall") == pytest.approx(4 / 12)
    assert report.value("negative_bias") == pytest.approx(7 / 12) and report.value("share_outside") == 2 / 24
    assert report.value("accuracy") == pytest.approx((4 + 11) / 24) and report.value("auroc") > 0.5


def test_the_measures_are_those_of_the_answers(model, report):
    answers = answer(model, QUESTIONS, generate_tokens=3)
    frame = report.to_frame()
    for channel in ("token", "text", "margin"):
        whole = frame[(frame.domain == "all") & (frame.channel == channel)].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            whole[["measure", "value", "ci_low", "ci_high", "n"]], bias_measures(answers, channel=channel), atol=1e-4
        )
        part = frame[(frame.domain == "b") & (frame.channel == channel)].reset_index(drop=True)
        expected = bias_measures(answers.select(np.arange(12, 24)), channel=channel)
        np.testing.assert_allclose(part.value, expected.value, atol=1e-4)
    assert list(dict.fromkeys(frame.domain)) == ["all", "a", "b"]


def test_where_token_and_text_part(report):
    table, list_ = report.agreement(), report.disagreements()
    assert table.to_numpy().sum() == 24 and list(table.columns) == ["No", "Yes", "outside"]
    off_diagonal = table.to_numpy().sum() - np.trace(table.to_numpy())
    assert len(list_) == off_diagonal and (list_.said != list_.said_in_text).all()
    for row in list_.itertuples():
        at = report.answers.ids.index(row.id)
        assert row.question == QUESTIONS[at].text and row.reply == report.answers.replies[at]
    said = pd.Series([report.answers.word(s) for s in report.answers.said]).value_counts()
    assert table.sum(axis=1)[table.sum(axis=1) > 0].to_dict() == said.to_dict()


def test_the_statement_follows_the_interval(report):
    def verdict(low, high):
        frame = report.to_frame()
        row = (frame.measure == "negative_bias") & (frame.domain == "all") & (frame.channel == "token")
        frame.loc[row, ["value", "ci_low", "ci_high"]] = [(low + high) / 2, low, high]
        return BiasReport(report.answers, report.questions, frame, report.provenance).statement()[0]

    assert "leans to 'No': negative bias 0.40 [0.20, 0.60] on 24 questions" in verdict(0.2, 0.6)
    assert "leans to 'Yes'" in verdict(-0.6, -0.2) and "is not shown to lean to either" in verdict(-0.1, 0.2)
    text = " ".join(report.statement())
    assert "AUROC" in text and "Generated text says the same" in text and "By domain" in text


def test_plots(report):
    of_domains = "Negative bias by domain"
    for name, names in (("Measures", {"accuracy", "negative_bias", "auroc"}), (of_domains, {"all", "a", "b"})):
        figure = report.plot(name)
        assert names <= {place for trace in figure.data for place in (trace.y if trace.orientation == "h" else trace.x)}
        assert {t.name for t in figure.data} == {"first token", "generated text", "forced choice"}
    with pytest.raises(KeyError, match=r"BiasReport has no figure 'head'; it has .*by domain"):
        report.plot("head")
    with pytest.raises(KeyError, match="there is no 'nas' by 'token' in domain 'all'"):
        report.value("nas")


def test_without_text_there_is_none(model):
    report = measure(model, QUESTIONS, generate_tokens=0)
    assert report.channels == ["token", "margin"] and report.answers.replies is None
    assert "First token and text" not in report.to_findings().tables


def test_saved_and_read_back(model, tmp_path):
    first = measure(model, QUESTIONS, generate_tokens=3, out=tmp_path)
    saved = load_findings(tmp_path)
    assert saved.statement == first.statement() and not (tmp_path / "parts").exists()
    assert {"Measures", "By domain", "First token and text", "Where they disagree", "Answers"} == set(saved.tables)
    assert saved.provenance["data"]["n"] == 24 and saved.provenance["settings"]["generate_tokens"] == 3
    again = measure(model, QUESTIONS, generate_tokens=3, out=tmp_path, resume=True)
    pd.testing.assert_frame_equal(first.to_frame(), again.to_frame(), check_exact=True)
    np.testing.assert_array_equal(first.answers.log_probs, again.answers.log_probs)
    assert again.questions == tuple(QUESTIONS) and repr(again) == f"BiasReport: {first.statement()[0]}"
    assert again.answers.replies == first.answers.replies and again.provenance["created"] == saved.provenance["created"]
    with pytest.raises(FileExistsError, match="already holds the report of run"):
        measure(model, QUESTIONS, generate_tokens=0, out=tmp_path)
    measure(model, QUESTIONS, generate_tokens=0, out=tmp_path, overwrite=True)
    assert interp.load_result(tmp_path).answers.replies is None


def test_a_killed_run_goes_on(model, tmp_path, monkeypatch):
    whole = measure(model, QUESTIONS, generate_tokens=3, batch_size=5)
    calls, score = [], bias_report.score_prompts

    def killed_at_the_third(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(*args)

    monkeypatch.setattr(bias_report, "score_prompts", killed_at_the_third)
    settings = {"generate_tokens": 3, "batch_size": 5, "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        measure(model, QUESTIONS, **settings)
    with pytest.raises(OtherRunError, match="other settings"):
        measure(model, QUESTIONS[:-2], **settings, resume=True)
    resumed = measure(model, QUESTIONS, **settings, resume=True)
    assert len(calls) == 3 + 3  # five batches: two kept, one lost, three done now
    pd.testing.assert_frame_equal(whole.to_frame(), resumed.to_frame())
    assert whole.answers.replies == resumed.answers.replies and whole.answers.ids == resumed.answers.ids


def test_options_that_are_not_used_are_warned_of_first(tmp_path):
    model = interp.load(tiny("llama", vocab_size=400, max_position_embeddings=512), tokenizer=tiny_tokenizer())
    with torch.no_grad():
        tokens = model.prompt("Is it so?", answers=("No", "Yes")).answers
        model.hf.lm_head.weight[[tokens["No"][0], tokens["Yes"][0]]] = 0.0
    with pytest.warns(UserWarning, match=r"options 'No' and 'Yes' hold only \d\.\d% of the first token's probability"):
        report = measure(model, QUESTIONS[:6], generate_tokens=0)
    assert "these measures say little" in report.statement()[0]
    assert "too few (n = 6; expected 10 or more)" in report.statement()[-1]
    assert not report.to_findings().figures
    with pytest.raises(KeyError, match=r"it has \[\]\. .* say little"):
        report.plot()


def test_bad_questions_are_refused(model):
    with pytest.raises(ValueError, match="no questions were given"):
        measure(model, [])
    with pytest.raises(ValueError, match="all 12 questions have the gold answer 'No'; expected both"):
        measure(model, QUESTIONS[::2])
    with pytest.raises(ValueError, match="generate_tokens=-1"):
        measure(model, QUESTIONS, generate_tokens=-1)
