"""Commands killed, their part files damaged and swapped, a second process beside them: equal to an undisturbed run, or
refused.

    python -m tests.benchmarks.disturbed [COMMAND ...]

Prints one line for each command and disturbance, and exits with 1 if a result differs. Tiny random models and
questions made here; every run is a process of its own (forked, so that torch is imported once), which stops itself at a
part file. About five minutes on two cores.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.numpy import load_file

import interp
from interp.records import writing
from interp.records.parts import checksum
from probes.cli import app as cli
from probes.cli.options import ChatModel
from probes.negative_bias import nasa as alignment
from tests.interp.tiny_vision import tiny_vision
from tests.probes.cli.test_cli_harmfulness import refuse, write_requests
from tests.probes.cli.test_cli_negative_bias import write_questions
from tests.probes.modulation_tiny import asked_in_text, harm, llama
from tests.tiny import tiny, tiny_tokenizer

VOLATILE = {"created", "seconds", "sha256", "record_sha256", "edit_sha256", "latency", "Latency"}
MODULATE = ("--rule", "search", "--search", "coordinate", "--rounds", "1", "--random-draws", "2")
TRACE = ("--kind", "yes-no", "--no-only-right", "--pixels", "32", "--shown", "0", "--part", "mlp", "--every", "2")


class Setattr:
    """The one method of pytest's monkeypatch that the shared helpers use; a forked process needs no undoing."""

    def setattr(self, owner: Any, name: str, value: Any) -> None:
        setattr(owner, name, value)


def material(folder: Path) -> dict[str, tuple[list[object], int]]:
    """For each command its arguments, and after how many part files (fitted methods) it stops."""
    model = folder / "model"
    tiny("llama", vocab_size=400, max_position_embeddings=2048).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    questions = write_questions(folder / "questions.csv", 100)
    requests = {
        name: write_requests(folder / f"{name}.csv", verb)
        for name, verb in (("harmful", "Break"), ("harmless", "Paint"))
    }
    of_text = ["--model", model, "--device", "cpu"]
    planted = llama()  # with a head that hurts, which a modulation finds
    asked = asked_in_text(planted, 90, 0)
    harm(planted, 60)
    planted.hf.save_pretrained(folder / "planted")
    planted.tokenizer.save_pretrained(folder / "planted")
    rows = [f'{q.id},"{q.text}",{q.answer.lower()}' for q in asked]
    (folder / "planted.csv").write_text("\n".join(["id,question,answer", *rows]))
    of_planted = ["--model", folder / "planted", "--device", "cpu", "--data", folder / "planted.csv"]
    ranking = folder / "ranking"
    rank = ["rank", "negative-attention", *of_text, "--data", questions, "--ablation", "none", "--batch-size", 4]
    first = ["rank", "negative-attention", *of_planted, "--limit", 30, "--ablation", "none", "--out", ranking]
    code, said = run(first)
    assert code == 0, said
    return {
        "rank": ([*rank, "--limit", 24], 3),
        "align nasa": (
            ["align", "nasa", *of_text, "--data", questions, "--limit", 40, "--k", 2, "--steps", 2, "--seed", 1],
            3,
        ),
        "guard fit": (
            [
                *("guard", "fit", *of_text, "--batch-size", 8),
                *("--harmful", requests["harmful"], "--harmless", requests["harmless"]),
            ],
            3,
        ),
        "modulate": (
            ["modulate", ranking, *of_planted, *MODULATE, "--batch-size", 8],
            6,
        ),
        "trace": (["trace", "--model", "sees", "--limit", 6, "--batch-size", 2, *TRACE], 5),
    }


def run(arguments: list[object], stops_at: int | None = None) -> tuple[int, str]:
    """One command to its end: its exit code, and what it said on stderr. See :func:`started`."""
    pid, log = started(arguments, stops_at)
    _, status = os.waitpid(pid, os.WUNTRACED)
    return code_of(status), said_in(log)


def started(arguments: list[object], stops_at: int | None = None) -> tuple[int, Path]:
    """A process that runs ``interp ARGUMENTS``, and stops (SIGSTOP) when so many part files have been written."""
    log = Path(tempfile.mkstemp(prefix="disturbed-")[1])
    pid = os.fork()
    if pid:
        return pid, log
    code = 1
    try:
        file = os.open(log, os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ["COLUMNS"] = "300"
        sys.argv = ["interp", *map(str, arguments)]
        prepare(stops_at)
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def prepare(stops_at: int | None) -> None:
    """In the process: what tiny random models need, and where it stops."""
    refuse(Setattr())
    alignment.require_options_used = lambda answers: None
    load, require_known = ChatModel.load, ChatModel.require_known

    def load_named(asked: ChatModel, *told: Any) -> Any:
        if asked.model != "sees":
            return load(asked, *told)
        made = tiny_vision("llava")
        return interp.load(made.hf, processor=made.processor)

    ChatModel.load = load_named
    ChatModel.require_known = lambda asked: None if asked.model == "sees" else require_known(asked)
    replace, written = os.replace, [0]

    def counted(source: Any, target: Any) -> None:
        replace(source, target)
        of_fits = sys.argv[1] == "align"
        if "parts" in Path(target).parts and str(target).endswith("method.json" if of_fits else ".safetensors"):
            written[0] += 1
            if written[0] == stops_at:
                os.kill(os.getpid(), signal.SIGSTOP)

    writing.os.replace = counted


def code_of(status: int) -> int:
    if os.WIFSTOPPED(status):
        return -signal.SIGSTOP
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)


