"""Rankings as Markdown and LaTeX, figures as SVG files: the report for other documents."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import escape

from invbench.report import depth, figures, pareto, profiles
from invbench.report.comparisons import Comparison, Method, compare
from invbench.report.drawing import Panel
from invbench.report.palette import Style, styles
from invbench.report.scores import score
from invbench.report.tables import Entry, Ranking, kind_tables
from invbench.store import Results

Write = Callable[[str], str]

_HERE = Path(__file__).parent
#: A legend below a figure: height of a line and width of a letter, in units of the SVG.
_LINE, _LETTER = 15.0, 5.2
#: Letters that every font of LaTeX has in the encoding T1.
_LATIN = re.compile("[À-ÖØ-öø-ÿ]")
_SYMBOLS = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after the end of a row it would begin an optional argument
    "]": "{]}",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "†": r"\textsuperscript{\dag}",
    "`": r"\textasciigrave{}",
}
_RAISED = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
_LOWERED = str.maketrans(_RAISED, "-0123456789")


def markdown(results: Results) -> str:
    """All rankings with their intervals as Markdown tables, each under a heading.

    The best of a column is bold; text from the study is escaped.
    """
    return "\n".join(line for ranking in _rankings(results) for line in _markdown(ranking))


def latex(results: Results) -> str:
    r"""All rankings with their intervals as LaTeX tables in the style of booktabs, to be \input.

    Intervals stand below the means. Symbols are escaped; letters that no standard font of LaTeX has are
    written as their code point.
    """
    head = [
        r"% \usepackage[T1]{fontenc} \usepackage[utf8]{inputenc} \usepackage{booktabs,graphicx}",
        "% Means over images and seeds; below them 95 % bootstrap intervals; the best is bold.",
    ]
    return "\n".join([*head, *(line for ranking in _rankings(results) for line in _latex(ranking))]) + "\n"


def svg_files(results: Results) -> dict[str, str]:
    """Every figure of the report as an SVG file with a legend, by a name that says what it shows.

    Text stays text. Unlike the page, the files hold all trials of the study.
    """
    comparisons = compare(results)
    looks = styles(method for comparison in comparisons for method in comparison.methods)
    found: dict[str, str] = {}
    for what, panel in _panels(results, comparisons, looks):
        for plot in panel.plots:
            name = _file_name(f"{what} {panel.title} {plot.caption.partition(',')[0]}", found)
            found[name] = _standalone(plot.svg, plot.caption, panel.title, panel.methods, looks)
    return found


def _panels(
    results: Results, comparisons: Sequence[Comparison], looks: Mapping[Method, Style]
) -> Iterator[tuple[str, Panel]]:
    """All figures with what they are, trials one by one, so that no limit of the page cuts them."""
    scores = {comparison: score(comparison) for comparison in comparisons}
    for one in comparisons:
        yield from (("convergence", panel) for panel in figures.panels([one], scores, looks))
        yield from (("pareto", panel) for panel in pareto.panels([one], scores, looks))
    yield from (("profile", panel) for panel in profiles.panels(comparisons, scores, looks))
    for panel in depth.panels(comparisons, scores, looks, results.environment):
        yield "depth", panel


def escape_markdown(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line.

    Example:
        >>> print(escape_markdown("a_b|<c>"))
        a\_b\|&lt;c&gt;
    """
    plain = "".join(char if char.isprintable() else " " for char in text)
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", plain)


def escape_latex(text: str) -> str:
    r"""Text that LaTeX sets as it is, on one line.

    Example:
        >>> print(escape_latex("50 % of x_1 at 3·10⁻⁷"))
        50 \% of x\_1 at 3$\cdot$10$^{-7}$
    """
    return re.sub(f"[{_RAISED}]+|--|.", _latex_token, text, flags=re.DOTALL)


def _latex_token(match: re.Match[str]) -> str:
    """A run of superscripts, two hyphens that are no dash, or one character."""
    token = match[0]
    if token[0] in _RAISED:
        return f"$^{{{token.translate(_LOWERED)}}}$"
    if token == "--":
        return "-{}-"
    if token in _SYMBOLS:
        return _SYMBOLS[token]
    if not token.isprintable():
        return " "
    return token if token.isascii() or _LATIN.match(token) else f"(U+{ord(token):04X})"


def _rankings(results: Results) -> Iterator[Ranking]:
    for kind in kind_tables({comparison: score(comparison) for comparison in compare(results)}):
        pooled = () if kind.pooled is None else (kind.pooled,)
        yield from (*pooled, *kind.rankings)


def _headings(ranking: Ranking) -> list[str]:
    heads = [f"{head.text} {head.arrow}".rstrip() for head in ranking.headings]
    return ["#", "method", *heads, "finished"]


def _markdown(ranking: Ranking) -> Iterator[str]:
    heads = _headings(ranking)
    yield f"### {escape_markdown(ranking.title)}"
    yield ""
    yield _bar(map(escape_markdown, heads))
    yield _bar(["--:", ":--", *["--:"] * (len(heads) - 2)])
    for row in ranking.rows:
        entries = [_markdown_entry(entry) for entry in row.entries]
        yield _bar([row.rank, escape_markdown(str(row.method)), *entries, row.finished])
    for absent in ranking.absent:
        empty = ["–"] * (len(heads) - 3)
        yield _bar(["–", escape_markdown(str(absent.method)), *empty, escape_markdown(absent.status)])
    yield ""
    for note in _notes(ranking, escape_markdown):
        yield note
        yield ""


