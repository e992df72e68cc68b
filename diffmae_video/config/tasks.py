"""Kinds of ``TASK``."""

# Those whose model is an autoencoder; the others have a classifier.
AUTOENCODER_TASKS = ("pretrain", "inpaint_eval")
