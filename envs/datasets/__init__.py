"""Questions from files: one package for every form in which a field that trains agents keeps them."""

from envs.datasets.dataset import SUFFIXES, Dataset, is_dataset
from envs.errors import DatasetError

__all__ = ["SUFFIXES", "Dataset", "DatasetError", "is_dataset"]
