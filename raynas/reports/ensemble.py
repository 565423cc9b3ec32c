"""What a report shows of an ensemble: the curves of every rule, the diversity of the members."""

import base64
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from raynas.errors import StorageError
from raynas.record.folder import read_json
from raynas.record.history import History
from raynas.record.journal import read_events

_MAX_SHOWN = 40  # members in a heat map
_COLORS = {
    "prs": "tab:gray",
    "pap": "tab:green",
    "pap-literal": "tab:red",
    "pie": "tab:blue",
    "greedy": "tab:orange",
}
_PANELS = (
    ("test_accuracy", "test accuracy in %", 100.0),
    ("test_loss", "test loss", 1.0),
    ("test_ece", "calibration error (test) in %", 100.0),
    ("latency_ms", "latency of one image in ms", 1.0),
)

_FILES = (
    "model.pt2", "members.parquet", "curves.parquet", "diversity.parquet", "curves.png",
    "diversity.png",
)  # fmt: skip

_TEMPLATE = """<h2>The ensemble</h2>
<table>
<tr><th></th><th>members</th><th>validation accuracy</th><th>test accuracy</th><th>test loss</th>
<th>calibration error (test)</th><th>parameters</th><th>MACs</th><th>latency</th></tr>
{% for name, m in rows %}<tr><th>{{ name }}</th><td>{{ m.members }}</td>
<td>{{ percent(m.val_accuracy) }}</td><td>{{ percent(m.test_accuracy) }}</td>
<td>{{ "%.4f"|format(m.test_loss) }}</td><td>{{ percent(m.test_ece) }}</td>
<td>{{ "{:,}".format(m.params) }}</td><td>{{ "{:,}".format(m.macs) }}</td>
<td>{{ "%.1f"|format(m.latency_ms) }} ms</td></tr>{% endfor %}</table>
<p>Rule: {{ found.rule or "none, all members are kept" }}; combination: {{ found.combination }},
temperature {{ "%.2f"|format(found.temperature) }}. Which members are kept, their weights and the
temperature were decided on the validation part alone, by which the search chose too; the test part
decided nothing. Differences of less than
{{ "%.1f"|format(resolution) }} percentage points (two standard errors of one test accuracy)
mean little.</p>
<img src="data:image/png;base64,{{ curves }}" alt="accuracy, loss, calibration and latency against
the number of members">
<p>Every rule's ensembles of every size. <code>prs</code> removes members at random,
<code>greedy</code> is greedy forward selection, the common baseline; both are there to compare.
Latencies here are sums over the members, each measured alone.</p>
<table><tr><th>#</th><th>weight</th><th>contribution</th><th>validation accuracy</th>
<th>parameters</th><th>architecture</th></tr>
{% for m in members %}<tr><td>{{ m.evaluation }}</td><td>{{ "%.3f"|format(m.weight) }}</td>
<td>{{ "%+.2f"|format(100 * m.contribution) }}</td><td>{{ percent(m.val_accuracy) }}</td>
<td>{{ "{:,}".format(m.params) }}</td><td><code>{{ m.architecture }}</code></td></tr>{% endfor %}
</table>
<p>Contribution: the percentage points of validation accuracy that the ensemble loses without the
member.</p>
<img src="data:image/png;base64,{{ diversity }}" alt="disagreement and variation of information of
every pair of members">
{% if growth %}<h3>How it grew</h3>
<table><tr><th>iteration</th><th>pruned</th><th>joined</th><th>members</th><th>objective</th></tr>
{% for step in growth %}<tr><td>{{ step.iteration + 1 }}</td>
<td>{% for i in step.pruned %}#{{ i }} {% endfor %}
{% for i in step.lost %}#{{ i }} (lost its weights) {% endfor %}</td>
<td>{% if step.joined is not none %}#{{ step.joined }}
<code>{{ notations[step.joined] }}</code>{% else %}none: both candidates failed{% endif %}</td>
<td>{{ step.members|length }}</td>
<td>{% if step.objective is not none %}{{ "%.4f"|format(step.objective) }}{% endif %}</td>
</tr>{% endfor %}</table>{% endif %}
{% if found.excluded %}<p>Not candidates:</p><ul>{% for index, reason in found.excluded.items() %}
<li>#{{ index }} {{ reason }}</li>{% endfor %}</ul>{% endif %}
"""


