"""A process that ``benchmark.py startup`` starts: tools/run_net.py, which notes when it got where.

    python tools/startup_run.py STARTED FILE --cfg ... KEY VALUE ...

STARTED is the ``time.monotonic()`` of whoever started the process; the rest of the line is run_net.py's. FILE gets the
seconds from then to each of ``MARKS``, as JSON.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmae_video.engine.stepping import StepResult

# Python runs this file; what run_net.py imports is imported; the trainer is built; its loop begins; the clips of the
# first step are there (of all its micro-batches, whose gradients come in between); that step's update is applied.
MARKS = ("python", "imports", "built", "loop", "clips", "step")


def main() -> int:
    started, file, *arguments = sys.argv[1:]
    marks: dict[str, float] = {}

    def note(mark: str, seconds: float | None = None) -> None:
        """The seconds until now, or those given; only the first time, as there may be more steps."""
        marks.setdefault(mark, time.monotonic() - float(started) if seconds is None else seconds)

    def note_clips(done: StepResult) -> None:
        note("clips", marks["loop"] + done.data_seconds)

    note("python")
    import run_net

    with run_net.imports_for_good():
        import diffmae_video.build  # noqa: F401 - with all that run_net.py imports before it builds
        from diffmae_video.engine import Trainer
        from diffmae_video.engine.stepping import Stepper

    note("imports")
    note_around(Trainer, "run", before=lambda: note("built"))
    note_around(Stepper, "gradient", before=lambda: note("loop"), after=note_clips)
    note_around(Stepper, "update", after=lambda _: note("step"))
    parsed = run_net.parse_arguments(arguments)
    code = run_net.run(parsed.files, parsed.overrides, print_config=False)
    Path(file).write_text(json.dumps(marks))
    return code


def note_around(
    owner: type, name: str, before: Callable[[], None] | None = None, after: Callable[[object], None] | None = None
) -> None:
    """Has the method ``name`` call ``before()`` first and ``after(its result)`` last."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def noted(*arguments: object, **options: object) -> object:
        if before is not None:
            before()
        result = method(*arguments, **options)
        if after is not None:
            after(result)
        return result

    setattr(owner, name, noted)


if __name__ == "__main__":
    sys.exit(main())
