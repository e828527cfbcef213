"""Verifies messages with the published library: one JSON object a line."""

import json
import sys

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

for line in sys.stdin:
    message = json.loads(line)
    try:
        payload = Webhook(message["secret"]).verify(message["body"], message["headers"])
        print(json.dumps({"type": payload["type"]}))
    except WebhookVerificationError as error:
        print(json.dumps({"error": str(error)}))
