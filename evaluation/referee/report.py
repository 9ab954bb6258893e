"""The referee's report: its figures for `evaluation.json` and `med.json`, as tables in Markdown, and as a page of plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from envs.errors import UsageError
from evaluation.ablation import (
    FULL,
    AblationReport,
    CausalUse,
    Necessity,
    causal_use,
    necessity,
    paired,
    report_json,
)
from evaluation.intervals import paired_difference
from evaluation.items import item_means
from evaluation.referee.figures import Adaptiveness, Figure, Judgement, figure_of, judge
from evaluation.referee.med import TERMS, Med, med
from evaluation.referee.outcomes import WITHOUT, outcomes_of
from evaluation.referee.variants import FORMAT_ONLY, SWAPPED
from evaluation.report import table_lines
from evaluation.types import Difference
from rollout.types import Group, Trajectory, episodes_of


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting's accuracy; the same minus that with all tools, and minus that without tools, on the same items."""

    accuracy: Figure
    against_full: Difference
    against_without: Difference


@dataclass(frozen=True, slots=True)
class Referee:
    """What the referee found: a judgement by the label of each party, the settings of the policy that is judged, with what
    `evaluation.ablation` says of them, and MED if checkpoints were compared. `left_out` counts episodes by party: they failed in
    one of its settings. `left_out_of_med` counts those that failed for one of the checkpoints. `one_sample` says that each
    item was answered once in each setting."""

    judgements: Mapping[str, Judgement]
    settings: Mapping[str, Setting]
    necessity: Mapping[str, Mapping[str, Necessity]]
    causal_use: Mapping[str, Mapping[str, CausalUse]]
    med: Med | None
    left_out: Mapping[str, int]
    left_out_of_med: int = 0
    one_sample: bool = False


def judged(groups: Mapping[str, Mapping[str, Sequence[Group]]], checkpoints: Sequence[str] = ()) -> Referee:
    """The findings of episodes by party and setting; the first party is the one that is judged. `checkpoints` are the labels of
    those over which MED is computed, in order.

    An episode that failed in one setting of its party is in none of the party's figures, one that failed for one checkpoint in none
    of MED's. Raises UsageError if nothing is left, or if the checkpoints were not asked the same questions.
    """
    pairs = {label: paired(by_variant) for label, by_variant in groups.items()}
    if empty := [label for label, by_variant in pairs.items() if not by_variant[FULL]]:
        raise UsageError(f"{empty[0]}: every episode failed in one of its settings: write resume=true to run them again")
    main = next(iter(pairs.values()))
    hidden = {name: part for name, part in main.items() if name in (FULL, FORMAT_ONLY, SWAPPED)}
    full = {label: sum(1 for _ in episodes_of(parts[FULL])) for label, parts in groups.items()}
    found, left_out_of_med = _med({label: groups[label] for label in checkpoints}) if checkpoints else (None, 0)
    return Referee(
        judgements={label: judge(outcomes_of(by_variant)) for label, by_variant in pairs.items()},
        settings=settings_of(main),
        necessity=necessity({name: main[name] for name in (FULL, WITHOUT)}),
        causal_use=causal_use(hidden),
        med=found,
        left_out={label: full[label] - len(by_variant[FULL]) for label, by_variant in pairs.items()},
        left_out_of_med=left_out_of_med,
        one_sample=all(len(group.episodes) == 1 for group in next(iter(groups.values()))[FULL]),
    )


def _med(groups: Mapping[str, Mapping[str, Sequence[Group]]]) -> tuple[Med, int]:
    """MED, and the number of episodes of each checkpoint that are left out of it."""
    sizes = {label: sum(1 for _ in episodes_of(parts[FULL])) for label, parts in groups.items()}
    if len({*sizes.values()}) > 1:
        raise UsageError(
            f"the checkpoints were not asked the same questions ({', '.join(f'{name}: {size}' for name, size in sizes.items())}): "
            "write rollout.episode.overlong=fit"
        )
    flat = {(label, name): parts[name] for label, parts in groups.items() for name in (FULL, WITHOUT)}
    numbered = paired({str(number): part for number, part in enumerate(flat.values())})
    by_key = dict(zip(flat, numbered.values(), strict=True))
    left = next(iter(numbered.values()))
    if not left:
        raise UsageError("MED: each episode failed for one of the checkpoints: write resume=true to run them again")
    try:
        found = med({label: outcomes_of({name: by_key[label, name] for name in (FULL, WITHOUT)}) for label in groups})
    except ValueError as error:
        raise UsageError(
            f"the checkpoints were not asked the same questions: {error}: write resume=true, or another out="
        ) from error
    return found, next(iter(sizes.values())) - len(left)


def ablation_json(referee: Referee) -> dict[str, Any]:
    """The content of `ablation.json`, as `evaluation.ablation.report_json` writes it for necessity and for causal use."""
    reports = (AblationReport(parts, referee.left_out[_main(referee)]) for parts in (referee.necessity, referee.causal_use))
    return {name: part for report in reports for name, part in report_json(report).items()}


def settings_of(by_variant: Mapping[str, Sequence[Trajectory]]) -> dict[str, Setting]:
    """All settings but those with all tools and with none, from episodes as `evaluation.ablation.paired` returns them."""
    means = {name: item_means(by_variant[FULL], [one.correct for one in part]) for name, part in by_variant.items()}
    return {
        name: Setting(figure_of(means_N), paired_difference(means[FULL], means_N), paired_difference(means[WITHOUT], means_N))
        for name, means_N in means.items()
        if name not in (FULL, WITHOUT)
    }


