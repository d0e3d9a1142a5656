"""Base models, the reward head and its pooling, token recipes."""
