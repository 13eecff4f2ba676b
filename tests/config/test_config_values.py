"""Values: every form that systemd takes, every refusal a sentence, and nothing lost on the way back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroshell_orch.config.values import (
    UNLIMITED,
    Percent,
    format_bool,
    format_size,
    format_size_or_percent,
    format_timespan,
    parse_bool,
    parse_size,
    parse_size_or_percent,
    parse_timespan,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("30", 30),
        ("1.5", 1.5),
        ("5min", 300),
        ("5 min", 300),
        (" 5min ", 300),
        ("1h 30s", 3630),
        ("1h30s", 3630),
        ("1h  30", 3630),
        ("2d", 172800),
        ("1w", 604800),
        ("1M", 2629800),
        ("1y", 31557600),
        ("1month 1year", 34187400),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("0.5h", 1800),
        ("2minutes 3seconds", 123),
        ("infinity", math.inf),
    ],
)
def test_timespan(text, seconds):
    assert parse_timespan(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "5 parsecs",
        "-1",
        "+1",
        "1e3",
        "1,5",
        "1.",
        ".5",
        "min",
        "5minmin",
        "\u0661",
        "9" * 30,
        "9" * 5000,
        "Infinity",
        "5 min x",
        "999999999999y",
    ],
)
def test_a_bad_timespan_names_the_allowed_forms(text):
    with pytest.raises(ValueError, match=r"is not valid here: expected .*5min.*infinity$") as caught:
        parse_timespan(text)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("12B", 12),
        ("1K", 1024),
        ("300M", 300 << 20),
        ("2G", 2 << 30),
        ("1.5G", 3 << 29),
        ("1T", 1 << 40),
        ("2 G", 2 << 30),
        ("infinity", UNLIMITED),
    ],
)
def test_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "2g", "2GB", "2GiB", "-1", "1 2", "50%", "G", "1.G", "0x10", "99999999999999999999E", "2G 1M"]
)
def test_a_bad_size_names_the_allowed_forms(text):
    with pytest.raises(ValueError, match=r"is not valid here: expected .*2G.*infinity$"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("50%", Percent(5000)), ("12.5%", Percent(1250)), ("0.01%", Percent(1)), ("100 %", Percent(10000)), ("1K", 1024)],
)
def test_size_or_percent(text, value):
    assert parse_size_or_percent(text) == value
    assert type(parse_size_or_percent(text)) is type(value)


@pytest.mark.parametrize("text", ["0%", "100.01%", "0.001%", "%", "-5%", "5%%", "half", "1G%", "1 2%"])
def test_a_bad_share_names_the_allowed_forms(text):
    with pytest.raises(ValueError, match=r"expected .*50%"):
        parse_size_or_percent(text)


def test_a_share_of_a_total_is_rounded_down():
    assert Percent(5000).of(1001) == 500
    assert Percent(10000).of(7) == 7


@pytest.mark.parametrize("text", ["1", "yes", "Y", "TRUE", "t", "On"])
def test_true(text):
    assert parse_bool(text) is True


@pytest.mark.parametrize("text", ["0", "no", "N", "False", "f", "OFF"])
def test_false(text):
    assert parse_bool(text) is False


@pytest.mark.parametrize("text", ["", "2", "ja", "yes no", "enabled"])
def test_a_bad_truth_names_the_words(text):
    with pytest.raises(ValueError, match=r"expected yes, true, on or 1; no, false, off or 0"):
        parse_bool(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (300, "5min"),
        (5400, "1h 30min"),
        (0.5, "500ms"),
        (90061.000001, "1d 1h 1min 1s 1us"),
        (math.inf, "infinity"),
    ],
)
def test_format_timespan(seconds, text):
    assert format_timespan(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1000, "1000"), (1024, "1K"), (3 << 29, "1536M"), (1 << 40, "1T"), (UNLIMITED, "infinity")],
)
def test_format_size(size, text):
    assert format_size(size) == text


@given(st.integers(0, 10**15))
def test_a_timespan_survives_the_round_trip(microseconds):
    seconds = microseconds / 1_000_000
    assert parse_timespan(format_timespan(seconds)) == seconds


@given(st.one_of(st.integers(0, UNLIMITED), st.integers(1, 10_000).map(Percent)))
def test_a_size_survives_the_round_trip(value):
    assert parse_size_or_percent(format_size_or_percent(value)) == value


@given(st.booleans())
def test_a_truth_survives_the_round_trip(value):
    assert parse_bool(format_bool(value)) is value


@given(st.text(max_size=40) | st.text("0123456789. minhsdwyKMGT%", max_size=20))
def test_any_text_is_a_value_or_a_value_error(text):
    for parse in (parse_timespan, parse_size, parse_size_or_percent, parse_bool):
        try:
            parse(text)
        except ValueError as error:
            message = str(error)
        else:
            message = "expected to be read"
        assert "expected" in message
