"""The gradio page: inputs at the left, what was found at the right; drawing again never scores again."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from anovl.config import DEFAULT_THRESHOLD, RECIPES
from anovl.data.images import SUFFIXES
from anovl.data.sources import SourceItem
from anovl.data.synthetic import draw
from anovl.errors import AnovlError, UsageError
from anovl.render.overlay import OPACITY, blend, mask_image
from anovl.server.hosting import Model, Torch, Words, pick
from anovl.webui import views
from anovl.webui.session import PANEL, Session, Thresholds, decided, named

log = logging.getLogger(__name__)

OWN_RECIPE = "the model's own"
DOMAINS = ("auto", "object", "texture", "plain")
IDLE_S = 3600  # a visitor's results are let go so long after the last look
EXAMPLES = (("metal nut", "scratch", 3), ("leather", "cut", 1), ("pill", "contamination", 2), ("tile", "crack", 4), ("bottle", None, 5))
HEAD = '<meta name="color-scheme" content="light dark">'
_FILES = files("anovl.webui")
STYLE = (_FILES / "page.css").read_text(encoding="utf-8")

TITLE = "<h1>anovl</h1><p>Defects in pictures of things the model was never trained on: a score, a heat map, a mask, regions.</p>"
EMPTY = "<p>Choose pictures at the left and say what they show, or take an example.</p>"

Values = dict[Any, Any]  # of components
Changes = dict[Any, Any]  # likewise


class _OnlyUploads:
    """Keeps gradio from fetching an address that a request names in place of a file it has uploaded."""

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """As the base class, for files of this machine alone.

        Raises:
            gr.Error: an address.
        """
        if url_or_file_path is not None and "://" in str(url_or_file_path):
            raise gr.Error("expected an uploaded file, got an address; nothing is fetched")
        moved: str | None = await super().async_move_resource_to_block_cache(url_or_file_path)  # type: ignore[misc]
        return moved

from gradio.events import Dependency

class UploadedFiles(_OnlyUploads, gr.File):  # type: ignore[misc]
    """gradio's file drop."""
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


class UploadedImage(_OnlyUploads, gr.Image):  # type: ignore[misc]
    """gradio's camera and picture."""
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """What a page is run with.

    Attributes:
        class_name: what the pictures show, where the visitor does not say it.
        batch_size, workers: of a run.
        max_files: pictures a run.
    """

    class_name: str | None = None
    batch_size: int = 8
    workers: int = 2
    max_files: int = 500


class _Asked:
    """The components that say what to score, and how."""

    def __init__(self, page: Page) -> None:
        kinds = sorted(SUFFIXES)
        first = next(iter(page.models))
        with gr.Tabs():
            with gr.Tab("Pictures"):
                self.files = UploadedFiles(label="Pictures", file_count="multiple", file_types=kinds, height=150, elem_id="files")
            with gr.Tab("Folder"):
                self.folder = UploadedFiles(label="Folder", file_count="directory", height=150, elem_id="folder")
            with gr.Tab("Camera"):
                self.camera = UploadedImage(label="Camera", sources=["webcam"], type="filepath", format="png", height=260)
        self.class_name = gr.Textbox(
            page.settings.class_name or "",
            label="What do the pictures show?",
            placeholder="metal nut",
            max_length=200,
            elem_id="class-name",
        )
        with gr.Accordion("More settings", open=False):
            self.model = gr.Dropdown(list(page.models), value=first, label="Model", visible=len(page.models) > 1)
            self.domain = gr.Dropdown(list(DOMAINS), value=DOMAINS[0], label="Domain words", info="An object, or a texture?")
            self.defects = gr.Textbox(label="Known defects", placeholder="scratch, dent", info="With commas between", max_length=500)
            recipes = [OWN_RECIPE, *(name for name in RECIPES if name != "mini")]
            self.recipe = gr.Dropdown(recipes, value=OWN_RECIPE, label="Recipe")
            self.adapt = gr.Checkbox(label="Adapt to each picture at test time (slower)", elem_id="adapt")
        with gr.Row():
            self.find = gr.Button("Find defects", variant="primary", elem_id="find")
            self.stop = gr.Button("Stop", elem_id="stop")
        self.note = gr.HTML(views.note(page.notes.get(first, "")))
        self.examples = gr.Gallery(
            [(picture, f"{name}, {kind or 'good'}") for name, kind, picture in page.examples],
            label="Examples",
            columns=5,
            height="auto",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="examples",
        )
        with gr.Accordion("Calibrate from good pictures", open=False, elem_id="calibration"):
            self.good = UploadedFiles(label="Good pictures", file_count="multiple", file_types=kinds, height=150, elem_id="good")
            self.rate = gr.Slider(0.01, 0.5, value=0.05, step=0.01, label="False alarms to allow", info="Share of good pictures")
            self.calibrate = gr.Button("Calibrate", elem_id="calibrate")
            self.calibrated = gr.HTML(elem_id="calibrated")
            self.profile_file = gr.DownloadButton("Download the profile", visible=False, elem_id="profile")
        self.profile = gr.State(None)

    @property
    def words(self) -> set[Any]:
        """What a job is made of."""
        return {self.model, self.class_name, self.domain, self.defects, self.recipe, self.adapt}

    @property
    def uploads(self) -> set[Any]:
        """Where pictures come from."""
        return {self.files, self.folder, self.camera}


