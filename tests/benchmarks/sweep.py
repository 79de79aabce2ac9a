"""`python -m tests.benchmarks.sweep [NAME ...]`: every causal language model class of transformers that TransformerLens
has an adapter for, tiny and random, measured by this package and by plain hooks of the sweep's own.

Each measure comes out in one of four ways. right: within the tolerance. refused: this package raised, in its own words.
WRONG: a number came, and it is not the reference's. CRASH: an error from inside. The last two must not occur.

Writes sweep.json (each model's outcomes, replaced model by model, so that a few names can be run again) and, from it,
sweep.md beside this file. About three seconds a model.
"""

# ruff: noqa: E731  (what is compared is handed on as functions, side by side)
from __future__ import annotations

import contextlib
import copy
import json
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import interp
from interp.architecture.attention import UnsupportedAttention
from interp.edits import Steering
from interp.interventions.values import Branch, HeadEdit, ResidualEdit
from interp.passes.shared_prefix import UpperLayers
from interp.reading.capture import attention_log_probs
from interp.reading.residual import residual_states
from interp.scans.agreement import FanOutDisagreement
from tests.benchmarks.sweep_models import HEADS, VOCABULARY, Tiny, models
from tests.benchmarks.sweep_reference import Plain

HERE = Path(__file__).parent
PACKAGE = Path(interp.__file__).parent
TOLERANCE = 1e-4  # of the largest logit (attention: of the largest log probability; attribution: of the parts' sum)
FIRST, SECOND = 5, 9
ANSWERS = {"a": [FIRST], "b": [SECOND]}
OURS = (ValueError, TypeError, FileNotFoundError, ArithmeticError, UnsupportedAttention, FanOutDisagreement)


@dataclass(frozen=True)
class Outcome:
    """How one measure of one model came out. error: relative to the size that the tolerance is of. note: the sentence
    of a refusal, or the error; of a number that came another way than asked, how."""

    measure: str
    what: str
    how: str  # right, refused, WRONG, CRASH, none (the reference has nothing to compare with)
    error: float = 0.0
    note: str = ""


def sweep(tiny: Tiny) -> list[Outcome]:
    """Every measure of one model."""
    return list(_measured(tiny))


def _measured(tiny: Tiny) -> Iterator[Outcome]:
    hf = tiny.make()
    plain = Plain(copy.deepcopy(hf))
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = interp.load(hf)
    except Exception as error:
        yield _failed("load", "load", error)
        return
    yield Outcome("load", "load", "right")
    run = _Run(model, plain)
    yield from run.logits()
    said = [str(w.message) for w in told if "work on model.bridge is" in str(w.message)]
    if said:
        yield Outcome("bridge", "logits", "refused", note=said[0])
    else:
        yield run.compared("bridge", "logits", run.bridge, lambda: plain.final(run.prompts[0].token_ids))
    yield from run.ablation()
    yield from run.reading()
    yield from run.steering()
    yield from run.folding()


