"""Pages, badges and the page on tightness."""

import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from kq_conformance.cli.app import app
from kq_conformance.cli.render import render as command
from kq_conformance.render import (
    load_explanations,
    render_badge,
    render_markdown,
    render_page,
    render_tightness,
)
from kq_conformance.render.badge import text_width
from kq_conformance.render.explanations import Explanation, parse_explanations
from kq_conformance.render.headline import headline
from kq_conformance.render.matrix import ABSENT, matrix

GOLDEN = Path(__file__).parent / "golden"
PASSED_FILE, FAILED_FILE = GOLDEN / "report-passed.json", GOLDEN / "report-failed.json"
PASSED = json.loads(PASSED_FILE.read_text(encoding="utf-8"))
FAILED = json.loads(FAILED_FILE.read_text(encoding="utf-8"))
LOOSE_CASE = "linear_4bit/nf4/b64/bfloat16/m1-n48-k130"
ALL_LOOSE = Explanation("linear_4bit/*/bfloat16/*", 1e-3, "one rounding hides the others")


def changed(document, name="", **run):
    copy = deepcopy(document)
    copy["run"] |= run
    copy["backend"]["name"] = name or copy["backend"]["name"]
    return copy


def uncertified(**run):
    return changed(PASSED, **run) | {"certifies": False}


def waived():
    copy = deepcopy(PASSED)
    copy["cases"][4] = FAILED["cases"][4]
    copy["coverage"][2] |= {"counts": {"pass": 1, "fail": 1, "unsupported": 1}, "waived": 1}
    copy["counts"] |= {"pass": 6, "fail": 1}
    return copy | {"waivers": FAILED["waivers"][:1], "waived": True}


def nothing():
    copy = deepcopy(PASSED)
    for case in copy["cases"]:
        case["verdict"] = "unsupported"
    return copy | {"passed": False, "certifies": False}


def invoke(*arguments):
    return CliRunner().invoke(app, [command.__name__, *map(str, arguments)])


@pytest.mark.parametrize(
    ("document", "state", "badge"),
    [
        (PASSED, "pass", "core passed"),
        (changed(PASSED, profile="full"), "pass", "full passed"),
        (changed(PASSED, rules="margin"), "pass", "core passed, margin rules"),
        (waived(), "waived", "passed, 1 waived"),
        (FAILED, "fail", "failed 6"),
        (uncertified(profile="quick"), "partial", "quick: does not certify"),
        (uncertified(select="linear*"), "partial", "selection: does not certify"),
        (nothing(), "fail", "nothing passed"),
    ],
)
def test_headline(document, state, badge):
    assert (headline(document).state, headline(document).badge) == (state, badge)


def test_cells_know_their_worst_case():
    cell = matrix(PASSED).rows["linear_4bit"]["nf4"]["float32"]
    assert (cell.passed, cell.asked, cell.silent, cell.state) == (2, 2, 1, "pass")
    assert (cell.tightness.value, cell.tightness.short) == (0.5, "b64/m16-n48-k64/bias")
    assert (cell.statistical.value, cell.statistical.short) == (0.9, "b64/m1-n48-k130")
    assert not cell.all_exact
    assert matrix(PASSED).rows["quantize_4bit"]["nf4"]["float32"].all_exact


def test_cells_know_their_failures():
    rows = matrix(FAILED).rows
    cell = rows["linear_4bit"]["nf4"]["float32"]
    assert (cell.passed, cell.asked, cell.failed, cell.waived) == (0, 2, 1, 1)
    assert (cell.state, cell.tightness.value) == ("fail", 3.25)
    assert rows["quantize_4bit"]["nf4"]["float32"].tightness.value == float("inf")
    assert rows["linear_4bit"]["fp4"]["float32"].state == "unsupported"
    assert matrix(waived()).rows["linear_4bit"]["nf4"]["float32"].state == "waived"


def test_nan_is_the_worst_figure():
    copy = deepcopy(PASSED)
    copy["cases"][3]["tightness"] = "nan"
    assert matrix(copy).rows["linear_4bit"]["nf4"]["float32"].tightness.short == "b64/m1-n48-k130"


def test_markdown_of_a_pass():
    text = render_markdown([PASSED])
    assert "# kq conformance: fast 1.0, avx2\n" in text
    assert "**Certified.** 7 of 7 declared cases passed; 3 not declared." in text
    rows = f"| linear_4bit | nf4 | ✓ 2/2 | ✓ 1/1 |\n|  | fp4 | {ABSENT} | {ABSENT} |\n"
    assert rows in text
    assert (
        "| linear_4bit | nf4 | float32 | 2 pass, 1 unsupported | 0.5 | 0.9 |"
        " `b64/m16-n48-k64/bias` |" in text
    )
    assert "| quantize_4bit | nf4 | float32 | 2 pass | exact | | |" in text
    assert "## Failures" not in text
    assert "## Waivers" not in text


