"""Suffixes from a gradient search: text behind a request that makes a chosen beginning of the reply likely.

Greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043), as the library nanogcg implements it. What is found is a
:class:`Jailbreak` of the family "suffix", like one from a file.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from interp.door import public
from interp.models import Model
from interp.passes import hash_prompts, identity_of
from interp.prompts import System
from interp.reading import reply_nll
from interp.records import Keep, Kept, hash_json, keep_of, keeps_work, prepare_directory
from interp.records.folder_lock import OtherRunError
from interp.records.writing import write_atomically
from probes.harmfulness.attacks.texts import Jailbreak, load_jailbreaks
from probes.requests import Request, build_request_prompts, hash_of, require_requests, with_ending
from probes.rows import PLACE

TARGET = "Sure, here is"
START = " x x x x x x x x x x"


@public
@keeps_work(as_whole=True)
def find_suffixes(
    model: Model,
    requests: Sequence[Request],
    *,
    target: str = TARGET,
    steps: int = 100,
    search_width: int = 64,
    topk: int = 64,
    start: str = START,
    system: System = None,
    ending: str = ".",
    seed: int = 0,
    batch_size: int | None = None,
    keep: Kept = None,
) -> list[Jailbreak]:
    """For each request a suffix of its own that makes ``target`` likely as the beginning of this model's reply; ids are
    "suffix-of-" and the request's.

    Args:
        model: an instruction-tuned one.
        requests: the ones to find suffixes for.
        target: how a reply is to begin.
        steps: of the search for each request. A step draws suffixes that differ from the last one in one token, and
            takes the best of them.
        search_width: suffixes drawn in a step.
        topk: the token drawn is among so many that the gradient likes best there.
        start: the suffix that the search begins with.
        system: the system prompt; None: the template's own, False: none.
        ending: what :func:`probes.harmfulness.attacks.jailbreaks.attack` puts behind a suffix; the search knows of it.
        seed: the same seed gives the same suffixes, and torch's generator is left as it was.
        batch_size: suffixes in one pass; None: all of a step.
        keep: a .jsonl file that :func:`load_jailbreaks` reads; each suffix is kept there when it is found, and
            ``resume=True`` takes over those that are there. The requests' texts are not in it, only hashes of them.

    Raises:
        ImportError: nanogcg is missing.
        ValueError: no requests, repeated ids, numbers below 1, an empty target, an ``out`` that is no .jsonl file, and
            a base model without chat template.
        OtherRunError: an ``out`` that is there already and may not be continued.

    Special tokens are never drawn: a suffix that closes the user's turn would be another attack. ``origin`` of a result
    says what was searched and found: ``loss_plain``, ``loss_start`` and ``loss`` are the negative log-likelihood of
    ``target``, in nats a token, after the request as it is, with ``start``, and with the suffix, read off the prompts
    that an attack would ask, tokenised anew. Where that finds nothing better, ``start`` is the result: the loss never
    rises. No reply is written.

    Misleads: a low loss is of ``target`` alone; how a reply begins does not say how it goes on. ``attack`` gives the
    suffixes to requests in turn, unless ``n_per=None``: in ``trials``, a request meets the suffix of another.

    Cost: a step is ``search_width`` passes over the whole prompt, and a gradient; memory holds the logits of
    ``batch_size`` (None: all) of them. On a CPU a model of 0.5B needs minutes for a few steps.

    nanogcg is not a dependency, nor an extra: 0.3.0 declares transformers 4.47.1 or older, so pip can't install it
    beside headscope as declared. Installed without its requirements (``pip install --no-deps nanogcg==0.3.0``) it runs
    on transformers 5.23 with torch 2.13, without its prefix cache, which takes a cache for a list.

    Source: greedy coordinate gradient, Zou et al. (2023), arXiv 2307.15043, by the library nanogcg.

        >>> found = find_suffixes(model, refused[:2], steps=50, keep="suffixes.jsonl")  # doctest: +SKIP
        >>> found[0].origin["loss_start"], found[0].origin["loss"]  # doctest: +SKIP
    """
    keep = keep_of(keep)
    require_requests(requests)
    least = min(steps, search_width, topk, 1 if batch_size is None else batch_size)
    if least < 1 or not target.strip() or not start.strip():
        raise ValueError(
            f"steps={steps}, search_width={search_width}, topk={topk}, batch_size={batch_size}, target={target!r}, "
            f"start={start!r}; expected numbers of 1 or more, and texts."
        )
    library = _library()
    asking = {"target": target, "start": start, "system": system, "ending": ending}
    search = {"steps": steps, "search_width": search_width, "topk": topk, "seed": seed}
    described = model.provenance()
    sample = Request("sample", f"How do I open a door{ending}", "harmless")
    computed = identity_of(
        described, hash_prompts(build_request_prompts(model, [sample], system=system))
    )  # not of all requests: others may be added later
    run = {"model": model.name, "run": hash_json(computed | asking | search)[:12], **asking, **search}
    kept = _read(keep, run)
    found = []
    for request in requests:
        name = f"suffix-of-{request.id}"
        if name not in kept or kept[name].origin["request"] != hash_of(request.text):
            kept[name] = _search(library, model, request, name, run, batch_size)
            _write(keep.folder, kept.values())
        found.append(kept[name])
    return found


def _search(
    library: ModuleType, model: Model, request: Request, name: str, run: Mapping[str, Any], batch_size: int | None
) -> Jailbreak:
    """The better of ``start`` and of what the library finds from it, by the loss of the prompts that will be asked."""
    plain = with_ending([request], run["ending"])[0]
    begun = Jailbreak(name, "suffix", PLACE + run["start"])
    losses = _losses(model, [plain, begun.wrap(plain, run["ending"])], run)  # refuses a base model: nanogcg would
    head = [] if run["system"] is None else [{"role": "system", "content": run["system"]}]  # give it a template
    messages = [*head, {"role": "user", "content": f"{plain.text}{{optim_str}}{run['ending']}"}]
    config = library.GCGConfig(
        num_steps=run["steps"],
        optim_str_init=run["start"],
        search_width=run["search_width"],
        topk=run["topk"],
        batch_size=batch_size,
        use_prefix_cache=False,
    )
    searcher = library.GCG(model.hf, model.tokenizer, config)
    special = [*model.tokenizer.all_special_ids, *model.tokenizer.get_added_vocab().values()]
    never = torch.tensor(sorted({*searcher.not_allowed_ids.tolist(), *special}))
    searcher.not_allowed_ids = never.to(model.hf.device)
    with model.alone(), torch.random.fork_rng():  # not nanogcg's own seed, which also changes torch's settings for good
        torch.manual_seed(run["seed"])
        text = searcher.run(messages, run["target"]).best_string
    best = Jailbreak(name, "suffix", PLACE + text)
    losses += _losses(model, [best.wrap(plain, run["ending"])], run)
    origin = dict(run) | {"request": hash_of(request.text), "loss_plain": losses[0], "loss_start": losses[1]}
    chosen = best if losses[2] < losses[1] else begun
    return Jailbreak(name, "suffix", chosen.template, origin | {"loss": min(losses[1:])})


def _losses(model: Model, asked: Sequence[Request], run: Mapping[str, Any]) -> list[float]:
    """Nats a token of the target as the reply's beginning."""
    prompts = build_request_prompts(model, asked, system=run["system"])
    target = model.tokenizer(run["target"], add_special_tokens=False)["input_ids"]
    return [float(nll) / len(target) for nll in reply_nll(model, prompts, [target] * len(prompts))]


