"""What forecasts are for: sums that agree, stock, people's changes, drift and worth. Pure: tables in, tables out."""
