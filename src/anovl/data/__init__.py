"""Pictures in: decoding, enumeration of sources, conversion to the model's input."""
