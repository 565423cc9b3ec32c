"""`report.html`: what it says of recorded runs, its pictures, and how a browser shows it."""

import contextlib
import html
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from histories import history_of
from PIL import Image
from recorded_runs import KILLED, unpack
from typer.testing import CliRunner

import raynas
import search_spaces
from raynas.cli import app
from raynas.errors import InvalidArgument, StorageError
from raynas.record import models
from raynas.record.events import Finished, Session, Status, Suggested
from raynas.record.history import History
from raynas.reports import cost, search_figures, tried, winner
from raynas.reports.drawing import _lanes, drawing
from raynas.reports.figures import PANEL, empty_figure
from raynas.reports.rendering import svg
from trials.data import load

NB201 = search_spaces.get("nasbench201")
BROWSER = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=5000",
)  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A recorded run with its report written anew; tests must not change it."""
    run = unpack("evolution", tmp_path_factory.mktemp("runs"))
    raynas.report(run)
    return run


def text_of(run):
    return " ".join((run / "report.html").read_text().split())


def cut(run, kind, count):
    """Leave only the events up to the `count`-th of a kind, and nothing of what came of them."""
    path = run / "journal" / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    ends = [i for i, line in enumerate(lines) if json.loads(line)["event"] == kind]
    path.write_text("".join(lines[: ends[count - 1] + 1]))
    shutil.rmtree(run / "best", ignore_errors=True)
    (run / "trials.parquet").unlink(missing_ok=True)


class TestReport:
    def test_it_has_what_a_reader_looks_for(self, reported):
        text, best = text_of(reported), raynas.load(reported).best
        assert best.architecture in text
        assert f"{best.metrics['test_accuracy']:.2%} test accuracy" in text
        assert "95 % interval (Wilson): " in text
        for title in (
            "The winner", "How it learned", "What it takes for what", "How to use it",
            "The search", "What was tried", "How far to trust it", "What it cost",
            "How to reproduce it",
        ):  # fmt: skip
            assert f">{title}</h" in text, title
        assert "best so far against time" in text

    def test_nothing_lies_beside_it_and_pictures_are_no_bitmaps(self, reported):
        text = text_of(reported)
        assert not re.search(r"""(src|href)=["'](?!data:,|#)""", text)
        assert "<img" not in text
        assert "#000000" not in text  # black would not be seen in the dark

    def test_a_part_with_nothing_to_say_is_not_there(self, reported):
        text = text_of(reported)
        for title in ("The ensemble", "Flatness", "The last decision", "supernet's ranking"):
            assert title not in text

    def test_the_verb_needs_no_ray(self, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("Ray was started")

        monkeypatch.setattr(ray, "init", refuse)
        run = unpack("table", tmp_path)
        done = CliRunner().invoke(app, ["report", str(run)])
        assert done.exit_code == 0, done.output
        assert done.stdout.strip() == str(run / "report.html")
        assert raynas.load(run).best.architecture in text_of(run)

    def test_a_run_that_is_not_finished(self, tmp_path):
        run = unpack(KILLED, tmp_path)
        raynas.report(run)
        text = text_of(run)
        assert "The run is not finished" in text
        assert "How to use it" not in text
        assert "test accuracy</p>" not in text

    def test_one_evaluation_is_no_comparison(self, tmp_path):
        run = unpack("random", tmp_path)
        cut(run, "finished", 1)
        raynas.report(run)
        text = text_of(run)
        assert "Nothing was compared:" in text
        assert "best so far against" not in text
        assert "so it flatters" not in text

    def test_nothing_to_report(self, tmp_path):
        run = unpack("random", tmp_path)
        cut(run, "suggested", 1)
        with pytest.raises(StorageError, match="nothing to report"):
            raynas.report(run)

    def test_a_space_of_the_users_own_is_asked_for(self, tmp_path):
        run = unpack("random", tmp_path)
        path = run / "run.yaml"
        path.write_text(re.sub("space: .*", "space: my.Space", path.read_text()))
        with pytest.raises(InvalidArgument, match="space was an object"):
            raynas.report(run)


class TestUse:
    def test_the_lines_to_copy_recognize_an_image(self, reported, tmp_path, monkeypatch):
        result = raynas.load(reported)
        model, data = result.best.model(), load(result.config["data"], seed=result.config["seed"])
        about = reported / "best" / "architecture.json"
        models.export(model, json.loads(about.read_text()), tmp_path / "best", ["pt2"])
        shutil.copy(about, tmp_path / "best")
        images, _ = next(iter(data.test.raw(1, torch.device("cpu"))))
        pixels = (255 * images[0, 0]).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / "image.png")
        lines = re.search(
            r'<pre id="use"><code>(.*?)</code>', (reported / "report.html").read_text(), re.DOTALL
        )
        code = html.unescape(lines[1])
        assert "raynas" not in code
        assert code.count("\n") <= 11
        monkeypatch.chdir(tmp_path)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, {})
        name, probability = printed.getvalue().split()
        expected = model(images[:1]).softmax(1)[0]
        assert name == data.class_names[int(expected.argmax())]
        assert float(probability) == pytest.approx(expected.max().item(), abs=1e-3)

    def test_the_predictions_are_those_of_the_recorded_accuracy(self, reported):
        kept = pd.read_parquet(reported / "best" / "predictions.parquet")
        accuracy = (kept["label"] == kept["predicted"]).mean()
        recorded = raynas.load(reported).best.metrics["test_accuracy"]
        assert accuracy == pytest.approx(recorded, abs=1.5 / len(kept))  # another machine's sums

    def test_of_a_large_test_part_some_images_are_looked_at(self, reported, tmp_path, monkeypatch):
        run = shutil.copytree(reported, tmp_path / reported.name)
        (run / "best" / "predictions.parquet").unlink()
        result = raynas.load(run)
        kept = pd.read_parquet(reported / "best" / "predictions.parquet")
        monkeypatch.setattr(
            "raynas.record.winner_predictions._MOST_MACS",
            result.best.metrics["macs"] * len(kept) / 3,
        )
        raynas.report(run)
        some = pd.read_parquet(run / "best" / "predictions.parquet")
        assert some.equals(kept[::3].reset_index(drop=True))
        assert f"of {len(some)} of the {len(kept)} test images" in text_of(run)

    def test_they_are_computed_once(self, reported, tmp_path, monkeypatch):
        run = shutil.copytree(reported, tmp_path / reported.name)
        monkeypatch.setattr("raynas.record.winner_predictions.predict", None)
        raynas.report(run)
        assert "What it takes for what" in text_of(run)


