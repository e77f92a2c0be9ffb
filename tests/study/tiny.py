"""Settings small enough for the tests of studies."""

TINY = {
    "roi": {"size": 16},
    "network": {"stem_widths": [4, 8], "widths": [8, 16], "n_middle": 0, "n_hidden": 8},
    "training": {"epochs": 1, "batch_size": 16, "precision": "float32"},
    "neighbors": {"budget": 2},
}
