"""Signs requests with requests-http-signature: JSON in, JSON out.

In: a list of {key, keyid, method, url, headers, body, components, nonce, ...}.
Out: for each, the headers that the request is sent with.
"""
import datetime
import json
import sys

import requests
from requests_http_signature import HTTPSignatureAuth, algorithms


class Signer(HTTPSignatureAuth):
    created_ago = 0

    def get_created(self, request):
        created = datetime.datetime.now() - datetime.timedelta(seconds=self.created_ago)
        self.add_date(request, timestamp=int(created.timestamp()))
        return created


def sign(order):
    expires_in = order.get("expires_in")
    # Only newer versions have this class.
    tag = {"tag": order["tag"]} if "tag" in order else {}
    signer = Signer(
        signature_algorithm=getattr(algorithms, order.get("algorithm", "RSA_PSS_SHA512")),
        key=order["key"].encode(),
        key_id=order["keyid"],
        covered_component_ids=order.get("components") or ("@method", "@authority", "@target-uri"),
        label=order.get("label"),
        include_alg=order.get("include_alg", True),
        use_nonce=order.get("nonce", False),
        expires_in=None if expires_in is None else datetime.timedelta(seconds=expires_in),
        **tag,
    )
    signer.created_ago = order.get("created_ago", 0)
    request = requests.Request(
        order.get("method", "GET"),
        order["url"],
        headers=order.get("headers"),
        data=order["body"].encode() if "body" in order else None,
        auth=signer,
    )
    return dict(requests.Session().prepare_request(request).headers)


json.dump([sign(order) for order in json.load(sys.stdin)], sys.stdout)