def said_in(log: Path) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    log.unlink()
    return text


def result(out: Path) -> dict[str, Any]:
    """Every number and text of a report but times: arrays by their bytes, tables, records."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.suffix in (".safetensors", ".csv", ".json")):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".safetensors":
            found[name] = checksum(load_file(path))
        elif path.suffix == ".csv":
            table = pd.read_csv(path)
            timed = [c for c in table if "second" in c or c.endswith("_ms") or "latency" in c.lower()]
            found[name] = table.drop(columns=timed).to_csv(index=False) if "latency" not in name else ""
        else:
            found[name] = plain(json.loads(path.read_text(encoding="utf-8")))
    return found


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        if "seconds" in str(value.get("name", "")) or str(value.get("name", "")).endswith("_ms"):
            return None  # a column of times
        return {k: plain(v) for k, v in value.items() if k not in VOLATILE and "latency" not in k.lower()}
    if isinstance(value, list):
        return [plain(v) for v in value if not (isinstance(v, str) and re.search(r" m?s\b", v))]
    return value


def differs(a: dict[str, Any], b: dict[str, Any]) -> str:
    return ", ".join(name for name in sorted({*a, *b}) if a.get(name) != b.get(name))


def flip(out: Path) -> str:
    """One bit of the numbers of a kept part."""
    path = kept(out)[-1]
    content = bytearray(path.read_bytes())
    content[-2] ^= 0x40
    path.write_bytes(bytes(content))
    return path.relative_to(out).as_posix()


def swap(out: Path) -> str:
    """Two kept parts under each other's names: of one step, or (fits) of two methods, with all that belongs to them."""
    fits = sorted(out.glob("parts/*/method.json"))
    if len(fits) > 1:
        a, b = fits[0].parent, fits[1].parent
    else:
        a = kept(out)[-1]
        b = next(p for p in kept(out) if p.name != a.name and p.parent == a.parent)
    a.rename(out / "aside")
    b.rename(a)
    (out / "aside").rename(b)
    return f"{a.relative_to(out)} and {b.name}"


def kept(out: Path) -> list[Path]:
    found = [p for p in out.rglob("*.safetensors") if "parts" in p.parts]
    return sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))


def contents(out: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def sentence(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith(("interp:", "warning:"))]
    told = [line for line in lines if re.search("right now|not used|damaged", line)] or lines or said.splitlines()[-1:]
    return re.sub(r"/\S*/", "", told[0])[:110] if told else ""


def disturb(name: str, arguments: list[object], stops_at: int, folder: Path) -> list[tuple[str, str, str]]:
    """(disturbance, outcome, what was said) of each."""
    rows: list[tuple[str, str, str]] = []

    def judge(what: str, code: int, said: str, out: Path) -> None:
        other = "" if code else differs(whole, result(out))
        outcome = f"exit {code}" if code else f"DIFFERS in {other}" if other else "equal"
        if code:
            outcome = f"WRONG: {outcome}"
        rows.append((what, outcome, sentence(said) if re.search("not used|damaged|interp:", said) else ""))

    def refused(what: str, *options: str) -> None:
        before = contents(out)
        code, said = run([*arguments, "--out", out, *options])
        is_right = code == 1 and "right now" in said and contents(out) == before
        rows.append((what, "refused, nothing changed" if is_right else f"WRONG: exit {code}", sentence(said)))

    undisturbed = folder / "undisturbed"
    code, said = run([*arguments, "--out", undisturbed])
    if code:
        return [("undisturbed", f"WRONG: exit {code}", said[-400:])]
    whole = result(undisturbed)
    again = folder / "again"
    judge("none, a second time", *run([*arguments, "--out", again]), again)

    out = folder / "killed"
    pid, log = started([*arguments, "--out", out], stops_at)
    code = code_of(os.waitpid(pid, os.WUNTRACED)[1])
    if code != -signal.SIGSTOP:
        return [*rows, ("kill -9", f"WRONG: it did not stop at part {stops_at}, exit {code}", said_in(log)[-400:])]
    refused("second process")
    refused("second process, --resume", "--resume")
    refused("second process, --overwrite", "--overwrite")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    said_in(log)
    damages: dict[str, Callable[[Path], str]] = {"kill -9": lambda out: "", "bit flip": flip, "swapped parts": swap}
    for what, damage in damages.items():
        shutil.copytree(out, folder / what)
        place = damage(folder / what)
        ended = run([*arguments, "--out", folder / what, "--resume"])
        judge(f"{what}{': ' * bool(place)}{place}", *ended, folder / what)

    out = folder / "beside"
    pid, log = started([*arguments, "--out", out], stops_at)
    os.waitpid(pid, os.WUNTRACED)
    refused("second process, --overwrite, the first goes on", "--overwrite")
    os.kill(pid, signal.SIGCONT)
    judge("the first, after that", code_of(os.waitpid(pid, 0)[1]), said_in(log), out)
    return rows


def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="disturbed-") as temporary:
        for name, (arguments, stops_at) in material(Path(temporary)).items():
            if names and name not in names:
                continue
            folder = Path(temporary) / name.replace(" ", "-")
            folder.mkdir()
            for what, outcome, told in disturb(name, arguments, stops_at, folder):
                wrong += "WRONG" in outcome or "DIFFERS" in outcome
                print(f"{name:11} | {what:62} | {outcome:24} | {told}", flush=True)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
