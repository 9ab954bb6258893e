"""The built-in policies: a Qwen2.5-VL of a million parameters, and its pre-training."""
