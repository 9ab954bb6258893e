"""Readers for files of questions in the formats in common use."""

from envs.datasets.dataset import SUFFIXES, Dataset, is_dataset, unknown_suffix
from envs.errors import DatasetError

__all__ = ["SUFFIXES", "Dataset", "DatasetError", "is_dataset", "unknown_suffix"]
