"""The verb that lists what can be set: settings."""

import textwrap

from diagnet.cli.shared import Json, Preset, print_json


def settings(preset: Preset = None, as_json: Json = False) -> None:
    """List every setting, its value in a preset and its meaning.

    Names and values are written as --set and --config take them.
    """
    from diagnet.config import Config, described_settings, toml_value

    config = Config.from_preset(preset or "small")
    found = described_settings(config)
    if as_json:
        print_json({"preset": config.preset, "settings": found})
        return
    print(f"Preset {config.preset}. Change one: --set section.key=value. All of them, to edit: config.toml of a run.\n")
    for each in found:
        value = "(not set)" if each["value"] is None else toml_value(each["value"])
        print(f"{each['name']} = {value}")
        if each["meaning"]:
            print(textwrap.indent(textwrap.fill(str(each["meaning"]), 100), "    "))
