"""How the page looks: Gradio's components, and which of them calls which of the page's actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.media import get_image, get_video
from page_actions import Actions, View
from page_input import EXTENSIONS, Sample
from page_mask import BOX, FRAMES, KINDS, MOVING_BOX, PAINTED, title_of

from diffmae_video.diffusion import SAMPLERS, SPACINGS
from diffmae_video.inpainting import FITS
from diffmae_video.models.masks import STRATEGIES

STEPS = 5  # as the demo takes; more steps show more detail, right or wrong
STRIDES = 16

# System fonts: Gradio's own are fetched from another server.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], spacing_size="sm")
STYLE = """
.gradio-container {max-width: 1280px !important}
.note {font-size: 0.9em}
.note .wrong {color: #b91c1c; font-weight: 600}
.dark .note .wrong {color: #fca5a5}
.note progress {width: 100%; height: 0.9em; accent-color: #ea580c}
#status table {width: auto; border: 0}
#status tr, #status td {border: 0; padding: 0 1.2em 0 0}
#samples .grid-container {grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr))}
.captioned [data-testid="block-label"] {position: static; width: fit-content; border: 0; box-shadow: none}
#samples .caption-label {max-width: 100%; left: 0; padding: 0 0.3em; font-size: 0.7em; white-space: normal}
#upload .wrap {padding: 0; font-size: 0.85em; line-height: 1.2}
#upload .icon-wrap {display: none}
"""


def gradio_samples() -> list[Sample]:
    """The video and the picture that Gradio brings."""
    return [
        Sample("Earth", Path(get_video("world.mp4"))),
        Sample("cheetah, a picture", Path(get_image("cheetah.jpg"))),
    ]


class Page:
    """The page; ``build`` makes it."""

    def __init__(self, actions: Actions):
        self.actions, self.limits = actions, actions.limits
        self.controls: dict[str, gr.components.Component] = {}
        self.first_model = next(iter(actions.models.values()))

    def build(self) -> gr.Blocks:
        """The page, with its queue: one job at a time."""
        keep = 60 * self.limits.keep_minutes
        age = (max(1, int(keep / 20)), max(1, int(keep)))  # seconds: how often to look, and what is too old
        with gr.Blocks(title="Inpaint a video", analytics_enabled=False, delete_cache=age) as page:
            gr.Markdown(f"## Inpaint a video\nHide a part of it, and {self._models_in_words()} fills it in.")
            with gr.Row():
                with gr.Column(scale=5, min_width=420):
                    parts = self._input_controls() | self._mask_controls()
                    self._sampling_controls()
                with gr.Column(scale=6, min_width=420):
                    outputs = self._result_views()
            self._connect_input(page, parts)
            self._connect_run(outputs)
        return page.queue(max_size=self.limits.waiting, default_concurrency_limit=4)

    def _models_in_words(self) -> str:
        models = self.actions.models
        names = [f"the {model.cfg.MODEL.NAME} of `{path}`" for path, model in models.items()]
        return names[0] if len(names) == 1 else "a model of your choice"

    # ------------------------------------------------------------------------------------------------ components

    def _input_controls(self) -> dict[str, gr.components.Component]:
        models, samples = list(self.actions.models), self.actions.samples
        self.controls["model"] = gr.Dropdown(models, value=models[0], label="Model", visible=len(models) > 1)
        self.controls["source"] = gr.State(str(samples[0].path))
        gallery = gr.Gallery(
            self.actions.reader.thumbnails(samples),
            label="Samples",
            columns=len(samples),
            rows=1,
            height=140,
            allow_preview=False,
            buttons=[],
            elem_id="samples",
            elem_classes="captioned",
        )
        size = f"at most {self.limits.upload_bytes / (1 << 20):.3g} MB"
        upload = gr.File(
            label=f"Or a video or image of yours, {size}",
            file_types=list(EXTENSIONS),
            height=90,
            elem_id="upload",
            elem_classes="captioned",
        )
        return {"samples": gallery, "upload": upload}

    def _mask_controls(self) -> dict[str, gr.components.Component]:
        own = self.first_model.cfg.MASK.STRATEGY
        kind = own if own in STRATEGIES else KINDS[0]
        ratio = self.actions.ratio(kind, next(iter(self.actions.models)))
        choices = [(title_of(name), name) for name in KINDS]
        add = self.controls.__setitem__
        add("kind", gr.Dropdown(choices, value=kind, label="What to hide"))
        add("ratio", gr.Slider(0.05, 0.95, ratio, step=0.05, label="Share of patches that is hidden"))
        with gr.Row(visible=False) as box:
            for side, value in (("left", 30), ("right", 70), ("top", 30), ("bottom", 70)):
                add(side, gr.Slider(0, 100, value, step=1, label=f"{side.capitalize()} (%)", min_width=200))
        keyframes = "0:0.1,0.3,0.4,0.7 7:0.6,0.3,0.9,0.7"
        add("keyframes", gr.Textbox(keyframes, label="frame:left,top,right,bottom as shares", visible=False))
        add("frames", gr.Textbox("2-5", label="Frames, counted in those that are taken", visible=False))
        preview = gr.Image(
            label="What the model sees",
            interactive=False,
            buttons=["fullscreen"],
            height=190,
            elem_classes="captioned",
        )
        add("editor", self._editor())
        info = gr.HTML(padding=False, elem_classes="note", elem_id="info")
        return {"box": box, "preview": preview, "info": info}

    def _editor(self) -> gr.ImageEditor:
        return gr.ImageEditor(
            label="Paint over what is to be filled in, in all frames",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(default_size=30, colors=["#ffffff"], color_mode="fixed"),
            buttons=[],
            height=380,
            visible=False,
            elem_id="editor",
        )

    def _sampling_controls(self) -> None:
        limits, add = self.limits, self.controls.__setitem__
        count = min(limits.frames, 2 * self.first_model.clip_shape[1])
        stride = min(self.first_model.cfg.DATA.SAMPLING_RATE, STRIDES)
        with gr.Row():
            add("count", gr.Slider(1, limits.frames, count, step=1, label="Frames", min_width=120))
            add("stride", gr.Slider(1, STRIDES, stride, step=1, label="Stride", min_width=120))
            add("steps", gr.Slider(1, limits.steps, min(STEPS, limits.steps), step=1, label="Steps", min_width=120))
        with gr.Row():
            add("sampler", gr.Dropdown(list(SAMPLERS), value=SAMPLERS[0], label="Sampler", min_width=120))
            add("seed", gr.Number(0, precision=0, minimum=0, maximum=2**31, label="Seed", min_width=120))
        with gr.Accordion("More", open=False), gr.Row():
            add("grow", gr.Slider(0, 32, 0, step=1, label="Grow mask (px)", min_width=200))
            add("feather", gr.Slider(0, 32, 0, step=1, label="Feather (px)", min_width=200))
            add("start", gr.Number(0, precision=0, minimum=0, label="First frame", min_width=120))
            add("spacing", gr.Dropdown(list(SPACINGS), value=SPACINGS[0], label="Timesteps", min_width=120))
            add("fit", gr.Dropdown(list(FITS), value=FITS[0], label="Size that is worked on", min_width=120))

    def _result_views(self) -> dict[str, gr.components.Component]:
        label = "Masked input | inpainted | original"
        shown = {"interactive": False, "elem_classes": "captioned"}
        with gr.Row():
            run = gr.Button("Run", variant="primary")
            cancel = gr.Button("Cancel")
        status = gr.HTML(padding=False, elem_classes="note", elem_id="status")
        video = gr.Video(label=label, autoplay=True, loop=True, buttons=["download"], elem_id="result", **shown)
        # no button to share: that would upload it to somebody else's server
        buttons = ["download", "fullscreen"]
        picture = gr.Image(label=label, visible=False, format="png", buttons=buttons, elem_id="picture", **shown)
        download = gr.DownloadButton("Download the inpainted video or picture", interactive=False)
        title = "How it came about: x_t from noise on, and what the model made of it"
        strip = gr.Image(label=title, visible=False, format="png", buttons=buttons, elem_id="trajectory", **shown)
        return {
            "run": run,
            "cancel": cancel,
            "status": status,
            "video": video,
            "picture": picture,
            "download": download,
            "strip": strip,
        }

    # ------------------------------------------------------------------------------------------------ what calls what

    def _connect_input(self, page: gr.Blocks, parts: Mapping[str, gr.components.Component]) -> None:
        controls = self.controls
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        settings = {control for name, control in controls.items() if name != "editor"}
        look = {"fn": self._look, "inputs": settings, "outputs": [parts["info"], parts["preview"]], **quiet}
        frame = {"fn": self._frame_to_paint_on, "inputs": settings, "outputs": controls["editor"], **quiet}
        source, upload = controls["source"], parts["upload"]

        page.load(**look)
        page.load(**frame)
        chosen = parts["samples"].select(self._take_sample, None, [source, upload], **quiet)
        taken = upload.upload(lambda path: path, upload, source, **quiet)
        emptied = upload.clear(lambda: None, None, source, **quiet)
        for event in (chosen, taken, emptied):
            event.then(**look).then(**frame)
        controls["start"].change(**frame)
        shown = [controls["ratio"], parts["box"], controls["keyframes"], controls["frames"], controls["editor"]]
        kind = [controls["kind"], controls["model"]]
        gr.on([control.change for control in kind], self._controls_of, kind, [*shown, parts["preview"]], **quiet)
        moved = [control.change for name, control in controls.items() if name not in ("source", "editor")]
        gr.on(moved, **look, trigger_mode="always_last")
        # Only a stroke sends the painting for this; a run sends it in any case.
        painted = {**look, "inputs": set(controls.values())}
        controls["editor"].input(**painted, trigger_mode="always_last")

    def _connect_run(self, parts: Mapping[str, gr.components.Component]) -> None:
        views = [parts[name] for name in ("status", "video", "picture", "download", "strip")]
        running = parts["run"].click(
            self._run,
            set(self.controls.values()),
            views,
            show_progress="hidden",
            concurrency_limit=1,
            trigger_mode="once",
            api_visibility="private",
        )
        # A job that waits leaves the queue by ``cancels``, one that runs by the action.
        parts["cancel"].click(
            self._cancel,
            None,
            parts["status"],
            cancels=[running],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    def _values(self, given: Mapping) -> dict[str, object]:
        return {name: given[control] for name, control in self.controls.items() if control in given}

    def _take_sample(self, event: gr.SelectData) -> tuple[str, None]:
        """A thumbnail was clicked: its file, and no upload."""
        if event.index not in range(len(self.actions.samples)):
            raise gr.Error("there is no such sample")
        return str(self.actions.samples[event.index].path), None

    def _look(self, given: dict) -> tuple[str, np.ndarray | None]:
        return self.actions.look(self._values(given))

    def _frame_to_paint_on(self, given: dict) -> dict[str, object] | None:
        frame = self.actions.first_frame(self._values(given))
        return None if frame is None else {"background": frame, "layers": [], "composite": None}

    def _controls_of(self, kind: str, model: str) -> list[dict]:
        """Which controls a kind of mask has; the ratio is the one that the model was trained with."""
        return [
            gr.update(visible=kind in STRATEGIES, value=self.actions.ratio(kind, model)),
            gr.update(visible=kind == BOX),
            gr.update(visible=kind == MOVING_BOX),
            gr.update(visible=kind == FRAMES),
            gr.update(visible=kind == PAINTED),
            gr.update(visible=kind != PAINTED),
        ]

    def _run(self, given: dict, request: gr.Request) -> Iterator[list]:
        for view in self.actions.run(self._values(given), request.session_hash):
            yield _updates(view)

    def _cancel(self, request: gr.Request) -> str:
        return self.actions.cancel(request.session_hash)


def _updates(view: View) -> list:
    """New values of status, comparison as video and as picture, download and trajectory."""
    if view.result is None:
        strip = gr.skip() if view.strip is None else gr.update(value=view.strip, visible=True)
        return [view.status, gr.skip(), gr.skip(), gr.skip(), strip]
    result = view.result
    is_picture = result.comparison.suffix == ".png"
    return [
        view.status,
        gr.update(value=None if is_picture else str(result.comparison), visible=not is_picture),
        gr.update(value=str(result.comparison) if is_picture else None, visible=is_picture),
        gr.update(value=str(result.inpainted), interactive=True),
        gr.update(value=view.strip, visible=view.strip is not None),
    ]