def recorded(folder: Path) -> dict[str, Any] | None:
    """What `ensemble.json` in a folder has; None when it is damaged, or a file is missing."""
    if not all((folder / name).exists() for name in _FILES):
        return None
    try:
        return read_json(folder / "ensemble.json")
    except StorageError:
        return None


def section(run: Path, test_images: int) -> str:
    """The section about the ensemble of a run, in HTML; empty where it has none."""
    folder = run / "ensemble"
    found = recorded(folder)
    if found is None:
        return ""
    accuracy = found["metrics"]["test_accuracy"]
    curves = pd.read_parquet(folder / "curves.parquet")
    alone = curves[(curves["rule"] == "greedy") & (curves["members"] == 1)]
    history = History(read_events(run))
    rows = [
        ("ensemble", found["metrics"]),
        ("all candidates", found["unpruned"]),
        ("best candidate alone (by validation loss)", alone.iloc[0].to_dict()),
    ]
    return (
        jinja2.Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            found=found,
            rows=[(name, _whole(values)) for name, values in rows],
            percent="{:.2%}".format,
            growth=history.growth,
            notations=[e.notation for e in history.evaluations],
            resolution=200 * float(np.sqrt(accuracy * (1 - accuracy) / test_images)),
            members=pd.read_parquet(folder / "members.parquet").to_dict("records"),
            curves=base64.b64encode((folder / "curves.png").read_bytes()).decode(),
            diversity=base64.b64encode((folder / "diversity.png").read_bytes()).decode(),
        )
    )


def curves_figure(curves: pd.DataFrame, found: Mapping[str, Any]) -> bytes:
    """What ensembles are worth and cost against the number of members, every rule; a PNG.

    Args:
        curves: as `Ensemble.curves`.
        found: as `ensemble.json`; its ensemble is marked.
    """
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (column, label, scale) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for rule, points in curves.groupby("rule", sort=False):
            values = scale * points[column]
            axes.plot(
                points["members"], values, marker=".", color=_COLORS[str(rule)], label=str(rule)
            )
        everything = scale * found["unpruned"][column]
        axes.axhline(everything, color="black", lw=0.8, ls="--", label="all candidates")
        chosen = found["metrics"]
        axes.scatter(
            [chosen["members"]], [scale * chosen[column]], marker="*", s=120, color="black",
            zorder=3, label="the ensemble",
        )  # fmt: skip
        axes.set_xlabel("members")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return _png(figure)


def diversity_figure(diversity: pd.DataFrame, kept: Iterable[int]) -> bytes:
    """Disagreement and VI of every pair, as heat maps, the kept members first; a PNG.

    Args:
        diversity: as `Ensemble.diversity`.
        kept: the evaluations that are members of the ensemble.
    """
    chosen = list(kept)
    everything = set(diversity["first"]) | set(diversity["second"])
    names = (chosen + sorted(everything - set(chosen)))[:_MAX_SHOWN]
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    pairs = diversity.set_index(["first", "second"])
    for axes, measure in zip(figure.subplots(1, 2), ("disagreement", "vi"), strict=True):
        values = pairs[measure].to_dict()
        grid = [[values.get((min(a, b), max(a, b)), 0.0) for b in names] for a in names]
        image = axes.imshow(grid, cmap="viridis")
        figure.colorbar(image, ax=axes, shrink=0.8)
        if len(chosen) < len(names):
            axes.axhline(len(chosen) - 0.5, color="white", lw=1)
            axes.axvline(len(chosen) - 0.5, color="white", lw=1)
        ticks = range(len(names))
        axes.set_xticks(ticks, [f"#{name}" for name in names], rotation=90, fontsize="x-small")
        axes.set_yticks(ticks, [f"#{name}" for name in names], fontsize="x-small")
        axes.set_title(
            "disagreement" if measure == "disagreement" else "variation of information",
            fontsize="medium",
        )
    return _png(figure)


def _whole(values: Mapping[str, Any]) -> dict[str, Any]:
    counts = ("members", "params", "macs")
    return {key: int(value) if key in counts else value for key, value in values.items()}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130)
    return buffer.getvalue()
