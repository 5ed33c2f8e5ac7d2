"""Settings and names of models, checked before anything is loaded."""

import pytest

from anovl.errors import UsageError
from anovl.server.settings import Settings, parse_models


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"max_files": 9, "queue_size": 8}, "never fit into a queue of 8"),
        ({"timeout_s": 0}, "expected times"),
        ({"max_wait_ms": float("nan")}, "expected times"),
        ({"token": ""}, "token: expected"),
        ({"token": "two words"}, "token: expected"),
    ],
)
def test_settings_that_cannot_work(values, message):
    with pytest.raises(UsageError, match=message):
        Settings(**values)


def test_a_token_is_not_shown():
    assert "secret" not in repr(Settings(token="secret"))


def test_names_of_models():
    given = ["mini", "part=files/part.onnx", "other/nut.xml", "local-dir:a/b=c", "ViT-B-16:tag"]
    assert parse_models(given) == {
        "mini": "mini",
        "part": "files/part.onnx",
        "nut": "other/nut.xml",
        "b=c": "local-dir:a/b=c",
        "ViT-B-16:tag": "ViT-B-16:tag",
    }


@pytest.mark.parametrize("given", [[], ["mini", "mini"], ["a=1", "a=2"], ["part="], [""]])
def test_names_that_are_refused(given):
    with pytest.raises(UsageError, match="--model"):
        parse_models(given)
