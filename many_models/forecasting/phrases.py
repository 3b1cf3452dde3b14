"""Sentences of explanations in each language: all templates, and how numbers and dates are written there.

A new language is one more entry of PHRASES, and one more value that the setting `serve.language` takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from many_models.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

UNITS = ("h", "D", "B", "W", "M", "Q", "Y", "")  # of time; the empty one is any other


@dataclass(frozen=True)
class Phrases:
    """One language. `templates` are those of ENGLISH with the same placeholders; `each` has a text for each of UNITS.

    `drivers` are the names of drivers that are the platform's own: those of people's columns and of holidays stay.
    """

    templates: Mapping[str, str]
    each: tuple[str, ...]
    months: tuple[str, ...]
    weekdays: tuple[str, ...]
    drivers: Mapping[str, str]
    thousands: str
    decimal: str

    def say(self, template: str, **values: str) -> str:
        """A template with its values, which are put in as they are: braces in a name mean nothing."""
        return self.templates[template].format(**values)

    def unit(self, unit: str) -> str:
        """A unit of time after an amount: "a day"."""
        return self.each[UNITS.index(unit if unit in UNITS else "")]

    def driver(self, name: str) -> str:
        """The name of a driver at the beginning of a sentence."""
        told = self.drivers.get(name, name)
        return told[:1].upper() + told[1:]

    def day(self, day: date) -> str:
        """A day without its year."""
        return self.say("day", day=str(day.day), month=self.months[day.month - 1])

    def number(self, value: float) -> str:
        """Whole numbers from 100 on, one decimal from 1 on, else two significant digits."""
        size = abs(value)
        text = f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 1 else f"{value:.2g}"
        return text.translate({ord(","): self.thousands, ord("."): self.decimal})


def phrases(language: str) -> Phrases:
    """The phrases of a language. Raises InputError for one that has none."""
    if language not in PHRASES:
        raise InputError(f"there are no sentences in the language {language!r}: use {', '.join(PHRASES)}")
    return PHRASES[language]


ENGLISH = Phrases(
    templates={
        "level": "The forecast is {forecast} {each}; the usual level is {level}.",
        "level_above": "The forecast is {forecast} {each}; the usual level is {level}, "
        "and the recent course is {recent} above it.",
        "level_below": "The forecast is {forecast} {each}; the usual level is {level}, "
        "and the recent course is {recent} below it.",
        "more": "{driver} {when} adds {amount} {each}.",
        "less": "{driver} {when} takes {amount} {each}.",
        "weekday_above": "{weekday} run {share} % above the mean.",
        "weekday_below": "{weekday} run {share} % below the mean.",
        "forecaster": "Your own forecaster {driver} contributes {amount} {each} {when}.",
        "closed": "Nothing is sold {when}: all such periods so far were closed.",
        "cut_low": "The forecast is cut at zero {when}.",
        "cut_high": "The forecast is cut far above what was seen {when}.",
        "calibration_more": "Calibration against past errors adds {amount} {each} {when}.",
        "calibration_less": "Calibration against past errors takes {amount} {each} {when}.",
        "throughout": "throughout",
        "on": "on {day}",
        "from_to": "from {first} to {last}",
        "on_days": "on {days} and {last}",
        "scattered": "in {n} of {all} periods between {first} and {last}",
        "day": "{day} {month}",
    },
    each=("an hour", "a day", "a day", "a week", "a month", "a quarter", "a year", "a period"),
    months=(
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ),
    weekdays=("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays"),
    drivers={},
    thousands=",",
    decimal=".",
)
GERMAN = Phrases(
    templates={
        "level": "Die Prognose ist {forecast} {each}; üblich sind {level}.",
        "level_above": "Die Prognose ist {forecast} {each}; üblich sind {level}, "
        "und der jüngste Verlauf liegt {recent} darüber.",
        "level_below": "Die Prognose ist {forecast} {each}; üblich sind {level}, "
        "und der jüngste Verlauf liegt {recent} darunter.",
        "more": "{driver} erhöht die Prognose {when} um {amount} {each}.",
        "less": "{driver} senkt die Prognose {when} um {amount} {each}.",
        "weekday_above": "{weekday} liegen {share} % über dem Mittel.",
        "weekday_below": "{weekday} liegen {share} % unter dem Mittel.",
        "forecaster": "Das eigene Verfahren {driver} trägt {when} {amount} {each} bei.",
        "closed": "Verkauft wird {when} nichts: Alle solchen Zeiträume waren bisher geschlossen.",
        "cut_low": "Die Prognose ist {when} bei null abgeschnitten.",
        "cut_high": "Die Prognose ist {when} weit über dem bisher Gesehenen abgeschnitten.",
        "calibration_more": "Der Abgleich mit früheren Fehlern erhöht die Prognose {when} um {amount} {each}.",
        "calibration_less": "Der Abgleich mit früheren Fehlern senkt die Prognose {when} um {amount} {each}.",
        "throughout": "durchgehend",
        "on": "am {day}",
        "from_to": "vom {first} bis zum {last}",
        "on_days": "am {days} und {last}",
        "scattered": "in {n} von {all} Zeiträumen zwischen dem {first} und dem {last}",
        "day": "{day}. {month}",
    },
    each=("je Stunde", "am Tag", "am Tag", "in der Woche", "im Monat", "im Quartal", "im Jahr", "je Zeitraum"),
    months=(
        "Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November",
        "Dezember",
    ),
    weekdays=("Montage", "Dienstage", "Mittwoche", "Donnerstage", "Freitage", "Samstage", "Sonntage"),
    drivers={
        "time of day": "die Tageszeit", "day of week": "der Wochentag", "day of month": "der Tag im Monat",
        "time of year": "die Jahreszeit", "shared shape": "der gemeinsame Verlauf",
    },
    thousands=".",
    decimal=",",
)  # fmt: skip
FRENCH = Phrases(
    templates={
        "level": "La prévision est de {forecast} {each} ; le niveau habituel est de {level}.",
        "level_above": "La prévision est de {forecast} {each} ; le niveau habituel est de {level}, "
        "et la tendance récente est de {recent} au-dessus.",
        "level_below": "La prévision est de {forecast} {each} ; le niveau habituel est de {level}, "
        "et la tendance récente est de {recent} au-dessous.",
        "more": "{driver} augmente la prévision de {amount} {each} {when}.",
        "less": "{driver} réduit la prévision de {amount} {each} {when}.",
        "weekday_above": "{weekday} sont {share} % au-dessus de la moyenne.",
        "weekday_below": "{weekday} sont {share} % au-dessous de la moyenne.",
        "forecaster": "Votre propre méthode {driver} apporte {amount} {each} {when}.",
        "closed": "Rien n'est vendu {when} : toutes les périodes de ce type étaient fermées.",
        "cut_low": "La prévision est coupée à zéro {when}.",
        "cut_high": "La prévision est coupée loin au-dessus de ce qui a été vu {when}.",
        "calibration_more": "L'étalonnage sur les erreurs passées augmente la prévision de {amount} {each} {when}.",
        "calibration_less": "L'étalonnage sur les erreurs passées réduit la prévision de {amount} {each} {when}.",
        "throughout": "sur tout l'horizon",
        "on": "le {day}",
        "from_to": "du {first} au {last}",
        "on_days": "les {days} et {last}",
        "scattered": "pendant {n} des {all} périodes entre le {first} et le {last}",
        "day": "{day} {month}",
    },
    each=("par heure", "par jour", "par jour", "par semaine", "par mois", "par trimestre", "par an", "par période"),
    months=(
        "janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre",
        "décembre",
    ),
    weekdays=("Les lundis", "Les mardis", "Les mercredis", "Les jeudis", "Les vendredis", "Les samedis",
              "Les dimanches"),
    drivers={
        "time of day": "l'heure", "day of week": "le jour de la semaine", "day of month": "le jour du mois",
        "time of year": "la saison", "shared shape": "le profil commun",
    },
    thousands="\N{NARROW NO-BREAK SPACE}",
    decimal=",",
)  # fmt: skip
PHRASES: Mapping[str, Phrases] = {"en": ENGLISH, "de": GERMAN, "fr": FRENCH}
