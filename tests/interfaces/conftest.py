"""Which models a command used."""

import pytest


@pytest.fixture
def models_that_scored(monkeypatch):
    """The set of all models that scored a batch."""
    from anovl.detection import DetectionJob

    found = {}
    score = DetectionJob.score

    def noted(job, pixel_values):
        clip = job.detector.backbone.clip
        found[id(clip)] = clip  # kept, so that no other gets its id
        return score(job, pixel_values)

    monkeypatch.setattr(DetectionJob, "score", noted)
    return found