class _Shown:
    """The components that show what was found."""

    def __init__(self) -> None:
        self.session = gr.State(None, time_to_live=IDLE_S)
        self.status = gr.HTML(EMPTY, elem_id="status")
        with gr.Column(visible=False) as self.result:
            with gr.Row(elem_id="panels"):
                self.picture = self._panel("Picture", "jpeg")
                self.heat = self._panel("Heat map", "jpeg")
                self.mask = self._panel("Mask", "png")
            with gr.Row():
                self.threshold = gr.Slider(0, 1, value=DEFAULT_THRESHOLD, step=0.001, label="Image threshold", elem_id="threshold")
                self.pixel = gr.Slider(0, 1, value=DEFAULT_THRESHOLD, step=0.001, label="Pixel threshold", elem_id="pixel")
                self.opacity = gr.Slider(0, 1, value=OPACITY, step=0.05, label="Heat opacity", elem_id="opacity")
            with gr.Row():
                self.contours = gr.Checkbox(value=True, label="Contours of the mask", elem_id="contours")
                self.boxes = gr.Checkbox(value=True, label="Boxes of the regions", elem_id="boxes")
            self.regions = gr.HTML(elem_id="regions")
        with gr.Column(visible=False) as self.batch:
            self.histogram = gr.HTML(elem_id="histogram")
            self.gallery = gr.Gallery(
                label="Batch, highest score first",
                columns=6,
                height="auto",
                allow_preview=False,
                interactive=False,
                buttons=[],
                format="jpeg",
                elem_id="gallery",
            )
        self.download = gr.Button("Download results (zip)", visible=False, elem_id="download")
        self.archive = gr.DownloadButton("Results", visible="hidden", elem_id="archive")

    @staticmethod
    def _panel(label: str, form: str) -> gr.Image:
        return gr.Image(
            label=label,
            format=form,
            interactive=False,
            buttons=["fullscreen"],
            min_width=200,
            alt_text=label,
            elem_id=label.split()[0].lower(),
        )

    @property
    def view(self) -> set[Any]:
        """How it is drawn."""
        return {self.session, self.threshold, self.pixel, self.opacity, self.contours, self.boxes}

    @property
    def drawn(self) -> set[Any]:
        """What is drawn again when a slider moves."""
        return {self.status, self.picture, self.heat, self.mask, self.regions, self.histogram}

    @property
    def all(self) -> set[Any]:
        """What a run changes."""
        return self.drawn | {
            self.session, self.result, self.threshold, self.pixel, self.batch, self.gallery, self.download,
        }  # fmt: skip