def test_markdown_of_failures():
    text = render_markdown([FAILED])
    for case in FAILED["cases"]:
        bad = case["verdict"] not in ("pass", "unsupported", "under-claim")
        line = f"kq-conformance run --backend fast --select '{case['id']}'"
        assert (line in text) is bad
    assert "| worst | `codes[0, 3]`, 2 of 408 elements wrong |" in text
    assert "| got | `7.0` |\n| expected | `6.0` |\n| allowed | `6.0` |" in text
    assert "| allowed | `1.4999998807907104 to 1.5000001192092896` |" in text
    assert "48 elements wrong, 3.25 times the bound" in text
    assert "the bias is added in bfloat16 ([link](https://example.org/17))" in text
    assert "- `linear_4bit/nf4/b128/float32/m1-n48-k130`" in text


def test_tables_of_markdown_are_whole():
    lines = render_markdown([PASSED, FAILED]).splitlines()
    for above, line in pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            bars = [len(re.findall(r"(?<!\\)\|", each)) for each in (above, line)]
            assert bars[0] == bars[1], (above, line)


HOSTILE = "<script>alert(1)</script>|x\n# y"
ESCAPED = r"\<script\>alert(1)\</script\>\|x \# y"


def hostile():
    copy = changed(PASSED, HOSTILE)
    copy["backend"]["version"] = "1|0_"
    return copy


def test_names_are_escaped_in_markdown():
    text = render_markdown([hostile()])
    heading = ESCAPED.replace(r"\|", "|")  # which means nothing outside of a table
    assert f"# kq conformance: {heading} 1|0\\_, avx2\n" in text
    assert "<script>" not in text


def test_names_are_escaped_on_the_page_on_tightness():
    text = render_tightness([hostile(), PASSED], [ALL_LOOSE]).text
    assert f"| {ESCAPED}, avx2 | 1\\|0\\_ | core |" in text
    assert f"| format | dtype | {ESCAPED}, avx2 | fast, avx2 |" in text
    assert f"| 0.5 ({ESCAPED}, avx2; fast, avx2) |" in text
    assert "<script>" not in text


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.names = [], set(), set(), set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        found = dict(attrs)
        assert found.get("id") not in self.ids or "id" not in found
        self.ids.add(found.get("id"))
        self.links.update(found[key] for key in ("href", "src") if key in found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else():
    text = render_page([PASSED, FAILED])
    page = Page(text)
    assert page.open == []
    assert page.names.isdisjoint({"script", "link", "img", "iframe"})
    assert "@import" not in text
    assert "url(" not in text
    within = {link[1:] for link in page.links if link.startswith("#")}
    assert within <= page.ids
    assert {link for link in page.links if not link.startswith("#")} == {
        waiver["link"] for waiver in FAILED["waivers"]
    }
    assert "prefers-color-scheme: dark" in text


def test_page_tells_what_happened():
    text = render_page([FAILED])
    for phrase in (
        "<h1>fast 1.1, avx2</h1>",
        "Failed",
        "<pre>kq-conformance run --backend fast",
        "ended by signal 11 &lt;SIGSEGV&gt;",
        "first at byte 1 past its end",
        "3.25 times the bound",
        "-O3 -mavx2",
        "Example CPU",
        "b64/m1-n48-k130",
    ):
        assert phrase in text
    assert "<SIGSEGV>" not in text
    assert text.count('<details class="failure') == 7
    assert text.count("<details") - text.count(" open>") == 1  # the waived one is shut


def test_page_opens_the_first_failures_only():
    copy = deepcopy(FAILED)
    first = copy["cases"][0]
    copy["cases"] += [first | {"id": f"{first['id']}-{n}"} for n in range(40)]
    assert render_page([copy]).count(" open>") == 20


@pytest.mark.parametrize("document", [PASSED, FAILED, waived()])
def test_badge_is_an_image_wide_enough_for_its_words(document):
    image = ElementTree.fromstring(render_badge([document]))
    words = [each.text for each in image.iter("{http://www.w3.org/2000/svg}text")]
    assert words == ["kq conformance", headline(document).badge]
    assert int(image.get("width")) == sum(map(text_width, words)) + 24
    assert image.get("aria-label") == ": ".join(words)


def test_badge_of_several_is_that_of_the_worst():
    assert render_badge([PASSED, FAILED, waived()]) == render_badge([FAILED])
    assert render_badge([PASSED, waived()]) == render_badge([waived()])


def test_tightness_compares_backends():
    page = render_tightness([PASSED, changed(PASSED, "other")], [ALL_LOOSE])
    assert "| format | dtype | fast, avx2 | other, avx2 |" in page.text
    assert "| nf4 | float32 | 0.5, √n 0.9 | 0.5, √n 0.9 |" in page.text
    assert "| `linear_4bit/nf4/b64/float32/m16-n48-k64/bias` | 0.5 (fast, avx2; other, avx2) |" in (
        page.text
    )
    assert (
        "| `linear_4bit/*/bfloat16/*` | 1 | 0.0005 | one rounding hides the others |" in page.text
    )
    assert not page.loose.unexplained
    assert "None is unexplained." in page.text


def test_formats_that_behave_alike_are_one_line():
    copy = deepcopy(PASSED)
    copy["cases"] += [case | {"id": case["id"].replace("nf4", "fp4")} for case in copy["cases"][:3]]
    copy["coverage"] += [each | {"format": "fp4"} for each in copy["coverage"][:2]]
    assert "| nf4, fp4 | all | exact |" in render_tightness([copy], [ALL_LOOSE]).text


def test_tightness_lists_what_is_unexplained():
    page = render_tightness([PASSED], [])
    assert f"| `linear_4bit/*/bfloat16/m*-n*-k*` | 1 | 0.0005 | `{LOOSE_CASE}` |" in page.text
    assert [group.nearest.case for group in page.loose.unexplained] == [LOOSE_CASE]


def test_a_bound_that_one_backend_comes_near_to_is_not_loose():
    near = changed(PASSED, "near")
    near["cases"][6]["tightness"] = 0.3
    loose = render_tightness([PASSED, near], [ALL_LOOSE]).loose
    assert (loose.explained, loose.unexplained, loose.unused) == ([], [], [ALL_LOOSE])


def test_an_explanation_holds_below_its_limit():
    short = Explanation(ALL_LOOSE.select, 1e-4, "smaller")
    assert render_tightness([PASSED], [short]).loose.unexplained
    assert render_tightness([PASSED], [short, ALL_LOOSE]).loose.explained[0].because == (
        ALL_LOOSE.because
    )


def test_tightness_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match=r"only one report of each backend.*'fast, avx2'"):
        render_tightness([PASSED, FAILED], [])
    with pytest.raises(ValueError, match="must have the same rules"):
        render_tightness([PASSED, changed(PASSED, "other", rules="margin")], [])


