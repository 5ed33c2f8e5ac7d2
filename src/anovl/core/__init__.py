"""The paper, equation by equation; torch and the settings only, no files and no open_clip."""
