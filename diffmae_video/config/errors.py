"""The one error that everything in this room raises."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigError(ValueError):
    """A configuration that cannot be used. The message lists every problem found, one per line."""

    @classmethod
    def from_problems(cls, problems: Sequence[str]) -> ConfigError:
        """One error for one or more problems, each a full sentence that names its place and the way out."""
        if len(problems) == 1:
            return cls(problems[0])
        return cls(f"{len(problems)} problems in the configuration:\n" + "\n".join(f"  - {text}" for text in problems))
