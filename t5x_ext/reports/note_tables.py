"""What a reader should keep in mind: leaks, short tasks, cut prompts, and the time it took."""

from __future__ import annotations

from t5x_ext.reports.documents.document import Block, Paragraph, Table
from t5x_ext.reports.study_files import Study
from t5x_ext.reports.wording import budget_text, duration


def warnings(study: Study) -> list[Block]:
    """What stands above all scores: cells that are missing, leaks, models that diverged."""
    blocks: list[Block] = []
    missing = study.missing_scores()
    if missing:
        places = ", ".join(f"{arm} {budget} ({n})" for (arm, budget), n in missing.items())
        blocks.append(
            Paragraph(
                f"This study is unfinished. Scores missing, of one per arm, budget, seed and task: "
                f"{sum(missing.values())}, in {places}. Cells not finished: "
                f"{study.unfinished_cells}. Points with different tasks cannot be compared "
                "directly; the differences and crossings below use only what both sides have.",
                warning=True,
            )
        )
    if study.leaked_tasks:
        blocks.append(Paragraph(_leak_text(study), warning=True))
    diverged = [cell for cell in study.cells if cell.diverged]
    if diverged:
        places = ", ".join(sorted({f"{cell.arm} {cell.budget}" for cell in diverged}))
        blocks.append(
            Paragraph(
                f"{len(diverged)} of {len(study.cells)} models diverged (their training loss is "
                f"not finite), in {places}. All scores include them; a recipe with a lower "
                "learning rate tunes all cells again.",
                warning=True,
            )
        )
    return blocks


def _leak_text(study: Study) -> str:
    return (
        f"{len(study.leaked_tasks)} of {len(study.tasks)} tasks were tested on rows they were "
        "trained on (split policy “paper” for small tasks). They are part of the scores in the "
        "tables and figures, as in the paper; the claim, the differences and the crossings leave "
        "them out."
    )


def cost_table(study: Study) -> Table:
    """Training and decoding time of each arm, and of the starting points where recorded."""
    rows = []
    for arm in study.arms:
        cells = [cell for cell in study.cells if cell.arm == arm.name]
        if cells:
            train, decode = (
                sum(getattr(c, f) for c in cells) for f in ("train_secs", "decode_secs")
            )
            steps = sum(cell.steps for cell in cells)
            rows.append(
                (
                    f"{arm.setting}: {arm.label}",
                    str(len(cells)),
                    f"{steps:,}",
                    duration(train),
                    duration(decode),
                    duration(train + decode),
                )
            )
    total_train = sum(cell.train_secs for cell in study.cells)
    total_decode = sum(cell.decode_secs for cell in study.cells)
    rows.append(
        (
            "All cells",
            str(len(study.cells)),
            f"{sum(c.steps for c in study.cells):,}",
            duration(total_train),
            duration(total_decode),
            duration(total_train + total_decode),
        )
    )
    last = len(rows) - 1
    for name, initial in study.initials.items():
        if "train_secs" in initial:
            secs = duration(initial["train_secs"])
            rows.append((f"Starting point: {initial.get('label', name)}", "", "", secs, "", secs))
    return Table(
        "Time",
        ("arm", "cells", "steps", "training", "decoding", "together"),
        tuple(rows),
        strong_rows=frozenset({last}),
    )


def leak_table(study: Study) -> Table | None:
    """Tasks whose test rows were trained on, or None."""
    if not study.leaked_tasks:
        return None
    category = {task.name: task.category for task in study.tasks}
    return Table(
        "Leaked tasks",
        ("task", "category"),
        tuple((task, category.get(task, "")) for task in study.leaked_tasks),
        text_columns=2,
    )


def short_table(study: Study) -> Table | None:
    """Tasks with fewer rows than a budget asked for, or None."""
    short: dict[str, tuple[int, set[str]]] = {}
    for cell in study.cells:
        for task, available in cell.short_tasks.items():
            short.setdefault(task, (available, set()))[1].add(cell.budget)
    if not short:
        return None
    order = {b: i for i, b in enumerate(dict.fromkeys(b for a in study.arms for b in a.budgets))}
    rows = (
        (task, ", ".join(map(budget_text, sorted(budgets, key=order.__getitem__))), str(available))
        for task, (available, budgets) in sorted(short.items())
    )
    return Table(
        "Tasks with fewer training rows than a budget",
        ("task", "budgets asked for", "rows there are"),
        tuple(rows),
        text_columns=2,
    )


def stop_table(study: Study) -> Table | None:
    """How many answers of each arm ended by themselves, or None where no cell recorded it."""
    shares: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell in study.cells:
        for task, share in cell.stopped_by_task.items():
            if task in cell.scores:
                by_task = shares.setdefault((cell.arm, cell.budget), {})
                by_task.setdefault(task, []).append(share)
    points = ((arm, budget) for arm in study.arms for budget in arm.budgets)
    rows = []
    for arm, budget in points:
        if (arm.name, budget) in shares:
            by_task = shares[arm.name, budget]
            means = {task: sum(each) / len(each) for task, each in by_task.items()}
            least = min(means, key=means.__getitem__)
            mean = sum(means.values()) / len(means)
            label = f"{arm.setting}: {arm.label}"
            rows.append(
                (label, budget_text(budget), f"{mean:.1f}%", f"{means[least]:.1f}% ({least})")
            )
    if not rows:
        return None
    return Table(
        "Answers that ended by themselves, not at the length limit",
        ("arm", "budget", "mean over tasks", "least"),
        tuple(rows),
        text_columns=2,
    )


def truncation_table(study: Study) -> Table | None:
    """Tasks whose prompts were cut, the most affected test sets first, or None.

    A task can be cut more under one prompt than under another; the worst cell counts.
    """
    worst: dict[tuple[str, str], list[int]] = {}
    for cell in study.cells:
        for task, (train, test) in cell.truncated_by_task.items():
            if (train or test) and task in cell.scores:
                row = worst.setdefault((task, study.arm(cell.arm).prompt), [0, 0, 0])
                row[0], row[1] = max(row[0], train), max(row[1], test)
                row[2] = int(cell.scores[task]["n"])
    if not worst:
        return None
    ranked = sorted(worst.items(), key=lambda item: (-item[1][1], -item[1][0], item[0]))
    rows = tuple(
        (task, prompt, f"{test} of {n}", str(train)) for (task, prompt), (train, test, n) in ranked
    )
    return Table(
        "Prompts cut to the length limit",
        ("task", "prompt", "test rows cut", "training rows cut (most)"),
        rows,
        text_columns=2,
    )


def cut_target_table(study: Study) -> Table | None:
    """Sources of training rows whose targets were cut, the most affected first, or None.

    A source is a task, or other data that an arm was trained on. The worst cell counts.
    """
    worst: dict[str, tuple[int, int]] = {}
    for cell in study.cells:
        for source, cut in cell.targets_truncated_by_task.items():
            if cut and cell.scores:
                rows = cell.sources.get(source) or cell.train_examples_by_task.get(source, 0)
                worst[source] = max(worst.get(source, (0, 0)), (cut, rows))
    if not worst:
        return None
    ranked = sorted(worst.items(), key=lambda item: (-item[1][0], item[0]))
    return Table(
        "Targets cut to the length limit",
        ("training rows of", "rows cut (most)"),
        tuple((source, f"{cut} of {rows}" if rows else str(cut)) for source, (cut, rows) in ranked),
        text_columns=1,
    )
