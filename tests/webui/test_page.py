"""The page's own steps, without a browser."""

import re
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")
from anovl.detector import AnoVL
from anovl.server.hosting import Torch
from anovl.server.settings import Settings
from anovl.webui.page import Page


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