class _Run:
    """One loaded model and its plain twin."""

    def __init__(self, model: interp.Model, plain: Plain) -> None:
        self.model, self.plain = model, plain
        self.layers = model.n_layers
        self.prompts = [_prompt(n, seed) for seed, n in enumerate((30, 7, 19))]
        self.alike = [_prompt(14 + n, seed, shared=14) for seed, n in enumerate((3, 9, 16))]
        self.size = float(plain.final(self.prompts[0].token_ids).abs().max())

    def compared(
        self,
        measure: str,
        what: str,
        found: Callable[[], Tensor],
        expected: Callable[[], Tensor],
        size: float | None = None,
        note: Callable[[], str] = str,
    ) -> Outcome:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                got = found()
        except Exception as error:
            return _failed(measure, what, error)
        try:
            want = expected()
        except Exception as error:  # the reference knows no such thing of this class: nothing can be said
            return Outcome(measure, what, "none", note=f"no reference: {type(error).__name__}: {error}"[:300])
        if got.shape != want.shape:
            return Outcome(measure, what, "WRONG", note=f"shape {tuple(got.shape)}; expected {tuple(want.shape)}")
        same = (got == want) | (got - want == 0)  # also two infinities
        error = float(torch.where(same, 0.0, (got - want).abs()).max() / (size or self.size))
        return Outcome(measure, what, "right" if error <= TOLERANCE else "WRONG", error, note())

    def logits(self) -> Iterator[Outcome]:
        for what, prompts in {"one": self.prompts[:1], "ragged": self.prompts, "shared prefix": self.alike}.items():
            expected = lambda p=prompts: torch.stack([self.plain.final(q.token_ids) for q in p])
            yield self.compared("logits", what, lambda p=prompts: self.model.final_logits(p), expected)
        expected = lambda: torch.stack([self.plain.final(q.token_ids) for q in self.alike])
        yield self.compared("logits", "resumed", lambda: UpperLayers(self.model, self.alike, 1).all_logits(), expected)

    def bridge(self) -> Tensor:
        with torch.no_grad():
            return self.model.bridge(torch.tensor([list(self.prompts[0].token_ids)]))[0, -1].float()

    def ablation(self) -> Iterator[Outcome]:
        heads = [(layer, head) for layer in range(self.layers) for head in range(self.model.n_heads)]
        vector = torch.linspace(-1, 1, self.model.d_model) * 2
        for positions, last in {"answer": 1, 3: 3, "all": None}.items():
            how: list[str] = []

            def found(positions=positions, how=how) -> Tensor:
                branches = [Branch((HeadEdit(*pair),)) for pair in heads]
                branches.append(Branch((ResidualEdit(1, vector),)))
                result = interp.scan(self.model, self.prompts[:2], branches, positions=positions)
                how.append("" if result.how == "fan-out" else result.check)
                return torch.tensor(result.values)

            def expected(last=last) -> Tensor:
                return torch.tensor([self._ablated(p.token_ids, heads, vector, last) for p in self.prompts[:2]])

            named = "all positions" if last is None else "last 3" if last == 3 else "answer"
            yield self.compared("ablation", named, found, expected, note=lambda how=how: how[0])

    def _ablated(self, ids: Sequence[int], heads: Sequence[tuple[int, int]], vector: Tensor, last: int | None):
        def moved(hidden: Tensor) -> Tensor:
            hidden = hidden.clone()
            hidden[:, 0 if last is None else -last :] += vector
            return hidden

        values = []
        for edit in [*(self.plain.head(*pair, last=last) for pair in heads), self.plain.stream(1, moved)]:
            with edit:
                logits = self.plain.final(ids)
            values.append(float(logits[FIRST] - logits[SECOND]))
        return values

    def reading(self) -> Iterator[Outcome]:
        queries, keys = [3, 17, 29], [[0], [4, 16], [17, 29]]
        ids = self.prompts[0].token_ids

        def attention() -> Tensor:
            batch = self.prompts[:2]
            return attention_log_probs(self.model, batch, [queries, [6]], [keys, [[2]]])[0]

        def expected() -> Tensor:
            layers = [a[:, queries] for a in self.plain.attention(ids)]
            return torch.stack([torch.stack([a[..., g].sum(-1).log() for g in keys], -1) for a in layers])

        yield self.compared("attention", "log probabilities", attention, expected, size=10.0)
        metric = interp.LogitDifference("a", "b")
        attribute = lambda: torch.tensor(interp.attribute(self.model, self.prompts[0], metric).heads)
        try:
            direct = self.plain.direct(ids, FIRST, SECOND)
            scale = max(1.0, float(direct.abs().sum()))
        except Exception:
            scale = 1.0
        yield self.compared(
            "attribution", "heads", attribute, lambda: self.plain.direct(ids, FIRST, SECOND), size=scale
        )
        places = [[0, 5, 29], [1, 5, 6]]
        states = lambda: residual_states(self.model, self.prompts[:2], places)
        wanted = lambda: torch.stack(
            [
                torch.stack([h[at] for h in self.plain.entering(p.token_ids)])
                for p, at in zip(self.prompts[:2], places, strict=True)
            ]
        )
        try:
            size = float(wanted().abs().max())
        except Exception:
            size = 1.0
        yield self.compared("states", "residual stream", states, wanted, size=size)

    def steering(self) -> Iterator[Outcome]:
        vectors = torch.randn(self.layers + 1, self.model.d_model, generator=torch.Generator().manual_seed(3))
        unit = vectors[1] / vectors[1].norm()
        removed = lambda hidden: hidden - (hidden @ unit)[..., None] * unit
        everywhere = [self.plain.stream(layer, removed) for layer in range(self.layers + 1)]
        everywhere += [self.plain.attention_write(layer, removed) for layer in range(self.layers)]
        added = [self.plain.stream(1, lambda h: h + 2 * vectors[1])]
        last = [self.plain.stream(self.layers, lambda h: h + 2 * vectors[-1])]
        at_attention = [self.plain.attention_write(1, lambda h: h + 2 * vectors[1])]
        direction = lambda: interp.Direction.from_tensors(vectors, self.model)
        ours = {
            "add": (lambda: interp.add_direction(direction(), 2.0, layers=1, while_generating=True), added),
            "add after the last block": (lambda: interp.add_direction(direction(), 2.0, layers=self.layers), last),
            "add at the attention": (
                lambda: Steering((ResidualEdit(1, vectors[1], "add", 2.0, "attention"),), "all", True),
                at_attention,
            ),
            "remove": (lambda: interp.remove_direction(direction(), from_layer=1), everywhere),
        }
        for what, (make, hooks) in ours.items():

            def found(make=make) -> Tensor:
                with make().apply(self.model):
                    return self.model.final_logits(self.alike)

            def expected(hooks=hooks) -> Tensor:
                with contextlib.ExitStack() as stack:
                    for hook in hooks:
                        stack.enter_context(hook)
                    return torch.stack([self.plain.final(p.token_ids) for p in self.alike])

            wanted = _once(expected)
            yield self.compared("steering", what, found, wanted)
            if what in ("add", "remove"):
                yield from self._folded(what, make, wanted)

    def folding(self) -> Iterator[Outcome]:
        factors = {(0, 1): 0.0, (self.layers - 1, HEADS - 1): 1.7}
        make = lambda: interp.ScaledHeads({}, factors=factors)

        def expected() -> Tensor:
            with contextlib.ExitStack() as stack:
                for pair, factor in factors.items():
                    stack.enter_context(self.plain.head(*pair, factor))
                return torch.stack([self.plain.final(p.token_ids) for p in self.alike])

        wanted = _once(expected)
        yield from self._folded("heads", make, wanted)

        def exported() -> Tensor:
            with tempfile.TemporaryDirectory() as place:
                make().export(self.model, f"{place}/out")
                read = type(self.model.hf).from_pretrained(f"{place}/out").eval()
                return torch.stack([Plain(read).final(p.token_ids) for p in self.alike])

        yield self.compared("fold", "export", exported, wanted)

    def _folded(self, what: str, make: Callable, wanted: Callable[[], Tensor]) -> Iterator[Outcome]:
        before = {name: tensor.clone() for name, tensor in self.model.hf.state_dict().items()}

        def found() -> Tensor:
            undo = make().fold(self.model)
            try:
                return torch.stack([Plain(self.model.hf).final(p.token_ids) for p in self.alike])
            finally:
                undo.fold(self.model)

        yield self.compared("fold", what, found, wanted)
        after = self.model.hf.state_dict()
        if set(after) != set(before) or not all(torch.equal(after[name], before[name]) for name in before):
            yield Outcome("fold", f"undo {what}", "WRONG", note="the weights are not what they were, bit for bit")


