"""Options that belong together, as one frozen value: a verb takes the value, the command line shows its options.

Options that have been renamed are taken by their old names too, with a warning.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand

from diagnet.renamed import twice, warn_of_old_name


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb as typer wants it, a parameter an option, where it takes dataclasses of options.

    Each field of such a dataclass is an option, with its annotation and default. The options stand in the order of the
    verb's parameters and of the fields in them, those that must be given first.

        @dataclass(frozen=True)
        class Limits:
            seconds: Annotated[int, typer.Option(help="How long.")] = 60

        @app.command()
        @grouped
        def wait(place: Path, limits: Limits) -> None: ...

        wait PLACE --seconds 3
    """
    hints = get_type_hints(verb, include_extras=True)
    own = inspect.signature(verb).parameters.values()
    groups = {each.name: hints[each.name] for each in own if dataclasses.is_dataclass(hints[each.name])}
    options = [
        option
        for each in own
        for option in (
            _options(groups[each.name]) if each.name in groups else [each.replace(annotation=hints[each.name])]
        )
    ]
    options = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in options]
    options.sort(key=lambda option: option.default is not Parameter.empty)  # keeps the order among equals

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        values = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        verb(**values, **given)

    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # typer looks for it
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def _options(group: Any) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def taking(old_names: Mapping[str, str]) -> type[TyperCommand]:
    """The class of a verb that takes old names of its options too, with a warning; its help has the new ones alone.

        app.command(cls=taking({"--sr": "--marks"}))(predict)

    Args:
        old_names: the new name by the old one, both as they are typed.
    """

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            names = [name.partition("=")[0] for name in args]
            for place, name in enumerate(names[: names.index("--") if "--" in names else None]):
                new = old_names.get(name)
                if new is None:
                    continue
                if new in names:
                    raise typer.BadParameter(twice(name, new))
                if name not in names[:place]:
                    warn_of_old_name(name, [new])
                args[place] = new + args[place].removeprefix(name)
            return super().parse_args(ctx, args)

    return Command
