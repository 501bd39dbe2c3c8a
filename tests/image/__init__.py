"""Builds the images with whatever builder there is, and looks whether they do what they promise."""
