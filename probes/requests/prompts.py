"""Requests as chat prompts, and the token positions that harmfulness and refusal are read at.

``t_inst`` is the last token of the request, ``t_post`` the last token of the prompt, after what the chat template puts
behind every request (arXiv 2507.11878). All positions come from the real template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp.models import Model
from interp.prompts import Prompt, System
from probes.requests.requests import Request


def build_request_prompts(
    model: Model,
    requests: Sequence[Request],
    *,
    system: System = None,
    post_instruction: bool = True,
    template_arguments: Mapping[str, Any] | None = None,
) -> list[Prompt]:
    """Each request as the only user message, ready for the reply; ids are the requests'.

    ``post_instruction=False`` ends each prompt at ``t_inst``: the condition "without post-instruction tokens", in which
    models accept more. ``template_arguments`` are added to the model's own (:meth:`Model.asking`). No pass.

    Raises:
        ValueError: a base model without a chat template, one that is asked without it (``chat=False``), and what
            :meth:`Model.prompt` refuses.
    """
    if absent := [r.id for r in requests if r.is_withheld]:
        raise ValueError(
            f"the texts of {len(absent)} requests ({absent[0]!r}, ...) were withheld when the result that they come "
            "from was saved. Load the data again, or save with Keep(include_replies=True)."
        )
    if not model.chat:
        raise ValueError(
            f"{model.name} is asked without a chat template (chat=False), and this study needs one: t_post "
            "is the last of the tokens that a template puts behind every request, and a refusal is a reply. Use an "
            "instruction-tuned model with its template."
        )
    if model.tokenizer is not None and not (model.chat_template or getattr(model.tokenizer, "chat_template", None)):
        raise ValueError(
            f"{model.name}'s tokenizer has no chat template (a base model?), and this study needs one: t_post is the "
            "last of the tokens that a template puts behind every request. Use an instruct version, or set "
            "tokenizer.chat_template."
        )
    prompts = [
        replace(
            model.prompt(r.text, system=system, id=r.id, chat=True, template_arguments=template_arguments),
            may_harm=True,
        )
        for r in requests
    ]
    return prompts if post_instruction else [until_instruction_end(p) for p in prompts]


def until_instruction_end(prompt: Prompt) -> Prompt:
    """The prompt without what the template puts after the request."""
    end = prompt.instruction_end + 1
    spans = {name: tuple(p for p in span if p < end) for name, span in prompt.spans.items()}
    tokens, read = prompt.tokens[:end], 0
    for token in tokens:  # which may leave out the spaces between them, or give a character of several tokens twice
        at = prompt.text.find(token, read)
        read = at + len(token) if at >= 0 and not prompt.text[read:at].strip() else read
    text = prompt.text[:read]
    return replace(prompt, token_ids=prompt.token_ids[:end], tokens=tokens, text=text, spans=spans, lead=None)


@dataclass(frozen=True)
class Positions:
    """The same positions in every prompt, from ``t_inst`` to ``t_post``. ``tokens``: the text at each; the first, which
    differs between prompts, is "t_inst". ``of_prompt[i]``: token positions in prompt i."""

    tokens: tuple[str, ...]
    of_prompt: tuple[tuple[int, ...], ...]

    @property
    def t_inst(self) -> list[list[int]]:
        """For captures: one position for each prompt."""
        return [[p[0]] for p in self.of_prompt]

    @property
    def t_post(self) -> list[list[int]]:
        return [[p[-1]] for p in self.of_prompt]

    @property
    def both(self) -> list[list[int]]:
        """t_inst and t_post."""
        return [[p[0], p[-1]] for p in self.of_prompt]

    @property
    def labels(self) -> list[str]:
        """One name for each position, for tables: its number after t_inst, and the token."""
        last = len(self.tokens) - 1
        names = ["t_inst", *(f"+{i} {token!r}" for i, token in enumerate(self.tokens[1:], start=1))]
        return names if not last else [*names[:-1], f"t_post {self.tokens[-1]!r}"]


def positions_of(prompts: Sequence[Prompt]) -> Positions:
    """Every position from the last token of the request to the last of the prompt.

    Raises:
        ValueError: no prompts, and different tokens after different requests: there is then no common position.
    """
    if not prompts:
        raise ValueError("no prompts were given; give at least one.")
    tails = [prompt.token_ids[prompt.instruction_end + 1 :] for prompt in prompts]
    if len(set(tails)) != 1:
        common, n = Counter(tails).most_common(1)[0]
        odd = [p.id for p, tail in zip(prompts, tails, strict=True) if tail != common]
        raise ValueError(
            f"{len(prompts)} prompts end in {len(set(tails))} different ways after the request ({', '.join(odd[:5])} "
            f"differ from the other {n}); expected the same template tokens after each. Use one template and system "
            "prompt for all, and end the requests alike (with_ending): their last tokens may merge with the template."
        )
    tokens = ("t_inst", *prompts[0].tokens[prompts[0].instruction_end + 1 :])
    return Positions(tokens, tuple(tuple(range(p.instruction_end, len(p))) for p in prompts))


def same_ending(prompts: Sequence[Prompt]) -> list[bool]:
    """Which prompts have, at t_inst, the token that most of them have there.

    A request that ends with the same character as the others can still end in another token (``).`` or ``".``).
    """
    ends = [prompt.token_ids[prompt.instruction_end] for prompt in prompts]
    common = Counter(ends).most_common(1)[0][0]
    return [end == common for end in ends]
