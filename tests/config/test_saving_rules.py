import pytest

from diffmae_video.config import ConfigError, load_config


def test_in_the_background_needs_folders():
    assert load_config([], ["TRAIN.CHECKPOINT_FORMAT", "sharded", "TRAIN.CHECKPOINT_ASYNC", "True"])
    with pytest.raises(ConfigError, match=r'TRAIN.CHECKPOINT_ASYNC is True.*set the second to "sharded"'):
        load_config([], ["TRAIN.CHECKPOINT_ASYNC", "True"])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("KEEP_LAST", "0", "KEEP_LAST"),
        ("CHECKPOINT_FORMAT", "zip", "sharded"),
        ("ON_FULL_DISK", "ignore", "continue"),
    ],
)
def test_values_that_cannot_work(key, value, words):
    with pytest.raises(ConfigError, match=words):
        load_config([], [f"TRAIN.{key}", value])
