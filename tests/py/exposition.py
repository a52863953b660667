"""Reads metrics from standard input with Prometheus' own Python parsers, of which that of OpenMetrics is strict.

exposition.py openmetrics|text      JSON: the families, values as text (JSON has no NaN)
"""
import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

parse = {"openmetrics": openmetrics, "text": text}[sys.argv[1]]
families = [
    {
        "name": family.name,
        "type": family.type,
        "help": family.documentation,
        "samples": [[s.name, s.labels, repr(s.value)] for s in family.samples],
    }
    for family in parse(sys.stdin.read())
]
json.dump(families, sys.stdout)
