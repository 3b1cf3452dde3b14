"""Rules about tables: periods, checks of rows, covariates, content versions, tables of the lake."""
