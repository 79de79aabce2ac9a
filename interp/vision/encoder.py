"""The vision tower and projector of a vision-language model, run once for each picture."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from interp.architecture import alone, forward_replaced, input_device
from interp.vision.picture import PromptImage


@dataclass
class Features:
    """The image encoder's output, as transformers' models read it; ``pooler_output`` goes to the image positions."""

    pooler_output: Any
    deepstack_features: Any = None
    qformer_outputs: Any = None
    vision_outputs: Any = None

    @property
    def parts(self) -> list[Tensor]:
        """The vectors for image positions, in one tensor or in one for each picture."""
        return [self.pooler_output] if isinstance(self.pooler_output, Tensor) else [*self.pooler_output]

    @property
    def n_positions(self) -> int:
        return sum(part.numel() // part.shape[-1] for part in self.parts)


class ImageEncoder:
    """The vision tower and projector of a model, with a bounded memory of what they gave for which picture.

    What is kept counts only as long as none of their weights has changed, nor which hooks are on them. (Weights written
    through ``.data`` are not noticed: call ``forget``.)
    """

    def __init__(self, hf: nn.Module, language_modules: Sequence[nn.Module], most_mib: float = 256.0) -> None:
        self._hf = hf
        self._language = {id(module) for part in language_modules for module in part.modules()}
        self._most_bytes = int(most_mib * 2**20)
        arguments = list(inspect.signature(type(hf).forward).parameters.values())[1:]
        # arguments that a forward can't be called without, also beside encoded pictures (the BLIP family)
        needed = [a.name for a in arguments if a.default is a.empty and a.kind is a.POSITIONAL_OR_KEYWORD]
        self.required = tuple(name for name in needed if name != "input_ids")
        self._kept: OrderedDict[tuple, tuple[Any, int]] = OrderedDict()

    def forget(self) -> None:
        """Drop all that is kept."""
        with alone(self._hf):
            self._kept.clear()

    def features(self, image: PromptImage) -> Features:
        """What the tower and the projector (and a Q-Former) make of a picture, without gradients."""

        def encode() -> Features:
            base = self._hf.base_model
            with torch.no_grad(), self._tower_kept(base, image):
                return _own(base.get_image_features(**self._encoder_inputs(image), return_dict=True))

        with alone(self._hf):  # also what is kept is one thread's at a time
            return self._keep(("features", image.key), encode)

    def none(self) -> Features:
        """The features of no picture, for models that always want some."""
        weight = next(self._hf.parameters())
        width = self._hf.config.get_text_config().hidden_size
        return Features(torch.zeros(0, width, dtype=weight.dtype, device=input_device(self._hf)))

    def _encoder_inputs(self, image: PromptImage) -> dict[str, Tensor]:
        base = self._hf.base_model
        names = inspect.signature(base.get_image_features).parameters
        inside = (m for m in self._modules() if m is not self._hf and m is not base)  # query tokens may stay in float32
        weight = next(p for m in inside for p in m.parameters(recurse=False) if p.is_floating_point())
        inputs = {}
        for name, value in image.inputs.items():
            if name in names:
                value = value.to(weight.device) if weight.device.type != "meta" else value
                inputs[name] = value.to(weight.dtype) if value.is_floating_point() else value
        return inputs

    @contextmanager
    def _tower_kept(self, base: nn.Module, image: PromptImage) -> Iterator[None]:
        """While active, the tower of a model whose features depend on the question too runs once for each picture."""
        tower = getattr(base, "vision_model", None)
        if tower is None or not any("qformer" in name for name in image.inputs):
            yield
            return

        def forward(original: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
            return self._keep(("tower", image.pixels_key), lambda: original(*args, **kwargs))

        with forward_replaced(tower, forward):
            yield

    def _modules(self) -> Iterator[nn.Module]:
        yield from (module for module in self._hf.modules() if id(module) not in self._language)

    def _keep(self, key: tuple, make: Callable[[], Any]) -> Any:
        now = (*key, self._state())
        if now in self._kept:
            self._kept.move_to_end(now)
            return self._kept[now][0]
        made = make()
        self._kept[*key, self._state()] = (made, _n_bytes(made))  # transformers puts hooks of its own in a first pass
        while sum(n for _, n in self._kept.values()) > self._most_bytes and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return made

    def _state(self) -> int:
        """Another number whenever a weight or a hook of the encoder's is another."""
        state: list[Any] = []
        for module in self._modules():
            if module is not self._hf and module is not self._hf.base_model:
                state += [*module._forward_hooks, *module._forward_pre_hooks]  # numbers that no other hook gets
            state += [(p.data_ptr(), p._version) for p in module.parameters(recurse=False)]
        return hash(tuple(state))


def image_encoder(hf: nn.Module, bridge: Any) -> ImageEncoder | None:
    """The encoder of a vision-language model, whose language model is found by the bridge's adapter; None for others.

    Raises ``ValueError`` where transformers can't be given encoded pictures for this architecture."""
    if getattr(hf.config, "vision_config", None) is None or not hasattr(hf.base_model, "get_image_features"):
        return None
    if "mm_encoder_outputs" not in inspect.signature(type(hf).forward).parameters:
        raise ValueError(
            f"{type(hf).__name__}: this transformers ({transformers.__version__}) takes no encoded pictures for it "
            "(mm_encoder_outputs). Expected transformers 5.23 or later, or another vision-language model."
        )
    mapping = bridge.adapter.component_mapping
    inner = mapping["blocks"].name.rpartition(".")[0]
    return ImageEncoder(hf, [hf.get_submodule(inner), hf.get_submodule(mapping["unembed"].name)])


def _own(output: Any) -> Features:
    return Features(output.pooler_output, getattr(output, "deepstack_features", None))


def _n_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_n_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_n_bytes, value))
    return sum(map(_n_bytes, vars(value).values())) if isinstance(value, Features) else 0
