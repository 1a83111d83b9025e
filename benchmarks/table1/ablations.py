"""`python -m benchmarks.table1.ablations`: one question a table, each variant against the row it starts from."""

from __future__ import annotations

import sys
from typing import NamedTuple

from benchmarks.table1.cli import Options, describe
from benchmarks.table1.comparison import STANDARD_ERRORS, Difference, difference
from benchmarks.table1.questions import Ablation, ablations, variants
from benchmarks.table1.report import Statistic, statistic
from benchmarks.table1.rows import Records, Row, write, write_csv
from benchmarks.table1.sweep import VALIDATION_SHARE, sweep


class Line(NamedTuple):
    """One variant with all its seeds; the baseline has no difference."""

    question: str
    title: str
    rate: float
    seeds: int
    linear: Statistic
    knn: Statistic
    difference: Difference | None


def answered(ablation: Ablation, rows: list[Row]) -> list[Line]:
    """The variants that have runs, against the baseline; nothing where that has none."""
    runs = {name: [row for row in rows if row["method"] == name] for name in ablation.recipes}
    baseline = next(iter(ablation.recipes))
    if not runs[baseline]:
        return []
    lines = []
    for name, found in runs.items():
        if found:
            linear, reference = ([row["linear"] for row in side] for side in (found, runs[baseline]))
            gap = None if name == baseline else difference(linear, reference)
            scores = statistic(linear), statistic(row["knn"] for row in found)
            recipe = ablation.recipes[name]
            lines.append(Line(ablation.question, recipe.title, recipe.learning_rate.value, len(found), *scores, gap))
    return lines


def finding(lines: list[Line]) -> str:
    """A sentence that says which variants differ from the baseline."""
    baseline, *others = lines
    compared = [(line.title, line.difference) for line in others if line.difference is not None]
    if not compared:
        return f"Nothing to compare with {baseline.title} yet."
    if any(gap.error is None for _, gap in compared):
        return f"One seed cannot tell {baseline.title} from its variants."
    said = []
    for word, sign in (("better", 1), ("worse", -1)):
        named = [f"{title} ({gap.text()} points)" for title, gap in compared if gap.counts and sign * gap.mean > 0]
        if named:
            said.append(f"{word} than {baseline.title} by more than {STANDARD_ERRORS:g} standard errors: {'; '.join(named)}")
    title, largest = max(compared, key=lambda pair: abs(pair[1].mean))
    said = said or [
        f"no variant differs from {baseline.title} by more than {STANDARD_ERRORS:g} standard errors; the largest difference is "
        f"{largest.text()} points, {title}"
    ]
    sentence = "; ".join(said) + "."
    return sentence[0].upper() + sentence[1:]


def markdown(answers: list[list[Line]], description: str, commits: str, command: str) -> str:
    """A table and a finding for each question."""
    text = [
        "# Ablations",
        "",
        f"    {command}",
        "",
        f"{description}; commit {commits}. Probes % on {VALIDATION_SHARE:.0%} of the training half, drawn by class with a "
        "fixed seed; nothing here saw the test half. Mean ± standard error over seeds at the last epoch. Each question's first "
        "row is its baseline. A variant has all settings of the row that it is named after but those in its name; a row of the "
        "table that is named alone has its own, the learning rate too. Difference: of linear accuracies, in points, with its "
        "standard error and Welch's p-value, not corrected for the number of comparisons.",
    ]
    for lines in filter(None, answers):
        text += ["", f"## {lines[0].question}", "", finding(lines), ""]
        text += ["| variant | rate | seeds | linear % | kNN % | difference | p |", "|---|---:|---:|---:|---:|---:|---:|"]
        for line in lines:
            gap = "baseline" if line.difference is None else line.difference.text()
            p_value = None if line.difference is None else line.difference.p_value
            chance = "" if p_value is None else f"{p_value:.3f}"
            scores = f"{line.linear.text(100)} | {line.knn.text(100)}"
            text.append(f"| {line.title} | {line.rate:g} | {line.seeds} | {scores} | {gap} | {chance} |")
    return "\n".join(text) + "\n"


def publish(records: Records, options: Options, command: str) -> str:
    """Write `README.md` and `ablations.csv`; returns the Markdown."""
    answers = [answered(ablation, records.rows) for ablation in ablations(options.recipes)]
    commits = ", ".join(sorted({str(row["commit"]) for row in records.rows}))
    text = markdown(answers, describe(options), commits, command)
    write(records.folder / "README.md", text)
    fields = ["question", "variant", "learning_rate", "seeds", "linear", "linear_standard_error", "knn", "knn_standard_error"]
    fields += ["difference", "difference_standard_error", "p_value"]
    values = [
        (line.question, line.title, line.rate, line.seeds, *line.linear, *line.knn, *(line.difference or (None, None, None)))
        for lines in answers
        for line in lines
    ]
    write_csv(records.folder / "ablations.csv", fields, [dict(zip(fields, row, strict=True)) for row in values])
    return text


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 what was asked cannot be done, 130 stopped."""
    return sweep(
        "ablations",
        "Change one thing at a time in the rows of VICReg and BYOL; --methods names the rows to start from.",
        arguments,
        seeds=3,
        variants=lambda options: variants(options.methods, options.recipes),
        publish=publish,
    )


if __name__ == "__main__":
    sys.exit(main())
