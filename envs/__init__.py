"""Tool-use tasks as Gymnasium environments; importing this package registers them."""

from envs.registry import register, resolve

__all__ = ["resolve"]

register()
