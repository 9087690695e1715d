"""Weights of the U-Nets of other projects as weights of `UNet2D` or `SongUNet`.

Each layout has a function that says the configuration of the network, and one for its weights.
"""
