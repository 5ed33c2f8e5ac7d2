"""The page: what it says is what came in, escaped, in one file."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from anovl.errors import OutputError, UsageError
from anovl.render.overlay import TRUTH
from anovl.render.report import TILE, Card, Figure, Group, Report, Row, Tile, data_uri, make_card, render, write_page
from anovl.results import Prediction

EVIL = "<script>alert('x')</script>\"&"


def prediction(score=0.8, threshold=0.5, size=(60, 90), **changes):
    anomaly_map = np.zeros(size, dtype=np.float32)
    anomaly_map[10:20, 30:50] = 0.9
    patches = np.zeros((3, 3), dtype=np.float32)
    return Prediction(None, size, "nut", score, anomaly_map, patches, threshold=threshold, **changes)


def card(score=0.8, threshold=0.5, *, defective=True, name="nut", kind="scratch"):
    return Card(name, kind, "a/b.png", defective, (score, threshold), (score, threshold), (Tile("truth", "no defect"),))


def report(**changes):
    rows = (Row("nut", 4, (Figure(0.75), Figure(0.9))), Row("bolt", 6, (Figure(0.25), Figure(None, "no defect at all"))))
    given = {"title": "Title", "lead": ("Lead.",), "columns": ("AUROC", "PRO"), "groups": (Group("Seen", rows),)}
    return Report(**given | changes)


def picture_of(source):
    head, _, body = source.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


class Page(HTMLParser):
    """Tags with their attributes, and the numbers of the table."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)
        self.values = [float(attributes["value"]) for tag, attributes in self.tags if tag == "data"]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_means_leave_out_what_has_no_number():
    mean = Group("Seen", report().groups[0].rows).mean
    assert mean == Row("Seen", 10, (Figure(0.5), Figure(0.9)))
    (nothing,) = Group("none", (Row("a", 1, (Figure(None, "why"),)),)).mean.figures
    assert nothing.value is None
    assert nothing.reason


def test_figures_and_reasons_are_on_the_page():
    page = Page(render(report()))
    assert page.values == [0.5, 0.9, 0.75, 0.9, 0.25]
    assert [text for text in page.text if text in ("0.500", "0.900", "0.750", "0.250")] == [
        "0.500",
        "0.900",
        "0.750",
        "0.900",
        "0.250",
    ]
    assert "0.75" in Page(render(report(digits=2))).text
    assert any(attributes.get("title") == "no defect at all" for _, attributes in page.tags)
    assert " no number: no defect at all" in page.text


def test_every_text_is_escaped():
    row = Row(EVIL, 1, (Figure(None, EVIL), Figure(0.5)))
    shown = Card(EVIL, EVIL, EVIL, True, (0.5, 0.5), (0.5, 0.5), (Tile(EVIL, EVIL), Tile(EVIL, EVIL, "data:,")))
    html = render(
        report(
            title=EVIL,
            lead=(EVIL,),
            columns=(EVIL, "x"),
            groups=(Group(EVIL, (row,)),),
            note=EVIL,
            cards=(shown,),
            commands=((EVIL, EVIL),),
            facts=((EVIL, EVIL),),
        )
    )
    assert "<script>alert" not in html
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.text.count(EVIL) >= 12
    assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_nothing_is_fetched_and_no_gallery_needs_no_script():
    html = render(report(cards=(card(),)))
    assert "http://" not in html.replace("http-equiv", "")
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert "<script" not in render(report())


@pytest.mark.parametrize(
    ("score", "defective", "outcome"),
    [(0.5, True, "found"), (0.49, True, "missed"), (0.5, False, "false alarm"), (0.49, False, "passed")],
)
def test_outcomes(score, defective, outcome):
    shown = card(score, defective=defective)
    assert shown.outcome == outcome
    page = Page(render(report(cards=(shown,))))
    assert [attributes["data-outcome"] for tag, attributes in page.tags if tag == "li" and "data-outcome" in attributes] == [
        outcome
    ]
    assert f"{outcome} (1)" in page.text
    assert any(text.strip() == f"{'at' if shown.over else 'below'} threshold 0.50" for text in page.text)


