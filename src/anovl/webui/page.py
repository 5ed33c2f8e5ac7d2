"""The gradio page: inputs at the left, what was found at the right; drawing again never scores again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from anovl import calibration
from anovl.config import DEFAULT_THRESHOLD
from anovl.data.images import SUFFIXES
from anovl.data.sources import SourceItem
from anovl.data.synthetic import draw
from anovl.errors import AnovlError, UsageError
from anovl.naming import vocabulary
from anovl.profiles import Profile
from anovl.render.overlay import blend, framed, mask_image
from anovl.server.hosting import Model, Torch, Words, pick
from anovl.server.settings import Settings
from anovl.webui import views
from anovl.webui.components import DOMAINS, EMPTY, IDLE_S, OWN_RECIPE, Asked, Shown
from anovl.webui.session import PANEL, Looks, Session, Thresholds, decided, jpeg, named, reason

EXAMPLES = (
    ("metal nut", "scratch", 4),
    ("leather", "cut", 1),
    ("pill", "contamination", 2),
    ("tile", "crack", 4),
    ("bottle", None, 1),
)
MOST = 500  # pictures a run
STEPS = 1000  # of a threshold's slider
PROFILE, RESULTS = "anovl-profile.json", "anovl-results.zip"  # names of downloads
TITLE = "<h1>anovl</h1><p>Defects in pictures of things the model was never trained on: a score, a heat map, a mask, regions.</p>"
# on a phone the result is far below the button
_TO_RESULT = "() => { if (innerWidth < 700) document.querySelector('#status').scrollIntoView({ block: 'start' }); }"

Values = dict[Any, Any]  # of components
Changes = dict[Any, Any]  # likewise


class Page:
    """The page of some models.

    Args:
        models: at least one; the first is chosen at the start.
        settings: of the service; class name, batch size and threads of a run.
        versions: for run.json.
        scratch: folder for what visitors download; the caller removes it.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        settings: Settings,
        versions: Mapping[str, str],
        scratch: Path,
    ) -> None:
        self.models = dict(models)
        self.settings = settings
        self.versions = dict(versions)
        self.scratch = scratch
        classes = next(iter(self.models.values())).describe()["classes"]  # of an exported file; None for any
        self.class_name = settings.class_name or (classes[0] if classes else "")
        self.examples = [
            _Example(name, kind, Image.fromarray(draw(name, seed, defect=kind).image))
            for name, kind, seed in EXAMPLES
            if classes is None or name in classes
        ]
        self._by_recipe: dict[tuple[str, str], Model] = {}
        self._looks = Looks()

    def build(self) -> gr.Blocks:
        """The page, for `gr.mount_gradio_app`."""
        blocks = gr.Blocks(title="anovl", analytics_enabled=False, delete_cache=(600, IDLE_S))
        with blocks:
            gr.HTML(TITLE)
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=300):
                    names = list(self.models)
                    tiles = [views.Tile(jpeg(one.picture), (one.class_name, one.defect or "good")) for one in self.examples]
                    self.asked = Asked(names, self.class_name, self._note(names[0]), tiles)
                with gr.Column(scale=5, min_width=320):
                    self.shown = Shown()
            self._connect()
        return blocks

    def _connect(self) -> None:
        """What happens when."""
        asked, shown = self.asked, self.shown
        settings = asked.words | shown.view
        common: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        scoring = common | {"concurrency_limit": 1, "concurrency_id": "model"}
        drawing = common | {"concurrency_limit": None}
        calibrating = [*shown.drawn, shown.threshold, shown.pixel, shown.profile, shown.running]
        calibrating += [asked.calibrated, asked.profile_file]
        started = [asked.find.click, asked.class_name.submit]
        runs = [
            gr.on(started, self._find_uploaded, asked.uploads | settings, shown.all, **scoring),
            asked.examples.select(self._find_example, settings, [*shown.all, asked.class_name], **scoring),
        ]
        for run in runs:
            run.then(None, js=_TO_RESULT, **common)
        asked.calibrate.click(self._calibrate, settings | {asked.good, asked.rate}, calibrating, **scoring)
        asked.stop.click(_stop, shown.running, None, **drawing)
        asked.earlier.upload(self._load_profile, shown.view | {asked.earlier}, calibrating, **drawing)
        moved = [control.input for control in (shown.threshold, shown.pixel, shown.opacity, shown.contours, shown.boxes)]
        gr.on(moved, self._draw, shown.view, shown.drawn, trigger_mode="always_last", **drawing)
        shown.gallery.select(self._select, shown.view, shown.drawn, **drawing)
        made = shown.download.click(self._archive, shown.view, shown.archive, **common)
        made.success(None, js="() => document.querySelector('#archive')?.click()", **common)
        asked.model.change(self._note, asked.model, asked.note, **drawing)

    def _note(self, name: str) -> str:
        """A word about a model."""
        model = self.models[name]
        said = [f"{name}: {model.note}."] if model.note else []
        return "".join(map(views.note, [*said, *views.beside(model.describe())]))

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
            self._by_recipe[name, recipe] = model.with_recipe(recipe)
        return self._by_recipe[name, recipe]

    def _session(self, values: Values) -> Session:
        """A new session for the words.

        Raises:
            UsageError: words that do not suit the model.
        """
        class_name = (values[self.asked.class_name] or "").strip()
        if not class_name:
            raise UsageError("Say what the pictures show, such as 'metal nut'.")
        defects = tuple(word.strip() for word in (values[self.asked.defects] or "").split(",") if word.strip())
        domain = None if values[self.asked.domain] == DOMAINS[0] else values[self.asked.domain]
        names = vocabulary(values[self.asked.names] or "")
        adapt = bool(values[self.asked.adapt])
        words = Words(class_name=class_name, domain=domain, defects=defects, names=names, adapt=adapt)
        model = self._model(values[self.asked.model], values[self.asked.recipe])
        told = {"model": values[self.asked.model], **model.describe(), **asdict(words)}
        return Session(model.job(words), told, self._looks, in_parts=model.in_parts)

    def _find_uploaded(self, values: Values) -> Iterator[Changes]:
        """Score what was uploaded; in a folder pictures alone, as `anovl predict` does."""
        asked = self.asked
        folder = [path for path in values[asked.folder] or () if Path(path).suffix.lower() in SUFFIXES]
        paths = [*(values[asked.files] or ()), *folder, *filter(None, [values[asked.camera]])]
        yield from self._find(values, named(paths))

    def _find_example(self, values: Values, event: gr.EventData) -> Iterator[Changes]:
        """Score the example that was chosen."""
        chosen = self.examples[event.index]
        values[self.asked.class_name] = chosen.class_name
        yield {self.asked.class_name: chosen.class_name}
        yield from self._find(values, [chosen.item])

    def _find(self, values: Values, items: Sequence[SourceItem]) -> Iterator[Changes]:
        """Score pictures, telling how far it is; then show them."""
        try:
            if not items:
                raise UsageError("Choose pictures, a folder or a photo first, or take an example.")
            session = self._session(values)
            values[self.shown.session] = session
            yield {self.shown.session: session, self.shown.running: session}
            for changes in self._run(session, items):
                yield {self.shown.status: changes}
            yield self._finish(values)
        except AnovlError as exc:
            yield self._hidden() | {self.shown.status: views.problem(reason(exc))}

    def _run(self, session: Session, items: Sequence[SourceItem]) -> Iterator[str]:
        """Score; how far it is, after each picture."""
        if len(items) > MOST:
            raise UsageError(f"{len(items)} pictures, at most {MOST} a run; `anovl predict` takes any number.")
        yield views.progress(0, len(items))
        for done in session.run(items, batch_size=self.settings.batch_size, workers=self.settings.workers):
            yield views.progress(done, len(items))

    def _finish(self, values: Values) -> Changes:
        """Show what a session found, the highest score first."""
        session: Session | None = values[self.shown.session]
        if session is None or not session.found:
            return self._hidden() | {self.shown.status: (session and views.failures(session)) or EMPTY}
        session.select(0)
        several = len(session.found) > 1
        tiles = [views.Tile(found.tile, (f"{found.pred_score:.3f}", found.name)) for found in session.ranked]
        return {
            self.shown.result: gr.update(visible=True),
            self.shown.batch: gr.update(visible=several),
            self.shown.download: gr.update(visible=True),
            self.shown.gallery: views.gallery("Batch", tiles) if several else "",
            **self._set_thresholds(values, session),
            **self._draw(values),
        }

    def _fitting(self, values: Values, session: Session) -> Profile | None:
        """The visitor's profile, where it is for such scores."""
        profile: Profile | None = values[self.shown.profile]
        return None if profile is None or profile.origin.differences(session.origin) else profile

    def _set_thresholds(self, values: Values, session: Session) -> Changes:
        """The sliders for a session: their range holds all its scores; the profile's values where it is for the same run."""
        low, high = session.score_range()
        own = {self.shown.threshold: DEFAULT_THRESHOLD, self.shown.pixel: DEFAULT_THRESHOLD}
        if (profile := self._fitting(values, session)) is not None:
            own = {self.shown.threshold: profile.image_threshold, self.shown.pixel: profile.pixel_threshold}
        low, high = min(low, *own.values()), max(high, *own.values())
        changes: Changes = {}
        for slider, value in own.items():
            keep = values[self.shown.profile] is None and low <= values[slider] <= high
            values[slider] = values[slider] if keep else value
            changes[slider] = gr.update(minimum=low, maximum=high, step=(high - low) / STEPS, value=values[slider])
        return changes

    def _thresholds(self, values: Values, session: Session) -> Thresholds:
        """Where the sliders stand; a profile's exact values while they stand on them."""
        image, pixel = float(values[self.shown.threshold]), float(values[self.shown.pixel])
        if (profile := self._fitting(values, session)) is not None:
            low, high = session.score_range()
            near = (high - low) / STEPS  # what a slider may round
            if abs(image - profile.image_threshold) <= near and abs(pixel - profile.pixel_threshold) <= near:
                return Thresholds(profile.image_threshold, profile.pixel_threshold, calibrated=True)
        return Thresholds(image, pixel)

    def _select(self, values: Values, event: gr.EventData) -> Changes:
        """Look at another picture of the batch."""
        session: Session | None = values[self.shown.session]
        if session is not None:
            session.select(event.index)
        return self._draw(values)

    def _draw(self, values: Values) -> Changes:
        """The selected picture under the sliders."""
        session: Session | None = values[self.shown.session]
        if session is None or session.selected is None:
            return {self.shown.status: EMPTY}
        try:
            looked, picture = session.look()
            thresholds = self._thresholds(values, session)
        except AnovlError as exc:
            return {self.shown.status: views.problem(reason(exc))}
        prediction = decided(looked, thresholds)
        regions = prediction.regions()
        mask = mask_image(prediction)
        mask.thumbnail((PANEL, PANEL), Image.Resampling.NEAREST)
        said = views.failures(session) + views.counts(session, thresholds.image)
        return {
            self.shown.status: said + views.verdict(session.selected.name, prediction, regions),
            self.shown.picture: framed(picture, prediction, regions) if values[self.shown.boxes] else picture,
            self.shown.heat: blend(picture, prediction, opacity=values[self.shown.opacity], contours=values[self.shown.contours]),
            self.shown.mask: mask,
            self.shown.regions: views.region_table(regions),
            self.shown.histogram: views.histogram(session.found, thresholds.image),
        }

    def _calibrate(self, values: Values) -> Iterator[Changes]:
        """Thresholds from good pictures."""
        try:
            items = named(values[self.asked.good] or ())
            if not items:
                raise UsageError("Choose some good pictures of the same thing first; 19 or more keep 5 % false alarms.")
            session = self._session(values)
            yield {self.shown.running: session}
            for changes in self._run(session, items):
                yield {self.asked.calibrated: changes}
            if session.stopped:
                raise UsageError("Stopped; the thresholds are as before.")
            pairs = [(found.pred_score, found.peak) for found in session.found]
            profile = calibration.calibrate(pairs, session.origin, fpr=float(values[self.asked.rate]))
            yield self._use_profile(values, profile, views.failures(session))
        except AnovlError as exc:
            yield {self.asked.calibrated: views.problem(reason(exc))}

    def _load_profile(self, values: Values) -> Changes:
        """A profile from a file."""
        try:
            return self._use_profile(values, Profile.load(values[self.asked.earlier]), "")
        except AnovlError as exc:
            return {self.asked.calibrated: views.problem(str(exc).removeprefix(f"{values[self.asked.earlier]}: "))}

    def _use_profile(self, values: Values, profile: Profile, said: str) -> Changes:
        """Set the sliders, offer the profile, and draw again."""
        values[self.shown.profile] = profile
        session: Session | None = values[self.shown.session]
        other = [] if session is None else profile.origin.differences(session.origin)
        path = self._new_path(PROFILE)
        profile.save(path)
        changes: Changes = {
            self.shown.profile: profile,
            self.asked.calibrated: said + views.calibrated(profile, other),
            self.asked.profile_file: gr.update(value=str(path), visible=True),
        }
        if session is not None and session.selected is not None:
            changes |= self._set_thresholds(values, session) | self._draw(values)
        return changes

    def _archive(self, values: Values) -> Changes:
        """The results as a file to download."""
        session: Session | None = values[self.shown.session]
        try:
            if session is None:
                raise UsageError("nothing to download yet: score some pictures first")
            path = self._new_path(RESULTS)
            session.write_archive(path, self._thresholds(values, session), self.versions)
        except AnovlError as exc:
            raise gr.Error(reason(exc), print_exception=False) from exc
        return {self.shown.archive: str(path)}

    def _hidden(self) -> Changes:
        """Nothing is shown."""
        return {part: gr.update(visible=False) for part in (self.shown.result, self.shown.batch, self.shown.download)}

    def _new_path(self, name: str) -> Path:
        """Where to write a file for a visitor."""
        folder = self.scratch / secrets.token_hex(16)
        folder.mkdir(parents=True)
        return folder / name


@dataclass(frozen=True)
class _Example:
    """A drawn picture to try."""

    class_name: str
    defect: str | None
    picture: Image.Image

    @property
    def item(self) -> SourceItem:
        """The picture as the loop takes it."""
        name = f"{self.class_name} {self.defect or 'good'}".replace(" ", "-")
        return SourceItem(self.picture, f"{name}.png", name)


def _stop(running: Session | None) -> None:
    """End a visitor's run after the picture that is at hand."""
    if running is not None:
        running.stopped = True
