"""What each option is called, and its help: once for all commands. Types and defaults are those of what it is for.

One name for one thing: a parameter that means the same has the same option in every command. What is not named here is
no option.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from probes.cli.declaring import Option

FILES = "'builtin', a .jsonl, .json, .csv, .tsv or .parquet file, or - for standard input"

VOCABULARY: dict[str, Option] = {
    # where the work is kept: the fields of Keep
    "out": Option("Folder for the report.", kind=Path),
    "resume": Option("Read a finished report of the same run back. (A killed run goes on anyway.)"),
    "overwrite": Option("Replace the report of another run in --out."),
    "shard": Option(
        "Do one part of N of the work, such as 2/8, in --out/shards, beside other processes; then `interp merge`.",
        metavar="I/N",
    ),
    "engine": Option(
        "Let workers do the batches: several processes, here or on a cluster, each with the model.",
        kind=Literal["ray"] | None,
    ),
    "workers": Option("Workers of --engine.", least=1, shown="2", metavar="N"),
    "address": Option("A Ray cluster for --engine, or auto for this machine's.", shown="workers are started here"),
    "per_worker": Option(
        "What a worker of --engine gets: cpus=1, gpus=0, memory=N (GB); may be repeated.",
        metavar="KEY=N",
        shown="1 CPU, and memory for the model",
    ),
    "include_replies": Option("Show the texts of requests and replies, which are withheld otherwise."),
    # the model
    "model": Option("Built-in name, hub id, directory or .gguf file (see `interp models`)."),
    "dtype": Option("float32, bfloat16, float16, or auto (the checkpoint's)."),
    "device": Option("cpu, cuda, cuda:1 ...; default: CUDA where there is one."),
    "template": Option(
        "Tell the chat template something, such as enable_thinking=false; may be repeated. The value is JSON "
        "(true, false, a number, a list), else a text.",
        metavar="KEY=VALUE",
    ),
    "no_chat": Option("Ask without a chat template: for base models. The prompt is the text as it is."),
    "system": Option("A system prompt.", shown="the template's own, if it writes one; it is said and recorded"),
    "no_system": Option("Leave out the system prompt that the template writes of its own accord."),
    # the data
    "data": Option(f"{FILES}."),
    "format": Option("The shape of the file, where its columns do not tell it.", metavar="NAME"),
    "column": Option(
        "The file's name for one of our columns, such as question=prompt; may be repeated.", metavar="OURS=THEIRS"
    ),
    "limit": Option("Use at most N of each set, sampled by --seed.", least=2, metavar="N"),
    "seed": Option("Seed of samples, splits and random draws."),
    "harmful": Option(f"Harmful requests: {FILES}; may be repeated.", shown="builtin"),
    "harmless": Option(f"Harmless requests: {FILES}; may be repeated.", shown="builtin"),
    "test_harmful": Option(
        "Harmful requests to test on, from another file; may be repeated.", shown="half of --harmful is kept back"
    ),
    "test_harmless": Option(
        "Harmless requests to test on, from another file; may be repeated.", shown="half of --harmless is kept back"
    ),
    "endings": Option("End all requests with a full stop, or leave them as they come.", shown="alike"),
    "by": Option(
        "Fit on whole pairs of a harmful and a harmless request, where there are some; on harmful, refused against "
        "harmless, accepted requests; or on harmful against harmless ones, whatever the model does.",
        shown="pairs",
    ),
    "directions": Option(
        "Folder of a finished `interp directions harmfulness`: go on with its requests, replies and directions.",
        metavar="DIR",
    ),
    "images": Option("Folder of a benchmark's images."),
    "annotations": Option("VQAv2's answers, if they are not beside the questions."),
    "missing": Option("Questions whose image is missing: refuse all, or leave them out."),
    "level": Option("Only this level of questions (of edits); may be repeated.", shown="all"),
    "decisions": Option("What the sheet's “Save decisions” saved: use only the pairs that were accepted."),
    "max_leak": Option(
        "Drop (and list) pairs of which a larger share of the changed pixels is outside the mask; 1 keeps all.",
        least=0,
        most=1,
    ),
    "kind": Option("Of questions; default: both in turn."),
    "difficulty": Option("easy, medium, hard, or a number from 0 to 1."),
    "split": Option("Whose combinations of shape, colour and material."),
    # how it is asked
    "instruction": Option("The instruction, or a sentence after each visual question."),
    "forms": Option(
        "Answer words as they follow the prompt, or also with a space.", kind=Literal["in_context", "both"]
    ),
    "cases": Option("Whether 'Yes' counts as 'yes' too."),
    "max_new_tokens": Option("Length of a reply, in tokens.", least=1),
    "query_span": Option("Query tokens that NAS sums over."),
    # what is done to heads, and to states
    "ablation": Option("What a head's output is replaced by."),
    "screen": Option(
        "First measure all heads roughly, by a gradient or by scans in bfloat16; then exactly those that reach the "
        "first --top.",
        shown="all heads exactly",
    ),
    "top": Option("With --screen: of how many first heads the order is to be exact.", least=1),
    "positions": Option("Which tokens are edited: the last one (answer), the text after a picture, or all."),
    "k": Option("Heads in a set.", least=1),
    "ks": Option("Heads in a set; may be repeated.", flag="--k", least=1),
    "sets": Option(
        "Weigh the first N heads as a set: needed, enough, beside random ones; the curve of the first k; 0: not.",
        least=0,
        metavar="N",
    ),
    "n_random": Option("Random draws (of heads, of directions) to compare with.", flag="--random-draws", least=0),
    "n_shuffled": Option("Directions of shuffled labels to compare with.", flag="--shuffled-draws", least=0),
    "ranking": Option("Folder of a saved ranking: `interp rank ...`.", metavar="DIR"),
    "layer": Option("At the input of this layer.", least=0),
    "coefficients": Option("Try this multiple of the difference of means; may be repeated.", flag="--coefficient"),
    "coefficient": Option("The multiple of the difference of means that is added."),
    "while_generating": Option("Steer each new token too, not the prompt alone."),
    "scores": Option("Wanted scores; may be repeated.", flag="--score"),
    # training and searches
    "steps": Option("Most steps of a search, or of the training of each head.", least=1),
    "rounds": Option("Most rounds of a search head by head.", least=1),
    "learning_rate": Option("Learning rate; of NASA in units of a head's query rows' RMS."),
    "epochs": Option("Passes over the pairs.", least=1),
    "rank": Option("Rank of LoRA.", least=1),
    "export": Option("Write the corrected model there, for plain transformers.", metavar="DIR"),
    # the machine
    "batch_size": Option("Prompts in a batch; a killed run loses at most one batch.", least=1),
    "memory_mib": Option("MiB that a chunk of edits may take, beside the model.", flag="--memory", least=16),
    "as_json": Option("Print JSON, for scripts.", flag="--json"),
}


def panel_of(kind: type) -> str | None:
    """The heading in a command's help under which the options of a dataclass stand."""
    return getattr(kind, "panel", "Report" if kind.__name__ == "Keep" else None)
