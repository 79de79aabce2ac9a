"""A study of several processes on one disk: the report is that of one process, bit for bit."""

from __future__ import annotations

import pytest

import interp
from interp.records import ShardWaits, merge_shards
from probes.negative_bias import align
from probes.questions import Question
from tests.probes.studies.test_run_identity import STUDIES
from tests.tiny import tiny, tiny_tokenizer


def loaded(seed: int = 0) -> interp.Model:
    return interp.load(
        tiny("llama", seed=seed, vocab_size=400, max_position_embeddings=512), tokenizer=tiny_tokenizer()
    )


@pytest.fixture(scope="module")
def model() -> interp.Model:
    return loaded()


def numbers(result) -> dict[str, list]:
    """All that a result's tables say, but for the time."""
    tables = result.to_findings().tables
    return {name: [list(map(str, row)) for row in table.to_numpy()] for name, table in tables.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["rank", "measure", "knowledge"])
def test_shards_of_a_study_are_one_process(tmp_path, model, name):
    """The second has the whole; merged, the same call writes the report."""
    study, how = STUDIES[name], {"batch_size": 1}
    whole = study(model, **how)
    with pytest.raises(ShardWaits):
        study(model, out=tmp_path, shard="1/2", **how)
    second = study(model, out=tmp_path, shard="2/2", **how)
    assert not (tmp_path / "shards" / "2-of-2" / "report.html").exists()
    merge_shards(tmp_path)
    joined = study(model, out=tmp_path, **how)
    assert numbers(joined) == numbers(second) == numbers(whole)
    assert joined.provenance["run_id"] == whole.provenance["run_id"]
    assert joined.provenance["shards"] == {"n": 2, "rounding": 0.0} and "shards" not in whole.provenance
    assert (tmp_path / "report.html").is_file() and not (tmp_path / "parts").exists()
    assert study(model, out=tmp_path, resume=True, **how).provenance["shards"]["n"] == 2


@pytest.mark.filterwarnings("ignore")
def test_shards_with_other_weights_are_refused(tmp_path, model):
    for number, one in ((1, model), (2, loaded(seed=5))):
        with pytest.raises(ShardWaits):
            STUDIES["measure"](one, out=tmp_path, shard=f"{number}/2", batch_size=1)
    with pytest.raises(ValueError, match=r"are of different runs: .*weights"):
        merge_shards(tmp_path)


def test_work_that_is_no_stream_is_not_shared(tmp_path, model):
    many = [Question(f"q{i}", f"Is {i} cold?", "Yes" if i % 2 else "No") for i in range(40)]
    with pytest.raises(ValueError, match="can't be shared among processes"):
        align(model, many[:20], many[20:], out=tmp_path, shard="1/2")
    assert not any(tmp_path.iterdir())
