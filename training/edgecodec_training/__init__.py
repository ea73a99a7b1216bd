"""Training of neural audio codecs: models, quantizers, losses, data, checkpoints, evaluation."""
