"""A run: one folder on disk that holds all a training leaves behind, and what writes it."""