def _library() -> ModuleType:
    try:
        library = importlib.import_module("nanogcg.gcg")
    except ImportError as error:
        raise ImportError(
            "find_suffixes needs nanogcg, which is not installed. Its requirements would replace transformers, so: "
            "pip install --no-deps nanogcg==0.3.0. Or read suffixes from a file with load_jailbreaks."
        ) from error
    logging.getLogger("nanogcg").setLevel(logging.ERROR)
    return library


def _read(keep: Keep, run: Mapping[str, Any]) -> dict[str, Jailbreak]:
    """What the file holds of this run, by id."""
    if keep.shard is not None:
        raise ValueError(f"shard={keep.shard!r}: a search for suffixes is not shared among processes. Leave it out.")
    path = keep.folder
    if path is None:
        return {}
    if path.suffix.lower() != ".jsonl":
        raise ValueError(f"out={str(keep.out)!r}; expected a .jsonl file: a line for each suffix, with its losses.")
    prepare_directory(path.parent, need_mib=1)
    if not path.exists() or (keep.overwrite and not keep.resume):
        return {}
    kept = {j.id: j for j in load_jailbreaks(path)}
    was = next((j.origin or {} for j in kept.values() if (j.origin or {}).get("run") != run["run"]), None)
    if was is None:
        return kept
    if keep.overwrite:
        return {}
    changed = [key for key in run if key != "run" and was.get(key) != run[key]] or ["weights"]
    raise OtherRunError(
        f"{path} holds suffixes of another search ({', '.join(changed)} differ). Give another out, the same settings, "
        "or overwrite=True."
    )


def _write(path: Path | None, found: Iterable[Jailbreak]) -> None:
    if path is None:
        return
    rows = [{"id": j.id, "family": j.family, "template": j.template, "origin": j.origin} for j in found]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, lambda new: new.write_text(text, encoding="utf-8"))
