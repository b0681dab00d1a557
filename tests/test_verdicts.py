"""The boxes of the verdicts: the claim that each quotes, and the page that collects them."""

from pathlib import Path

import nbformat
import pytest
import repeat
import verdicts
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "> **Verdict on B5: holds if it is wide.** Over\n> 200 seeds.\n>\n> More.",
            ("B5", "holds if it is wide.", ["Over 200 seeds.", "More."]),
        ),
        (
            "> **Verdict on [B5](verdicts.md#verdict-b5): holds.** “The claim.”\n>\n> So.",
            ("B5", "holds.", ["So."]),
        ),
        ("> **Verdict on S1: refuted.**\n> No.", ("S1", "refuted.", ["No."])),
        ("> **Verdict on S1: holds.** “So” it “is”", ("S1", "holds.", ["“So” it “is”"])),
        ("> **Verdict on S1: holds.** So:\n>\n> - a\n> - b", ("S1", "holds.", ["So:", "- a\n- b"])),
        ("> **Predict.** So?", None),
        ("**Verdict on S1: refuted.** No.", None),
    ],
)
def test_a_verdict_is_read(source: str, expected: tuple[str, str, list[str]] | None) -> None:
    assert verdicts.callout(source) == expected


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A book of one chapter with one verdict, and a check behind it."""
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: one\n")
    (tmp_path / "claims.yml").write_text(
        "B5:\n  chapter: one\n  claim: 'a | \"b\"'\nB6:\n  claim: c\n"
    )
    given = {"claim": "B5", "verdict": "holds if", "cell": "norm", "seeds": 200}
    given |= {"varied": "the width", "kept": "all else"}
    cells = [
        new_markdown_cell("# Depth"),
        new_code_cell("import companion"),
        new_markdown_cell(
            "> **Verdict on B5: holds if wide.** So. More.", metadata={"verdict": given}
        ),
        new_code_cell('check("B5", {"so": True})', metadata={"check": {"claim": "B5"}}),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "one.ipynb")
    return tmp_path


BOX = "> **Verdict on [B5]({}): holds if wide.** “a | ‘b’”\n>\n> So. More."


def test_the_claim_is_quoted_once_in_its_box(judged: Path) -> None:
    path, claims = judged / "one.ipynb", verdicts.ledger(judged)
    assert verdicts.quote_claims(path, claims)
    assert verdicts.read(path)["cells"][2]["source"] == BOX.format("verdicts.md#verdict-b5")
    assert not verdicts.quote_claims(path, claims)
    claims["B5"]["claim"] = "another"
    assert verdicts.quote_claims(path, claims)
    assert "“another”\n>\n> So. More." in verdicts.read(path)["cells"][2]["source"]


def test_what_stands_beside_a_box_is_not_lost(judged: Path) -> None:
    path = judged / "one.ipynb"
    path.write_text(path.read_text().replace("So. More.", "So. More.\\n\\nBeside it."))
    with pytest.raises(ValueError, match=r"one.ipynb: beside the verdict on B5 stands .*Beside it"):
        verdicts.quote_claims(path, verdicts.ledger(judged))


def test_the_page_lists_what_was_judged(judged: Path) -> None:
    text = verdicts.page(judged)
    assert "1 of 2 claims" in text
    assert 'value="all" checked> all (1)' in text
    assert 'value="holds-if"> holds if (1)' in text
    assert "refuted (" not in text
    below = "Varied: the width. Kept: all else."
    below += " Random draws: 200, [shown here](one.ipynb#cell-norm)."
    assert BOX.format("one.ipynb#verdict-b5") + f"\n>\n> <small>{below}</small>\n" in text


def test_the_page_says_how_many_repetitions_a_verdict_survived(judged: Path) -> None:
    code = repeat.checks(verdicts.read(judged / "one.ipynb"))["B5"].code
    row = {"code": code, "commit": "abc", "numbers": [1, 2, 3], "failed": {2: ["so"]}}
    repeat.write({"B5": row}, judged / "repetitions.yml")
    assert "Held in 2 of 3 repetitions.</small>" in verdicts.page(judged)
    repeat.write({"B5": row | {"code": "old"}}, judged / "repetitions.yml")
    assert "Held in 2 of 3 repetitions, before the chapter's last change.</small>" in verdicts.page(
        judged
    )


def test_a_stale_quote_or_page_is_noticed(judged: Path) -> None:
    assert not verdicts.is_current(judged)
    verdicts.write_verdicts(judged)
    assert verdicts.is_current(judged)
    ledger = judged / "claims.yml"
    ledger.write_text(ledger.read_text().replace("a | ", "a or "))
    (judged / "verdicts.md").write_text(verdicts.page(judged))
    assert not verdicts.is_current(judged)
    verdicts.write_verdicts(judged)
    assert verdicts.is_current(judged)