class TestPictures:
    @pytest.mark.parametrize("name", sorted(search_spaces.names()))
    def test_every_space_is_drawn(self, name):
        space = search_spaces.get(name)
        for seed in range(3):
            arch = space.sample(np.random.default_rng(seed))
            root = ET.fromstring(drawing(space, arch))
            texts = {" ".join(text.itertext()).strip() for text in root.iter("text")}
            for graph in space.graphs(arch).values():
                assert set(graph.nodes()) <= texts
                for edge in graph.edges:
                    if edge.operation:
                        assert f"{edge.operation} ← {edge.source}" in texts

    def test_no_two_connections_share_a_place(self):
        space = search_spaces.get("nasbench101")
        for seed in range(20):
            (graph,) = space.graphs(space.sample(np.random.default_rng(seed))).values()
            order = {node: i for i, node in enumerate(graph.nodes())}
            lanes = _lanes(graph.edges, order)
            for (a, b), lane in lanes.items():
                for (c, d), other in lanes.items():
                    if lane == other and (a, b) != (c, d):
                        assert order[b] <= order[c] or order[d] <= order[a]

    def test_each_panel_is_a_picture_that_a_phone_shows(self):
        figure = empty_figure(9, 6)
        for axes in figure.subplots(2, 2).flat:
            axes.plot([0, 1], color="black")
        root = ET.fromstring(svg(figure, 'a "title" & more'))
        assert len(root) == 4
        for picture in root:
            assert picture.get("aria-label") == 'a "title" & more'
            assert float(picture.get("width").removesuffix("pt")) < 400
        assert all(axes.get_visible() for axes in figure.axes)
        assert svg(empty_figure(*PANEL), "nothing") != ""

    def test_thousands_of_dots_are_one_image(self):
        figure = empty_figure(*PANEL)
        figure.subplots().scatter(range(3000), range(3000))
        picture = svg(figure, "many")
        assert "<image" in picture
        assert len(picture) < 100_000

    def test_confusions_by_hand(self):
        table = pd.DataFrame({"label": [0, 0, 0, 1, 2, 2], "predicted": [0, 1, 1, 1, 0, 2]})
        counts = winner.confusion(table, 3)
        assert counts.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
        assert winner.confused(counts, ("a", "b", "c")) == ["a for b: 2 of 3", "c for a: 1 of 2"]

    def test_the_front_by_hand(self):
        points = [(3, 0.5), (1, 0.2), (2, 0.6), (2, 0.1), (4, 0.7)]
        assert search_figures.pareto(points) == [(1, 0.2), (2, 0.6), (4, 0.7)]

    def test_time_between_two_drivers_does_not_count(self):
        events = [
            Session(time=100.0), Finished(0, Status.COMPLETED, time=103.0),
            Session(time=900.0), Finished(1, Status.COMPLETED, time=905.0),
        ]  # fmt: skip
        assert search_figures.ended_after(events) == {0: 3.0, 1: 8.0}


