"""What trajectories say about a policy: accuracy, tool use, ablations, comparisons.

What stands in `__all__` is stable: it changes only with a line in the CHANGELOG that says how to follow.
"""

from evaluation.alarm import CollapseAlarm
from evaluation.comparison import Comparison, compare
from evaluation.intervals import bootstrap_interval, mcnemar_p, pass_at_k, wilson_interval
from evaluation.records import evaluation_record, read_records, write_records
from evaluation.tool_use import tool_use_metrics
from evaluation.types import EvaluationRecord

__all__ = [
    "CollapseAlarm",
    "Comparison",
    "EvaluationRecord",
    "bootstrap_interval",
    "compare",
    "evaluation_record",
    "mcnemar_p",
    "pass_at_k",
    "read_records",
    "tool_use_metrics",
    "wilson_interval",
    "write_records",
]
