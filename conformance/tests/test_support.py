"""The support table."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kq_conformance.cli.app import app
from kq_conformance.cli.support import support as command
from kq_conformance.render.matrix import ABSENT
from kq_conformance.report import to_json
from kq_conformance.support import BEGIN, END, differences, in_text, support_table, with_table

GOLDEN = Path(__file__).parent / "golden"
PASSED_FILE, FAILED_FILE = GOLDEN / "report-passed.json", GOLDEN / "report-failed.json"
PASSED = json.loads(PASSED_FILE.read_text(encoding="utf-8"))
FAILED = json.loads(FAILED_FILE.read_text(encoding="utf-8"))
EMPTY = f"# Title\n\n{BEGIN}\n{END}\n\nThe rest.\n"


def named(document, name, isa=""):
    copy = deepcopy(document)
    copy["backend"] |= {"name": name, "description": {"isa": isa} if isa else {}}
    return copy


def with_counts(**by_dtype):
    """A report of one operation and format with these counts."""
    copy = deepcopy(PASSED)
    copy["coverage"] = [
        {"op": "quantize_4bit", "format": "nf4", "dtype": dtype, "counts": counts, "waived": waived}
        for dtype, (counts, waived) in by_dtype.items()
    ]
    return copy


def said(**by_dtype):
    return support_table([with_counts(**by_dtype)]).text("fast, avx2", ("quantize_4bit", "nf4"))


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(EMPTY, encoding="utf-8")
    return path


@pytest.fixture
def saved(tmp_path):
    def save(document, name):
        path = tmp_path / f"{name}.json"
        path.write_text(to_json(document), encoding="utf-8")
        return path

    return save


def invoke(*arguments):
    return CliRunner().invoke(app, [command.__name__, *map(str, arguments)])


YES, NO, BAD = ({"pass": 3}, 0), ({"unsupported": 3}, 0), ({"pass": 2, "crash": 1}, 0)
WAIVED, PARTLY = ({"pass": 2, "fail": 1}, 1), ({"pass": 2, "unsupported": 1}, 0)


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        ({"float32": YES, "bfloat16": YES}, "all"),
        ({"float32": YES, "bfloat16": NO, "float16": YES}, "float32, float16"),
        ({"float32": NO, "bfloat16": NO}, ABSENT),
        ({"float32": BAD, "bfloat16": BAD}, "fails"),
        ({"float32": BAD, "bfloat16": YES}, "bfloat16; fails: float32"),
        ({"float32": NO, "bfloat16": BAD}, "fails: bfloat16"),
        ({"float32": WAIVED, "bfloat16": WAIVED}, "all †"),
        ({"float32": WAIVED, "bfloat16": YES}, "float32 †; bfloat16"),
        ({"float32": PARTLY}, "all ‡"),
        ({"float32": ({"under-claim": 3}, 0)}, ABSENT),
        ({"float32": ({"fail": 3}, 3)}, "fails"),  # waived, but nothing works
    ],
)
def test_cells(cells, text):
    assert said(**cells) == text


def test_table():
    table = support_table([named(PASSED, "fast", "avx2"), named(FAILED, "slow")])
    assert table.to_markdown() == (
        "| operation | format | fast, avx2 | slow |\n"
        "|---|---|---|---|\n"
        "| `quantize_4bit` | nf4 | all | bfloat16; fails: float32 |\n"
        "| `linear_4bit` | nf4 | float32 ‡; bfloat16 | fails |\n"
        f"| `linear_4bit` | fp4 | {ABSENT} | fails: bfloat16 |\n"
        "| `optimizer_step_8bit` | adam | all | fails |\n"
        "\n"
        f"{ABSENT} not declared; ‡ some block sizes or options only.\n"
    )


def test_a_written_table_reads_the_same():
    table = support_table([named(PASSED, "fast", "avx2"), named(FAILED, "slow")])
    text = with_table(EMPTY, table)
    assert in_text(text) == table
    assert text.startswith("# Title\n\n<!--")
    assert text.endswith("-->\n\nThe rest.\n")
    assert with_table(text, table) == text


def test_names_are_escaped():
    table = support_table([named(PASSED, "<b>|my_x\n*\\"), named(FAILED, "slow")])
    text = with_table(EMPTY, table)
    assert r"| operation | format | \<b\>\|my\_x \*\\ | slow |" in text
    assert in_text(text) == table
    assert with_table(text, in_text(text)) == text


def test_only_the_columns_of_the_reports_are_compared():
    shown = support_table([named(PASSED, "fast"), named(PASSED, "other")])
    assert differences(shown, support_table([named(PASSED, "fast")])) == []
    worse = differences(shown, support_table([named(FAILED, "fast")]))
    assert worse[0] == ("fast: quantize_4bit nf4 says 'all' for 'bfloat16; fails: float32'")
    assert differences(shown, support_table([named(PASSED, "new")])) == ["column 'new' is missing"]


def test_columns_of_other_backends_stay(readme, saved):
    invoke(
        saved(named(PASSED, "one"), "one"), saved(named(PASSED, "two"), "two"), "--update", readme
    )
    invoke(saved(named(FAILED, "two"), "two"), "--update", readme)
    assert in_text(readme.read_text(encoding="utf-8")) == support_table(
        [named(PASSED, "one"), named(FAILED, "two")]
    )


def test_a_row_without_a_report_is_unknown():
    old = support_table([with_counts(float32=YES)])
    table = old.updated(support_table([named(PASSED, "new")]))
    assert "| `quantize_4bit` | nf4 | all | all |" in table.to_markdown()
    assert f"| `linear_4bit` | fp4 | ? | {ABSENT} |" in table.to_markdown()
    assert "? no report of it yet" in table.to_markdown()
    assert in_text(with_table(EMPTY, table)) == table


def test_command_prints_updates_and_checks(readme):
    printed = invoke(PASSED_FILE)
    assert (printed.exit_code, printed.output) == (0, support_table([PASSED]).to_markdown())
    missing = invoke(PASSED_FILE, "--check", readme)
    assert missing.exit_code == 1
    assert missing.stderr == (
        f"{readme}: the table is stale (column 'fast, avx2' is missing); mend it: "
        f"kq-conformance support {PASSED_FILE} --update {readme}\n"
    )
    assert readme.read_text(encoding="utf-8") == EMPTY
    assert invoke(PASSED_FILE, "--update", readme).exit_code == 0
    assert printed.output in readme.read_text(encoding="utf-8")
    assert invoke(PASSED_FILE, "--check", readme).exit_code == 0
    stale = invoke(FAILED_FILE, "--check", readme)
    assert stale.exit_code == 1
    assert "and 1 more" in stale.stderr
    assert len(stale.stderr.splitlines()) == 1


def test_timings_and_tightness_do_not_show():
    other = deepcopy(PASSED)
    for case in other["cases"]:
        case |= {"ms": 1000, "tightness": 1.0}
    other["environment"]["processor"] = "another"
    assert support_table([other]) == support_table([PASSED])


@pytest.mark.parametrize(("name", "value"), [("profile", "quick"), ("select", "linear*")])
def test_a_part_of_the_cases_is_not_enough(name, value):
    part = deepcopy(PASSED)
    part["run"][name] = value
    with pytest.raises(ValueError, match="report of 'fast, avx2' must be of all of core or full"):
        support_table([part])


@pytest.mark.parametrize(
    "text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{END}", f"{BEGIN}\n{BEGIN}\n{END}"]
)
def test_markers_must_be_there(text):
    with pytest.raises(ValueError, match="must hold the lines"):
        in_text(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((PASSED_FILE, "--check", "nowhere.md"), "nowhere.md cannot be read"),
        ((PASSED_FILE, "--update", __file__), "must hold the lines"),
        ((PASSED_FILE, "--update", "a", "--check", "a"), "cannot be given together"),
        ((PASSED_FILE, FAILED_FILE), "only one report of each backend can be shown"),
        ((__file__,), "is not JSON"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, complaint):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
