"""The parts of the page: what is asked at the left, what is shown at the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from anovl.config import DEFAULT_THRESHOLD, RECIPES
from anovl.data.images import SUFFIXES
from anovl.render.overlay import OPACITY
from anovl.webui import views
from anovl.webui.views import Tile

OWN_RECIPE = "the model's own"
DOMAINS = ("auto", "object", "texture", "plain")
IDLE_S = 3600  # a visitor's results and files are let go so long after they were made
EMPTY = "<p>Choose pictures at the left and say what they show, or take an example.</p>"
_PICK = """element.addEventListener("click", event => {
  const button = event.target.closest("button[data-index]");
  if (!button) return;
  element.querySelectorAll("button").forEach(one => one.setAttribute("aria-pressed", one === button));
  trigger("select", {index: Number(button.dataset.index)});
});"""


class Asked:
    """The components that say what to score, and how."""

    def __init__(self, models: Sequence[str], class_name: str, note: str, examples: Sequence[Tile]) -> None:
        kinds = sorted(SUFFIXES)
        with gr.Tabs():
            with gr.Tab("Pictures"):
                self.files = gr.File(label="Pictures", file_count="multiple", file_types=kinds, height=150, elem_id="files")
            with gr.Tab("Folder"):
                self.folder = gr.File(label="Folder", file_count="directory", height=150, elem_id="folder")
            with gr.Tab("Camera"):
                self.camera = gr.Image(
                    label="Camera", sources=["webcam"], type="filepath", format="png", height=260, elem_id="camera"
                )
        self.class_name = gr.Textbox(
            class_name,
            label="What do the pictures show?",
            placeholder="metal nut",
            max_length=200,
            elem_id="class-name",
        )
        with gr.Accordion("More settings", open=False):
            self.model = gr.Dropdown(list(models), value=models[0], label="Model", visible=len(models) > 1)
            self.domain = gr.Dropdown(list(DOMAINS), value=DOMAINS[0], label="Domain words", info="An object, or a texture?")
            self.defects = gr.Textbox(
                label="Known defects", placeholder="scratch, dent", info="With commas between", max_length=500
            )
            self.names = gr.Textbox(
                label="Names for regions",
                placeholder="scratch, hole, stain",
                info="With commas between, or default; each region then gets those it resembles most",
                max_length=500,
                elem_id="names",
            )
            recipes = [OWN_RECIPE, *(name for name in RECIPES if name != "mini")]
            self.recipe = gr.Dropdown(recipes, value=OWN_RECIPE, label="Recipe")
            self.adapt = gr.Checkbox(label="Adapt to each picture at test time (slower)", elem_id="adapt")
        with gr.Row():
            self.find = gr.Button("Find defects", variant="primary", elem_id="find")
            self.stop = gr.Button("Stop", elem_id="stop")
        self.note = gr.HTML(note)
        gr.HTML("<h2>Examples</h2>", visible=bool(examples))
        self.examples = _gallery("Examples", examples, elem_id="examples")
        with gr.Accordion("Calibrate from good pictures", open=False, elem_id="calibration"):
            self.good = gr.File(label="Good pictures", file_count="multiple", file_types=kinds, height=150, elem_id="good")
            self.rate = gr.Slider(
                0.01, 0.5, value=0.05, step=0.01, label="False alarms to allow", info="Share of good pictures", elem_id="rate"
            )
            self.calibrate = gr.Button("Calibrate", elem_id="calibrate")
            self.calibrated = gr.HTML(elem_id="calibrated")
            self.profile_file = gr.DownloadButton("Download the profile", visible=False, elem_id="profile")
            self.earlier = gr.File(label="Or a profile from before", file_types=[".json"], height=150, elem_id="earlier")

    @property
    def words(self) -> set[Any]:
        """What a job is made of."""
        return {self.model, self.class_name, self.domain, self.defects, self.names, self.recipe, self.adapt}

    @property
    def uploads(self) -> set[Any]:
        """Where pictures come from."""
        return {self.files, self.folder, self.camera}


class Shown:
    """The components that show what was found."""

    def __init__(self) -> None:
        self.session = gr.State(None, time_to_live=IDLE_S)
        self.running = gr.State(None, time_to_live=IDLE_S)
        self.profile = gr.State(None)
        self.status = gr.HTML(EMPTY, elem_id="status")
        with gr.Column(visible=False) as self.result:
            with gr.Row(elem_id="panels"):
                self.picture = self._panel("Picture", "jpeg")
                self.heat = self._panel("Heat map", "jpeg")
                self.mask = self._panel("Mask", "png")
            with gr.Row():
                self.threshold = gr.Slider(
                    0, 1, value=DEFAULT_THRESHOLD, step=0.001, label="Image threshold", elem_id="threshold"
                )
                self.pixel = gr.Slider(0, 1, value=DEFAULT_THRESHOLD, step=0.001, label="Pixel threshold", elem_id="pixel")
                self.opacity = gr.Slider(0, 1, value=OPACITY, step=0.05, label="Heat opacity", elem_id="opacity")
            with gr.Row():
                self.contours = gr.Checkbox(value=True, label="Contours of the mask", elem_id="contours")
                self.boxes = gr.Checkbox(value=True, label="Boxes of the regions", elem_id="boxes")
            self.regions = gr.HTML(elem_id="regions")
        with gr.Column(visible=False) as self.batch:
            gr.HTML("<h2>Batch, highest score first</h2>")
            self.histogram = gr.HTML(elem_id="histogram")
            self.gallery = _gallery("Batch", (), elem_id="gallery")
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
            elem_id=label.split(maxsplit=1)[0].lower(),
        )

    @property
    def view(self) -> set[Any]:
        """How it is drawn."""
        return {self.session, self.profile, self.threshold, self.pixel, self.opacity, self.contours, self.boxes}

    @property
    def drawn(self) -> list[Any]:
        """What is drawn again when a slider moves."""
        return [self.status, self.picture, self.heat, self.mask, self.regions, self.histogram]

    @property
    def all(self) -> list[Any]:
        """What a run changes."""
        changed = [self.session, self.running, self.result, self.threshold, self.pixel, self.batch, self.gallery, self.download]
        return [*self.drawn, *changed]


def _gallery(name: str, tiles: Sequence[Tile], *, elem_id: str) -> gr.HTML:
    """Pictures to choose from: buttons that say what they show; `select` tells the index."""
    return gr.HTML(views.gallery(name, tiles), js_on_load=_PICK, elem_id=elem_id)
