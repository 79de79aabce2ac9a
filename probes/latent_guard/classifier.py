"""The Latent Guard as a scikit-learn classifier: is a request harmful? Read at its last token, while the model reads.

After "LLMs Encode Harmfulness and Refusal Separately" (Zhao et al. 2025, arXiv 2507.11878), Eq. 3 and section 5. Ours:
requests that end alike, and calibrated rules beside the paper's parameter-free one.

Every rule is one linear function of the scores of single layers: the cosine with the mean state of harmful requests
less the cosine with that of harmless ones or, for "probe", a trained probe's log odds. So a guard is what it reads off
a layer (two means, or a slope and an intercept), a weight a layer, and a threshold.
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from interp.door import public
from interp.models import Model
from interp.prompts import System
from interp.records import hash_json, load_artefact, save_artefact
from probes.latent_guard.fitted_model import beside_weights, describe_fitted, require_fingerprint, require_guard_of
from probes.latent_guard.held_out import GuardWarning, HeldOutTest, held_out_test, verdict_of
from probes.latent_guard.inputs import are_words, count_plain, labels_of, paired, requests_of
from probes.latent_guard.readouts import readout_from
from probes.latent_guard.rules import Rule, decide, fit_readout, out_of_fold_scores, require_enough, require_rule
from probes.requests import Request, RequestStates, bare, read_states, require_disjoint, require_requests, with_ending

FROZEN = ("rule", "position", "ending", "matched", "system", "n_folds", "C", "seed")  # settings that a fit keeps


class LatentGuard(ClassifierMixin, BaseEstimator):
    """A classifier of requests, or of plain texts; True: harmful.

    Rules:
        ``"paper"``: Delta_harmful >= 0 (Eq. 3), the mean score over layers 1 to L; no trained number.
        ``"calibrated"``: the same score; the threshold is that of the best balanced accuracy.
        ``"best_layer"``: the layer of the highest AUROC (the widest gap among equals), its threshold calibrated.
        ``"logistic"``: logistic regression on the scores of layers 1 to L (scaled, classes weighed alike).
        ``"probe"``: as ``"best_layer"``, by logistic regression on the *states* of each layer (ours; it learns d_model
            numbers a layer, where the others have two means).
        ``"whitened"``: the mean over the upper half of the layers of the difference of means over the spread within
            the classes (ours: linear discriminant analysis with a ridge); at least 0: nearer to the harmful mean.
            Nothing is chosen or calibrated; fit it on whole pairs. A layer in which nothing differs adds noise.
        ``"layer_0"``: the embedding's score, calibrated: a control that knows only which token is read.

    What a rule chooses it learns from the validation requests or, without any, from the scores of the fitted ones by
    a readout that has not seen them (``n_folds`` folds, pairs kept together).

    ``ending``: final punctuation and quotes of every text, fitted or judged, are replaced by it. At t_inst a state is
    first of all about the token read there, and whether a user ends with a full stop says nothing of harm, but does
    tell the paper's data sets apart (AUROC 1.00 at the embedding); so no verdict depends on it. Beside generation, give
    the model the text as the guard reads it. None reads texts as they are. ``matched`` leaves requests out of the fit
    (never out of a prediction) whose last token is still another than the common one. ``position``: ``"t_inst"``, or
    ``"t_post"`` for a probe at the end of the prompt. ``system``: the system prompt that the model will be run with.
    ``C``: of the regressions (less: more regular). ``batch_size``: prompts in one pass. ``seed``: of the folds.

    Requests are given as a list, an array, a Series or one column of a table, of :class:`Request` or of plain texts;
    for these ``fit`` needs ``y``: bools, 0 and 1, or "harmful" and "harmless" (:mod:`probes.latent_guard.inputs`).
    Settings are those of the ``fit``: ``set_params`` afterwards waits for the next. ``clone``, ``cross_val_score``,
    ``GridSearchCV`` and ``Pipeline`` work as for any classifier; give their scorers ``y`` as bools.

    After ``fit``: ``rule_``, ``position_``, ``ending_``, ``matched_``, ``system_`` and the other settings that it was
    fitted with, ``readout_`` (means of harmful and harmless, or probes), ``layer_weights_`` [layer], ``threshold_``,
    ``layer_`` (the only one that counts, or None), ``fitted_on_`` (requests, validation included), ``model_``,
    ``tested_`` (its own test on other requests: :meth:`test`, or ``compare_guards``; None before), ``classes_``.

    Misleads: outside the domain of the fitted requests it is much worse (the paper's Tables 8 and 9). Harmful requests
    that the model accepts belong in the fit too, as in the authors' code.
    """

    def __init__(
        self,
        model: Model,
        rule: Rule = "paper",
        position: Literal["t_inst", "t_post"] = "t_inst",
        *,
        ending: str | None = ".",
        matched: bool = True,
        system: System = None,
        n_folds: int = 5,
        C: float = 1.0,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.rule = rule
        self.position = position
        self.ending = ending
        self.matched = matched
        self.system = system
        self.n_folds = n_folds
        self.C = C
        self.batch_size = batch_size
        self.seed = seed

    def fit(
        self,
        requests: Sequence[Request],
        y: Sequence[bool] | None = None,
        *,
        validation: Sequence[Request] | None = None,
    ) -> LatentGuard:
        """Fit on requests; ``y`` (True: harmful) replaces what they say of themselves. One pass for each batch.

        Raises:
            ValueError: fewer than 10 of a class, plain texts without ``y``, labels that could mean something else
                (listed in :func:`probes.latent_guard.inputs.labels_of`), repeated ids, validation requests that are
                fitted on too (listed), and a base model without chat template.
            TypeError: what is no collection of texts.
        """
        require_rule(self.rule, self.position)
        if isinstance(requests, Iterator):
            requests = list(requests)
        given = requests_of(requests, "fitted")
        if y is None and count_plain(requests):
            raise ValueError("plain texts were given without labels; give y, with True for each harmful one.")
        labels = None if y is None else labels_of(y, len(given))
        if y is not None and are_words(y):
            warnings.warn(
                "labels are given as words. The guard reads them; scikit-learn's own scorers don't know which is meant "
                "(roc_auc takes 'harmless' for the class to find): give them y == 'harmful'.",
                stacklevel=2,
            )
        if labels is not None and count_plain(requests) == len(given):
            given = paired(given, labels)
        require_requests(given)
        if validation is not None:
            validation = self._validation(validation, given)
        states = self._read(given, self.ending, self.system)
        held_out = None if validation is None else self._read(validation, self.ending, self.system)
        return self.fit_states(states, labels, validation=held_out)

    def fit_states(
        self,
        states: RequestStates,
        positive: Sequence[bool] | Bool[np.ndarray, " example"] | None = None,
        *,
        validation: RequestStates | None = None,
        described: Mapping[str, Any] | None = None,
    ) -> LatentGuard:
        """:meth:`fit` on states that were read already (:meth:`read`), so that several rules share one pass.

        ``described``: what :func:`interp.edits.identity.describe_model` says of the model, where it is known; it
        hashes every weight.

        ``positive``: whether each is harmful; None: as their sources say. ``validation``: others, for what is
        calibrated.

        Raises:
            ValueError: fewer than 10 of a class, an unknown rule, states of another model, and validation requests that
                are fitted on too.
        """
        require_rule(self.rule, self.position)
        self._require_geometry(states)
        labels = harmful(states.requests) if positive is None else labels_of(positive, len(states))
        if self.matched:
            labels, states = labels[states.same_ending], states.select(states.same_ending)
        require_enough(labels, "to fit on" + " (those with the common last token)" * self.matched)
        x, fitted_on = states.at(self.position), states.requests
        readout = fit_readout(self.rule, x, labels)
        if validation is not None:
            self._require_geometry(validation)
            require_disjoint(fitted_on, validation.requests)
            fitted_on, labels = fitted_on + validation.requests, harmful(validation.requests)
            require_enough(labels, "to validate on")
            scores = readout.scores(validation.at(self.position))
        elif self.rule in ("paper", "whitened"):
            scores = np.zeros(x.shape[:2])  # they learn nothing from them
        else:
            scores = out_of_fold_scores(self.rule, x, labels, fitted_on, self.n_folds, self.seed)
        decided = decide(self.rule, scores, labels, self.C)
        described = dict(described or describe_fitted(self.model))
        # all at once, after everything that can fail: a fit that is refused leaves the earlier one as it was
        self.readout_, (self.layer_weights_, self.threshold_, self.layer_) = readout, decided
        self._freeze({name: getattr(self, name) for name in FROZEN})
        self.fitted_on_ = fitted_on
        self.model_ = described
        self.tested_ = None
        return self

    def read(self, requests: Sequence[Request | str]) -> RequestStates:
        """The states of requests, ended as this guard ends them. One pass for each batch. A fitted guard reads with the
        settings of its fit, and refuses to where the model has changed since.

        Raises:
            ValueError: the model has changed since the fit.
        """
        if not hasattr(self, "readout_"):
            return self._read(requests_of(requests), self.ending, self.system)
        self.require_unchanged()
        return self._read(requests_of(requests), self.ending_, self.system_)

    def prepared(self, requests: Sequence[Request | str]) -> list[Request]:
        """``requests`` as the guard reads them. A text of punctuation alone stays as it is."""
        return _ended(requests_of(requests), self.ending_ if hasattr(self, "readout_") else self.ending)

    def _read(self, requests: Sequence[Request], ending: str | None, system: str | None) -> RequestStates:
        return read_states(self.model, _ended(requests, ending), system=system, batch_size=self.batch_size)

    def _validation(self, given: Any, fitted: Sequence[Request]) -> list[Request]:
        if isinstance(given, Iterator):
            given = list(given)
        if count_plain(given):
            raise ValueError("validation requests were given as plain texts, which have no labels; give Requests.")
        validation = requests_of(given)
        require_disjoint(fitted, validation)
        return validation

    def _freeze(self, settings: Mapping[str, Any]) -> None:
        """Keep the settings of a fit: what ``set_params`` changes later is for the next."""
        for name, value in settings.items():
            setattr(self, f"{name}_", value)
        self.classes_ = np.array([False, True])
        self._of, self._beside = self.model, beside_weights(self.model)

    def layer_scores(self, states: RequestStates) -> Float[np.ndarray, "example layer"]:
        """Every layer's score of ``states`` at this guard's position, above 0: nearer to the harmful requests.

        Returns:
            [example, layer].

        Raises:
            NotFittedError: before ``fit``.
            ValueError: states of another model.
        """
        self.require_fitted()
        self._require_geometry(states)
        return self.readout_.scores(states.at(self.position_))

    def decision_states(self, states: RequestStates) -> Float[np.ndarray, " example"]:
        """:meth:`decision_function` of states that were read already (with :meth:`read`: the ending matters).

        Returns:
            [example], as :meth:`decision_function`.
        """
        return self.layer_scores(states) @ self.layer_weights_ - self.threshold_

    def decision_function(self, requests: Sequence[Request | str]) -> Float[np.ndarray, " example"]:
        """The rule's score less its threshold. One pass for each batch.

        Returns:
            [example]; at least 0: harmful.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: no requests, and a ``model`` that is not what the guard was fitted on: another one, other
                weights or another active adapter, an edit that is applied, a hook or a config that was changed.
        """
        self._warn()
        return self._decide(requests)

    def _decide(self, requests: Sequence[Request | str]) -> Float[np.ndarray, " example"]:
        self.require_fitted()
        return self.decision_states(self.read(requests))

    def predict(self, requests: Sequence[Request | str]) -> Bool[np.ndarray, " example"]:
        """Which requests are harmful: those with a decision of at least 0, as in the authors' code.

        One pass for each batch. Warns at every call (:class:`GuardWarning`) where the guard's own test does not show
        that it tells them apart, or there is none.

        Returns:
            [example], True: harmful.
        """
        self._warn()
        return self._decide(requests) >= 0

    def _warn(self) -> None:
        if hasattr(self, "readout_") and (self.tested_ is None or self.tested_.holds_chance):
            warnings.warn(self.verdict(), GuardWarning, stacklevel=3)

    def test(self, requests: Sequence[Request | str], y: Sequence[bool] | None = None) -> HeldOutTest:
        """How well the guard tells harmful from harmless requests that it was not fitted on; kept, saved and said with
        it from then on. ``y``: as for :meth:`score`. One pass for each batch.

        Raises:
            NotFittedError: before ``fit``.
            ValueError: fewer than 10 of a kind, and requests that the guard knows (listed).
        """
        given, labels = self._labelled(requests, y)
        require_enough(labels, "to test on")
        asked = [
            replace(r, kind="harmful" if is_harmful else "harmless")
            for r, is_harmful in zip(given, labels, strict=True)
        ]
        self.tested_ = held_out_test(self._decide(given), asked)
        return self.tested_

    def verdict(self) -> str:
        """Whether this guard tells harmful from harmless requests, as far as its own test says, in a sentence.

        Raises:
            NotFittedError: before ``fit``.
        """
        self.require_fitted()
        return verdict_of(self.tested_)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        if not hasattr(self, "readout_"):
            return f"LatentGuard: not fitted. Rule {self.rule!r} at {self.position}, on {self.model.name}."
        return f"LatentGuard: {self.verdict()} {self._made()}"

    def _made(self) -> str:
        made = f"Rule {self.rule_!r} at {self.position_}, {self.chose()}"
        return f"{made}; fitted on {len(self.fitted_on_)} requests, on {self.model.name}."

    def _repr_html_(self) -> str:
        if not hasattr(self, "readout_"):
            return f"<p>{html.escape(repr(self))}</p>"
        return f"<p><b>{html.escape(self.verdict())}</b></p><p>{html.escape(self._made())}</p>"

    def _repr_mimebundle_(self, **more: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def score(self, requests: Sequence[Request | str], y: Sequence[bool] | None = None) -> float:
        """Accuracy on requests that were neither fitted nor validated on; such are refused, and listed.

        ``y``: whether each is harmful; None: as their sources say.
        """
        given, labels = self._labelled(requests, y)
        return float(((self._decide(given) >= 0) == labels).mean())

    def _labelled(self, requests: Any, y: Any) -> tuple[list[Request], Bool[np.ndarray, " example"]]:
        """Requests that the guard does not know, and which are harmful."""
        self.require_fitted()
        if isinstance(requests, Iterator):
            requests = list(requests)
        given = requests_of(requests)
        if y is None and count_plain(requests):
            raise ValueError("plain texts were given without labels; give y, with True for each harmful one.")
        labels = harmful(given) if y is None else labels_of(y, len(given))
        require_disjoint(self.fitted_on_, given)
        return given, labels

    def chose(self) -> str:
        """The layer and the threshold in words, for tables.

        Raises:
            NotFittedError: before ``fit``.
        """
        self.require_fitted()
        return f"{'' if self.layer_ is None else f'layer {self.layer_}, '}threshold {self.threshold_:.4g}"

    def save(self, directory: str | Path) -> Path:
        """Write ``guard.safetensors`` (readout, weights of layers) and ``guard.json`` (settings, threshold, the model's
        hash, its own test, the requests that it knows, without their texts), replacing those of an earlier guard. No
        pickle.

        ``directory``: made if need be, and returned.

        Raises:
            NotFittedError: before ``fit``.
        """
        self.require_fitted()
        record = {
            "kind": "LatentGuard",
            "settings": {name: getattr(self, f"{name}_") for name in FROZEN} | {"batch_size": self.batch_size},
            "readout": self.readout_.kind,
            "threshold": self.threshold_,
            "layer": self.layer_,
            "model": self.model_,
            "requests": [asdict(r.withheld()) for r in self.fitted_on_],
            "tested": None if self.tested_ is None else asdict(self.tested_),
        }
        tensors = vars(self.readout_) | {"layer_weights": torch.from_numpy(self.layer_weights_)}
        return save_artefact(directory, "guard", record, tensors)

    @property
    def sha256(self) -> str:
        """Of what decides: readout, weights of layers, threshold, and how requests are read. For run ids."""
        self.require_fitted()
        decides = [tensor.double().flatten().tolist() for _, tensor in sorted(vars(self.readout_).items())]
        read = [self.position_, self.ending_, self.matched_, self.system_, self.model_["weights_sha256"]]
        return hash_json([decides, self.layer_weights_.tolist(), self.threshold_, *read])

    def require_fitted(self) -> None:
        """Raise ``NotFittedError`` before ``fit``, ``ValueError`` if ``model`` is not the fitted one now."""
        if not hasattr(self, "readout_"):
            raise NotFittedError("this guard is not fitted; call fit(requests), or load one with load_guard.")
        if self.model is not self._of:
            require_guard_of(self.model_, self.model)
            self._of, self._beside = self.model, beside_weights(self.model)

    def require_unchanged(self) -> None:
        """Raise ``ValueError`` if the model computes something else than at the fit. Costs a small part of a second for
        7B parameters, unless a weight was written to (a second for each GB)."""
        self.require_fitted()
        require_guard_of(self.model_, self.model)
        if (now := beside_weights(self.model)) != self._beside:
            changed = ", ".join(name for name, value in now.items() if value != self._beside[name])
            raise ValueError(
                f"since this guard was fitted or loaded, something else changed on {self.model.name!r}: {changed}. "
                "Take it back, or fit a guard on the model as it is. (States can be judged with decision_states.)"
            )

    def _require_geometry(self, states: RequestStates) -> None:
        found, expected = tuple(states.t_inst.shape[1:]), (self.model.n_layers + 1, self.model.d_model)
        if found != expected:
            raise ValueError(
                f"the states have {found[0]} layers of {found[1]} numbers; {self.model.name}, which this guard is of, "
                f"has {expected[0]} of {expected[1]}. Read them with guard.read(requests)."
            )

    def __sklearn_clone__(self) -> LatentGuard:
        return type(self)(**self.get_params(deep=False))  # scikit-learn would copy the model too


@public
def load_guard(directory: str | Path, model: Model) -> LatentGuard:
    """The guard that :meth:`LatentGuard.save` wrote, on the model that it was fitted on.

    ``directory``: where.

    Raises:
        FileNotFoundError: files that are missing.
        ValueError: damaged files, another model or other weights.
    """
    record, tensors = load_artefact(directory, "guard")
    require_guard_of(record["model"], model)
    require_fingerprint(record["model"], model)
    settings = record["settings"]
    guard = LatentGuard(model, **settings)
    guard.readout_ = readout_from(record.get("readout", "clusters"), tensors)
    guard.layer_weights_ = tensors["layer_weights"].numpy()
    guard.threshold_, guard.layer_, guard.model_ = record["threshold"], record["layer"], record["model"]
    guard.fitted_on_ = tuple(Request(**row) for row in record["requests"])
    guard.tested_ = HeldOutTest(**record["tested"]) if record.get("tested") else None
    guard._freeze({name: settings[name] if name in settings else getattr(guard, name) for name in FROZEN})
    return guard


def harmful(requests: Sequence[Request]) -> Bool[np.ndarray, " example"]:
    """Which requests are harmful, by what they say of themselves."""
    return np.array([r.is_harmful for r in requests])


def _ended(requests: Sequence[Request], ending: str | None) -> list[Request]:
    if ending is None:
        return list(requests)
    return [with_ending([r], ending)[0] if bare(r.text) else r for r in requests]