def _once(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    kept: list[Tensor] = []

    def call() -> Tensor:
        if not kept:
            kept.append(function())
        return kept[0]

    return call


def _prompt(length: int, seed: int, shared: int = 0) -> interp.Prompt:
    draw = lambda n, s: torch.randint(3, VOCABULARY - 4, (n,), generator=torch.Generator().manual_seed(s)).tolist()
    ids = [*draw(shared, 99), *draw(length - shared, seed)]
    return interp.Prompt.from_token_ids(ids, answers=ANSWERS, id=f"{length} tokens", text_only=True)


def _failed(measure: str, what: str, error: Exception) -> Outcome:
    """A refusal is raised in this package's own code, as a kind of error that says: what you gave is wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    raised_here = bool(frames) and Path(frames[-1].filename).is_relative_to(PACKAGE)
    is_ours = raised_here and isinstance(error, OURS) and (frames[-1].line or "").startswith("raise")
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    text = str(error) if is_ours else f"{type(error).__name__}: {error} ({where})"
    return Outcome(measure, what, "refused" if is_ours else "CRASH", note=" ".join(text.split()))


MEASURES = ("load", "logits", "bridge", "ablation", "attention", "attribution", "states", "steering", "fold")


def table(outcomes: dict[str, list[Outcome]], untried: dict[str, str]) -> str:
    """The Markdown page."""
    everything = [outcome for of_model in outcomes.values() for outcome in of_model]
    counts = Counter(outcome.how for outcome in everything)
    reasons: dict[str, int] = {}

    def number(note: str) -> int:
        return reasons.setdefault(note, len(reasons) + 1)

    rows = []
    for name, of_model in outcomes.items():
        cells = [_cell([o for o in of_model if o.measure == measure], number) for measure in MEASURES]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    bad = [
        f"- {name}, {o.measure}, {o.what}: {o.how} {_size(o)} {_plainly(o.note)}"
        for name, of_model in outcomes.items()
        for o in of_model
        if o.how in ("WRONG", "CRASH")
    ]
    whole = sum(all(o.how in ("right", "none") for o in of) for of in outcomes.values())
    refused = sum(of[0].how == "refused" for of in outcomes.values())
    return "\n".join(
        [
            "# Every architecture against plain hooks",
            "",
            "Made by `python -m tests.benchmarks.sweep`. Tiny random models of every causal language model class of "
            "transformers that TransformerLens has an adapter for, and variants of some. Each number is compared with "
            "plain transformers under hooks of the sweep's own, one prompt a pass, without padding or cache. Right: "
            f"within {TOLERANCE:g} of the largest logit (attention: within {10 * TOLERANCE:g} nats; attribution: of "
            "the heads' summed size; states: of the largest), float32. Refused: this package says why, below.",
            "",
            f"{len(outcomes)} models: {whole} with every measure right, {refused} refused at load, "
            f"{len(outcomes) - whole - refused} with some measures refused or wrong. Measures: "
            f"{counts['right']} right, {counts['refused']} refused, {counts['WRONG']} WRONG, {counts['CRASH']} CRASH; "
            f"{counts['none']} had no reference.",
            "",
            "A cell has the largest error of what is right, and the numbers of reasons why something was refused or, "
            "in brackets, came by the loop of one pass for each edit.",
            "",
            f"| model | {' | '.join(MEASURES)} |",
            f"|---|{'---|' * len(MEASURES)}",
            *rows,
            "",
            "## Wrong or crashed",
            "",
            *(bad or ["None."]),
            "",
            "## Reasons",
            "",
            *(f"{n}. {_plainly(note)}" for note, n in reasons.items()),
            "",
            "## Not tried",
            "",
            *([f"- {name}: {why}" for name, why in untried.items()] or ["None."]),
            "",
        ]
    )


def _cell(outcomes: Sequence[Outcome], number: Callable[[str], int]) -> str:
    parts = []
    right = [o for o in outcomes if o.how == "right"]
    if right:
        parts.append(f"{max(o.error for o in right):.0e}" if right[0].measure != "load" else "right")
        slow = sorted({number(o.note) for o in right if o.note})
        parts += [f"({', '.join(map(str, slow))})"] if slow else []
    refused = sorted({number(o.note) for o in outcomes if o.how == "refused"})
    parts += [f"refused {', '.join(map(str, refused))}"] if refused else []
    parts += [o.how for o in outcomes if o.how in ("WRONG", "CRASH")]
    parts += ["–"] if not parts else []
    return " ".join(parts)


def _size(outcome: Outcome) -> str:
    return f"{outcome.error:.1e}" if outcome.how == "WRONG" else ""


def _plainly(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def main(names: Sequence[str]) -> None:
    known = models()
    if wrong := [name for name in names if name not in known]:
        raise SystemExit(f"no model {wrong[0]!r}; there are: {', '.join(known)}")
    kept_at, page_at = HERE / "sweep.json", HERE / "sweep.md"
    kept = json.loads(kept_at.read_text()) if kept_at.exists() and names else {"outcomes": {}, "untried": {}}
    for name in names or known:
        kept["untried"].pop(name, None)
        kept["outcomes"].pop(name, None)
        try:
            known[name].make()
        except ImportError as error:
            kept["untried"][name] = " ".join(str(error).split())[:100]
            continue
        found = sweep(known[name])
        kept["outcomes"][name] = [asdict(outcome) for outcome in found]
        outcomes = {n: [Outcome(**fields) for fields in kept["outcomes"][n]] for n in known if n in kept["outcomes"]}
        kept_at.write_text(json.dumps(kept).replace('}], "', '}],\n"') + "\n")
        page_at.write_text(table(outcomes, kept["untried"]))
        print(name, dict(Counter(o.how for o in found)), flush=True)
        for o in found:
            if o.how in ("WRONG", "CRASH", "refused", "none"):
                print(f"    {o.measure}, {o.what}: {o.how} {_size(o)} {o.note}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
