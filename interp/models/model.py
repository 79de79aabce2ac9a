"""One object around a language model: the plain transformers model, its TransformerLens bridge, its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.architecture import alone, weights_sha256
from interp.door import made_by, public
from interp.passes import Handle, describe_computation, in_order, logits_by_batch, whole_inputs
from interp.passes.looks_ahead import looks_ahead
from interp.prompts import Batch, Prompt, SpanLike, System, building as _prompts, told, writes_date
from interp.records import hash_text
from interp.vision import ImageLike


@made_by("interp.load(name)")
@dataclass(frozen=True, eq=False, repr=False)  # as a handle's: its own would print every module
class Model(Handle):
    """A causal language model, or a vision-language model, ready for scans.

    ``hf`` is the transformers model, as it was given: scans run on it, with transformers' fused attention.
    ``bridge`` is TransformerLens's ``TransformerBridge`` around a structural copy that *shares every weight* with
    ``hf``, so that hook names, ``run_with_cache`` and ``run_with_hooks`` work as always and ``hf`` stays unwrapped:
    wrapping changes a model in place. A change of a weight is seen by both, and an adapter that is switched, scaled,
    disabled or merged too: the bridge looks before every pass.

    Of a vision-language model, layers, heads and hook points are those of its *language* model; ``processor`` prepares
    its prompts with pictures.

    ``chat`` and ``template_arguments`` are how its prompts are written unless a prompt says otherwise
    (:meth:`asking`); every study that builds prompts follows them.

    ``name``: as it was loaded. ``tokenizer``: None where prompts are token ids alone. ``components``: which module is
    what (:mod:`interp.architecture.components`). ``source``: where the weights come from, for records.
    ``attention_refusal``: why attention can't be captured, "" where it can. ``encoder``: the vision tower's;
    ``renderings``: texts of templates that were rendered before (a cache).
    """

    def inputs(self, prompts: Sequence[Prompt]) -> Batch:
        """What ``hf``'s forward takes for whole prompts, padded on the left, their encoded pictures included."""
        return whole_inputs(self, prompts)

    def asking(self, *, chat: bool | None = None, template_arguments: Mapping[str, Any] | None = None) -> Model:
        """The same model, whose prompts are written otherwise: without a chat template (``chat=False``), or with other
        ``template_arguments``, which are added to those there are. It shares everything, weights and hooks included.

        Raises:
            ValueError: an argument that the template never reads.

        >>> quiet = model.asking(template_arguments={"enable_thinking": False})
        >>> base = model.asking(chat=False)
        """
        changed = replace(
            self,
            chat=self.chat if chat is None else bool(chat),
            template_arguments=told(self.template_arguments, template_arguments),
        )
        if template_arguments:
            if not changed.chat:
                raise ValueError(
                    f"template_arguments={dict(template_arguments)!r} were given with chat=False: no template reads "
                    "them. Leave out one of the two."
                )
            _prompts.template_of(changed)
        return changed

    def own_system(self) -> str:
        """The system prompt that the chat template writes if none is given, as text; "" for none."""
        if not self.chat or self.tokenizer is None or not self.chat_template:
            return ""
        try:
            return _prompts.template_of(self).own_system()
        except ValueError:  # a template that takes no user message as it is; a prompt says why
            return ""

    @public
    def prompt(
        self,
        text: str,
        *,
        spans: dict[str, SpanLike] | None = None,
        answers: tuple[str, ...] = (),
        gold: str | None = None,
        forms: str = "in_context",
        system: System = None,
        chat: bool | None = None,
        reply: str = "",
        id: str = "",
        image: ImageLike | None = None,
        text_only: bool = False,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Render, tokenise and locate: see :func:`interp.prompts.build_prompt`.

        Args:
            text: what the user says.
            spans: name -> range(s) of characters of ``text``, whose tokens are wanted.
            answers: words that may begin the reply. gold: the right one.
            forms: ``"in_context"`` or ``"both"``: with and without a leading space.
            system: None (the template's own), a text, or False for none.
            chat: False: without the chat template. None: as the model was loaded.
            reply: how the reply begins; the model goes on from there.
            id: a name for tables.
            image: a picture, for a model that sees. text_only: it gets none on purpose.
            template_arguments: what the template is told, over what the model was loaded with.

        >>> prompt = model.prompt("Is the ball red?", image="scene.png", answers=("No", "Yes"))
        >>> len(prompt.span("image")), prompt.image.grid
        """
        return _prompts.build_prompt(
            self,
            text,
            spans=spans,
            answers=answers,
            gold=gold,
            forms=forms,
            system=system,
            chat=chat,
            reply=reply,
            id=id,
            image=image,
            text_only=text_only,
            template_arguments=template_arguments,
        )

    @public
    def final_logits(self, prompts: list[Prompt], batch_size: int = 8) -> Float[Tensor, "example vocabulary"]:
        """Logits at each prompt's last position, float32, on the CPU. What the prompts of a batch share at their
        beginning is run once for all; questions about one picture are put into batches of their own, wherever they
        stand. The numbers are those of one prompt at a time (to 1e-4 in float32).

        ``prompts``: in any order. ``batch_size``: prompts in one pass; the numbers do not depend on it.

        Returns:
            [example, vocabulary], in the order of the prompts.

        Raises:
            NonFiniteLogitsError: NaN or infinite logits.

        Costs at most one forward pass for each batch.
        """
        if not prompts:
            raise ValueError("no prompts were given; give at least one.")
        self.require_fits(prompts)
        rows = []
        with torch.no_grad(), alone(self.hf):
            for places, logits in logits_by_batch(self, prompts, batch_size):
                self.require_finite(logits, [prompts[i] for i in places])
                rows.append((places, logits.float().cpu()))
        return in_order(rows)

    def may_share_prefix(self) -> bool:
        """Whether a batch of texts may run as two passes, as far as attention, causality and active edits go; lengths,
        and what is measured, decide batch by batch (:mod:`interp.passes.independence`)."""
        return not (self.attention_refusal or looks_ahead(self) or self.counts_rows_and_positions())

    def provenance(self) -> dict[str, Any]:
        """What a result needs to name this computation: source, weights' hash, template hash, geometry, dtype, and what
        acts beside the weights: adapters, edits, hooks, and a fingerprint of the logits
        (:func:`interp.passes.identity.describe_computation`).

        The hash reads every weight that a pass reads (about a second for each GB on a CPU; not again where nothing was
        changed), so an edit in memory changes it.
        """
        computation = describe_computation(self)  # first: see there
        return {
            "name": self.name,
            "source": self.source,
            "architecture": type(self.hf).__name__,
            "weights_sha256": weights_sha256(self.hf),
            "template_sha256": hash_text(self.chat_template) if self.chat_template else None,
            **self._writing(),
            **self._image_processing(),
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "n_kv_heads": self.n_kv_heads,
            "d_head": self.d_head,
            "d_model": self.d_model,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            **computation,
        }

    def _writing(self) -> dict[str, Any]:
        """How prompts are written: the template's arguments, its own system prompt, and whether it dates them."""
        if not self.chat or self.chat_template is None:
            return {"chat": bool(self.chat and self.chat_template), "template_arguments": {}}
        dated = writes_date(self.chat_template, self.template_arguments)
        found = {"chat": True, "template_arguments": dict(self.template_arguments), "system_prompt": self.own_system()}
        return found | ({"template_writes_todays_date": True} if dated else {})

    def _image_processing(self) -> dict[str, Any]:
        processor = getattr(self.processor, "image_processor", None)
        return {} if processor is None else {"image_processor_sha256": hash_text(processor.to_json_string())}
