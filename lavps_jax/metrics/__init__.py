"""Scores of images, of ensembles and of sets."""
