import ast
import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic import even, noisy_staircase, run

from sltjax.development import stages
from sltjax.plots.drawing import with_error
from sltjax.report import page, write_report
from sltjax.report.wording import said_interval

REASONS = {11: "chain 2 turned NaN at draw 17: lower <b>step_size</b>", 30: "file is truncated & unreadable"}


class Tags(HTMLParser):
    """Collects (tag, attributes), and the text outside of scripts and styles."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.inside = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.text.append(data)


def parsed(text):
    tags = Tags()
    tags.feed(text)
    return tags


@pytest.fixture(scope="module")
def dataset():
    made = noisy_staircase(60, failed=REASONS, warned={40: "R-hat 1.31: draw longer"})
    made.attrs["title"] = "<script>alert(1)</script> run"
    made.attrs["skipped"] = json.dumps([["<img src=x>", "no number in its name"]])
    return made


@pytest.fixture(scope="module")
def html(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert write_report(dataset, stages(dataset), path) == path
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_what_users_name_is_escaped(html):
    tags = parsed(html)
    assert "alert(1)" in "".join(tags.text)
    assert sum(tag == "script" for tag, _ in tags.tags) == 1
    assert not any(tag in ("img", "b") for tag, _ in tags.tags)


def test_stages_are_told_with_their_duration_and_what_the_second_method_says(html, dataset, tmp_path):
    table = stages(dataset)
    row = html[html.index("<td>1</td><td>A</td>") :]
    row = row[: row.index("</tr>")]
    assert f"<td>{said_interval(table.to_dict('records')[0], 'duration')}</td><td>yes</td>" in row
    assert "it has others at steps" not in html
    table.attrs["elsewhere"] = [1200]
    doubted = write_report(dataset, table.assign(confirmed=False), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "it has others at steps 1,200" in doubted
    assert "<td>yes</td>" not in doubted


def test_every_failure_warning_and_skip_is_told_with_its_reason(html):
    text = "".join(parsed(html).text)
    for reason in (*REASONS.values(), "R-hat 1.31: draw longer", "no number in its name"):
        assert reason in text


def test_nothing_is_loaded_from_elsewhere(html):
    for tag, attrs in parsed(html).tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            address = attrs.get(name) or "#"
            assert tag == "a" or address.startswith(("#", "data:")), (tag, name, address)
    assert "@import" not in html
    assert not re.search(r"url\((?!#|\"?#)", html)


def test_links_and_citations_are_those_that_apply(html, dataset, tmp_path):
    for number in ("2308.12108", "2405.10927", "2402.02364", "Aoyagi"):
        assert number in html
    plain = dataset.drop_vars("exact_llc")
    plain.attrs = {**dataset.attrs, "definition": json.dumps({"loss": {"name": "cross entropy"}})}
    text = write_report(plain, stages(plain), tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "Aoyagi" not in text
    assert "2405.10927" not in text


def test_checkpoints_can_be_sorted_by_every_header_from_the_keyboard(html, dataset):
    table = html[html.index('<table class="sortable">') :]
    head, body = table[: table.index("</thead>")], table[table.index("<tbody>") : table.index("</tbody>")]
    assert head.count("<th ") == head.count('<button type="button">') == 6
    assert head.count('aria-sort="ascending"') == 1
    assert body.count("<tr") == dataset.sizes["checkpoint"]
    assert body.count("data-key") == 6 * dataset.sizes["checkpoint"]


def test_definition_numerics_and_versions_are_said(html):
    text = " ".join("".join(parsed(html).text).split())
    for words in ("2,019", "behavioral", "LeimkuhlerMatthews", "step size", "jax", "0.10.0", "calibrated"):
        assert words in text
    assert "58 of 60 checkpoints have an estimate, 57 of them without a warning." in text


def test_how_to_run_it_again_is_the_call_with_what_was_settled_or_the_recipe(html, dataset, tmp_path):
    call = unescape(html[html.index("sltjax.sweep(") :])
    call = call[: call.index("\n)") + 2]
    asked = {word.arg: ast.unparse(word.value) for word in ast.parse(call).body[0].value.keywords}
    assert asked == {
        "store": "'results'",
        "nbeta": "2019.0",
        "gamma": "1.0",
        "sampler": "sltjax.LeimkuhlerMatthews(step_size=0.1)",
        "num_draws": "50",
    }
    assert 'jax.numpy.array([0, 2], "uint32")' in call
    recipe = '[problem]\nloss = "a:<b>"'
    text = write_report(dataset, stages(dataset), tmp_path / "page.html", recipe=recipe).read_text(encoding="utf-8")
    assert recipe in unescape(text)
    assert "sltjax run recipe.toml" in text
    assert "sltjax.sweep(" not in text


def test_traces_are_those_at_the_ends_of_stages_and_of_the_worst_warnings(dataset):
    table = stages(dataset)
    told = page._telling(dataset, table)
    assert told == sorted(set(told))
    assert told[:2] == [0, table["to_step"][0]]
    assert len(told) <= page.MOST_TRACES
    assert int(dataset["step"][40]) in told
    assert int(dataset["step"][11]) not in told
    many = dataset.assign(ok=("checkpoint", np.arange(60) < 5))
    many["rhat"] = ("checkpoint", np.linspace(1, 1.5, 60))
    assert int(many["step"][-2]) in page._telling(many, table)


def test_milestones_and_trajectories_have_their_sections(dataset, tmp_path):
    hill = run(even(40), 20 + 10 * np.exp(-(((np.arange(40) - 20) / 6) ** 2)), 0.2)
    turn = np.linspace(0, 3, 40)[:, None] * np.arange(1, 30)
    hill["outputs"] = (("checkpoint", "outputs_0"), np.cos(turn), {"role": "metric"})
    text = write_report(hill, stages(hill), tmp_path / "hill.html").read_text(encoding="utf-8")
    assert "<td>maximum</td>" in text
    assert '<h2 id="trajectories">' in text
    assert '<h2 id="trajectories">' not in html_of(dataset, tmp_path)


def html_of(dataset, folder):
    return write_report(dataset, stages(dataset), folder / "plain.html").read_text(encoding="utf-8")


def test_a_bare_run_without_stages_or_attributes_has_a_report(dataset, tmp_path):
    bare = dataset[["llc", "llc_std_error", "ok", "status", "verdict"]].isel(checkpoint=slice(0, 11))
    bare.attrs = {}
    text = write_report(bare, stages(bare), tmp_path / "bare.html").read_text(encoding="utf-8")
    assert "No transition of λ̂" in text
    assert "All 11 checkpoints have an estimate, all of them without a warning." in text


def test_a_run_that_failed_throughout_has_a_report(tmp_path):
    nothing = run(even(6), np.ones(6), 0.1, failed=dict.fromkeys(range(6), "chain 0 turned NaN"))
    text = write_report(nothing, stages(nothing), tmp_path / "none.html").read_text(encoding="utf-8")
    assert "None of the 6 checkpoints has an estimate" in text


def test_a_page_that_cannot_be_written_leaves_the_old_one(dataset, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(page.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_report(dataset, stages(dataset), path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.html", "old")]


def test_misuse_is_told(dataset, tmp_path):
    with pytest.raises(ValueError, match="status not in the dataset"):
        write_report(dataset.drop_vars("status"), stages(dataset), tmp_path / "report.html")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (17.8912, 0.4, "17.89 ± 0.40"),
        (1234.5, 31.2, "1,234 ± 31"),
        (-0.5, 0.012, "−0.500 ± 0.012"),
        (3.14159, np.nan, "3.142"),
        (np.nan, 0.1, "—"),
    ],
)
def test_numbers_are_rounded_to_their_errors(value, error, text):
    assert with_error(value, error) == text
