"""This package as a part of others' houses: anomalib, supervision, and a pipeline in the manner of transformers."""
