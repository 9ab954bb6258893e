"""Settings of `toolwise curate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from curation.selection import Thresholds
from rollout.collect import CollectConfig


@dataclass
class CurateConfig(CollectConfig):
    """A pool of questions, the policy that is to be trained, and where the sets end."""

    group_size: int = 8
    """Answers to each question without tools, and as many with them."""

    thresholds: Thresholds = field(default_factory=Thresholds)

    ask_easy: bool = True
    """Also put questions with tools that are too easy without them. They are dropped either way, but the plane then shows whether
    tools help or harm there. false saves those episodes."""

    SPLIT: ClassVar[str] = "train"
