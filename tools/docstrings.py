"""A Sphinx extension: the library's docstrings as reStructuredText.

They are written to be read in a terminal: names in single backticks, formulas as indented lines,
`|A|` and `x_<t` as they are.  Here names and formulas become literals and everything that
reStructuredText would take for markup is escaped, before napoleon reads the sections.
"""

import re

SECTION = re.compile(
    r"^(Args|Arguments|Attributes|Returns|Yields|Raises|Examples?|References?|Notes?):$"
)
ENTRY = re.compile(r"^(\s+[\w., *]+?: )(.*)$")


def escape(text: str) -> str:
    """Escape running text; what stands in backticks becomes a literal."""
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(
        f"``{part.strip('`')}``" if i % 2 else re.sub(r"([\\*|_])", r"\\\1", part)
        for i, part in enumerate(parts)
    )


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText with Google sections."""
    out: list[str] = []
    section = ""
    literal = doctest = False
    for i, line in enumerate(lines):
        if found := SECTION.match(line):
            section, literal, doctest = found[1], False, False
            out.append(line)
            continue
        if section and line and not line.startswith(" "):
            section = ""
        if not line.strip():
            doctest = False
            out.append(line)
            continue
        if line.lstrip().startswith(">>>"):
            doctest = True
        if doctest:
            out.append(line)
            continue
        if not section:
            indented = line.startswith("    ")
            if indented and not literal and (i == 0 or not lines[i - 1].strip()):
                out += [".. code-block:: text", ""]
                literal = True
            elif not indented:
                literal = False
            out.append(line if literal else escape(line))
            continue
        entry = ENTRY.match(line)
        if section in ("Args", "Arguments", "Attributes", "Raises") and entry:
            out.append(entry[1] + escape(entry[2]))
        else:
            out.append(escape(line))
    return out


def _process(app, what, name, obj, options, lines) -> None:
    if lines[:1] and lines[0].startswith("Alias for field number"):  # a field without a comment
        lines.clear()
    lines[:] = to_rst(lines)


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", _process, priority=100)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
