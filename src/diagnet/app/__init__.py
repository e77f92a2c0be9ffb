"""The reader page and its HTTP API: one model, one machine, no internet."""
