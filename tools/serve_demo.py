"""A page in the browser on which to inpaint videos and images; docs/page.md says what it does.

    python tools/serve_demo.py --weights runs/demo

then open http://127.0.0.1:7860. Nothing leaves this machine, and nobody else reaches the page, unless --host says so.
Ctrl-C ends it and removes its files.
"""

from __future__ import annotations

import os

# As in tools/inpaint.py: waiting threads leave the CPU to others. Read once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Read when Gradio is imported: no telemetry, no look for new versions, no question to a hub.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import argparse
import ipaddress
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from page_input import Limits, demo_samples

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
DEMO_DATA = ROOT / "data_demo" / "motion"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    limits = Limits()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        nargs="+",
        help="checkpoint files, or folders of runs (their newest ones); several can be chosen from on the page",
    )
    add("--device", default="auto", help="auto (default: CUDA where there is one), cpu, cuda, cuda:1")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    add("--port", type=int, default=7860, help="port to listen on (default 7860)")
    add("--max-upload", type=float, default=limits.upload_bytes / (1 << 20), help="megabytes of a file (default 50)")
    add("--max-frames", type=int, default=limits.frames, help=f"frames of a clip (default {limits.frames})")
    add("--max-side", type=int, default=limits.side, help=f"pixels; larger is scaled down (default {limits.side})")
    add("--max-seconds", type=float, default=limits.job_seconds, help="of an inpainting (default 600)")
    add("--max-waiting", type=int, default=limits.waiting, help=f"jobs in the queue (default {limits.waiting})")
    add("--keep-minutes", type=float, default=limits.keep_minutes, help="uploads and results stay (default 60)")
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Everything that can be known to be wrong before a model is read."""
    for name in ("port", "max_upload", "max_frames", "max_seconds", "max_waiting", "keep_minutes"):
        if not getattr(options, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected more than 0")
    if options.port > 65535:
        raise ValueError(f"--port {options.port}: expected 1 to 65535")
    if options.max_side < 64:
        raise ValueError(f"--max-side {options.max_side}: expected at least 64")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_port(host: str, port: int) -> None:
    """Raises OSError where nothing can listen there, before a model is read."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another --port") from error


def load_models(weights: Sequence[str], device: str) -> dict[str, torch.nn.Module]:
    """Path as given -> model that can inpaint.

    Raises:
        ValueError: a model that cannot; FileNotFoundError, CheckpointError: see ``load_model``.
    """
    from diffmae_video import load_model
    from diffmae_video.inpainting.sampling import check_model
    from diffmae_video.models import MaskedAutoencoder

    models = {}
    for path in weights:
        model = load_model(path, device=device)
        if not isinstance(model, MaskedAutoencoder):
            raise ValueError(
                f"--weights {path}: a {type(model).__name__} recognises and cannot inpaint; expected a DiffMAE or MAE"
            )
        try:
            check_model(model)
        except ValueError as error:
            raise ValueError(f"--weights {path}: {error}") from None
        models[path] = model
    return models


def serve(options: argparse.Namespace, folder: Path) -> None:
    """Loads, listens until interrupted; all files are in ``folder``."""
    from inpaint import chosen_device
    from page_actions import Actions

    device = chosen_device(options.device)
    check_port(options.host, options.port)
    models = load_models(options.weights, device)
    limits = Limits(
        upload_bytes=int(options.max_upload * (1 << 20)),
        frames=options.max_frames,
        side=options.max_side,
        job_seconds=options.max_seconds,
        waiting=options.max_waiting,
        keep_minutes=options.keep_minutes,
    )
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "files")  # read when Gradio is imported
    try:
        from page_layout import STYLE, THEME, Page, gradio_samples
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "gradio":
            raise
        raise ImportError('the page needs Gradio: pip install -c constraints.txt -e ".[page]"') from error
    actions = Actions(models, [*demo_samples(DEMO_DATA), *gradio_samples()], limits, folder)
    blocks = Page(actions).build()
    try:
        _, address, _ = blocks.launch(
            server_name=options.host,
            server_port=options.port,
            share=False,
            max_file_size=limits.upload_bytes,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            footer_links=[],
            theme=THEME,
            css=STYLE,
        )
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        if not is_loopback(options.host):
            print(
                f"warning: --host {options.host} lets everybody who reaches this machine use the page, without a "
                "password; leave --host out to keep it to yourself",
                file=sys.stderr,
                flush=True,
            )
        threading.Event().wait()
    finally:
        actions.close()
        blocks.close(verbose=False)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # Imported here and in the functions, so that --help and a wrong option answer at once.
    from diffmae_video.engine.errors import RunError

    # SIGTERM is a service manager's way of saying Ctrl-C; a shell starts what is in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        check(options)
        with tempfile.TemporaryDirectory(prefix="diffmae_page_") as folder:
            serve(options, Path(folder))
    except (ValueError, OSError, ImportError, RunError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("the page is closed; its files are removed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
