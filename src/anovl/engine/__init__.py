"""Engines: an iterable of images in, an iterator of results out, memory bounded by the batch."""