def referee_json(referee: Referee, label: str) -> dict[str, Any]:
    """What the record of a party carries as `referee`."""
    judgement = asdict(referee.judgements[label])
    main = {"settings": {name: asdict(setting) for name, setting in referee.settings.items()}} if _main(referee) == label else {}
    return {"left_out": referee.left_out[label], **judgement, **main}


def med_json(referee: Referee) -> dict[str, Any] | None:
    """The content of `med.json`, None if no checkpoints were compared."""
    return None if referee.med is None else {"left_out": referee.left_out_of_med, **asdict(referee.med)}


def referee_markdown(referee: Referee) -> str:
    """The tables of `evaluation.md`: one row a party, then one a setting, then one a checkpoint."""
    parts = ["## Was it worth it?", _table(_COLUMNS, [_judgement_row(name, one) for name, one in referee.judgements.items()])]
    ambiguous = {name: one.ambiguous for name, one in referee.judgements.items() if one.ambiguous}
    parts += [f"{name}: need is ambiguous for {count} items, which no measured figure has." for name, count in ambiguous.items()]
    if referee.one_sample:
        parts.append(
            "Each item was answered once: luck decides which are measured as solved without tools; group_size=5 asks more."
        )
    missing: dict[str, list[str]] = {}
    for name, one in referee.judgements.items():
        for reason in _missing(one):
            missing.setdefault(reason, []).append(name)
    parts += [f"{', '.join(labels)}: {reason}." for reason, labels in missing.items()]
    parts += [
        f"{name}: {count} episodes are left out: one of their settings failed." for name, count in referee.left_out.items() if count
    ]
    if referee.settings:
        header = ["setting", "accuracy", "minus all tools", "minus without tools"]
        body = [
            [name, _figure(setting.accuracy), _difference(setting.against_full), _difference(setting.against_without)]
            for name, setting in referee.settings.items()
        ]
        parts += [f"## {_main(referee)}: form and result", _table(header, body)]
    if referee.med is not None:
        parts += ["## MED: what each checkpoint gained", _table(_MED_COLUMNS, _med_rows(referee.med))]
        if referee.left_out_of_med:
            parts.append(f"MED: {referee.left_out_of_med} episodes of each are left out: they failed for one of the checkpoints.")
        share = referee.med.tool_share
        parts.append("Nothing changed." if share is None else f"Share of the change that is due to tools: {_percent(share)}.")
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


_COLUMNS = [
    "",
    "items",
    "accuracy",
    "without tools",
    "difference",
    "also solved without",
    "adaptiveness (label)",
    "adaptiveness (measured)",
    "gain",
    "harm",
    "tool effect",
]
_MED_COLUMNS = [
    "",
    "accuracy",
    "without tools",
    "change",
    "intrinsic",
    "by tools",
    "less harm",
    *(term.replace("_", " ") for term in TERMS),
]


def _main(referee: Referee) -> str:
    return next(iter(referee.judgements))


def _judgement_row(name: str, judgement: Judgement) -> list[str]:
    effect = judgement.tool_effect
    effects = ["–"] * 3 if effect is None else [_figure(effect.gain), _figure(effect.harm), _figure(effect.net, signed=True)]
    return [
        name,
        str(judgement.items),
        _figure(judgement.accuracy),
        _figure(judgement.accuracy_without),
        _difference(judgement.difference),
        _figure(judgement.also_without),
        _adaptiveness(judgement.adaptiveness_labelled),
        _adaptiveness(judgement.adaptiveness_measured),
        *effects,
    ]


def _missing(judgement: Judgement) -> list[str]:
    """Why figures are "–"."""
    reasons = []
    if judgement.also_without is None:
        reasons.append("nothing is solved with a call")
    if not judgement.needed + judgement.not_needed:
        reasons.append("no item says which tools it needs (needed_tools), so there is no adaptiveness by label")
    elif judgement.adaptiveness_labelled is None:
        kind = "needs a tool" if judgement.needed else "needs none"
        reasons.append(f"each item that is labelled {kind}, and adaptiveness by label is of both kinds")
    if judgement.tool_effect is None:
        reasons.append(
            f"{judgement.unsolved} items are unsolved without tools and {judgement.solved} are solved, and adaptiveness as "
            "measured and the tool effect are of both kinds"
        )
    return reasons


def _med_rows(med: Med) -> list[list[str]]:
    return [
        [
            one.name,
            _figure(one.accuracy),
            _figure(one.accuracy_without),
            *(_difference(value) for value in (one.change, one.intrinsic, one.by_tools, one.less_harm)),
            *(_percent(one.terms[term].value) for term in TERMS),
        ]
        for one in med.checkpoints
    ]


def _table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return table_lines([header, ["---"] * len(header), *body])


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _figure(figure: Figure | None, signed: bool = False) -> str:
    if figure is None:
        return "–"
    low, high = figure.ci95
    if signed:
        return f"{100 * figure.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{100 * figure.value:.1f} % ({100 * low:.1f}–{100 * high:.1f})"


def _difference(difference: Difference) -> str:
    low, high = difference.ci95
    return f"{100 * difference.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), p {difference.p:.2g}"


def _adaptiveness(value: Adaptiveness | None) -> str:
    return "–" if value is None else f"{_figure(value.mean)}, p {value.p:.2g}"