def test_shipped_explanations_can_be_read():
    load_explanations()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[reason]]", r"\[\[explanation\]\] only, got 'reason'"),
        ('[[explanation]]\nselect = "*"', "explanation 1 must have select, below and because"),
        (
            '[[explanation]]\nselect = ""\nbelow = 1e-3\nbecause = "x"',
            "explanation 1: select must be a text that is not empty, got ''",
        ),
        (
            '[[explanation]]\nselect = "*"\nbelow = 1\nbecause = "x"',
            r"explanation 1: below must be in \(0, 0.001\], got 1",
        ),
    ],
)
def test_bad_explanations(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_explanations(text)


def test_command_prints_markdown():
    done = invoke(PASSED_FILE)
    assert (done.exit_code, done.output) == (0, render_markdown([PASSED]))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("r.md", (), render_markdown([PASSED])),
        ("r.html", (), render_page([PASSED])),
        ("r.SVG", (), render_badge([PASSED])),
        ("r.txt", ("--format", "svg"), render_badge([PASSED])),
    ],
)
def test_command_writes_by_the_ending(tmp_path, name, options, text):
    done = invoke(PASSED_FILE, "--out", tmp_path / name, *options)
    assert (done.exit_code, done.output) == (0, "")
    assert (tmp_path / name).read_text(encoding="utf-8") == text


def test_command_fails_on_unexplained_tightness(tmp_path, monkeypatch):
    monkeypatch.setattr("kq_conformance.render.load_explanations", lambda: ())
    out = tmp_path / "tightness.md"
    done = invoke(PASSED_FILE, "--format", "tightness", "--out", out)
    assert done.exit_code == 1
    assert done.stderr == "1 cases are far from their bounds, and nothing explains why\n"
    assert "### Unexplained" in out.read_text(encoding="utf-8")


def test_command_names_explanations_that_are_not_needed(monkeypatch):
    stale = Explanation("nothing*", 1e-3, "old")
    monkeypatch.setattr("kq_conformance.render.load_explanations", lambda: (stale, ALL_LOOSE))
    done = invoke(PASSED_FILE, "--format", "tightness")
    assert done.exit_code == 0
    assert done.stderr == "note: the explanation for 'nothing*' covers no case of these reports\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("nowhere.json",), "nowhere.json"),
        ((__file__,), "is not JSON"),
        ((GOLDEN / "bitsandbytes.json",), "is not a report of kq-conformance"),
        ((PASSED_FILE, "--format", "pdf"), "--format must be one of markdown, html, svg, tightn"),
        ((PASSED_FILE, "--out", "report.pdf"), "--out must end in one of .md, .html, .htm, .svg"),
        ((PASSED_FILE, "--out", "/no/such/folder/r.md"), "/no/such/folder/r.md cannot be written"),
        ((PASSED_FILE, FAILED_FILE, "--format", "tightness"), "only one report of each backend"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, complaint):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
