"""The page: its places, what they share, and its look."""

import atexit
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from app.beta_place import beta_place
from app.bundles_place import bundles_place
from app.controls import html, text_of
from app.distil_place import distil_place
from app.distillery import Distillery
from app.downloads import Downloads
from app.explore_place import explore_place
from app.laboratory import Bench
from app.laboratory_place import laboratory_place
from app.recording import read_recording, recording_path
from app.session import LONGEST_LINE, Studio
from app.shelf import Shelf
from app.tightness_place import tightness_place
from igds.bundle import Bundle
from igds.fetch import cache_folder
from igds.study import read_study, study_path

SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
LOOK = {
    "theme": gr.themes.Base(
        primary_hue="orange",
        secondary_hue="slate",
        neutral_hue="slate",
        text_size="lg",
        spacing_size="md",
        radius_size="md",
        font=SYSTEM_FONTS,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(
        button_primary_background_fill="#b93c0a",
        button_primary_background_fill_hover="#9a3008",
        button_primary_background_fill_dark="#b93c0a",
        button_primary_background_fill_hover_dark="#cf4a12",
        button_primary_text_color="white",
        slider_color="#c2410c",
        slider_color_dark="#ff9d5c",
        block_border_width="0px",
        block_shadow="none",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        body_background_fill="#ffffff",
        body_text_color="#1b1f27",
        body_text_color_subdued="#566070",
        body_text_color_subdued_dark="#a8b1c0",
        block_info_text_color="#566070",
        block_info_text_color_dark="#a8b1c0",
        block_label_text_color="#1b1f27",
        block_title_text_color="#1b1f27",
        block_title_text_weight="650",
    ),
    "css": text_of("page.css") + text_of("bundles.css") + text_of("presentation.css"),
    "footer_links": ["api"],
}


@dataclass(frozen=True, eq=False)
class Page:
    """A page, and what works behind it for as long as its bundle is open."""

    blocks: gr.Blocks
    studio: Studio
    distillery: Distillery
    downloads: Downloads

    @property
    def bundle(self) -> Bundle:
        return self.studio.bundle

    def shut(self) -> bool:
        """Let nothing begin any more; False, and all is as before, where a visitor's run waits or is under way."""
        lines = self.studio.line, self.distillery.workshop.line
        if all(line.shut() for line in lines) and not any(self.blocks._queue.active_jobs):
            return True
        self.reopen()
        return False

    def reopen(self) -> None:
        for line in (self.studio.line, self.distillery.workshop.line):
            line.reopen()

    def close(self) -> None:
        """Let go of what outlives the page itself."""
        workshop = self.distillery.workshop
        workshop.close()
        atexit.unregister(workshop.close)
        shutil.rmtree(self.downloads.folder, ignore_errors=True)


def build(
    bundle: Bundle, *, study: Path | None = None, recording: Path | None = None, distilled: Path | None = None
) -> gr.Blocks:
    """The page for one bundle, which stays that bundle's. Launch it with LOOK.

    `study` and `recording` are files of this bundle, by default those that come with it; without them, or where they
    are damaged or of another bundle, the page does without. Distilled sets are kept in the folder `distilled`, by
    default in the user's cache.
    """
    return page_of(bundle, study=study, recording=recording, distilled=distilled).blocks


def page_of(
    bundle: Bundle,
    *,
    study: Path | None = None,
    recording: Path | None = None,
    distilled: Path | None = None,
    shelf: Shelf | None = None,
    bench: Bench | None = None,
) -> Page:
    """The page for one bundle as `build` makes it; with `shelf`, it has the place from which the others are opened.

    `bench` is that of the Laboratory and of Bounds, which work without a bundle and can be shared by several pages.
    """
    study = study or study_path(bundle)
    try:
        studio = Studio(bundle, read_study(study, bundle))
    except ValueError as error:
        studio = Studio(bundle, no_study=str(error))
    recorded = _recorded(recording or recording_path(bundle), bundle)
    distillery = Distillery(studio, distilled or cache_folder() / "distilled")
    bench = bench or Bench()
    downloads = Downloads(Path(get_upload_folder()))
    page = gr.Blocks(title="IGDS Explorer", analytics_enabled=False, delete_cache=(3600, 3600), fill_width=True)
    with page:
        # Outside the places: what is inside one is not there before it is opened.
        memory = gr.BrowserState("", storage_key=f"igds-{bundle.name}-distilled", secret="a key, not a secret")
        html(text_of("presentation.html"), "presentation")
        with gr.Tabs(elem_id="places", elem_classes="photographs" if bundle.prior.shape[0] == 3 else None):
            with gr.Tab("Explore", id="explore"):
                explore = explore_place(page, studio, downloads, figure=study.with_suffix(".png"), recorded=recorded)
            with gr.Tab("β at a glance", id="beta"):
                beta_place(page, studio, downloads, explore)
            with gr.Tab("Distil", id="distil"):
                distil_place(page, distillery, downloads, memory)
            with gr.Tab("Laboratory", id="laboratory"):
                laboratory_place(bench)
            with gr.Tab("Bounds", id="bounds"):
                tightness_place(bench)
            if shelf:
                with gr.Tab("Bundles", id="bundles") as tab:
                    bundles_place(tab, shelf, bundle)
        page.load(None, None, None, js=f"() => {{{text_of('copy_link.js')}{text_of('places.js')}}}")
    return Page(page.queue(max_size=LONGEST_LINE), studio, distillery, downloads)


def _recorded(path: Path, bundle: Bundle) -> dict | None:
    try:
        return read_recording(path, bundle)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.getLogger(__name__).warning("%s", error)
        return None
