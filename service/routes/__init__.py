"""HTTP: one file per noun of the API. A route turns JSON into calls and results into JSON; it decides nothing."""