class TestTried:
    def history(self):
        archs = [NB201.sample(np.random.default_rng(i)) for i in range(3)]
        history = history_of(NB201, archs, [[0.5], [0.9], [0.7]], 1)
        history.apply(Suggested(3, NB201.to_string(archs[0])))
        history.apply(Finished(3, Status.FAILED, "no <memory>"))
        return history

    def test_the_best_first_and_the_failures_last(self):
        history = self.history()
        text = tried.section(history, history.evaluations[1], {0: 0.4})
        numbers = re.findall(r"<tr(?: class=\"best\")?><td>(\d+)</td>", text)
        assert numbers == ["1", "2", "0", "3"]
        assert "failed: no &lt;memory&gt;" in " ".join(text.split())
        assert 'data-value="0.9"' in text
        assert "<th>merit</th>" in text
        assert "parameters" not in text  # nobody counted them

    def test_a_large_search_says_what_it_leaves_out(self):
        arch = NB201.sample(np.random.default_rng(0))
        history = history_of(NB201, [arch] * 305, [[0.5]] * 305, 1)
        text = " ".join(tried.section(history, history.evaluations[0], {}).split())
        assert "5 more are in <code>trials.parquet</code>" in text

    def test_seconds_of_training_add_up_over_evaluations(self):
        history = History()
        text = " ".join(cost.section(history, [], {"nodes": [{"CPU": 2, "GPU": 0}]}).split())
        assert "0 evaluations" in text
        assert "On 1 node with 2 CPU cores" in text
        assert "GPU" not in text


PROBE = """<script>
const errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("load", () => {
  const table = document.querySelector("table.sortable"), body = table.tBodies[0];
  const column = [...table.tHead.rows[0].cells].findIndex(head => head.textContent === "epochs");
  const epochs = () => [...body.rows].map(row => Number(row.cells[column].textContent));
  table.tHead.rows[0].cells[column].click();
  const falling = epochs();
  table.tHead.rows[0].cells[column].click();
  const page = document.documentElement;
  const outside = [...document.querySelectorAll("body *")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width && box.right > page.clientWidth + 1
      && !element.closest(".figures, .row, .tall");
  }).map(element => element.tagName + "." + element.className);
  parent.postMessage(JSON.stringify({errors, falling, rising: epochs(), outside,
    width: page.clientWidth, needed: page.scrollWidth}), "*");
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_all_of_it_and_sorts(width, reported, tmp_path):
    text = (reported / "report.html").read_text()
    (tmp_path / "probed.html").write_text(text.replace("<style>", f"{PROBE}<style>", 1))
    frame = tmp_path / "frame.html"  # a window is never as narrow as a phone, a frame is
    frame.write_text(
        '<pre id="told"></pre><script>onmessage = event => told.textContent = event.data</script>'
        f'<iframe src="probed.html" width="{width}" height="900" style="border:0"></iframe>'
    )
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    told = json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', done.stdout)[1]))
    assert told["errors"] == []
    assert told["needed"] <= told["width"] <= width
    assert told["outside"] == []
    assert told["rising"] == sorted(told["rising"])
    assert told["falling"] == sorted(told["falling"], reverse=True)
