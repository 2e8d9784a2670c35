"""What the documents say is there: links lead somewhere, named code and tests exist, lists are whole and up to date."""

from __future__ import annotations

import ast
import inspect
import re
from functools import lru_cache
from pathlib import Path

import pytest
from tools import requirements

from nubila import errors
from nubila.bootstrap import fabric

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"`([A-Za-z_][\w.]*)(?:\(\))?`")
TEST = re.compile(r"\b(tests/[\w/]+\.py)(?:::(\w+))?")
TERM = re.compile(r"^- \*\*(.+?)\*\*(?: \((.+?)\))?:", re.M)
OUTSIDE = re.compile(r"\.\./shared|/tmp/|shared/mission")


def text(name: str) -> str:
    return (ROOT / name).read_text()


@lru_cache
def names_in(file: Path) -> frozenset[str]:
    """Everything that a Python file defines at any depth: functions, classes, assigned names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return frozenset(found)


@lru_cache
def anchors(file: Path) -> frozenset[str]:
    heads = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
    return frozenset(re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads)


@pytest.mark.parametrize("file", DOCS, ids=lambda f: str(f.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    """Inside the repository; a link whose words are a name in code marks leads to a file that defines that name."""
    for words, target in LINK.findall(file.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (file.parent / path).resolve() if path else file
        assert found.exists(), f"{target} is not there"
        assert found.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert not anchor or anchor in anchors(found), f"{path} has no heading #{anchor}"
        name = CODE.fullmatch(words)
        if name and found.suffix == ".py" and not name[1].endswith(".py"):
            last = name[1].rpartition(".")[2]
            assert last in names_in(found) or last == found.stem, f"{path} does not define {last}"


@pytest.mark.parametrize("file", [*DOCS, ROOT / "tools" / "requirements.py"], ids=lambda f: str(f.relative_to(ROOT)))
def test_named_tests_exist(file: Path) -> None:
    for path, name in TEST.findall(file.read_text()):
        assert (ROOT / path).is_file(), f"{path} is not there"
        assert not name or name in names_in(ROOT / path), f"{path} has no {name}"


@pytest.mark.parametrize("file", DOCS, ids=lambda f: str(f.relative_to(ROOT)))
def test_documents_need_nothing_from_outside(file: Path) -> None:
    assert OUTSIDE.search(file.read_text()) is None


def test_requirements_are_all_there() -> None:
    assert [number for number, _, _ in requirements.REQUIREMENTS] == list(range(1, 223))
    assert set(requirements.GROUPS) <= set(range(1, 223))
    assert len({words for _, words, _ in requirements.REQUIREMENTS}) == 222
    for _, words, test in requirements.REQUIREMENTS:
        assert words
        assert "|" not in words
        assert test == requirements.OPEN or re.fullmatch(r"tests/[\w/]+\.py::test_\w+", test)


def test_requirements_are_written_anew() -> None:
    assert requirements.FILE.read_text() == requirements.document(), "run: python tools/requirements.py"


def test_glossary_has_each_word_once() -> None:
    terms = [(m[1], *re.split(r", ", m[2] or "")) for m in TERM.finditer(text("docs/glossary.md"))]
    words = [w for term in terms for w in term if w]
    assert len(terms) > 40
    assert sorted(words) == sorted(set(words))


def test_api_explains_every_problem() -> None:
    """Each slug that may leave a process stands in docs/api.md with its status."""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.NubilaError)]
    known = {(c.slug, c.status) for c in classes}
    said = {
        (slug, int(status)) for slug, status in re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", text("docs/api.md"), re.M)
    }
    assert said == known


def test_reliability_explains_every_name() -> None:
    said = re.findall(r"^\| ([IAF]\d+) \|", text("docs/reliability.md"), re.M)
    wanted = [f"{k}{n}" for k, last in (("I", 20), ("A", 35), ("F", 36)) for n in range(1, last + 1)]
    assert said == wanted


def test_decisions_are_numbered_without_gaps() -> None:
    files = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert [int(f.name[:4]) for f in files] == list(range(1, len(files) + 1))
    for file in files:
        assert re.findall(r"^## (.+)$", file.read_text(), re.M) == ["Context", "Decision", "Consequences"]
        assert f"({file.name})" in text("docs/adr/README.md")


def test_the_licence_is_apache_2_and_contributing_is_explained() -> None:
    licence = text("LICENSE")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert 'license = "Apache-2.0"' in text("pyproject.toml")
    assert "make check" in text("CONTRIBUTING.md")


# option of `vm create` -> what `make up` makes of it
MADE = {"flavor": set(fabric.FLAVORS), "image": {fabric.IMAGE}, "key": {fabric.KEYPAIR}, "network": {fabric.NETWORK}}


@pytest.mark.parametrize(
    "file", [*DOCS, *sorted((ROOT / "src/nubila/cli").glob("*.py"))], ids=lambda f: str(f.relative_to(ROOT))
)
def test_examples_work_after_make_up(file: Path) -> None:
    """A VM in an example is made of what is there, or of what the same text makes by --name."""
    said = file.read_text()
    own = set(re.findall(r"--name ([\w.-]+)", said))
    for line in re.findall(r"nubila vm create .*", said):
        for option, name in re.findall(r"--(flavor|image|key|network) ([\w.-]+)", line):
            assert name in MADE[option] | own, f"--{option} {name} is nowhere made"
