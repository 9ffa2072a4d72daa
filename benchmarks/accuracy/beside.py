"""Sections of the accuracy page beside the fit: far hardware, production figures, machines, other predictors."""

from __future__ import annotations

from benchmarks.accuracy.history import METRICS, Figures, result
from benchmarks.accuracy.markdown import kind_words, number, percent, signed, table


def far(figures: Figures) -> str:
    """Points of hardware that no fit has seen, by device."""
    far = result(figures, "far")
    text = (
        "## Points that no fit has seen\n"
        f"`serving_new.csv` has {far['points']} points of far hardware, and of other models and sources. "
        f"{far['covered']} are predicted. These points are for looking only: no constant is fitted on them.\n"
    )
    rows = [
        [device, str(one["rows"]), str(one["predicted"])]
        + [cell for metric in ("tpot", "tok_s_per_device") for cell in _short(one[metric])]
        for device, one in far["by_device"].items()
    ]
    columns = (
        "device",
        "rows",
        "predicted",
        "TPOT median (n)",
        "bias",
        "inside",
        "tok/s/device median (n)",
        "bias",
        "inside",
    )
    text += table(columns, rows)
    whole = far["tpot"]
    if whole:
        text += (
            f"\nAll: TPOT median {percent(whole['median_ape'], 0)}, bias {signed(whole['bias'])}, "
            f"{percent(whole['inside_interval'], 0)} inside.\n"
        )
    reasons = [
        f"- {device}, {count} of {one['rows']} rows: {why}"
        for device, one in far["by_device"].items()
        for why, count in sorted(one["reasons"].items())
    ]
    return text + ("\nNot predicted:\n\n" + "\n".join(reasons) + "\n" if reasons else "")


def _short(one: Figures | None) -> list[str]:
    if not one:
        return ["", "", ""]
    return [f"{percent(one['median_ape'], 0)} ({one['n']})", signed(one["bias"]), percent(one["inside_interval"], 0)]


def production(figures: Figures) -> str:
    """Figures that operators published, beside their predictions."""
    rows = result(figures, "production")
    if not rows:
        return ""
    before = (figures.get("before") or {}).get("production") or {}
    lines = []
    for row in rows:
        at = f"{row['n_devices']} x {row['device']}, EP{row['ep']}, {int(row['concurrency']):,} " + (
            "tokens a device" if row["load"] == "tokens_per_device" else "sequences a device"
        )
        if row["skipped"]:
            lines.append([row["title"], at, "", f"not predicted: {row['skipped']}", "", "", ""])
        for metric, (measured, predicted, low, high) in row["values"].items():
            label, unit = {"tpot": ("TPOT", "ms"), "tok_s_per_device": ("rate", "tok/s/device")}[metric]
            old = before.get(row["title"], {}).get(metric)
            inside = "yes" if low <= measured <= high else "no"
            lines.append(
                [row["title"], at, f"{label} {number(measured)} {unit}", number(predicted),
                 f"{number(low)} to {number(high)}", inside, f"{signed(predicted / measured - 1)}"
                 + (f" (before {signed(old[1] / measured - 1)})" if old else "")]
            )  # fmt: skip
    sources = sorted({f"- {row['source']}" for row in rows})
    notes = [f"- {row['title']}: {row['note']}." for row in rows if row["note"]]
    return (
        "## Production figures\nFigures that operators published, predicted with their own split, batch, lengths, "
        "dtype and draft tokens (`benchmarks/accuracy/production.csv`). No constant is fitted on them.\n"
        + table(("figure", "split and batch", "published", "predicted", "80 % interval", "inside", "error"), lines)
        + "\nSources:\n\n" + "\n".join(sources) + "\n\nHow each figure was read:\n\n" + "\n".join(notes) + "\n"
    )  # fmt: skip


def machines(figures: Figures) -> str:
    """The best deployment of one model on each machine, now and before."""
    rows = result(figures, "machines")
    if not rows:
        return ""
    before = {(row["machine"], row["workload"]): row for row in (figures.get("before") or {}).get("machines") or []}
    lines = []
    for row in rows:
        old = before.get((row["machine"], row["workload"]))
        lines.append(
            [row["machine"], row["workload"], _effective(old) if old else "", _effective(row),
             (row.get("grade") or ""), row["deployment"] or "no deployment"]
        )  # fmt: skip
    return (
        "## DeepSeek-R1 on five machines\nThe best deployment of `plan`: effective tok/s per device, with the 80 % "
        "interval of output tok/s per device. Chat: `--workload chat`, with its SLO. 4,000 / 1,000: "
        '`--isl 4000 --osl 1000`, without an SLO. "Before" is the page that this page is compared with.\n'
        + table(("machine", "workload", "before", "now", "grade", "deployment now"), lines)
    )


def _effective(row: Figures) -> str:
    if not row.get("deployment"):
        return "no deployment"
    low, high = row["interval"]
    return f"{number(row['effective_tok_s_per_device'])} [{number(low)}, {number(high)}]"


def baselines(figures: Figures) -> str:
    """What everybody can predict without a model, and rankings of splits."""
    dev = result(figures, "dev")
    little = dev["baseline"]["tok_s_per_device_from_measured_tpot"]
    text = (
        "## Trivial baselines\nThroughput computed from the *measured* TPOT by Little's law. A predicted throughput "
        "adds information only where its error is smaller:\n"
    )
    rows = [
        [kind_words(mode), f"{one['n']:,}", percent(one["median_ape"]), percent(one["mape"])]
        for mode, one in little.items()
        if one
    ]
    text += table(("points", "n", "median", "mean"), rows)
    lines = [
        [METRICS[metric], f"{one['pairs']:,}", f"{one['predicted']:.2f}", f"{one['by_devices']:.2f}"]
        for metric, one in dev["ranking"].items()
        if one["pairs"]
    ]
    if not lines:
        return text
    columns = ("ranking of splits by", "pairs", "Kendall's tau", "tau of a ranking by number of devices")
    return text + (
        "\nRanking of splits with equal model, device, engine, dtype, MTP, lengths and concurrency:\n"
        + table(columns, lines)
    )


def peer(figures: Figures) -> str:
    """Errors beside those of aiconfigurator."""
    rows = result(figures, "peer")
    if not rows:
        return ""
    lines = [
        [METRICS[one["metric"]], one["group"], str(one["both"]), percent(one["ours"]), percent(one["theirs"]),
         str(one["alone"]), percent(one["ours_alone"])]
        for one in rows
    ]  # fmt: skip
    columns = ("metric", "source of the points", "points that both predict", "tokenworks", "aiconfigurator",
               "points that only tokenworks predicts", "tokenworks")  # fmt: skip
    return (
        "## Comparison with aiconfigurator\nMedian errors on measured points that aiconfigurator 0.12 publishes "
        "(`benchmarks/peer.py`). The points are aggregated and state their split. Values are means over requests.\n"
        + table(columns, lines)
    )
