"""Files of waivers."""

import datetime

import pytest

from kq_conformance.runner import Finding, Verdict
from kq_conformance.waivers import find_waiver, load_waivers, waiver_state

TEXT = """
[[waiver]]
select = "linear_4bit/*"
reason = "known"
link = "https://example.org/17"
expires = 2027-01-31
"""
DAY = datetime.date(2027, 1, 31)
LATE = datetime.date(2027, 2, 1)
FAILURE = Finding("linear_4bit/nf4/b64/float32/x", Verdict.FAIL)


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "waivers.toml"
        path.write_text(text)
        return path

    return write


def test_covers_failures_until_its_day(file):
    waivers = load_waivers(file(TEXT))
    assert find_waiver(waivers, FAILURE, DAY) is waivers[0]
    assert find_waiver(waivers, FAILURE, LATE) is None
    assert find_waiver(waivers, Finding("linear_4bit/x", Verdict.PASS), DAY) is None
    assert find_waiver(waivers, Finding("quantize_4bit/x", Verdict.FAIL), DAY) is None
    assert find_waiver(waivers, Finding("linear_4bit/x", Verdict.TIMEOUT), DAY) is waivers[0]


def test_states(file):
    (waiver,) = load_waivers(file(TEXT))
    assert waiver_state(waiver, [FAILURE, FAILURE], DAY) == ("used", 2)
    assert waiver_state(waiver, [], DAY) == ("unused", 0)
    assert waiver_state(waiver, [FAILURE], LATE) == ("expired", 0)


def test_an_empty_file_waives_nothing(file):
    assert load_waivers(file("")) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[waiver", "is not TOML"),
        (TEXT + "\n[other]", "only .*waiver.* entries are accepted, got other"),
        ("waiver = 3", "only .*waiver.* entries are accepted"),
        (TEXT.replace("reason", "because"), "waiver 1: must have the keys expires, link, reason"),
        (TEXT + TEXT.replace('"known"', '" "'), "waiver 2: reason must be a text"),
        (TEXT.replace("https:", "javascript:"), "link must begin with https:// or http://"),
        (TEXT.replace("2027-01-31", '"never"'), "expires must be a date such as 2027-01-31"),
        (TEXT.replace("2027-01-31", "2027-01-31T10:00:00"), "expires must be a date"),
    ],
)
def test_other_files_are_refused(file, text, message):
    with pytest.raises(ValueError, match=message):
        load_waivers(file(text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        load_waivers(tmp_path / "none.toml")