def test_digits_tell_score_and_threshold_apart():
    assert card(0.83).shown == ("0.83", "0.50")
    assert card(0.4996).shown == ("0.4996", "0.5000")
    assert card(0.5).shown == ("0.50", "0.50")
    assert card(0.5 + 1e-9).shown == ("0.500000", "0.500000")


def test_links_lead_to_the_first_card_of_a_class():
    cards = (card(name="bolt"), card(name="nut"), card(name="nut"))
    page = Page(render(report(cards=cards)))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    ids = {f"#{attributes['id']}" for tag, attributes in page.tags if tag == "li" and "id" in attributes}
    assert links == ["#card-1", "#card-0"]
    assert ids == set(links)


def test_a_card_of_a_defect():
    picture = Image.new("RGB", (90, 60), (90, 90, 90))
    mask = np.zeros((60, 90), dtype=np.uint8)
    mask[10:20, 30:50] = 255
    made = make_card(picture, prediction(), Image.fromarray(mask), kind="scratch", path="x.png")
    assert (made.class_name, made.kind, made.path, made.defective) == ("nut", "scratch", "x.png", True)
    assert made.prediction == made.levels == (0.8, 0.5)
    assert [tile.caption for tile in made.tiles] == ["picture", "truth", "model"]
    assert all("nut" in tile.alt for tile in made.tiles)
    assert "0.90" in made.tiles[2].alt
    plain, truth, heat = (np.asarray(picture_of(tile.source)).astype(int) for tile in made.tiles)
    assert plain.shape == (60, 90, 3)
    assert truth.shape == heat.shape
    assert truth.shape[1:] == (TILE, 3)
    green = np.abs(truth - TRUTH).sum(axis=-1) < 150
    scale = TILE / 90
    rows, columns = np.nonzero(green)
    assert 0 < rows.min() < 10 * scale
    assert 20 * scale < rows.max() < 30 * scale  # around the defect, not on it
    assert 20 * scale < columns.min() < 30 * scale
    inside = truth[round(13 * scale) : round(17 * scale), round(34 * scale) : round(46 * scale)]
    assert np.abs(inside - 90).mean() < 10
    red = heat[round(15 * scale), round(40 * scale)]
    assert red[0] > red[2] + 60


def test_a_card_of_a_good_picture():
    made = make_card(Image.new("RGB", (90, 60)), prediction(0.2), None, kind="good", path="x.png")
    assert not made.defective
    assert made.tiles[1] == Tile("truth", "no defect")
    flat = Prediction(None, (8, 8), "nut", 0.1, np.zeros((8, 8), np.float32), np.zeros((1, 1), np.float32))
    assert "no region" in make_card(Image.new("RGB", (8, 8)), flat, None, kind="good", path="x").tiles[2].alt


def test_levels_are_on_the_drawing_scale():
    narrow = prediction(0.505, score_range=(0.49, 0.51))
    made = make_card(Image.new("RGB", (90, 60)), narrow, None, kind="good", path="x.png")
    assert made.levels == pytest.approx((0.75, 0.5))


def test_pictures_are_reduced():
    assert picture_of(data_uri(Image.new("RGB", (900, 300)))).size == (TILE, round(TILE / 3))
    assert picture_of(data_uri(Image.new("L", (30, 20)), side=10)).size == (10, 7)


def test_wrong_rows_and_places(tmp_path):
    with pytest.raises(UsageError, match="expected 2 figures a row, got 1 in 'x'"):
        report(groups=(Group("g", (Row("x", 1, (Figure(1.0),)),)),))
    path = write_page(report(), tmp_path / "deep" / "index.html")
    assert path.read_text(encoding="utf-8") == render(report())
    with pytest.raises(OutputError):
        write_page(report(), path / "index.html")
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
