"""Pages are made light wherever their tags' attributes stand, and nothing else of them changes."""

import doctest
from base64 import b64encode
from pathlib import Path

import light
import pytest
import styles
import tags
from PIL import Image


@pytest.mark.parametrize(
    "page",
    [
        "<p>α < β\n<br/>\n<img src='x'\n alt=\"a > b\">",
        "<!-- <b> --><script>if (a<b) '<i>'</script><u id=1>&lt;s&gt;</u>",
        "<!DOCTYPE html>\r\n<p\tclass=a>\r\n</p >",
    ],
)
def test_tags_stand_where_they_are_said_to(page: str) -> None:
    found = tags.tags(page)
    assert found
    for tag in found:
        text = page[tag.start : tag.end]
        assert text.startswith(f"<{tag.name}" if tag.opens else f"</{tag.name}")
        assert text.endswith(">")
        assert tags.tags(text)[0].attributes == tag.attributes
    assert not {"b", "i", "s"} & {tag.name for tag in found}
    assert (
        tags.edited(page, [(tag.start, tag.end, page[tag.start : tag.end]) for tag in found])
        == page
    )


def test_the_examples_run() -> None:
    assert doctest.testmod(tags) == (0, 2)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a picture of 30 by 20."""
    (tmp_path / "_images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "_images" / "a.png")
    return tmp_path


SIZE = ' width="30" height="20" loading="lazy"'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('<img src="_images/a.png" alt="x">', f'<img{SIZE} src="_images/a.png" alt="x">'),
        ('<img alt="a > b" src="_images/a.png"/>', f'<img{SIZE} alt="a > b" src="_images/a.png"/>'),
        ("<img\n src='_images/a.png'>", f"<img{SIZE}\n src='_images/a.png'>"),
        ('<img loading="eager" src="_images/a.png">',) * 2,
        ('<img src="_images/a.png" loading="lazy">',) * 2,
        ('<img src="_static/a.png"><p title="_images/a.png">',) * 2,
    ],
)
def test_figures_say_their_size(before: str, after: str, site: Path) -> None:
    assert light.sized(f"<p>α{before}</p>", site) == f"<p>α{after}</p>"
    assert light.sized(after, site) == after


def test_pictures_of_sliders_become_files_of_their_own(site: Path) -> None:
    Image.new("RGB", (30, 20)).save(site / "b.webp")
    address = f"data:image/webp;base64,{b64encode((site / 'b.webp').read_bytes()).decode()}"
    page = f'<img alt="" src="{address}"><script type="a/json">[["{address}", "b"]]</script>'
    lean = light.unpacked(page, site)
    (file,) = (site / "_images").glob("slider-*.webp")
    assert file.read_bytes() == (site / "b.webp").read_bytes()
    assert lean == page.replace(address, f"_images/{file.name}")
    assert light.sized(lean, site) == lean.replace("<img", f"<img{SIZE}")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('<pre><span></span><span class="n">a</span></pre>', "<pre>a</pre>"),
        (
            '<pre id="c1"><span class="k">if</span> <span class="p">(</span></pre>',
            '<pre id="c1"><span class="k">if</span> (</pre>',
        ),
        (
            '<pre><span class="x"><span class="w"> </span><b></b></span></pre>',
            '<pre><span class="x"> <b></b></span></pre>',
        ),
        ('<pre><span id="L1" class="n">a</span></pre>',) * 2,
        ('<code><span class="n">a</span></code><pre></pre><span class="n">b</span>',) * 2,
        ('<summary aria-label="Toggle hidden content">', "<summary>"),
        ('<summary aria-label="More">',) * 2,
    ],
)
def test_code_marks_only_what_has_a_colour(before: str, after: str) -> None:
    assert light.plain(before) == after
    assert light.plain(after) == after


def test_scripts_and_styles_go_where_a_class_asks_for_them() -> None:
    assert light.is_needed("_static/theme.js", set())
    assert light.is_needed("_static/sphinx-design.css", {"sd-card", "a"})
    assert not light.is_needed("_static/sphinx-design.css", {"not-sd-card"})
    assert not light.is_needed("_static/design-tabs.js", {"sd-card"})
    assert not light.is_needed("_static/thebe.js", {"thebe"})


LINKS = """<link rel="canonical" href="x.html" />
<link href="../_static/styles/theme.css?digest=1" rel="stylesheet" />
<link rel="stylesheet" type="text/css" href="../_static/basic.css" />
  <link rel='stylesheet' href='https://b.org/_own/a.css'>
<p>the <b>rest</b>, with <link href="../_static/last.css?v=2">"""
ONE = """<link rel="canonical" href="x.html" />
<link href="../_static/styles/book.css?v=12" rel="stylesheet">
  <link rel='stylesheet' href='https://b.org/_own/a.css'>
<p>the <b>rest</b>, with """


def test_one_file_of_styles_stands_for_many() -> None:
    names = [link["name"] for _, link in styles.style_links(LINKS)]
    assert names == ["styles/theme.css", "basic.css", "last.css"]
    assert styles.one_style(LINKS, "12") == ONE
    assert styles.one_style(ONE, "13") == ONE


def test_the_letters_of_mathematics_are_those_between_its_tags() -> None:
    page = '<p>z</p><math display="block"><mi>&alpha;</mi><mo class="q">&lt;</mo></math>y'
    found = {chr(code) for code in styles.math_characters([page])}
    assert found == {"α", "<", "𝛼"}
    assert chr(0x221A) in map(chr, styles.math_characters(["<math><msqrt></msqrt></math>"]))
