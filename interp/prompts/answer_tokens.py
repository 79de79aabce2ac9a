"""Which tokens begin an answer: found on token ids, by putting the answer where the model would write it.

Two ways. The chat template says what stands between a prompt and a reply (nothing, a space, a line break), because it
is rendered with an answer as the assistant's message; the first token after the prompt's own ids is the answer's. Where
no template says it (a given reply, ``chat=False``, a template that writes a thought or another header there), the
answer follows the prompt's own end as text does: directly after a space, a line break, a mark of the template, an
opening bracket, and in scripts without spaces; else with a space before it.

Where the two disagree the prompt's ids decide: the model can only go on from them. So after a header that ends in a
space the word is taken without one, although the tokenizer would read space and word as one token; and where the
template writes a line break before the reply, which no header holds, the word after it is taken, with a warning, since
the model would write the line break first. A space that is a token alone, the same for every word, is no answer's.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

from interp.door import outside_package

_OPENING = set("([{<\u201c\u2018\u00ab\u201e\u00bf\u00a1")
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "FULLWIDTH", "IDEOGRAPHIC")


def resolve_answers(
    tokenizer: Any, prompt: Any, words: Sequence[str], forms: str = "in_context"
) -> dict[str, tuple[int, ...]]:
    """The token ids that begin each answer word right after ``prompt``; see the module for how they are found.

    Words of several tokens count by their first. ``forms="both"`` adds the forms with and without a space. A given
    reply stays as its tokens are, also where the word alone would have merged with its last space: the model can only
    go on from there. Raises ``ValueError`` for a word that the tokenizer does not know (its first token is the one for
    unknown words, which all such words share), and if two words share a token: their probabilities could not be told
    apart.
    """
    if forms not in ("in_context", "both"):
        raise ValueError(f"forms={forms!r}; expected 'in_context' or 'both'.")
    resolved: dict[str, tuple[int, ...]] = {}
    unknown = getattr(tokenizer, "unk_token_id", None)
    for word in words:
        if not word.strip():
            raise ValueError(f"answer words must not be blank; {word!r} was given among {list(words)}.")
        found = [_in_context(tokenizer, prompt, word.strip())]
        if forms == "both":
            found += [_after(tokenizer, prompt, lead + word.strip()) for lead in ("", " ")]
        usable = [t for t in found if t is not None]
        if not usable:
            ending = f"prompt {prompt.id!r}" if prompt.id else f"the prompt ending {prompt.text[-20:]!r}"
            raise ValueError(
                f"the answer {word!r} has no token of its own after {ending}: it "
                "merges with the prompt's last token or begins with a bare space. Try forms='both' or another word."
            )
        usable = [t for t in usable if t != unknown]
        if not usable:
            raise ValueError(
                f"the answer {word!r} is not in the tokenizer's vocabulary: its first token is {tokenizer.unk_token!r} "
                f"(id {unknown}), which stands for every unknown word. Expected a word that the model can say; use "
                "another."
            )
        resolved[word] = tuple(dict.fromkeys(usable))
    _require_apart(tokenizer, list(words), resolved)
    return resolved


def _require_apart(tokenizer: Any, words: Sequence[str], resolved: dict[str, tuple[int, ...]]) -> None:
    for i, first in enumerate(words):
        for second in words[i + 1 :]:
            if shared := set(resolved[first]) & set(resolved[second]):
                token = tokenizer.convert_ids_to_tokens(shared.pop())
                raise ValueError(
                    f"the answers {first!r} and {second!r} share their first token {token!r} and can't be told "
                    "apart. Use other option words."
                )


def _in_context(tokenizer: Any, prompt: Any, word: str) -> int | None:
    """The one token that begins the word after this very prompt."""
    if prompt.lead is not None and (token := _by_template(tokenizer, prompt, word)) is not None:
        return token
    lead = "" if follows_directly(tokenizer, prompt, word) else " "
    token = _after(tokenizer, prompt, lead + word)
    if token is None and lead and prompt.text[-1:].isdigit() and word[:1].isdigit():
        return _after(tokenizer, prompt, word)  # a number goes on, where digits have no token with a space
    if token is None and not lead and prompt.spans.get("suffix"):
        return _alone(tokenizer, word)
    return token


def _by_template(tokenizer: Any, prompt: Any, word: str) -> int | None:
    """The first token that holds some of the word, where the template puts it; None where the prompt's ids change."""
    own = len(prompt.token_ids)
    ids = _continued(tokenizer, prompt, prompt.lead + word)
    if ids is None:
        return None
    blank = next((i for i in range(own, len(ids)) if _says(tokenizer, ids[i])), len(ids))
    if blank == own:
        return ids[own]
    lead = _continued(tokenizer, prompt, prompt.lead)
    if blank == len(ids) or lead is None or tuple(ids[:blank]) != tuple(lead):
        return None  # a bare space of the word's own, which every such word shares
    warnings.warn(
        f"the chat template writes {prompt.lead!r} between its header and the reply, so the model will write that "
        f"first, not {word!r}. Begin the reply with it: reply={prompt.lead!r}.",
        stacklevel=outside_package(),
    )
    return ids[blank]


def follows_directly(tokenizer: Any, prompt: Any, word: str) -> bool:
    """Whether text after this prompt begins without a space."""
    last, first = prompt.text[-1:], word[:1]
    if not last or last.isspace() or last in _OPENING or _is_spaceless(last) or _is_spaceless(first):
        return True
    token = prompt.token_ids[-1]
    if token in (getattr(tokenizer, "all_special_ids", None) or ()):
        return True
    added = (getattr(tokenizer, "added_tokens_decoder", None) or {}).get(token)
    return added is not None and (bool(getattr(added, "special", False)) or str(added)[-1:] in set(">])}|"))


def _is_spaceless(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_SPACELESS) if character else False


def _after(tokenizer: Any, prompt: Any, continuation: str) -> int | None:
    """The token after the prompt's own if ``continuation`` follows; None if the boundary moves or it is only space."""
    own, ids = len(prompt.token_ids), _continued(tokenizer, prompt, continuation)
    return ids[own] if ids is not None and len(ids) > own and _says(tokenizer, ids[own]) else None


def _continued(tokenizer: Any, prompt: Any, continuation: str) -> Sequence[int] | None:
    """The ids of the prompt and what follows; None if that changes the prompt's own."""
    own = tuple(prompt.token_ids)
    ids = tuple(tokenizer(prompt.text + continuation, add_special_tokens=False)["input_ids"])
    if ids[: len(own)] != own:  # special tokens that the tokenizer added to the prompt (BOS)
        added = len(own) - len(tokenizer(prompt.text, add_special_tokens=False)["input_ids"])
        ids = own[: max(0, added)] + ids
    return ids if ids[: len(own)] == own else None


def _says(tokenizer: Any, token: int) -> bool:
    return bool(tokenizer.decode([token]).strip())


def _alone(tokenizer: Any, word: str) -> int | None:
    """The first token of a word without a space before it, whatever stands there: read off after a line break."""
    line = tokenizer("\n", add_special_tokens=False)["input_ids"]
    ids = tokenizer("\n" + word, add_special_tokens=False)["input_ids"]
    return ids[len(line)] if ids[: len(line)] == line and len(ids) > len(line) else None
