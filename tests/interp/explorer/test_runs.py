"""The list of runs: every run below a folder, broken ones as broken, filtered and compared in a browser."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

import interp
from interp.explorer import find_runs, save_runs
from tests.interp.explorer.conftest import ranking, shot

EVIL = '"><script>alert(1)</script>'


@pytest.fixture
def reports(tmp_path):
    """Two rankings, findings of another study, a damaged record, a lost file, an interrupted run."""
    folder = tmp_path / "reports"
    ranking().save(folder / "nas")
    later = {"model": "other", "title": "Later heads", "created": "2026-12-24T00:00:00+00:00"}
    replace(ranking(seed=3), provenance=later).save(folder / "deep" / "lat'er run")
    about = {"model": EVIL, "created": "2026-11-01T00:00:00+00:00"}
    interp.Findings(EVIL, ["No <b>difference</b> was found."], {"t": pd.DataFrame({"a": [1]})}, {}, about).save(
        folder / "findings"
    )
    # two that can be read no more
    for name in ("damaged", "lost"):
        ranking().save(folder / name)
    record = folder / "damaged" / "findings.json"
    record.write_text(record.read_text(encoding="utf-8").replace("Random heads", "Better heads"), encoding="utf-8")
    (folder / "lost" / "report.html").unlink()
    (folder / "killed" / "parts").mkdir(parents=True)
    (folder / "not a run").mkdir()
    return folder


def test_every_run_is_listed_and_broken_ones_say_why(reports):
    runs = find_runs(reports)
    names = [run.folder.name for run in runs]
    assert names == ["lat'er run", "nas", "findings", "damaged", "killed", "lost"]
    assert [run.kind for run in runs] == ["head ranking", "head ranking", "findings", "", "", ""]
    assert runs[1].verdict == ranking().statement()[0] and runs[1].model == "random"
    assert runs[0].picture and not runs[2].picture
    told = {run.folder.name: run.problem for run in runs if run.is_broken}
    assert "changed or damaged" in told["damaged"]
    assert "report.html is missing" in told["lost"]
    assert "was interrupted" in told["killed"]


def test_no_folder_and_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of reports"):
        find_runs(tmp_path / "none")
    page = save_runs(find_runs(tmp_path), tmp_path / "runs.html")
    assert "No run is in this folder yet" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [390, 1280])
def test_runs_are_filtered_sorted_and_compared(opened, reports, width):
    page = opened(save_runs(find_runs(reports), reports / "runs.html"), width, ready=False)
    rows = page.locator(".run:visible")
    assert rows.count() == 6 and page.locator("img").count() == 0 and page.locator("script").count() == 1
    shot(page, f"runs-{width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_label("Kind").select_option("broken")
    assert rows.count() == 3
    page.get_by_label("Kind").select_option("")
    page.locator("#model").select_option(EVIL)
    assert rows.count() == 1 and "<b>difference</b>" in rows.first.inner_text()
    page.locator("#model").select_option("")
    page.get_by_label("Search").fill("later")
    assert rows.count() == 1
    page.get_by_label("Search").fill("")
    page.get_by_label("Order").select_option("old")
    assert "damaged" in rows.first.inner_text()
    boxes = page.locator(".two")
    assert boxes.count() == 3  # of what can be read
    page.get_by_label("Compare Later heads").check()
    page.get_by_label("Compare Random heads").check()
    cards = page.locator("#beside .hs-card")
    assert cards.count() == 2 and "Later heads" in cards.first.inner_text()
    assert "interp view 'deep/lat'\\''er run' nas" in page.locator("#beside").inner_text()
    assert cards.first.locator("svg").count() == 1
    shot(page, f"runs-compared-{width}")
    page.locator("#beside a:has-text('report')").first.click()
    page.wait_for_load_state()
    assert "Later heads" in page.title()
