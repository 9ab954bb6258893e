"""Calls of the built-in tools, as scripted experts make them."""

from __future__ import annotations

from envs.protocols.actions import Call, Calls


def run_code(source: str) -> Calls:
    """Run Python."""
    return Calls((Call("code", {"code": source}),))


def search_texts(query: str) -> Calls:
    """Search the texts."""
    return Calls((Call("search", {"query": query}),))


def search_image(image: int | None = None) -> Calls:
    """Search for what an image shows: the question's, or the one of that number."""
    return Calls((Call("image_search", {} if image is None else {"image": image}),))
