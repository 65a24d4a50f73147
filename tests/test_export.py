import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from invbench import cli
from invbench.report.comparisons import compare
from invbench.report.export import escape_latex, escape_markdown, latex, markdown, svg_files
from invbench.report.scores import score
from tests.results_folder import Folder, quick

HOSTILE = r"a|b_<i>\input{x}$\alpha$%#&~^`猫é[1]--"
LAYERS = ("pool1", "fc1")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return quick(tmp_path_factory.mktemp("quick"), layers=LAYERS, instances=4)


@pytest.fixture(scope="module")
def figures(results):
    return svg_files(results)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("hostile"), 3)
    for solver in (HOSTILE, f"{HOSTILE}\n2"):
        folder.add(solver, HOSTILE, parameters=HOSTILE, network=HOSTILE)
    folder.add("absent", HOSTILE, network=HOSTILE, status="refused", reason=f"{HOSTILE}\n\n| x |")
    return folder.finish()


def cells_of(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_tables_hold_means_and_intervals(results):
    lines = markdown(results).splitlines()
    start = lines.index("### preimage · pool1")
    heads, _, first = (cells_of(line) for line in lines[start + 2 : start + 5])
    assert heads[:3] == [r"\#", "method", "MSE ↓"]
    comparison = compare(results)[0]
    scores = score(comparison)
    top, k = scores.order[0], scores.columns.index("mse")
    mean, low, high = (float(part[top, k]) for part in scores.interval)
    assert first[:2] == ["1", scores.methods[top].solver]
    numbers = re.fullmatch(r"\*\*([\d.]+)\*\* \(([\d.]+) – ([\d.]+)\)", first[2])
    assert [float(text) for text in numbers.groups()] == pytest.approx([mean, low, high], rel=0.06)


def test_every_row_of_a_markdown_table_has_as_many_cells(hostile, results):
    for text in (markdown(results), markdown(hostile)):
        tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
        assert tables
        for table in tables:
            assert len({len(cells_of(line)) for line in table.splitlines()}) == 1
    assert "<i>" not in markdown(hostile) and "&lt;i&gt;" in markdown(hostile)
    assert "absent refused: " in markdown(hostile)


def test_markdown_is_escaped():
    assert escape_markdown("a*b_[x](y)\n`|`") == r"a\*b\_\[x\]\(y\) \`\|\`"


def test_latex_is_escaped():
    assert escape_latex(r"\x{y}") == r"\textbackslash{}x\{y\}"
    assert escape_latex("4.3·10⁻⁴ – ∞") == r"4.3$\cdot$10$^{-4}$ -- $\infty$"
    assert escape_latex("a--b é 猫\n") == "a-{}-b é (U+732B) "


def braces(text):
    depth = 0
    for char in re.sub(r"\\[{}\\]", "", re.sub(r"(?<!\\)%.*", "", text)):
        depth += (char == "{") - (char == "}")
        assert depth >= 0
    return depth


@pytest.mark.parametrize("which", ["results", "hostile"])
def test_latex_is_well_formed(which, request):
    text = latex(request.getfixturevalue(which))
    known = {
        "begin", "end", "caption", "centering", "small", "setlength", "tabcolsep", "resizebox", "ifdim",
        "width", "linewidth", "else", "fi", "toprule", "midrule", "bottomrule", "textbf", "scriptsize",
        "footnotesize", "par", "smallskip", "raggedright", "cdot", "uparrow", "downarrow", "infty",
        "textsuperscript", "dag", "textbackslash", "textless", "textgreater", "textbar", "textasciitilde",
        "textasciicircum", "textasciigrave", "usepackage",
    }  # fmt: skip
    assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= known
    assert braces(text) == 0
    body = re.sub(r"^%.*$", "", text, flags=re.MULTILINE)
    assert len(re.findall(r"(?<!\\)\$", body)) % 2 == 0
    assert not re.search(r"[^\x00-\x7fÀ-ÿ]", body)
    for columns, rows in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", body, re.DOTALL):
        for row in re.findall(r"^(.*) \\\\$", rows, re.MULTILINE):
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
    assert body.count(r"\begin{table}") == body.count(r"\bottomrule") == body.count(r"\end{table}") > 0


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
@pytest.mark.parametrize("which", ["results", "hostile"])
def test_latex_compiles(which, request, tmp_path):
    packages = r"\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{booktabs,graphicx}"
    body = latex(request.getfixturevalue(which))
    text = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "x.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "x.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_figures_have_names_that_say_what_they_show(figures):
    for wanted in (
        "convergence-preimage-pool1-mse-against-seconds.svg",
        "convergence-preimage-fc1-objective-against-iterations.svg",
        "convergence-adversarial-success-against-seconds.svg",
    ):
        assert wanted in figures
    assert all(re.fullmatch(r"[a-z0-9-]+\.svg", name) for name in figures)
    assert {name.partition("-")[0] for name in figures} >= {"convergence", "pareto", "profile", "depth"}


def test_figures_are_whole_files(figures):
    for name, text in figures.items():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg", name
        assert "var(" not in text and "#fe00" not in text and "#fd00" not in text
        words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert any("adam" in (word or "") for word in words), "the legend is text"
        outside = re.findall(r'(?:href="|url\()([^#][^")]*)', text)
        assert not outside


def test_a_legend_lies_within_its_figure(figures):
    for text in figures.values():
        width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups())
        lines = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" font-size="9"', text)
        assert lines
        assert all(float(x) < width and float(y) < height for x, y in lines)


def test_figures_of_all_trials_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("invbench.report.figures.COMPARISONS", 1)
    folder = Folder(tmp_path, 2)
    for layer in ("pool1", "fc1", "Fc1"):
        folder.add("adam", layer)
        folder.add("lbfgs<&>\x07", layer)
    names = [name for name in svg_files(folder.finish()) if "mse-against-seconds" in name]
    convergence = [name for name in names if name.startswith("convergence")]
    assert len(convergence) == 3 and any(name.endswith("-2.svg") for name in convergence)


def test_same_results_same_figures(results, figures):
    assert svg_files(results) == figures


def test_options_of_report(results, tmp_path, monkeypatch, capsys):
    options = ["--markdown", "t.md", "--latex", "t.tex", "--figures", "plots/svg", "-o", "r.html"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["invbench", "report", str(results.folder), *options])
    monkeypatch.setattr("invbench.report.render", lambda results, trends=None: "page")
    monkeypatch.setattr("invbench.report.export.svg_files", lambda results: {"a.svg": "<svg/>"})
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert (tmp_path / "t.md").read_text() == markdown(results)
    assert (tmp_path / "t.tex").read_text() == latex(results)
    assert (tmp_path / "plots" / "svg" / "a.svg").read_text() == "<svg/>"
    assert "figures: 1 in plots/svg" in capsys.readouterr().out
