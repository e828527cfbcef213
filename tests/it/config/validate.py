"""Validates configurations: TOML, or variables that are converted as the schema says."""

import json
import sys
import tomllib

from jsonschema import Draft202012Validator


def document(order, schema):
    if "toml" in order:
        return tomllib.loads(order["toml"])
    result = {}
    for name, text in order["variables"].items():
        *sections, key = name.removeprefix("NIGHTPORTER_").lower().split("__")
        inner, properties = result, schema["properties"]
        for section in sections:
            inner = inner.setdefault(section, {})
            properties = properties[section]["properties"]
        inner[key] = value(text, properties.get(key, {}).get("type"))
    return result


def value(text, kind):
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if kind == "integer":
        return int(text)
    if kind == "array":
        return text.split(",")
    return text


order = json.load(sys.stdin)
schema = order["schema"]
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
errors = [
    [error.message for error in validator.iter_errors(document(each, schema))]
    for each in order["documents"]
]
json.dump(errors, sys.stdout)
