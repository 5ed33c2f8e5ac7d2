"""The page's own steps, without a browser."""

import re
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")
from anovl.config import Tiling
from anovl.data.synthetic import draw
from anovl.detector import AnoVL
from anovl.server.hosting import Torch
from anovl.server.settings import Settings
from anovl.webui.components import OWN_RECIPE
from anovl.webui.page import EXAMPLES, Page


def test_regions_get_the_names_that_are_asked_for(tmp_path):
    page = Page({"mini": Torch(AnoVL.from_pretrained("mini"))}, Settings(), {}, tmp_path)
    page.build()
    asked, shown = page.asked, page.shown
    values = {part: getattr(part, "value", None) for part in asked.words | shown.view}

    def found(names):
        values[asked.names] = names
        *_, last = page._find_example(values, SimpleNamespace(index=0))
        return last

    assert "resembles" not in found("")[shown.regions]
    named = found("scratch, oil stain")[shown.regions]
    assert re.search(r"<td>(scratch|oil stain) -?0\.\d{3}, (scratch|oil stain) -?0\.\d{3}</td><td>0\.\d{3}</td>", named)
    assert "expected 2 to 32 words" in found("scratch")[shown.status]


@pytest.fixture(scope="module")
def mini():
    return AnoVL.from_pretrained("mini")


def first_example():
    name, kind, seed = EXAMPLES[0]
    return draw(name, seed, defect=kind).image


def last_of(page, **changes):
    """What the page knows after its first example; "recipe" and the like are components of `Asked`."""
    values = {part: getattr(part, "value", None) for part in page.asked.words | page.shown.view}
    values |= {getattr(page.asked, name): value for name, value in changes.items()}
    *_, last = page._find_example(values, SimpleNamespace(index=0))
    return values | last


def test_a_bank_is_told_of_and_used(mini, tmp_path):
    example = first_example()
    bank = mini.fit([draw("metal nut", 90 + seed).image for seed in range(2)], "metal nut").bank
    page = Page({"mini": Torch(mini, banks={"metal nut": bank}), "plain": Torch(mini)}, Settings(), {}, tmp_path)
    page.build()
    assert f"metal nut: compared with 2 good pictures too (bank {bank.key})." in page._note("mini")
    assert "bank" not in page._note("plain")
    assert (page.class_name, [one.class_name for one in page.examples]) == ("metal nut", ["metal nut"])
    fitted = mini.with_bank(bank).predict(example, "metal nut").pred_score
    assert last_of(page)[page.shown.session].found[0].pred_score == pytest.approx(fitted, abs=1e-6)
    plain = mini.predict(example, "metal nut").pred_score
    assert last_of(page, model="plain")[page.shown.session].found[0].pred_score == pytest.approx(plain, abs=1e-6) != fitted
    paper = mini.with_recipe("paper").with_bank(bank).predict(example, "metal nut").pred_score
    assert last_of(page, recipe="paper")[page.shown.session].found[0].pred_score == pytest.approx(paper, abs=1e-6)
    assert "made for recipe interpolation" in last_of(page, recipe="released")[page.shown.status]


def test_tiles_are_told_of_and_used(mini, tmp_path):
    tiling = Tiling(sides=(128,), overlap=0.0, crop="foreground")
    model = Torch(mini.with_recipe(mini.recipe.having(tiling=tiling)))
    page = Page({"mini": model}, Settings(class_name="metal nut"), {}, tmp_path)
    page.build()
    note = page._note("mini")
    assert "whole and in tiles of 128 px" in note
    assert "plain background" in note
    example = first_example()
    for recipe, detector in ((OWN_RECIPE, mini), ("paper", mini.with_recipe("paper"))):
        session = last_of(page, recipe=recipe)[page.shown.session]
        own = detector.predict(example, "metal nut", tiles=tiling)
        assert session.found[0].pred_score == pytest.approx(own.pred_score, abs=1e-6)
        session.select(0)
        assert abs(session.look()[0].anomaly_map - own.anomaly_map).max() < 1e-6
        assert session.origin == detector.job("metal nut", tiles=tiling).origin
