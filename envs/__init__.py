"""Tool-use tasks as Gymnasium environments; importing this package registers them."""

from envs.registry import count_rows, register, resolve

__all__ = ["count_rows", "resolve"]

register()
