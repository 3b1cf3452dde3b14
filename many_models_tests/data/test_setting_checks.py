"""Settings with a mistake: the nearest name, the section that has it, and what to write instead."""

from __future__ import annotations

import pytest

from many_models.errors import SettingsError
from many_models.settings import load_settings

MISTAKES = [
    ("[data]\ntargett = 'x'", r"data.targett: there is no such setting \(did you mean target\?\)"),
    ("[data]\nhorizon = 7", r"data.horizon: there is no such setting \(it is in \[forecast\]\)"),
    ("[dta]\ntarget = 'x'", r"dta: there is no such setting \(did you mean data\?\)"),
    ("[data]\nfrequency = 'daily'", r"there is no frequency 'daily' \(did you mean D\?\): use h, D, B, W-MON"),
    ("[data]\nfrequency = 'weekly'", r"did you mean W-MON\?"),
    ("[data]\nfrequency = 'W-XYZ'", r"there is no frequency 'W-XYZ'"),
    ("[data]\ncountry = 'de'", r"no holiday calendar for 'de' \(did you mean DE\?\)"),
    ("[data]\ncountry = 'Germany'", r"no holiday calendar for 'Germany': use an ISO code such as DE"),
    ("[data]\ntimezone = 'Europe/Berln'", r"no time zone 'Europe/Berln' \(did you mean Europe/Berlin"),
    ("[dagster]\ntimezone = 'CET/Berlin'", r"dagster.timezone: there is no time zone 'CET/Berlin'"),
    ("[dagster]\ncron = 'daily at 6'", r"dagster.cron: 'daily at 6' is not a cron expression: it has 3 fields"),
    ("[dagster]\ncron = '99 6 * * *'", r"its minute is '99'; write five fields"),
    ("[retention]\ncron = '0 25 * * *'", r"retention.cron: .* its hour is '25'"),
    ("[data]\naggregate = 'summ'", r"data.aggregate is 'summ': use sum, mean"),
    ("[data]\naggregate = {price = 'mean'}", r"aggregate names price, needed the target or known covariates: sales"),
    ("[data]\nexposure = 'hours'", r"exposure is hours, which is not in known: add it, its future is needed"),
    ("[data]\nmissing = 'nothing'", r"data.missing: .*'unknown', 'zero' or 'closed', it is 'nothing'"),
    ("[data]\nfrequency = 'MS'\nmissing_on = {sunday = 'closed'}", r"missing_on is for daily data"),
    ("[forecast]\nhorizon = 0", r"forecast.horizon: .*greater than or equal to 1, it is 0"),
]


@pytest.mark.parametrize(("text", "says"), MISTAKES)
def test_a_mistake_in_the_settings_is_told_with_what_to_write(tmp_path, text: str, says: str):
    file = tmp_path / "many_models.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says) as told:
        load_settings(file)
    assert "type=" not in str(told.value)
    assert len(str(told.value)) - len(str(file)) < 600


@pytest.mark.parametrize("frequency", ["h", "D", "B", "W", "W-SUN", "MS", "ME", "QS", "QE-MAR", "YS", "YE-JUN"])
def test_frequencies_that_pandas_knows_are_taken(tmp_path, frequency: str):
    file = tmp_path / "many_models.toml"
    file.write_text(f'[data]\nfrequency = "{frequency}"\ncountry = "DE"\n[dagster]\ncron = "*/15 6-18 * * MON-FRI"')
    assert load_settings(file).data.frequency == frequency
