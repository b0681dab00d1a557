"""Every chapter keeps the house rules, and every rule notices a chapter that breaks it."""

import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path

import house
import pytest
from chapters import BOOK, chapter_files, slug
from house import Chapter
from install_cell import install_cell
from stamp import COLAB_LINK_TEXT, configured

CHAPTERS = [house.chapter(path) for path in chapter_files()]
PNG = base64.b64encode(b"not really a picture").decode()


@pytest.mark.parametrize("rule", house.CHAPTER_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.path.stem)
def test_chapter_keeps(rule: Callable[[Chapter], list[str]], chapter: Chapter) -> None:
    complaints = rule(chapter)
    assert not complaints, "\n" + "\n".join(complaints)


def test_ignored_outputs_are_counted() -> None:
    assert house.ignored_outputs(CHAPTERS) == []


def test_claims_have_one_owner() -> None:
    assert house.claims_have_one_owner(CHAPTERS) == []


def test_figure_names_are_unique() -> None:
    assert house.figure_names_are_unique(CHAPTERS) == []


def test_course_picture_is_what_a_chapter_drew() -> None:
    assert house.picture_is_current(CHAPTERS, BOOK / "_static" / "course-picture.png") == []


@pytest.mark.parametrize("page", house.pages(), ids=lambda page: page.name)
def test_references_are_known(page: Path) -> None:
    complaints = house.references_are_known(page)
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize("page", house.pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    complaints = house.links_lead_somewhere(page)
    assert not complaints, "\n" + "\n".join(complaints)


def test_every_page_in_the_contents_is_there() -> None:
    missing = [path.name for path in house.toc_files() if not path.is_file()]
    assert not missing


# ---------------------------------------------------------------- the rules themselves

LINK = f"[{COLAB_LINK_TEXT}]({configured().colab('good.ipynb')})"


def markdown(source: str, **metadata: object) -> dict:
    return {
        "cell_type": "markdown",
        "id": slug(source)[:20],
        "metadata": metadata,
        "source": source,
    }


def code(source: str, *outputs: dict, **metadata: object) -> dict:
    return {
        "cell_type": "code",
        "id": slug(source)[:20],
        "metadata": metadata,
        "source": source,
        "outputs": list(outputs),
    }


def printed(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def shown(text: str) -> dict:
    return {"output_type": "execute_result", "metadata": {}, "data": {"text/plain": text}}


def image(**more: str) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": {"image/png": PNG, **more}}


def sliders(alt: str = "A line that falls as a network gets deeper.", *readings: str) -> dict:
    """What a cell with sliders shows; the picture's bytes look like the number 0.75."""
    first, *others = readings or ("It falls by 0.45.", "It falls by 0.65.")
    frames = json.dumps([["data:image/webp;base64,=0.75=", reading] for reading in others])
    html = (
        f'<div class="explore"><img src="data:image/webp;base64,=0.75=" alt="{alt}">'
        f'<figcaption>{first}</figcaption><script type="application/json">{frames}</script></div>'
    )
    return {"output_type": "execute_result", "metadata": {}, "data": {"text/html": html}}


FIGURE = {
    "image": {"alt": "Two lines that fall by a constant factor at every layer."},
    "figure": {"caption": "The norm ends at 0.25, two layers down.", "name": "fig-falling"},
}


VERDICT = {
    "claim": "B5",
    "verdict": "holds if",
    "cell": "norm",
    "seeds": 200,
    "varied": "the width",
    "kept": "all else",
}
CHECK = '# @title The check of B5\ncheck("B5", {"so it is": norm < 1})'


def good() -> Chapter:
    """A small chapter that keeps every rule."""
    cells = [
        markdown(f"# A chapter\n\nAbout 20 minutes. {LINK}. You can\n\n- read the plot."),
        code(install_cell()),
        markdown("## Measured\n\n$$ a = 7.77 b \\tag{1} $$\n\nBy (1) the norm is 0.25, or −1e-20."),
        code("print(norm)", printed("0.25 -1e-20\n"), name="norm"),
        code("_ = draw()", image(), mystnb=copy.deepcopy(FIGURE)),
        markdown(
            "> **Verdict on B5: holds if it is wide.** So it is.",
            verdict=copy.deepcopy(VERDICT),
        ),
        code(
            CHECK,
            shown("B5: 1 of 1 clauses hold"),
            name="check-b5",
            tags=["check", "hide-input"],
            check={"claim": "B5", "opposites": ["norm = 2"]},
            jupyter={"source_hidden": True},
            cellView="form",
        ),
        markdown("### Exercise 1\n\nRead."),
        code(
            "#@title Solution\nassert norm < 1",
            tags=["hide-cell", "solution"],
            jupyter={"source_hidden": True},
            cellView="form",
        ),
    ]
    for count, cell in enumerate((c for c in cells if c["cell_type"] == "code"), 1):
        cell["execution_count"] = count
    course = {"claims": ["B5"], "objectives": ["read the plot"], "minutes": 20}
    return Chapter(BOOK / "good.ipynb", {"metadata": {"course": course}, "cells": cells})


@pytest.mark.parametrize("rule", house.CHAPTER_RULES, ids=lambda rule: rule.__name__)
def test_a_good_chapter_passes(rule: Callable[[Chapter], list[str]]) -> None:
    assert rule(good()) == []


def put(index: int, **fields: object) -> Callable[[Chapter], None]:
    """A change of a cell's fields."""
    return lambda chapter: chapter.cells[index].update(copy.deepcopy(fields))


def meta(index: int, **fields: object) -> Callable[[Chapter], None]:
    """A change of a cell's metadata."""
    return lambda chapter: chapter.cells[index]["metadata"].update(copy.deepcopy(fields))


def course(**fields: object) -> Callable[[Chapter], None]:
    """A change of the notebook's own metadata."""
    return lambda chapter: chapter.course.update(copy.deepcopy(fields))


def without(index: int) -> Callable[[Chapter], None]:
    return lambda chapter: chapter.cells.pop(index)


def figure(part: str, **fields: str) -> Callable[[Chapter], None]:
    return lambda chapter: chapter.cells[4]["metadata"]["mystnb"][part].update(fields)


def say(text: str) -> Callable[[Chapter], None]:
    """One more sentence in the second text cell."""

    def change(chapter: Chapter) -> None:
        chapter.cells[2]["source"] += f"\n\n{text}"

    return change


BAD = [
    (house.was_run, put(3, execution_count=None), "None"),
    (house.was_run, put(3, execution_count=7), "7"),
    (house.nbval_sees_all, put(3, source="# NBVAL_SKIP\nprint(1)"), "comment"),
    (house.nbval_sees_all, meta(3, tags=["nbval-ignore-output"]), "numbers"),
    (house.nbval_sees_all, meta(3, tags=["nbval-skip"]), "nbval-skip"),
    (house.nbval_sees_all, meta(3, tags=["raises-exception"]), "raises-exception"),
    (house.outputs_are_clean, put(3, outputs=[printed("warning", "stderr")]), "stderr"),
    (
        house.outputs_are_clean,
        put(3, outputs=[{"output_type": "error", "ename": "KeyError"}]),
        "KeyError",
    ),
    (house.outputs_are_clean, put(3, outputs=[printed("<Line2D at 0x7f3a11aa>")]), "0x7f3a11aa"),
    (house.outputs_are_clean, put(4, outputs=[image(**{house.WIDGET_VIEW: "{}"})]), "widget"),
    (house.outputs_are_clean, put(4, source="draw();"), "semicolon"),
    (house.cells_are_short, put(3, source="x = 1\n" * 21), "21 lines"),
    (
        house.cells_are_short,
        lambda chapter: [cell.update(source="x = 1\n" * 9) for _, cell in chapter.code],
        "median",
    ),
    (house.threads_are_left_alone, put(3, source="torch.set_num_threads(1)"), "threads"),
    (
        house.threads_are_left_alone,
        put(3, source="os.environ['OMP_NUM_THREADS'] = '1'"),
        "threads",
    ),
    (house.draws_can_be_repeated, put(3, source="torch.manual_seed(0)"), "manual_seed"),
    (house.draws_can_be_repeated, put(3, source="g = torch.Generator()"), "Generator"),
    (house.figures_are_described, meta(4, mystnb={}), "alt"),
    (house.figures_are_described, figure("image", alt="A plot."), "alt"),
    (house.figures_are_described, figure("figure", caption="Norms."), "caption"),
    (house.figures_are_described, figure("figure", caption=FIGURE["image"]["alt"]), "repeats"),
    (house.figures_are_described, figure("figure", name=""), "name"),
    (house.figures_are_described, put(4, outputs=[image(), image()]), "2 images"),
    (house.sliders_are_described, put(3, outputs=[sliders("A plot.")]), "alt has 7"),
    (house.sliders_are_described, put(3, outputs=[sliders()], metadata={}), "name"),
    (
        house.sliders_are_described,
        put(
            3,
            outputs=[
                sliders("A line that falls as a network gets deeper.", "It falls.", "It falls.")
            ],
        ),
        "alike",
    ),
    (
        house.figures_are_backed,
        lambda c: (put(3, outputs=[])(c), put(6, outputs=[])(c)),
        "asserted",
    ),
    (house.begins_with_install, put(1, source="import torch"), "install cell"),
    (house.begins_with_install, put(1, outputs=[printed("Collecting")]), "something to do"),
    (house.begins_with_install, without(1), "install cell"),
    (house.opens_on_colab, put(0, source="# A chapter"), "lacks [Open"),
    (house.opens_on_colab, put(0, source=LINK.replace("good", "bad")), "lacks [Open"),
    (house.opens_on_colab, put(0, source=LINK.replace("blob/v", "blob/v9")), "lacks [Open"),
    (house.numbers_are_shown, say("It was 0.3 then."), "0.3"),
    (house.numbers_are_shown, say("It was 5.25 or 0.2 then."), "0.2"),
    (house.numbers_are_shown, say("After 500 steps."), "500"),
    (house.numbers_are_shown, say("| a | 1,500 |"), "1500"),
    (house.numbers_are_shown, say("About 1e-19."), "1e-19"),
    (house.numbers_are_shown, say("About 3 × 10⁻⁷."), "3e-7"),
    (house.numbers_are_shown, figure("figure", caption="It ends at 0.125 as was said."), "0.125"),
    (house.numbers_are_shown, figure("image", alt="A line that ends at 0.5 exactly there."), "0.5"),
    (house.is_plain_markdown, say("See {ref}`there`."), "role"),
    (house.is_plain_markdown, say("```{note}\nx\n```"), "directive"),
    (house.is_plain_markdown, say(":::\nx\n:::"), "fence"),
    (house.is_plain_markdown, say("(there)="), "target"),
    (house.equations_are_used, say("$$ c \\tag{3} $$ and (3)"), "[1, 3]"),
    (house.equations_are_used, say("$$ c \\tag{2} $$"), "(2)"),
    (house.exercises_are_solved, say("### Exercise 2\n\nMore."), "2 exercises, 1 solutions"),
    (house.exercises_are_solved, meta(8, tags=["solution"]), "hide-cell"),
    (house.exercises_are_solved, meta(8, jupyter={}), "source_hidden"),
    (house.exercises_are_solved, meta(8, cellView=""), "cellView"),
    (house.exercises_are_solved, put(8, source="assert True"), "@title"),
    (house.says_what_it_teaches, course(minutes=30), "30 minutes"),
    (house.says_what_it_teaches, course(objectives=["fly"]), "fly"),
    (house.says_what_it_teaches, course(objectives=[]), "objectives"),
    (house.claims_are_judged, course(claims=["B5", "B99"]), "ledger"),
    (house.claims_are_judged, course(claims=["B5", "B6"]), "B6 is judged 0 times"),
    (house.claims_are_judged, course(claims=[]), "not owned"),
    (house.claims_are_judged, without(5), "B5 is judged 0 times"),
    (house.claims_are_judged, lambda c: c.cells.append(copy.deepcopy(c.cells[5])), "2 times"),
    (house.claims_are_judged, lambda c: c.cells[5]["metadata"].clear(), "without metadata"),
    (house.claims_are_judged, meta(5, verdict=VERDICT | {"verdict": "holds"}), "says"),
    (house.claims_are_judged, meta(5, verdict=VERDICT | {"verdict": "perhaps"}), "perhaps"),
    (house.claims_are_judged, meta(5, verdict=VERDICT | {"cell": "gone"}), "gone"),
    (house.claims_are_judged, meta(5, verdict=VERDICT | {"seeds": "many"}), "many"),
    (house.claims_are_judged, put(5, source="> **Verdict on B6: holds if so.** Yes."), "B6"),
    (house.claims_are_judged, put(5, source="**Verdict on B5: holds if so.** Yes."), "begin"),
    (house.claims_are_judged, meta(4, name="norm"), "used twice"),
    (house.verdicts_are_checked, meta(5, verdict=VERDICT | {"varied": " "}), "was varied"),
    (house.verdicts_are_checked, meta(5, verdict=VERDICT | {"kept": ""}), "was kept"),
    (house.verdicts_are_checked, without(6), "not the check of B5"),
    (house.verdicts_are_checked, meta(6, check={"claim": "B6"}), "not the check of B5"),
    (house.verdicts_are_checked, meta(6, check={"claim": "B5", "opposites": []}), "opposite"),
    (house.verdicts_are_checked, meta(6, name="checked"), "check-b5"),
    (house.verdicts_are_checked, meta(6, tags=["check"]), "hide-input"),
    (house.verdicts_are_checked, meta(6, jupyter={}), "source_hidden"),
    (house.verdicts_are_checked, meta(6, cellView=""), "cellView"),
    (house.verdicts_are_checked, put(6, source=CHECK[25:]), "@title"),
    (house.verdicts_are_checked, put(6, source=CHECK + "\n" * 60), "lines"),
    (house.verdicts_are_checked, put(6, source=CHECK[:-1] + " | {'so it is': 1})"), "same words"),
    (house.verdicts_are_checked, put(6, outputs=[shown("B5: 1 of 2 clauses hold")]), "all clauses"),
    (house.verdicts_are_checked, put(6, outputs=[shown("B6: 1 of 1 clauses hold")]), "all clauses"),
]


@pytest.mark.parametrize(
    ("rule", "change", "word"), BAD, ids=[f"{rule.__name__}-{word}" for rule, _, word in BAD]
)
def test_a_rule_notices(
    rule: Callable[[Chapter], list[str]], change: Callable[[Chapter], None], word: str
) -> None:
    bad = good()
    change(bad)
    complaints = rule(bad)
    assert any(word in complaint for complaint in complaints), complaints


def test_every_rule_is_tried() -> None:
    assert {rule for rule, _, _ in BAD} == set(house.CHAPTER_RULES)


def test_what_sliders_say_is_shown_and_their_pictures_are_not() -> None:
    chapter = good()
    put(3, outputs=[printed("0.25 -1e-20\n"), sliders()])(chapter)
    say("From 0.45 to 0.65.")(chapter)
    assert house.sliders_are_described(chapter) == []
    assert house.numbers_are_shown(chapter) == []
    say("And 0.75.")(chapter)
    assert len(house.numbers_are_shown(chapter)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Equation $x = 3.14$ and $$ y = 2.72 $$ and `0.99` and ``1.5``.",
        "[Glorot (2010)](https://example.org/1.2.3) and https://example.org/4.56",
        "<span style='width: 1.5em'>two</span>\n\n```python\nx = 1.5\n```",
        "## 2.1 Two layers\n\n### Exercise 123",
        "Layers 1 to 20, ten of them.",
        "\\begin{align}x &= 1.5\\end{align}",
        "float32 and a 1st version v1.2",
        "It costs 20 $, not less.",
        "In the 1980s.",
    ],
)
def test_numbers_outside_prose_are_free(text: str) -> None:
    assert house.numbers(house.prose(text)) == []


@pytest.mark.parametrize(
    ("number", "text", "there"),
    [
        ("1.2", "11.25", False),
        ("1.2", "1.2", True),
        ("1.2", "1.25", False),
        ("1.2", "-1.2.", True),
        ("100", "1000", False),
        ("100", "100.5", False),
        ("1e-20", "1e-20", True),
        ("1e-2", "1e-20", False),
        ("1.5", "1.5e-7", False),
    ],
)
def test_a_number_is_not_found_inside_another(number: str, text: str, there: bool) -> None:
    assert house.shown(number, text) is there


def test_written_forms_of_a_number_are_one() -> None:
    text = "−1.5, 1,797, 3 × 10⁻⁷, 10⁻⁶ and 2e+05"
    assert house.plain(text) == "-1.5, 1797, 3e-7, 1e-6 and 2e5"
    assert house.plain("1.00e-07") == "1.00e-7"


def test_years_of_references_are_free(tmp_path: Path) -> None:
    bib = tmp_path / "references.bib"
    bib.write_text("@article{a, author={H, S.}, title={U}, year={1991}, url={https://a.org/b}}")
    chapter = good()
    chapter.cells[2]["source"] += "\n\nAnalysed in 1991, not in 1992."
    (complaint,) = house.numbers_are_shown(chapter, bib)
    assert "1992" in complaint


def test_ignored_outputs_notice() -> None:
    bad = good()
    bad.cells[3]["metadata"]["tags"] = ["nbval-ignore-output"]
    assert "1 outputs are ignored" in house.ignored_outputs([bad])[0]


def test_two_owners_are_noticed() -> None:
    assert house.claims_have_one_owner([good(), good()]) == [
        "B5 is owned by good.ipynb and good.ipynb"
    ]


def test_two_figures_of_one_name_are_noticed() -> None:
    assert house.figure_names_are_unique([good()]) == []
    assert "fig-falling names 2 figures" in house.figure_names_are_unique([good(), good()])[0]


def test_a_stale_picture_is_noticed(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    chapter = good()
    assert "found []" in house.picture_is_current([chapter], picture)[0]
    chapter.cells[4]["metadata"]["course-picture"] = True
    assert "make outputs" in house.picture_is_current([chapter], picture)[0]
    picture.write_bytes(b"another picture")
    assert "make outputs" in house.picture_is_current([chapter], picture)[0]
    picture.write_bytes(base64.b64decode(PNG))
    assert house.picture_is_current([chapter], picture) == []


def test_references_notice(tmp_path: Path) -> None:
    bib = tmp_path / "references.bib"
    bib.write_text(
        "@article{a, author={Saxe, A.}, title={E}, year={2013}, eprint={1312.6120}}\n"
        "@article{b, author={Glorot, X.}, title={U}, year={2010}, url={https://mlr.press/v9/g.html}}"
        "\n@article{c, author={Bengio, Y.}, title={L}, year={1994}, doi={10.1109/72.279181}}\n"
    )
    page = tmp_path / "page.md"
    page.write_text(
        "[Saxe (2013)](https://arxiv.org/pdf/1312.6120v3) [Glorot (2010)](https://mlr.press/v9/g.html)"
        " [Bengio (1994)](https://dx.doi.org/10.1109/72.279181) [torch](https://pytorch.org/x)"
    )
    assert house.references_are_known(page, bib) == []
    page.write_text("[Saxe (2014)](https://arxiv.org/abs/1312.6120) [X](https://arxiv.org/abs/9.9)")
    first, second = house.references_are_known(page, bib)
    assert "2014" in first
    assert "no entry" in second


def test_broken_links_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# The *one* heading, here\n")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md) [b](there.md#the-one-heading-here) [c](#top)\n\n# Top\n")
    assert house.links_lead_somewhere(page) == []
    page.write_text("[a](gone.md) [b](there.md#gone) [c](#gone) ![d](gone.png)")
    assert [c.split()[1] for c in house.links_lead_somewhere(page)] == [
        "gone.md",
        "there.md#gone",
        "#gone",
        "gone.png",
    ]


def test_links_to_cells_and_verdicts_are_known(tmp_path: Path) -> None:
    (tmp_path / "good.ipynb").write_text(house.dumps(good().notebook), encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](good.ipynb#cell-norm) [b](good.ipynb#verdict-b5) [c](good.ipynb#fig-falling) "
        "[d](good.ipynb#measured)"
    )
    assert house.links_lead_somewhere(page) == []


def test_each_verdict_has_an_adversary_or_a_reason_to_have_none() -> None:
    tried = house.adversaries(Path(__file__).parent / "verdicts")
    for chapter in CHAPTERS:
        cells = (cell["metadata"].get("verdict", {}) for cell in chapter.cells)
        judged = {data["claim"] for data in cells if data}
        found = set(tried.get(chapter.path.stem, []))
        assert found <= judged, f"{chapter.path.stem} does not judge {found - judged}"
        assert not judged - found - set(house.WITHOUT_ADVERSARY), judged - found


def test_adversaries_are_read_off_their_marks(tmp_path: Path) -> None:
    head = 'pytestmark = pytest.mark.files("book/backprop.ipynb")\n\n'
    text = '@pytest.mark.claim("B1")\ndef test_a(): ...\n\n# @pytest.mark.claim("B2")\n'
    (tmp_path / "against_backprop.py").write_text(head + text, encoding="utf-8")
    (tmp_path / "against_depth.py").write_text(head + text.replace("B1", "B3"), encoding="utf-8")
    (tmp_path / "fresh_draws.py").write_text(text, encoding="utf-8")
    assert house.adversaries(tmp_path) == {"backprop": ["B1", "B3"]}
    (tmp_path / "against_nothing.py").write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match=r"against_nothing\.py does not say"):
        house.adversaries(tmp_path)
