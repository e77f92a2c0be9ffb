"""Old names of settings and options: read for one more version, with a warning."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from diagnet.errors import SettingsError

# What each old name of a setting is now; one that has become several stands for all of them.
NEW_NAMES: Mapping[str, tuple[str, ...]] = {
    "positive_share": ("positive_ratio",),
    "negative_share": ("negative_ratio",),
    "skip_relatives": ("skip_same_patient", "skip_own_neighbors"),
}


def by_new_names(cls: type, values: Any) -> Any:  # noqa: ARG001 -- pydantic passes it
    """Let settings some of which had another name before be given by it: for pydantic's `model_validator`."""
    return with_new_names(values) if isinstance(values, Mapping) else values


def with_new_names(values: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """Replace old names of settings by new ones, in sections and in dotted names too.

    Args:
        values: settings by their names.
        warn: False for what an earlier version has written: its user cannot change it.

    Raises:
        SettingsError: a setting is given by its old and its new name.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, last = str(name).rpartition(".")
        new_names = [f"{section}{dot}{new}" for new in NEW_NAMES.get(last, (last,))]
        if last in NEW_NAMES:
            for new in new_names:
                if new in values:
                    raise SettingsError(twice(name, new))
            if warn:
                warn_of_old_name(name, new_names)
        inner = with_new_names(value, warn=warn) if isinstance(value, Mapping) else value
        found |= dict.fromkeys(new_names, inner)
    return found


def warn_of_old_name(old: str, new: Sequence[str]) -> None:
    """Warn that something has another name now; a text is shown once a process."""
    names = " and ".join(f"`{name}`" for name in new)
    warnings.warn(f"`{old}` is now {names}; the old name works until the next version", FutureWarning, stacklevel=3)


def twice(old: str, new: str) -> str:
    """The message where one thing is given by both of its names."""
    return f"`{new}` must be given by one name, got its old name `{old}` too"
