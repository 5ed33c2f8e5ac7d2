"""The page of `anovl ui`: a session's results, their drawing, and the gradio blocks around them."""
