"""The HTTP service of `anovl serve`; see docs/serve.md. It never fetches what a caller names."""
