"""One sampling run and one training run: prepare, run, write."""
