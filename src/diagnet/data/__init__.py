"""Masses in: readers, regions of interest, splits. Knows neither torch nor the method."""
