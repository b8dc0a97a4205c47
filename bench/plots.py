"""The plots in bench/results/, of whatever suites a record has: PNG, to be read at the size of a README."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from bench.page import ratio_text

Suites = Mapping[str, Any]

_OURS, _THEIRS, _LIGHT = "#1f6feb", "#8c96a3", "#d0d7de"
_LIMIT_MB = 150  # that a service may take, whatever the job
_COLORS = ("#1f6feb", "#d4731c", "#2f8f5b", "#8250df", "#9aa4af")
_STYLE: dict[Any, Any] = {
    "figure.figsize": (8, 4.4),
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
}


def draw(suites: Suites, directory: Path) -> list[Path]:
    """Draw what there are results for; returns the files."""
    with pyplot.rc_context(_STYLE):
        return [path for name, plot in _PLOTS.items() if _draw_one(plot, suites, path := directory / f"{name}.png")]


def _draw_one(plot: "Plot", suites: Suites, path: Path) -> bool:
    figure, axes = pyplot.subplots()
    drawn = plot(axes, suites)
    if drawn:
        figure.savefig(path)
    pyplot.close(figure)
    return drawn


def _peers_throughput(axes: Axes, suites: Suites) -> bool:
    rows = _measured_rows(suites)
    rates = {row["peer"]: float(row["runs"][-1]["tasks_per_second"]) for row in rows}
    if rates:
        ours = rates[rows[0]["peer"]]
        _bars(axes, rates, [f"{rate:,.0f}   ({ratio_text(ours / rate)})" for rate in rates.values()])
        axes.set_xscale("log")
        axes.set_xlim(right=max(rates.values()) * 30)
        axes.set_title("No-op tasks a second (in brackets: built-in no-op as a multiple)")
    return bool(rates)


def _peers_cpu(axes: Axes, suites: Suites) -> bool:
    each = {row["peer"]: row["runs"][-1]["per_1000_tasks"] for row in _measured_rows(suites)}
    if each:
        whole = {peer: figures["cpu_seconds_with_brokers"] for peer, figures in each.items()}
        _bars(axes, whole, [f"{seconds:.2g}" for seconds in whole.values()], color=_LIGHT)
        _bars(axes, {peer: figures["cpu_seconds"] for peer, figures in each.items()}, [""] * len(each))
        axes.set_xlim(right=max(whole.values()) * 1.1)
        axes.set_title("CPU seconds for 1,000 no-op tasks (light: broker, database, emulator)")
    return bool(each)


def _measured_rows(suites: Suites) -> list[dict[str, Any]]:
    rows = suites.get("peers", {}).get("rows", [])
    return sorted((row for row in rows if row["runs"]), key=_rank)


def _rank(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Piecework's rows first, then the quickest first."""
    return not _is_ours(row["peer"]), -float(row["runs"][-1]["tasks_per_second"])


def _is_ours(peer: str) -> bool:
    return peer.startswith("Piecework")


def _bars(axes: Axes, values: Mapping[str, float], labels: Sequence[str], color: str | None = None) -> None:
    colors = [color or (_OURS if _is_ours(name) else _THEIRS) for name in values]
    bars = axes.barh(list(values), list(values.values()), color=colors, height=0.66)
    axes.bar_label(bars, labels, padding=4, color="#24292f")
    axes.yaxis.set_inverted(True)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _throughput(axes: Axes, suites: Suites) -> bool:
    runs = [*suites.get("noop", {}).get("runs", []), *filter(None, [suites.get("tenmillion")])]
    if runs:
        sizes, rates = [run["tasks"] for run in runs], [run["tasks_per_second"] for run in runs]
        axes.plot(sizes, rates, "o-", color=_OURS, linewidth=2)
        for size, rate in zip(sizes, rates, strict=True):
            axes.annotate(f"{rate:,}", (size, rate), (0, 8), textcoords="offset points", ha="center")
        axes.set_xscale("log")
        axes.set_ylim(0, max(rates) * 1.25)
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.set_xlabel("tasks of the job")
        axes.set_title("No-op tasks a second by size of the job")
    return bool(runs)


def _memory(axes: Axes, suites: Suites) -> bool:
    samples = suites.get("tenmillion", {}).get("samples", [])
    if samples:
        done = [sample["tasks_done"] for sample in samples]
        for name, color in zip(samples[0]["memory_bytes"], _COLORS, strict=False):
            axes.plot(done, [sample["memory_bytes"][name] / 1e6 for sample in samples], label=name, color=color)
        axes.axhline(_LIMIT_MB, color="#cf222e", linewidth=1, linestyle=":")
        axes.set_ylim(0, _LIMIT_MB * 1.1)
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.set_xlabel("tasks done")
        axes.legend(ncols=3, frameon=False, fontsize=9, loc="lower right")
        axes.set_title("Memory of each service during one job (MB)")
    return bool(samples)


def _short(value: float, _: object = None) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


Plot = Callable[[Axes, Suites], bool]  # False: there is nothing to draw

_PLOTS: dict[str, Plot] = {
    "peers-throughput": _peers_throughput,
    "peers-cpu": _peers_cpu,
    "throughput": _throughput,
    "memory": _memory,
}
