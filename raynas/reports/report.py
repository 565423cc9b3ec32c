"""`report.html`: what was found, how, and how far it can be trusted."""

import base64
import functools
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from raynas.config.config import Config
from raynas.record.events import Status
from raynas.record.folder import write
from raynas.record.formatting import shown
from raynas.record.history import Evaluation
from raynas.reports.ensemble import section as ensemble_section
from raynas.search.search import Search
from raynas.understanding.flatness import Flatness, collected
from raynas.understanding.rank_stability import section as stability_section

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>raynas: {{ name }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: .9rem } td, th { padding: .2rem .8rem .2rem 0;
text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
code { font-size: .85rem; overflow-wrap: anywhere } img { max-width: 100% }
.big { font-size: 1.4rem }
</style></head><body>
<h1>{{ name }}</h1>
<p class="big">{{ percent(metrics.test_accuracy) }} test accuracy</p>
<p><code>{{ best.notation }}</code></p>
<table>
<tr><th>test accuracy, after the final training</th><td>{{ percent(metrics.test_accuracy) }}
 (95 % interval {{ percent(low) }} to {{ percent(high) }},
 from {{ test_images }} images)</td></tr>
<tr><th>{{ metric }}, in the search</th><td>{{ shown(best.value) }}
 after {{ best.epochs }} epochs</td></tr>
<tr><th>parameters</th><td>{{ "{:,}".format(metrics.params) }}</td></tr>
<tr><th>multiply-accumulates of one image</th><td>{{ "{:,}".format(metrics.macs) }}</td></tr>
</table>
<h2>The search</h2>
<img src="data:image/png;base64,{{ figure }}" alt="validation accuracy of every evaluation">
<p>{{ counts }}.</p>
{% if flatness %}<h2>Flatness</h2>
<img src="data:image/png;base64,{{ flatness }}" alt="validation accuracy against flatness">
<p>Each dot is an architecture; how far it lies to the right is what the mean of its neighbors (one
decision away, as far as they were evaluated) is below its own accuracy; large dots have more
neighbors. A flat optimum, to the left, is expected to lose less when it is trained otherwise.</p>
{% endif %}
{{ supernet }}
{{ ensemble }}
<h2>How far to trust it</h2>
<ul>
<li>The {{ metric }} of the best is the largest of {{ comparable }} that reached the same
number of epochs, so it flatters; the test accuracy was measured once, on images that chose
nothing.</li>
{% if not supernet %}<li>Each architecture was trained once, with one seed. Differences smaller than
the spread between seeds mean nothing.</li>{% endif %}
{% if stopped %}<li>{{ stopped }} evaluations were stopped early by {{ config.scheduler }}: an
architecture that learns slowly at first may be among them.</li>{% endif %}
{% for index, reason in untrained.items() %}<li>The final training of #{{ index }} failed
({{ reason }}), so it could not be chosen.</li>{% endfor %}
{% if failures %}<li>{{ failures|length }} evaluations failed; see below.</li>{% endif %}
</ul>
<h2>The ten best evaluations</h2>
<table><tr><th>#</th><th>{{ metric }}</th><th>epochs</th><th>parameters</th>
<th>architecture</th></tr>
{% for e in top %}<tr><td>{{ e.index }}</td><td>{{ shown(e.value) }}</td>
<td>{{ e.epochs }}</td><td>{{ "{:,}".format(e.history[-1].get("params", 0)) }}</td>
<td><code>{{ e.notation }}</code></td></tr>{% endfor %}</table>
{% if failures %}<h2>Failures</h2>
<p>The tracebacks are in <code>checkpoints/*.error.txt</code>.</p><table>
{% for e in failures %}<tr><td>{{ e.index }}</td><td><code>{{ e.notation }}</code></td>
<td>{{ e.reason }}</td></tr>{% endfor %}</table>{% endif %}
<h2>Configuration</h2>
<table>{% for key, value in config.model_dump().items() %}
<tr><th>{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
</body></html>
"""


def write_report(
    folder: Path,
    config: Config,
    search: Search,
    best: Evaluation,
    metrics: dict[str, Any],
    test_images: int,
    untrained: Mapping[int, str],
) -> Path:
    """Write `report.html` and its figure `search.png` to the run folder.

    Args:
        folder: the run folder.
        config: of the run.
        search: finished.
        best: the evaluation whose architecture was trained finally.
        metrics: of the final training.
        test_images: number of images behind the test accuracy.
        untrained: {evaluation: reason} of final trainings that failed.
    """
    figure = _figure(search)
    (folder / "search.png").write_bytes(figure)
    flatness = _flatness_figure(search, best)
    if flatness:
        (folder / "flatness.png").write_bytes(flatness)
    low, high = wilson(metrics["test_accuracy"], test_images)
    by_status = {s: [e for e in search.evaluations if e.status is s] for s in Status}
    text = (
        jinja2.Environment(autoescape=True)
        .from_string(_TEMPLATE)
        .render(
            name=config.name,
            percent="{:.2%}".format,
            shown=functools.partial(shown, search.metric),
            metric=search.metric.replace("val_", "validation ").replace("_", " "),
            config=config,
            best=best,
            metrics=metrics,
            low=low,
            high=high,
            test_images=test_images,
            untrained=untrained,
            figure=base64.b64encode(figure).decode(),
            supernet=markupsafe.Markup(stability_section(folder)),
            ensemble=markupsafe.Markup(ensemble_section(folder, test_images)),
            flatness=base64.b64encode(flatness).decode(),
            counts=", ".join(f"{len(found)} {s.value}" for s, found in by_status.items() if found),
            comparable=sum(e.epochs == best.epochs for e in search.evaluations),
            stopped=len(by_status[Status.STOPPED]),
            failures=by_status[Status.FAILED] + by_status[Status.DIVERGED],
            top=search.ranked[:10],
        )
    )
    path = folder / "report.html"
    write(path, lambda partial: partial.write_text(text))
    return path


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share measured on `n` cases; 95 % by default."""
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, center - half), min(1.0, center + half)


def _flatness_figure(search: Search, best: Evaluation) -> bytes:
    """Every evaluation's accuracy against its neighborhood's; a PNG, empty if none has any."""
    ended = [e for e in search.evaluations if e.status in (Status.COMPLETED, Status.STOPPED)]
    values = ((e.index, search.architectures[e.index], e.value) for e in ended)
    known = collected(search.space, values)
    flat = {e.index: f for e in ended if (f := known[e.index]) is not None}
    if not flat:
        return b""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _scatter(axes, list(flat.values()), "tab:blue", "evaluated")
    if best.index in flat:
        _scatter(axes, [flat[best.index]], "tab:orange", "chosen")
    axes.set_xlabel("mean of the neighbors below it, in percentage points")
    axes.set_ylabel(_label(search))
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _scatter(axes: Axes, flat: list[Flatness], color: str, label: str) -> None:
    axes.scatter(
        [100 * f.drop for f in flat],
        [100 * f.own for f in flat],
        s=[12 + 2 * f.neighbors for f in flat],
        color=color,
        label=label,
        alpha=0.7,
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130)
    return buffer.getvalue()


def _figure(search: Search) -> bytes:
    """Every evaluation's accuracy in the order of asking, and the best so far; a PNG."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    scale = 100 if search.metric.endswith("accuracy") else 1
    for status, color in ((Status.COMPLETED, "tab:blue"), (Status.STOPPED, "tab:gray")):
        found = [e for e in search.evaluations if e.status is status]
        axes.scatter(
            [e.index + 1 for e in found],
            [scale * e.value for e in found],
            s=18,
            color=color,
            label=status.value,
        )
    running, best = [], (0, -math.inf)
    for evaluation in search.evaluations:
        if math.isfinite(evaluation.value):
            best = max(best, evaluation.rank)
        running.append(scale * best[1])
    axes.step(
        range(1, len(running) + 1), running, where="post", color="tab:orange", label="best so far"
    )
    axes.set_xlabel("evaluation")
    axes.set_ylabel(_label(search))
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _label(search: Search) -> str:
    """What the axis of values is called."""
    name = search.metric.replace("_", " ")
    return f"{name} in %" if name.endswith("accuracy") else name
