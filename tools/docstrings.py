"""A Sphinx extension: the library's docstrings as reStructuredText.

They are written to be read in a terminal: names in single backticks, formulas as indented lines,
`|A|` and `x_<t` as they are.  Here names and formulas become literals and everything that
reStructuredText would take for markup is escaped, before napoleon reads the sections.

Constants and fields have no docstrings.  The comment above or beside them takes its place, and a
constant shows its value.  The page of the package itself gets a table of what it exports.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from docutils.nodes import Element
from sphinx.pycode import ModuleAnalyzer, parser

PACKAGE = "promptbayes"
ALIAS = "Alias for field number"  # what Python says of a field of a NamedTuple

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


@cache
def modules() -> dict[str, Any]:
    """The modules of the library by their names; what only runs as a command is none."""
    package = importlib.import_module(PACKAGE)
    names = [found.name for found in pkgutil.iter_modules(package.__path__)]
    return {
        name: importlib.import_module(f"{PACKAGE}.{name}") for name in names if name != "__main__"
    }


def _assigned(body: list[ast.stmt]) -> list[str]:
    """Public names that get a value, or a type, in the body of a module or class."""
    targets = [
        target
        for statement in body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    ]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    tuples = [target for target in targets if isinstance(target, ast.Tuple)]
    names += [part.id for target in tuples for part in target.elts if isinstance(part, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def _parts(module) -> list[Any]:
    """A module itself; of a package the modules in it, which define what it exports."""
    names = [found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))]
    return [importlib.import_module(f"{module.__name__}.{name}") for name in names] or [module]


@cache
def _body(module) -> list[ast.stmt]:
    sources = [inspect.getsource(part) for part in _parts(module)]
    return [statement for source in sources for statement in ast.parse(source).body]


def _exported(module, names: list[str]) -> list[str]:
    """Those of the names that a package exports; a module exports all of its own."""
    return [name for name in names if name in getattr(module, "__all__", names)]


def constants(module) -> list[str]:
    """Public names of a module that are neither functions nor classes."""
    kinds = (TypeVar, ParamSpec)  # of use to the type checker alone
    names = _exported(module, _assigned(_body(module)))
    return [name for name in names if not isinstance(getattr(module, name), kinds)]


def definitions(module) -> list[str]:
    """Every public name that a module defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    named = [s.name for s in _body(module) if isinstance(s, kinds) and not s.name.startswith("_")]
    return [*dict.fromkeys([*constants(module), *_exported(module, named)])]


@cache
def fields(module) -> dict[tuple[str, str], bool]:
    """(class, field) -> whether the docstring of the class describes it, for public classes."""
    found = {}
    for statement in _body(module):
        if not isinstance(statement, ast.ClassDef) or statement.name.startswith("_"):
            continue
        if _exported(module, [statement.name]):
            said = re.findall(r"^    (\w+): ", ast.get_docstring(statement) or "", re.MULTILINE)
            found |= {(statement.name, name): name in said for name in _assigned(statement.body)}
    return found


def _read_comments(app) -> None:
    """Let autodoc find all constants and fields, and the plain comments that stand by them."""
    special, parser.comment_re = parser.comment_re, re.compile(r"^\s*#:? ?(.*)\r?\n?$")
    try:
        for module in modules().values():
            comments: dict[tuple[str, str], list[str]] = {}
            for part in {module, *_parts(module)}:  # autodoc asks both about what a package exports
                analyzer = ModuleAnalyzer.for_module(part.__name__)
                analyzer.analyze()
                comments |= analyzer.attr_docs
                analyzer.attr_docs = comments
            for defined in definitions(module):
                value = getattr(module, defined)
                if defined in constants(module):
                    comments.setdefault(("", defined), [""])
                elif not inspect.isroutine(value) and not inspect.isclass(value):
                    # A function that a decorator has made an object, as jax.custom_vjp does.
                    said = (inspect.getdoc(value) or "").splitlines()
                    comments.setdefault(("", defined), said)
            for field, described in fields(module).items():
                if described:
                    comments.pop(field, None)
                else:
                    comments.setdefault(field, [""])
    finally:
        parser.comment_re = special


