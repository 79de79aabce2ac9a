"""The Latent Guard as a scikit-learn classifier: is a request harmful? Read at its last token, while the model reads.

After "LLMs Encode Harmfulness and Refusal Separately" (Zhao et al. 2025, arXiv 2507.11878), Eq. 3 and section 5. Ours:
requests that end alike, and calibrated rules beside the paper's parameter-free one.

Every rule is one linear function of the scores of single layers: the cosine with the mean state of harmful requests
less the cosine with that of harmless ones or, for "probe", a trained probe's log odds. So a guard is what it reads off
a layer (two means, or a slope and an intercept), a weight a layer, and a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from interp.artefact import load_artefact, save_artefact
from interp.chat_templates import System
from interp.door import public
from interp.model import Model
from interp.provenance import hash_json, hash_weights
from interp.weight_identity import describe_model
from probes.behaviour import require_requests
from probes.guard_readouts import readout_from
from probes.guard_rules import Rule, decide, fit_readout, out_of_fold_scores, require_enough, require_rule
from probes.request_states import RequestStates, read_states
from probes.requests import Request, bare, require_disjoint, with_ending


class LatentGuard(ClassifierMixin, BaseEstimator):
    """A classifier of requests, or of plain texts; True: harmful.

    Rules:
        ``"paper"``: Delta_harmful >= 0 (Eq. 3), the mean score over layers 1 to L; no trained number.
        ``"calibrated"``: the same score; the threshold is that of the best balanced accuracy.
        ``"best_layer"``: the layer of the highest AUROC (the widest gap among equals), its threshold calibrated.
        ``"logistic"``: logistic regression on the scores of layers 1 to L (scaled, classes weighed alike).
        ``"probe"``: as ``"best_layer"``, by logistic regression on the *states* of each layer (ours; it learns d_model
            numbers a layer, where the others have two means).
        ``"layer_0"``: the embedding's score, calibrated: a control that knows only which token is read.

    What a rule chooses it learns from the validation requests or, without any, from the scores of the fitted ones by
    a readout that has not seen them (``n_folds`` folds, pairs kept together).

    ``ending``: final punctuation and quotes of every text, fitted or judged, are replaced by it. At t_inst a state is
    first of all about the token read there, and whether a user ends with a full stop says nothing of harm, but does
    tell the paper's data sets apart (AUROC 1.00 at the embedding); so no verdict depends on it. Beside generation, give
    the model the text as the guard reads it. None reads texts as they are. ``matched`` leaves requests out of the fit
    (never out of a prediction) whose last token is still another than the common one. ``position``: ``"t_inst"``, or
    ``"t_post"`` for a probe at the end of the prompt. ``system``: the system prompt that the model will be run with.

    After ``fit``: ``readout_`` (means of harmful and harmless, or probes), ``layer_weights_`` [layer], ``threshold_``,
    ``layer_`` (the only one that counts, or None), ``fitted_on_`` (requests, validation included), ``model_``,
    ``classes_``.

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

        Raises ``ValueError`` for fewer than 10 of a class, repeated ids, validation requests that are fitted on too
        (listed), and a base model without chat template.
        """
        require_rule(self.rule, self.position)
        require_requests(_listed(requests))
        if validation is not None:
            require_disjoint(requests, _listed(validation))
        states = self.read(requests)
        return self.fit_states(states, y, validation=None if validation is None else self.read(validation))

    def fit_states(
        self,
        states: RequestStates,
        positive: Sequence[bool] | Bool[np.ndarray, " example"] | None = None,
        *,
        validation: RequestStates | None = None,
        described: Mapping[str, Any] | None = None,
    ) -> LatentGuard:
        """:meth:`fit` on states that were read already (:meth:`read`), so that several rules share one pass.

        ``described``: what :func:`interp.weight_identity.describe_model` says of the model, where it is known; it
        hashes every weight.
        """
        require_rule(self.rule, self.position)
        self._require_geometry(states)
        labels = harmful(states.requests) if positive is None else np.asarray(positive, dtype=bool)
        if len(labels) != len(states):
            raise ValueError(f"{len(labels)} labels were given for {len(states)} requests; expected one for each.")
        if self.matched:
            labels, states = labels[states.same_ending], states.select(states.same_ending)
        require_enough(labels, "to fit on" + " (those with the common last token)" * self.matched)
        x, fitted_on = states.at(self.position), states.requests
        self.readout_ = fit_readout(self.rule, x, labels)
        if validation is not None:
            self._require_geometry(validation)
            require_disjoint(fitted_on, validation.requests)
            fitted_on, labels = fitted_on + validation.requests, harmful(validation.requests)
            require_enough(labels, "to validate on")
            scores = self.readout_.scores(validation.at(self.position))
        elif self.rule == "paper":
            scores = np.zeros(x.shape[:2])  # it learns nothing from them
        else:
            scores = out_of_fold_scores(self.rule, x, labels, fitted_on, self.n_folds, self.seed)
        self.layer_weights_, self.threshold_, self.layer_ = decide(self.rule, scores, labels, self.C)
        self.fitted_on_ = fitted_on
        self.classes_ = np.array([False, True])
        self.model_ = dict(described or describe_model(self.model))
        self._of = self.model
        return self

    def read(self, requests: Sequence[Request | str]) -> RequestStates:
        """The states of requests, ended as this guard ends them. One pass for each batch."""
        return read_states(self.model, self.prepared(requests), system=self.system, batch_size=self.batch_size)

    def prepared(self, requests: Sequence[Request | str]) -> list[Request]:
        """Requests as the guard reads them. A text of punctuation alone stays as it is."""
        made = [
            Request(f"text-{i}", r, "harmless") if isinstance(r, str) else r  # of a kind that nobody reads
            for i, r in enumerate(_listed(requests))
        ]
        if self.ending is None:
            return made
        return [with_ending([r], self.ending)[0] if bare(r.text) else r for r in made]

    def layer_scores(self, states: RequestStates) -> Float[np.ndarray, "example layer"]:
        """Every layer's score at this guard's position, above 0: nearer to the harmful requests."""
        self.require_fitted()
        self._require_geometry(states)
        return self.readout_.scores(states.at(self.position))

    def decision_states(self, states: RequestStates) -> Float[np.ndarray, " example"]:
        """:meth:`decision_function` of states that were read already (with :meth:`read`: the ending matters)."""
        return self.layer_scores(states) @ self.layer_weights_ - self.threshold_

    def decision_function(self, requests: Sequence[Request | str]) -> Float[np.ndarray, " example"]:
        """The rule's score less its threshold; at least 0: harmful. One pass for each batch.

        Raises ``ValueError`` for no requests, and for a guard that was fitted on another model than its ``model`` now.
        """
        self.require_fitted()
        return self.decision_states(self.read(requests))

    def predict(self, requests: Sequence[Request | str]) -> Bool[np.ndarray, " example"]:
        """Which requests are harmful: those with a decision of at least 0, as in the authors' code."""
        return self.decision_function(requests) >= 0

    def score(self, requests: Sequence[Request], y: Sequence[bool] | None = None) -> float:
        """Accuracy on requests that were neither fitted nor validated on; such are refused, and listed."""
        self.require_fitted()
        require_disjoint(self.fitted_on_, _listed(requests))
        labels = harmful(requests) if y is None else np.asarray(y, dtype=bool)
        return float((self.predict(requests) == labels).mean())

    def chose(self) -> str:
        """The layer and the threshold in words, for tables."""
        self.require_fitted()
        return f"{'' if self.layer_ is None else f'layer {self.layer_}, '}threshold {self.threshold_:.4g}"

    def save(self, directory: str | Path) -> Path:
        """Write ``guard.safetensors`` (readout, weights of layers) and ``guard.json`` (settings, threshold, the model's
        hash, the requests that it knows), replacing those of an earlier guard. No pickle."""
        self.require_fitted()
        record = {
            "kind": "LatentGuard",
            "settings": {name: value for name, value in self.get_params(deep=False).items() if name != "model"},
            "readout": self.readout_.kind,
            "threshold": self.threshold_,
            "layer": self.layer_,
            "model": self.model_,
            "requests": [asdict(r) for r in self.fitted_on_],
        }
        tensors = vars(self.readout_) | {"layer_weights": torch.from_numpy(self.layer_weights_)}
        return save_artefact(directory, "guard", record, tensors)

    @property
    def sha256(self) -> str:
        """Of what decides: readout, weights of layers, threshold, and how requests are read. For run ids."""
        self.require_fitted()
        decides = [tensor.double().flatten().tolist() for _, tensor in sorted(vars(self.readout_).items())]
        read = [self.position, self.ending, self.matched, self.system, self.model_["weights_sha256"]]
        return hash_json([decides, self.layer_weights_.tolist(), self.threshold_, *read])

    def require_fitted(self) -> None:
        """Raise ``NotFittedError`` before ``fit``, ``ValueError`` if ``model`` is not the fitted one now."""
        if not hasattr(self, "readout_"):
            raise NotFittedError("this guard is not fitted; call fit(requests), or load one with load_guard.")
        if self.model is not self._of:
            _require_guard_of(self.model_, self.model)
            self._of = self.model

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

    Raises ``FileNotFoundError`` or ``ValueError`` for files that are missing or damaged, and ``ValueError`` for another
    model or other weights.
    """
    record, tensors = load_artefact(directory, "guard")
    _require_guard_of(record["model"], model)
    guard = LatentGuard(model, **record["settings"])
    guard.readout_ = readout_from(record.get("readout", "clusters"), tensors)
    guard.layer_weights_ = tensors["layer_weights"].numpy()
    guard.threshold_, guard.layer_, guard.model_ = record["threshold"], record["layer"], record["model"]
    guard.fitted_on_ = tuple(Request(**row) for row in record["requests"])
    guard.classes_, guard._of = np.array([False, True]), model
    return guard


def harmful(requests: Sequence[Request]) -> Bool[np.ndarray, " example"]:
    """Which requests are harmful, by what they say of themselves."""
    return np.array([r.is_harmful for r in requests])


def _require_guard_of(described: Mapping[str, Any], model: Model) -> None:
    told, here = described.get("template_arguments", {}), dict(model.template_arguments)
    if told != here:
        raise ValueError(
            f"this guard was fitted on prompts whose chat template was told {told or 'nothing'}; {model.name!r} tells "
            f"it {here or 'nothing'}. Load the model with template_arguments={told!r}."
        )
    found = hash_weights(model.hf)
    if found != described["weights_sha256"]:
        raise ValueError(
            f"this guard was fitted on {described['name']!r} with weights {described['weights_sha256'][:12]} "
            f"({described['n_layers']} layers of {described['d_model']}, {described['dtype']}); {model.name!r} has "
            f"weights {found[:12]} ({model.n_layers} layers of {model.d_model}). Load that model, in that dtype, or "
            "fit a guard on this one. (States of a changed model can be judged with decision_states.)"
        )


def _listed(requests: Sequence[Request | str]) -> list[Request | str]:
    if isinstance(requests, (str, Request)):
        raise ValueError(f"one request was given ({str(requests)[:60]!r}); expected a list of them.")
    if not len(requests):
        raise ValueError("no requests were given; give at least one.")
    return list(requests)
