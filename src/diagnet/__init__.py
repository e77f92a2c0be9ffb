"""DiagNet: tell benign from malignant breast masses in mammograms. Research software, not a medical device."""

__version__ = "0.1.0"
