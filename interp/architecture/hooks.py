"""The one way to attach anything to a model, in which nothing can be silently left out.

A :class:`Hook` counts its calls. While hooks are attached, the end of every pass, whoever runs it, holds each count
against what it must be: a pass in which one was not called raises :class:`HookNotCalled` instead of returning numbers.
That happens where a layer is computed without calling its module: compiled or fused code, a parent that uses its
child's weight, a module with a ``__call__`` of its own, another module in its place.

Hooks act for the thread that attached them (:mod:`interp.architecture.turns`), and compiled code is left aside while
they are there (:mod:`interp.architecture.compiled`).
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from interp.architecture.compiled import python_only
from interp.architecture.components import Components
from interp.architecture.turns import alone, turn_of

Runs = Literal["decoder", "model", "above", "freely"]
"""When a hook must be called: once in each pass of the ``decoder`` (the module that holds all blocks), once in each
pass of the whole ``model``, once in the passes of a module ``above`` the decoder for each of the decoder's, or
``freely``."""


class Hooked(Protocol):
    """What hooks are attached to: a loaded model, of which they know the modules alone."""

    @property
    def name(self) -> str: ...

    @property
    def hf(self) -> nn.Module: ...

    @property
    def bridge(self) -> Any: ...

    @property
    def components(self) -> Components: ...


class HookNotCalled(RuntimeError):
    """Something attached to the model was not called as often as it must be: the numbers would be wrong."""


class Hook:
    """Something that is called as a module runs, and counts how often.

    act: gets (args, kwargs) before the module runs (``at="input"``) and returns them changed, or None; or
    (args, kwargs, output) after it, and returns the output changed, or None; or (original, args, kwargs) in place of
    the module's forward, and returns the output.
    counts: whether it counts rows or positions as those of one plain pass over whole prompts, so that passes that share
    a prefix would mislead it. finds_rows: it knows its rows by their tokens, so that a batch may be cut up.
    """

    def __init__(
        self,
        module: nn.Module,
        act: Callable[..., Any],
        at: Literal["input", "output", "forward"],
        runs: Runs = "decoder",
        counts: bool = False,
        finds_rows: bool = False,
    ) -> None:
        self.module, self.act, self.at, self.runs, self.counts = module, act, at, runs, counts
        self.finds_rows, self.is_off = finds_rows, False
        self.calls = 0
        self.seen = 0  # calls up to the beginning of the pass; above the decoder, up to its last pass's end
        self._session: _Session | None = None

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        if self.is_off or not _acts(self._session):
            return None
        self.calls += 1
        return self.act(*given)

    def attach(self, session: _Session) -> None:
        self._session, self.seen = session, self.calls
        if self.at == "input":
            self._remove = self.module.register_forward_pre_hook(self, with_kwargs=True).remove
        elif self.at == "output":
            self._remove = self.module.register_forward_hook(self, with_kwargs=True).remove
        else:
            self._replace()

    def detach(self) -> None:
        self._session = None
        self._remove()

    def missed(self) -> str | None:
        """What to say if it was not called once since ``seen``."""
        if (n := self.calls - self.seen) == 1:
            return None
        what = "the forward put in place of" if self.at == "forward" else f"what reads or edits the {self.at} of"
        return f"{what} {_name(self._session.hf, self.module)} was called {n} times in a pass; expected once"

    def _replace(self) -> None:
        module, own, original = self.module, vars(self.module).get("forward"), self.module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.is_off or not _acts(self._session):
                return original(*args, **kwargs)
            self.calls += 1
            return self.act(original, args, kwargs)

        def restore() -> None:
            if own is None:
                del module.forward
            else:
                module.forward = own

        module.forward, self._remove = forward, restore


def input_of(
    module: nn.Module, rewrite: Callable[[Tensor], Tensor | None], runs: Runs = "decoder", counts: bool = False
) -> Hook:
    """A hook by which the module's first input (``hidden_states``) goes through ``rewrite``; None leaves it."""

    def act(args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if args:
            new = rewrite(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = rewrite(kwargs["hidden_states"])
        return None if new is None else (args, kwargs | {"hidden_states": new})

    return Hook(module, act, "input", runs, counts)


def output_of(
    module: nn.Module, rewrite: Callable[[Tensor], Tensor | None], runs: Runs = "decoder", counts: bool = False
) -> Hook:
    """A hook by which the module's output (the first, of several) goes through ``rewrite``; None leaves it."""

    def act(args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if not isinstance(output, tuple | list):  # GPT-1's blocks give a list
            return rewrite(output)
        new = rewrite(output[0])
        return None if new is None else type(output)((new, *output[1:]))

    return Hook(module, act, "output", runs, counts)


class AttentionCalls:
    """Counts which layers came through the attention interface (:mod:`interp.architecture.attention`), each once in a
    pass."""

    runs: Runs = "decoder"
    counts = is_off = False

    def __init__(self, n_layers: int) -> None:
        self.calls, self.seen, self.of_layer = 0, 0, [0] * n_layers
        self._session: _Session | None = None

    def note(self, layer: int) -> None:
        self.calls += 1
        if 0 <= layer < len(self.of_layer):
            self.of_layer[layer] += 1

    def attach(self, session: _Session) -> None:
        self._session = session

    def detach(self) -> None:
        self._session = None

    def missed(self) -> str | None:
        wrong = [layer for layer, n in enumerate(self.of_layer) if n != 1]
        if wrong:
            left_out, blocks = self._session.left_out(), self._session.model.components.blocks
            wrong = [layer for layer in wrong if id(blocks[layer].attention) not in left_out]
        if not wrong:
            return None
        return (
            f"the attention of layer {wrong[0]} came through transformers' attention interface "
            f"{self.of_layer[wrong[0]]} times in a pass; expected once ({len(wrong)} layers did not come once)"
        )


@contextmanager
def forward_replaced(module: nn.Module, act: Callable[..., Any]) -> Iterator[None]:
    """While active, a module outside of the passes (a vision tower) computes ``act`` (as in :class:`Hook`), in this
    thread. Nothing holds it to be called: for what only saves time."""
    hook = Hook(module, act, "forward", "freely")
    hook.attach(SimpleNamespace(thread=threading.get_ident()))
    try:
        yield
    finally:
        hook.detach()


@contextmanager
def attached(model: Hooked, hooks: Sequence[Hook | AttentionCalls]) -> Iterator[None]:
    """While active, the hooks are on their modules, for passes of this thread; they are gone after it, also after an
    exception. The model's turn is held meanwhile: other threads wait (:class:`interp.architecture.turns.alone`).

    Hooks of one place act in the order in which they came. A pass in which one is not called raises
    :class:`HookNotCalled`."""
    if not hooks:
        yield
        return
    with alone(model.hf) as turn:
        session = turn.session
        if session is None:
            session = turn.session = _Session(model)
        added: list[Hook | AttentionCalls] = []
        try:
            for hook in hooks:
                session.add(hook)
                added.append(hook)
            yield
        finally:
            for hook in reversed(added):
                session.remove(hook)
            if not session.hooks:
                turn.session = None
                session.close()


def run_pass(model: Hooked, inputs: dict[str, Any], of: nn.Module | None = None) -> Any:
    """One forward pass of the transformers model, or of a part of it that holds all blocks, in the model's turn, in
    which everything that is attached was called: what it gives.

    Raises :class:`HookNotCalled`."""
    with alone(model.hf) as turn:
        module = model.hf if of is None else of
        if turn.session is None:
            return module(**inputs)
        return turn.session.run(module, inputs)


@contextmanager
def acts_on_passes(model: Hooked) -> Iterator[None]:
    """Around what runs passes of its own while hooks are attached, a user's block: what was seen there must be whole.

    Raises :class:`HookNotCalled` at the end if the hooks were called differently often though no pass was seen, or if
    passes ran in other threads and none in this one; warns if there was none at all."""
    session = turn_of(model.hf).session
    if session is None:
        yield
        return
    before = {hook: hook.calls for hook in session.hooks if hook.runs == "decoder"}
    n_passes, session.n_foreign = session.n_passes, 0
    yield
    if session.n_passes > n_passes:
        return
    calls = {hook: hook.calls - n for hook, n in before.items()}
    if len(set(calls.values())) > 1:
        least = min(calls, key=calls.get)
        where = _name(model.hf, least.module) if isinstance(least, Hook) else "the attention"
        raise HookNotCalled(_sentence(f"{where} was called {calls[least]} times in this block, others of it were more"))
    if session.n_foreign:
        raise HookNotCalled(
            "the model ran in other threads while this block was open, and not in the one that opened it. An edit acts "
            "on its own thread alone, so those passes were not edited: open the block in each thread that runs the "
            "model."
        )
    if not any(calls.values()):
        warnings.warn(
            "no pass of the model ran inside this block, so the edit acted on nothing. It acts on model.hf and on "
            "everything of this package; not on model.bridge, nor on a traced or copied model.",
            stacklevel=5,  # the user's block
        )


def counting(hf: nn.Module) -> list[Hook]:
    """What this thread has attached that counts rows or positions as those of one plain pass over whole prompts."""
    turn = turn_of(hf)
    attached_here = turn.session.hooks if turn.is_mine and turn.session is not None else []
    return [hook for hook in attached_here if hook.counts and not hook.is_off]


@contextmanager
def undisturbed(hf: nn.Module) -> Iterator[None]:
    """While active, edits that count rows or positions are off, for a pass over other rows than theirs. Edits that act
    alike on every row stay on."""
    with switched_off(counting(hf)):
        yield


@contextmanager
def switched_off(hooks: Sequence[Hook]) -> Iterator[None]:
    """While active, these hooks are attached and do nothing."""
    for hook in hooks:
        hook.is_off = True
    try:
        yield
    finally:
        for hook in hooks:
            hook.is_off = False


class _Session:
    """What is attached to a model at one time, and the watch over its passes."""

    def __init__(self, model: Hooked) -> None:
        self.model, self.hf, self.thread = model, model.hf, threading.get_ident()
        self.hooks: list[Hook | AttentionCalls] = []
        self.n_passes = self.n_runs = self.n_foreign = 0  # of the decoder, of the model, of other threads
        self._in_model = 0  # passes of the decoder, up to the beginning of the model's
        self._run_seen: dict[Any, int] = {}
        python_only.enter()
        decoder, hf = decoder_of(model), model.hf
        self._handles = [
            hf.register_forward_pre_hook(self._model_begins, prepend=True),
            hf.register_forward_hook(self._model_ends),
            decoder.register_forward_pre_hook(self._decoder_begins, prepend=True),
            decoder.register_forward_hook(self._decoder_ends),
        ]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        python_only.leave()

    def add(self, hook: Hook | AttentionCalls) -> None:
        hook.attach(self)
        self.hooks.append(hook)

    def remove(self, hook: Hook | AttentionCalls) -> None:
        hook.detach()
        self.hooks.remove(hook)

    def run(self, module: nn.Module, inputs: dict[str, Any]) -> Any:
        runs, passes = self.n_runs, self.n_passes
        marks = [(hook, hook.calls) for hook in self.hooks]
        self._begin_attention()
        output = module(**inputs)
        if self.n_passes == passes or (module is self.hf and self.n_runs == runs):
            # the module's own __call__ was gone round, so its end was not seen: the counts themselves must tell
            for hook, before in marks:
                if hook.runs == "decoder" or (hook.runs != "freely" and module is self.hf):
                    hook.seen = before
                    self._require(hook)
        return output

    def left_out(self) -> set[int]:
        """Modules (by id) within one whose forward is replaced: they do not run."""
        replaced = [h.module for h in self.hooks if isinstance(h, Hook) and h.at == "forward"]
        return {id(inner) for module in replaced for inner in module.modules() if inner is not module}

    def _model_begins(self, module: nn.Module, args: tuple) -> None:
        if _acts(self):
            self._in_model = self.n_passes
            self._run_seen = {hook: hook.calls for hook in self.hooks}
            self._begin_attention()

    def _model_ends(self, module: nn.Module, args: tuple, output: Any) -> None:
        if not _acts(self):
            return
        self.n_runs += 1
        unseen = self.n_passes == self._in_model
        for hook in self.hooks:
            if hook.runs == "model" or (unseen and hook.runs == "decoder"):
                hook.seen = self._run_seen.get(hook, hook.seen)
                self._require(hook)

    def _decoder_begins(self, module: nn.Module, args: tuple) -> None:
        if not _acts(self):
            self.n_foreign += 1
            return
        for hook in self.hooks:
            if hook.runs == "decoder":
                hook.seen = hook.calls
        self._begin_attention()

    def _decoder_ends(self, module: nn.Module, args: tuple, output: Any) -> None:
        if not _acts(self):
            return
        self.n_passes += 1
        for hook in self.hooks:
            if hook.runs == "decoder":
                if hook.calls - hook.seen != 1:
                    self._require(hook)
            elif hook.runs == "above":
                self._require(hook)
                hook.seen = hook.calls

    def _begin_attention(self) -> None:
        for hook in self.hooks:
            if isinstance(hook, AttentionCalls):
                hook.of_layer = [0] * len(hook.of_layer)

    def _require(self, hook: Hook | AttentionCalls) -> None:
        if hook.is_off or (wrong := hook.missed()) is None:
            return
        if isinstance(hook, Hook) and id(hook.module) in self.left_out():
            return
        raise HookNotCalled(_sentence(wrong))


def _acts(session: _Session | None) -> bool:
    """Whether this is a pass of the thread whose hooks they are. A backward pass may recompute in its own thread."""
    if session is None:
        return False
    return threading.get_ident() == session.thread or torch._C._current_graph_task_id() != -1


def decoder_of(model: Hooked) -> nn.Module:
    """The smallest module that holds all blocks and runs (a list of modules never does)."""
    turn, hf = turn_of(model.hf), model.hf
    if turn.decoder_path is None:
        blocks = {id(block.module) for block in model.components.blocks}
        names = [name.split(".") for name, module in hf.named_modules() if id(module) in blocks]
        if not names:
            raise HookNotCalled(_sentence(f"none of the blocks that {model.name} was loaded with is in it any more"))
        levels = zip(*(name[:-1] for name in names), strict=False)
        path = [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels)]
        while path and isinstance(hf.get_submodule(".".join(path)), nn.ModuleList | nn.ModuleDict):
            path = path[:-1]
        turn.decoder_path = ".".join(path)
    return hf.get_submodule(turn.decoder_path)


def _name(hf: nn.Module, module: nn.Module) -> str:
    found = next((name for name, inner in hf.named_modules() if inner is module), None)
    if found is None:
        return f"a {type(module).__name__} that is no longer in the model"
    return f"{found or 'the model'} ({type(module).__name__})"


def _sentence(wrong: str) -> str:
    return (
        f"{wrong}. What is attached there would not act, and the numbers would be wrong: a layer is computed without "
        "calling its module (compiled, traced or fused code, a __call__ of its own, another module in its place). "
        "Load the plain transformers model anew, before it is changed."
    )