def shown(value) -> str:
    """A value in few words: of a dataclass what is not as its defaults, of a table its names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        default = {
            field.name: field.default
            if field.default_factory is dataclasses.MISSING
            else field.default_factory()
            for field in dataclasses.fields(value)
        }
        own = {name: getattr(value, name) for name in default}
        parts = [
            f"{name}={', '.join(held) if isinstance(held, Mapping) else shown(held)}"
            for name, held in own.items()
            if repr(held) != repr(default[name])
        ]
        return f"{type(value).__name__}({', '.join(parts)})"
    return re.sub(r"\s+", " ", repr(value))


def value_of(constant) -> list[str]:
    """The value as a literal block; a table has a row for each entry."""
    if callable(constant) or hasattr(constant, "__origin__"):  # a type: autodoc says which
        return []
    if isinstance(constant, Path):  # of the machine on which the page was built
        return []
    if isinstance(constant, Mapping):
        rows = [f"{key!r}: {shown(held)}" for key, held in constant.items()]
    else:
        rows = [shown(constant)]
    wide = textwrap.TextWrapper(76, subsequent_indent="    ", break_on_hyphens=False)
    lines = [line for row in rows for line in wide.wrap(row)]
    return ["", ".. code-block:: text", "", *(f"    {line}" for line in lines), ""]


def exports() -> list[str]:
    """A table of what the package exports: each name leads to where it is defined."""
    package = importlib.import_module(PACKAGE)
    rows = ["", ".. list-table::", "   :header-rows: 1", "", "   * - name", "     - what", ""]
    for name in package.__all__:
        value = getattr(package, name)
        holding = [home for home, module in modules().items() if name in constants(module)]
        home = str(getattr(value, "__module__", PACKAGE)).removeprefix(PACKAGE).strip(".")
        if home not in modules() or name not in definitions(modules()[home]):
            home = holding[0] if holding else ""
        target = f"{PACKAGE}.{home}.{name}" if home else f"{PACKAGE}.{name}"
        if home and name in constants(modules()[home]):
            said = "a table, by name" if isinstance(value, Mapping) else f"``{shown(value)}``"
        else:
            said = escape((inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " "))
        rows += [f"   * - :py:obj:`{name} <{target}>`", f"     - {said}", ""]
    return rows


_written: dict[str, list[str]] = {}


def _process(app, what, name, obj, options, lines) -> None:
    lines[:] = to_rst([line for line in lines if not line.startswith(ALIAS)])
    if what in ("attribute", "data", "property"):
        _written[name] = [*lines]


def _append(app, what, name, obj, options, lines) -> None:
    if name in _written:  # napoleon takes the words before a colon for a type
        lines[:] = _written.pop(name)
    if what == "data":
        lines += value_of(obj)
    if name == PACKAGE:
        lines += exports()


def _skip(app, what, name, obj, skip, options) -> bool | None:
    # The fields of a NamedTuple that are described under "Attributes" of their class.
    current = app.env.temp_data
    module = modules().get(str(current.get("autodoc:module")).removeprefix(f"{PACKAGE}."))
    if what == "class" and module and fields(module).get((current.get("autodoc:class"), name)):
        return True
    return None


def _missing(app, env, node, contnode):
    """Names of Python and other packages are plain code, no references that lead nowhere."""
    if node["refdomain"] != "py" or node["reftarget"].startswith(PACKAGE):
        return None
    if isinstance(contnode, Element) and "xref" in contnode["classes"]:
        contnode["classes"].remove("xref")
    return contnode


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("builder-inited", _read_comments)
    app.connect("autodoc-process-docstring", _process, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", _append, priority=900)  # and after it
    app.connect("autodoc-skip-member", _skip)
    app.connect("missing-reference", _missing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