def _bar(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_entry(entry: Entry) -> str:
    text = escape_markdown(entry.text + entry.note)
    text = f"**{text}**" if entry.best else text
    return f"{text} ({escape_markdown(entry.interval)})" if entry.interval else text


def _latex(ranking: Ranking) -> Iterator[str]:
    heads = _headings(ranking)
    yield ""
    yield r"\begin{table}"
    yield rf"\caption{{{escape_latex(ranking.title)}}}"
    yield r"\centering\small\setlength{\tabcolsep}{4pt}"
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{rl{'r' * (len(heads) - 2)}}}"
    yield r"\toprule"
    yield _row(map(escape_latex, heads))
    yield r"\midrule"
    for row in ranking.rows:
        entries = [_latex_entry(entry) for entry in row.entries]
        yield _row(
            [escape_latex(row.rank), escape_latex(str(row.method)), *entries, escape_latex(row.finished)]
        )
        if any(entry.interval for entry in row.entries):
            yield _row(["", "", *(_small(entry.interval) for entry in row.entries), ""])
    for absent in ranking.absent:
        empty = ["--"] * (len(heads) - 3)
        yield _row(["--", escape_latex(str(absent.method)), *empty, escape_latex(absent.status)])
    yield r"\bottomrule"
    yield r"\end{tabular}}"
    for note in _notes(ranking, escape_latex):
        yield rf"\par\smallskip\raggedright\footnotesize {note}"
    yield r"\end{table}"


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_entry(entry: Entry) -> str:
    text = escape_latex(entry.text + entry.note)
    return rf"\textbf{{{text}}}" if entry.best else text


def _small(interval: str) -> str:
    return rf"{{\scriptsize {escape_latex(interval)}}}" if interval else ""


def _notes(ranking: Ranking, write: Write) -> Iterator[str]:
    """What stands below a table: its conditions, reasons of what is absent, what the dagger means."""
    if ranking.conditions:
        yield write(", ".join(f"{name} {value}" for name, value in ranking.conditions) + ".")
    for absent in ranking.absent:
        yield write(f"{absent.method} {absent.status}: {absent.reason or 'no reason was recorded'}.")
    if ranking.footnote:
        yield write("† minimised priors or a loss weight of its own: its objective does not compare.")


def _file_name(text: str, taken: Mapping[str, str]) -> str:
    """`preimage-pool2-mse-against-seconds.svg`; a number where that is taken."""
    stem = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:120] or "figure"
    name, copy = f"{stem}.svg", 1
    while name in taken:
        copy += 1
        name = f"{stem}-{copy}.svg"
    return name


def _standalone(
    svg: str, caption: str, title: str, methods: Sequence[Method], looks: Mapping[Method, Style]
) -> str:
    """A figure of the page as a file: with colours for its variables, a white ground and a legend."""
    box = re.search(r'viewBox="([^"]+)"', svg)
    width, height = (float(part) for part in box[1].split()[2:]) if box else (403.0, 252.0)
    legend, below = _legend(methods, looks, width, height)
    inner = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    size = f'viewBox="0 0 {width:g} {below:g}" width="{width:g}pt" height="{below:g}pt"'
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif">\n'
        f"<title>{_xml(f'{title}: {caption}')}</title>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{inner}\n{legend}</svg>\n'
    )
    colours = _colours()
    return re.sub(r"var\(--(\w+)\)", lambda match: colours[match[1]], text)


def _legend(
    methods: Sequence[Method], looks: Mapping[Method, Style], width: float, top: float
) -> tuple[str, float]:
    """Lines of the legend, as many beside each other as fit, and where they end."""
    entries, x, y = [], 50.0, top + 10
    for method in methods:
        needed = 32 + _LETTER * len(str(method))
        if x > 50 and x + needed > width:
            x, y = 50.0, y + _LINE
        look = looks[method]
        dashes = f' stroke-dasharray="{look.dashes}"' if look.dashes else ""
        entries.append(
            f'<line x1="{x:.1f}" y1="{y - 3:.1f}" x2="{x + 22:.1f}" y2="{y - 3:.1f}"'
            f' stroke="var(--m{look.hue})" stroke-width="1.7"{dashes}/>'
            f'<text x="{x + 27:.1f}" y="{y:.1f}" font-size="9" fill="var(--ink)">{_xml(str(method))}</text>\n'
        )
        x += needed + 10
    return "".join(entries), y + 8


def _xml(text: str) -> str:
    """Escaped, without the characters that XML cannot hold."""
    return str(escape("".join(char if char.isprintable() else " " for char in text)))


def _colours() -> dict[str, str]:
    """The variables of the light style sheet of the page."""
    sheet = (_HERE / "page.css").read_text(encoding="utf-8").partition("@media")[0]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]+);", sheet))
