"""Explanations in sentences: each language says the same, with its own dates and numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from string import Formatter
from typing import get_args

import numpy as np
import pytest

from many_models.errors import InputError
from many_models.forecasting.explanation import SENTENCES, Explanation, explain_in_words
from many_models.forecasting.pack.mm_explain_v1 import DRIVERS
from many_models.forecasting.phrases import ENGLISH, PHRASES, UNITS, Phrases, phrases
from many_models.setting_sections import ServeSettings

EACH_LANGUAGE = pytest.mark.parametrize("words", PHRASES.values(), ids=PHRASES)
DAYS = np.datetime64("2026-12-10") + np.arange(14)


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def explained(**drivers: tuple[str, np.ndarray]) -> Explanation:
    """A forecast of 14 days about a level of 1,200: the drivers are added to it."""
    names = [("level", "level"), *((kind, name.replace("_", " ")) for name, (kind, _) in drivers.items())]
    parts = np.stack([np.full(14, 1200.0), *(values for _, values in drivers.values())], 1)
    return Explanation("a", DAYS, tuple(names), parts, parts.sum(1))


def on(days: slice | list[int], value: float) -> np.ndarray:
    values = np.zeros(14)
    values[days] = value
    return values


@EACH_LANGUAGE
def test_each_language_has_the_same_templates_and_placeholders(words: Phrases) -> None:
    told = {name: placeholders(text) for name, text in words.templates.items()}
    assert told == {name: placeholders(text) for name, text in ENGLISH.templates.items()}
    assert {template for both in SENTENCES.values() for template in both} <= set(told)
    assert (len(words.each), len(words.months), len(words.weekdays)) == (len(UNITS), 12, 7)
    assert all(text.strip() == text != "" for text in (*words.templates.values(), *words.each))


@pytest.mark.parametrize("language", sorted(set(PHRASES) - {"en"}))
def test_each_other_language_names_every_season(language: str) -> None:
    """A driver that is added to the core is named in each language, or this test fails."""
    seasons = {name for kind, name in DRIVERS if kind == "season"} | {"shared shape"}
    assert set(PHRASES[language].drivers) == seasons
    assert len(set(PHRASES[language].templates.values()) & set(ENGLISH.templates.values())) <= 1  # "{day} {month}"


def test_the_setting_takes_each_language_and_refuses_others_with_the_list() -> None:
    assert get_args(ServeSettings.model_fields["language"].annotation) == tuple(PHRASES)
    for language in PHRASES:
        assert ServeSettings.model_validate({"language": language}).language == language
    with pytest.raises(ValueError, match="'en', 'de' or 'fr'"):
        ServeSettings.model_validate({"language": "xx"})
    with pytest.raises(InputError, match="language 'xx': use en, de, fr"):
        phrases("xx")


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", ["The forecast is 1,216 a day; the usual level is 1,200.",
                "Promotion from 12 December to 15 December adds 86.4 a day.",
                "Price on 20 December and 22 December takes 60.0 a day."]),
        ("de", ["Die Prognose ist 1.216 am Tag; üblich sind 1.200.",
                "Promotion erhöht die Prognose vom 12. Dezember bis zum 15. Dezember um 86,4 am Tag.",
                "Price senkt die Prognose am 20. Dezember und 22. Dezember um 60,0 am Tag."]),
        ("fr", ["La prévision est de 1\u202f216 par jour ; le niveau habituel est de 1\u202f200.",
                "Promotion augmente la prévision de 86,4 par jour du 12 décembre au 15 décembre.",
                "Price réduit la prévision de 60,0 par jour les 20 décembre et 22 décembre."]),
    ],
)  # fmt: skip
def test_a_language_says_it_with_its_own_dates_and_numbers(language: str, said: list[str]) -> None:
    found = explained(promotion=("covariate", on(slice(2, 6), 86.4)), price=("covariate", on([10, 12], -60.0)))
    assert explain_in_words(found, language) == said


@EACH_LANGUAGE
def test_every_kind_of_sentence_is_whole_in_each_language(words: Phrases) -> None:
    language = next(name for name, one in PHRASES.items() if one is words)
    for kind, value in [(kind, sign * 500.0) for kind in SENTENCES for sign in (1, -1)]:
        for days in (slice(None), [3], [3, 5], [1, 4, 7, 9], slice(2, 8)):
            driver = "{odd} % name" if kind in {"covariate", "holiday", "forecaster"} else kind
            found = explained(**{driver: (kind, on(days, value))})
            head, *others = explain_in_words(found, language)
            assert len(others) == 1
            for sentence in (head, *others):
                assert sentence.endswith(".")
                assert sentence[0].isupper() or sentence[0] == "{"
                assert not placeholders(sentence.replace("{odd} % name", "").replace("{Odd} % name", ""))
    weekdays = on([6, 13], 700.0)
    for sign in (1, -1):
        told = explain_in_words(explained(day_of_week=("season", sign * weekdays)), language)
        assert told[1].startswith(words.weekdays[2])


@EACH_LANGUAGE
def test_days_and_numbers_of_each_language_can_be_read_back(words: Phrases) -> None:
    told = {words.day(date(2026, month, day)) for month in range(1, 13) for day in (1, 31 if month == 12 else 28)}
    assert len(told) == 24
    for value in (0.0, 0.012, 3.14, 99.94, 100.0, 1234.5, -1_234_567.0):
        text = words.number(value).replace(words.thousands, "").replace(words.decimal, ".")
        assert float(text) == pytest.approx(value, rel=0.05, abs=1e-9)
    assert words.unit("never heard of") == words.each[-1]


def test_hourly_steps_of_one_day_name_it_once() -> None:
    found = explained(promotion=("covariate", on([3, 5, 7], 500.0)))
    found = replace(found, ds=np.datetime64("2026-12-10T00", "h") + np.arange(14), frequency="h")
    assert explain_in_words(found)[1] == "Promotion on 10 December adds 500 an hour."