class Page:
    """The page of some models.

    Args:
        models: at least one; the first is chosen at the start.
        settings: of the page.
        versions: for run.json.
        notes: a word about a model, by its name.
        scratch: folder for what visitors download; the caller removes it.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        settings: PageSettings,
        versions: Mapping[str, str],
        *,
        notes: Mapping[str, str],
        scratch: Path,
    ) -> None:
        self.models = dict(models)
        self.settings = settings
        self.versions = dict(versions)
        self.notes = dict(notes)
        self.scratch = scratch
        self.examples = [(name, kind, Image.fromarray(draw(name, seed, defect=kind).image)) for name, kind, seed in EXAMPLES]
        self._by_recipe: dict[tuple[str, str], Model] = {}

    def build(self) -> gr.Blocks:
        """The page, for `gr.mount_gradio_app`."""
        with gr.Blocks(title="anovl", analytics_enabled=False, delete_cache=(600, IDLE_S)) as blocks:
            gr.HTML(TITLE)
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=300):
                    asked = _Asked(self)
                with gr.Column(scale=5, min_width=320):
                    shown = _Shown()
            self._connect(asked, shown)
        return blocks

    def _connect(self, asked: _Asked, shown: _Shown) -> None:
        """What happens when."""
        settings = asked.words | shown.view | {asked.profile}
        scoring = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "hidden", "api_visibility": "private"}
        drawing = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private", "queue": False}

        def find(values: Values) -> Iterator[Changes]:
            paths = [*(values[asked.files] or ()), *(values[asked.folder] or ()), *filter(None, [values[asked.camera]])]
            yield from self._find(asked, shown, values, named(paths))

        def example(values: Values, event: gr.SelectData) -> Iterator[Changes]:
            name, kind, picture = self.examples[event.index]
            label = f"{name}, {kind or 'good'}"
            values[asked.class_name] = name
            yield {asked.class_name: name}
            yield from self._find(asked, shown, values, [SourceItem(picture, label, label.replace(", ", "-").replace(" ", "_"))])

        def calibrate(values: Values) -> Iterator[Changes]:
            yield from self._calibrate(asked, shown, values)

        def redraw(values: Values) -> Changes:
            return self._draw(shown, values[shown.session], values)

        def select(values: Values, event: gr.SelectData) -> Changes:
            session: Session | None = values[shown.session]
            if session is None:
                return {shown.status: EMPTY}
            session.selected = session.ranked[event.index]
            return self._draw(shown, session, values)

        def stop(values: Values) -> Changes:
            session: Session | None = values[shown.session]
            return self._finish(asked, shown, session, values) if session and session.found else {shown.status: EMPTY}

        def archive(values: Values) -> Changes:
            return self._archive(shown, values)

        runs = [
            gr.on(
                [asked.find.click, asked.class_name.submit], find, asked.uploads | settings, shown.all, **scoring
            ),
            asked.examples.select(example, settings, shown.all | {asked.class_name}, **scoring),
            asked.calibrate.click(
                calibrate,
                settings | {asked.good, asked.rate},
                shown.all | {asked.profile, asked.calibrated, asked.profile_file},
                **scoring,
            ),
        ]
        asked.stop.click(stop, settings, shown.all, cancels=runs, show_progress="hidden", api_visibility="private")
        sliders = [control.input for control in (shown.threshold, shown.pixel, shown.opacity, shown.contours, shown.boxes)]
        gr.on(sliders, redraw, shown.view, shown.drawn, trigger_mode="always_last", **drawing)
        shown.gallery.select(select, shown.view, shown.drawn, **drawing)
        made = shown.download.click(
            archive, shown.view, {shown.archive, shown.status}, show_progress="minimal", api_visibility="private"
        )
        made.success(None, js="() => document.querySelector('#archive')?.click()")
        asked.model.change(lambda name: views.note(self.notes.get(name, "")), asked.model, asked.note, **drawing)

    def _model(self, name: str, recipe: str) -> Model:
        """A model under a recipe.

        Raises:
            UsageError: no such model or recipe, or the model is an exported file, whose recipe is decided.
        """
        model = pick(self.models, name)
        if recipe == OWN_RECIPE:
            return model
        if not isinstance(model, Torch):
            raise UsageError("recipe: decided when the model's file was exported; choose the model's own")
        if (name, recipe) not in self._by_recipe:
            self._by_recipe[name, recipe] = Torch(model.detector.with_recipe(recipe))
        return self._by_recipe[name, recipe]


    def _session(self, asked: _Asked, values: Values) -> Session:
        """A new session for the words.

        Raises:
            UsageError: words that do not suit the model.
        """
        class_name = (values[asked.class_name] or "").strip()
        if not class_name:
            raise UsageError("Say what the pictures show, such as 'metal nut'.")
        defects = tuple(word.strip() for word in (values[asked.defects] or "").split(",") if word.strip())
        domain, recipe, adapt = values[asked.domain], values[asked.recipe], bool(values[asked.adapt])
        words = Words(class_name=class_name, domain=None if domain == DOMAINS[0] else domain, defects=defects, adapt=adapt)
        model = self._model(values[asked.model], recipe)
        told = {"model": values[asked.model], **model.describe(), **asdict(words)}
        return Session(model.job(words), told)

    def _find(self, asked: _Asked, shown: _Shown, values: Values, items: Sequence[SourceItem]) -> Iterator[Changes]:
        """Score pictures, telling how far it is; then show them."""
        try:
            if not items:
                raise UsageError("Choose pictures, a folder or a photo first, or take an example.")
            if len(items) > self.settings.max_files:
                raise UsageError(f"{len(items)} pictures, at most {self.settings.max_files} a run; `anovl predict` takes any number.")
            yield {shown.status: views.progress(0, len(items))}
            session = self._session(asked, values)
            yield {shown.session: session}
            for done in session.run(items, batch_size=self.settings.batch_size, workers=self.settings.workers):
                yield {shown.status: views.progress(done, len(items))}
            yield self._finish(asked, shown, session, values)
        except AnovlError as exc:
            yield {shown.status: views.problem(str(exc))}

    def _finish(self, asked: _Asked, shown: _Shown, session: Session, values: Values) -> Changes:
        """Show what a session found, the highest score first."""
        del asked
        ranked = session.ranked
        if not ranked:
            return _hidden(shown) | {shown.session: session, shown.status: views.failures(session)}
        session.selected = ranked[0]
        prediction, _ = session.look()
        scores = [score for found in ranked for score in (found.pred_score, found.peak)]
        low, high = min(prediction.score_range[0], *scores), max(prediction.score_range[1], *scores)
        changes: Changes = {shown.session: session}
        for slider in (shown.threshold, shown.pixel):
            value = values[slider] if low <= values[slider] <= high else DEFAULT_THRESHOLD
            values[slider] = value
            changes[slider] = gr.update(minimum=low, maximum=high, step=(high - low) / 1000, value=value)
        several = len(ranked) > 1
        changes |= {
            shown.result: gr.update(visible=True),
            shown.batch: gr.update(visible=several),
            shown.download: gr.update(visible=True),
            shown.gallery: [(found.tile, f"{found.pred_score:.3f} {found.name}") for found in ranked] if several else None,
        }
        return changes | self._draw(shown, session, values)

    def _draw(self, shown: _Shown, session: Session | None, values: Values) -> Changes:
        """The selected picture under the sliders."""
        if session is None or session.selected is None:
            return {shown.status: EMPTY}
        thresholds = Thresholds(values[shown.threshold], values[shown.pixel])
        try:
            looked, picture = session.look()
        except AnovlError as exc:
            return {shown.status: views.problem(str(exc))}
        prediction = decided(looked, thresholds)
        regions = prediction.regions()
        heat = blend(picture, prediction, opacity=values[shown.opacity], contours=values[shown.contours])
        mask = mask_image(prediction)
        mask.thumbnail((PANEL, PANEL), Image.Resampling.NEAREST)
        said = views.failures(session) + views.counts(session, thresholds.image)
        return {
            shown.status: said + views.verdict(session.selected.name, prediction, thresholds, regions),
            shown.picture: views.framed(picture, prediction, regions) if values[shown.boxes] else picture,
            shown.heat: heat,
            shown.mask: mask,
            shown.regions: views.region_table(regions),
            shown.histogram: views.histogram(session.found, thresholds.image),
        }

    def _calibrate(self, asked: _Asked, shown: _Shown, values: Values) -> Iterator[Changes]:
        yield {}

    def _archive(self, shown: _Shown, values: Values) -> Changes:
        """The results as a file to download."""
        session: Session | None = values[shown.session]
        folder = self.scratch / secrets.token_hex(8)
        try:
            if session is None:
                raise UsageError("nothing to download yet: score some pictures first")
            folder.mkdir(parents=True)
            path = folder / "anovl-results.zip"
            session.write_archive(path, Thresholds(values[shown.threshold], values[shown.pixel]), self.versions)
        except AnovlError as exc:
            raise gr.Error(str(exc), print_exception=False) from exc
        return {shown.archive: str(path)}


def _hidden(shown: _Shown) -> Changes:
    """Nothing is shown."""
    return {part: gr.update(visible=False) for part in (shown.result, shown.batch, shown.download)}