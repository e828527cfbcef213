"""Compares answers with the description of the API.

Reads {"document": ..., "answers": [{"method", "pattern", "status", "type", "body"}]} from
standard input; prints a list of differences.
"""

import json
import sys

from jsonschema import Draft202012Validator

order = json.load(sys.stdin)
document = order["document"]
differences = []
for answer in order["answers"]:
    name = "{method} {pattern}: {status}".format(**answer)
    operation = document["paths"].get(answer["pattern"], {}).get(answer["method"].lower())
    if operation is None:
        differences.append(f"{name}: the operation is not described")
        continue
    response = operation["responses"].get(str(answer["status"]))
    if response is None:
        differences.append(f"{name}: the status is not described")
        continue
    content_type = answer["type"].split(";")[0]
    content = response["content"].get(content_type)
    if content is None:
        differences.append(f"{name}: {content_type} is not described")
        continue
    if "schema" not in content:
        continue
    schema = {**content["schema"], "components": document["components"]}
    Draft202012Validator.check_schema(schema)
    for error in Draft202012Validator(schema).iter_errors(json.loads(answer["body"])):
        differences.append(f"{name}: {error.json_path}: {error.message}")
json.dump(differences, sys.stdout)
