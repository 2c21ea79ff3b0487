"""The page that a student gets back, laid out by nbgrader's feedback template.

Nothing of a submission is executed or shown as HTML here: its text is escaped, its outputs are left
out.
"""

import html
import re
from pathlib import Path

import nbformat
import nbgrader
from nbconvert.exporters import HTMLExporter
from traitlets.config import Config

FORMGRADER = Path(nbgrader.__file__).parent / "server_extensions" / "formgrader"
TEMPLATES = FORMGRADER / "templates"
STYLES = FORMGRADER / "static" / "node_modules" / "bootstrap" / "dist" / "css"
# Whatever slipped through: no script runs, nothing is loaded.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)


def shown(text):
    """Text as it stands, whatever Markdown, MathJax or HTML would make of it."""
    escaped = html.escape(str(text), quote=True)
    for sign in "$\\`*_[]{}~":
        escaped = escaped.replace(sign, f"&#{ord(sign)};")
    style = "white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere"
    return f'<pre style="{style}">' + escaped.replace("\n", "&#10;") + "</pre>"


def titled(page, titles):
    """The page with the questions' titles where the template has the same words for all of them.

    A student's text cannot look like these places: its `<` and `"` are escaped.
    """
    for question, title in titles.items():
        title = html.escape(title)
        entry, heading = f'<a href="#{question}">', '<span class="nbgrader-label">'
        listed = re.sub(r"^\d+\. ", "", title)  # the list has numbers of its own
        page = page.replace(f"{entry}Written response</a>", f"{entry}{listed}</a>")
        page = page.replace(f"{heading}Student's answer</span>", f"{heading}{title}</span>", 1)
    return page


def given(result, part, marks):
    """Points and comment for a part, the teacher's where it is marked by hand; None: not yet."""
    if part["score"] is not None:
        return part["score"], ""
    points, comment = marks.get((result["student"], part["question"]), (None, ""))
    return (None if points is None else min(max(points, 0.0), part["points"])), comment


def page(assignment, result, marks):
    """The page of one student, as HTML."""
    cells, reached = [], 0.0
    if result["problems"]:
        said = "\n".join(problem[:400] for problem in result["problems"][:20])
        cells.append(nbformat.v4.new_markdown_cell("**When your notebook ran**\n\n" + shown(said)))
    for question, points in assignment.questions.items():
        rows, score, comment = [], 0.0, ""
        for part in result["parts"]:
            if part["question"] != question:
                continue
            got, said = given(result, part, marks)
            comment = said or comment
            by_hand = part["score"] is None and got is not None
            message = "marked by your teacher." if by_hand else part["message"]
            score += got or 0.0
            points_of = "to be marked" if got is None else f"{got:g} of {part['points']:g}"
            rows.append(f"{part['name']}: {points_of}. {message}")
        reached += score
        cell = nbformat.v4.new_markdown_cell(shown("\n".join(rows)))
        cell.metadata["nbgrader"] = {
            "grade": True, "solution": True, "task": False, "grade_id": question,
            "score": score, "points": points, "comment": shown(comment) if comment else "",
        }  # fmt: skip
        cells.append(cell)
    cells.append(nbformat.v4.new_markdown_cell("**What you handed in**"))
    cells += [nbformat.v4.new_code_cell(source[:20_000]) for source in result["cells"][:200]]
    notebook = nbformat.v4.new_notebook(cells=cells)
    settings = Config()
    settings.HTMLExporter.template_name = "feedback"
    settings.HTMLExporter.extra_template_basedirs = [str(TEMPLATES)]
    settings.HTMLExporter.extra_template_paths = [str(STYLES)]
    settings.HTMLExporter.mathjax_url = ""
    settings.HTMLExporter.require_js_url = ""
    settings.HTMLExporter.jquery_url = ""
    marks_of = {
        "notebook": f"{assignment.name}, {result['student']}", "score": reached,
        "max_score": sum(assignment.questions.values()), "late_penalty": 0,
    }  # fmt: skip
    made, _ = HTMLExporter(config=settings).from_notebook_node(
        notebook, resources={"nbgrader": marks_of}
    )
    made = re.sub(r"<script\b.*?</script>", "", made, flags=re.DOTALL)  # the page needs none
    made = titled(made, assignment.titles)
    return made.replace("<head>", f"<head>\n{POLICY}", 1)
