"""Storage, weights in files, checkpoints of training, foreign weights."""
