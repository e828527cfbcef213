"""Makes the vectors of this folder with the Python packages that peers use.

    python -m venv v && v/bin/pip install requests-http-signature==0.7.1 'http-message-signatures<1'
    v/bin/python make.py peers peers-0.7.json
    v/bin/python make.py targets targets.json

and again with requests-http-signature 2 for peers-2.0.json; jinja2 for
`make.py headers headers.json`. The keys are made anew each time and guard nothing.
"""

import datetime
import importlib.metadata
import json
import sys

CREATED = 1795251867
ZONE = "w2wqjf.freeshard.test"


def version(package):
    return f"{package} {importlib.metadata.version(package)}"


def peers():
    import requests
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from requests_http_signature import HTTPSignatureAuth, algorithms

    keys = {}
    for name, bits in {"ff1gfz": 2048, "big4k0": 4096, "old1k0": 1024}.items():
        key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
        keys[name] = {
            "private": key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
            "public": key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode(),
        }

    class Fixed(HTTPSignatureAuth):
        fixed_nonce = None

        def get_created(self, request):
            self.add_date(request, timestamp=CREATED)
            return datetime.datetime.fromtimestamp(CREATED)

        def get_expires(self, request, created):
            return created + self.expires_in if self.expires_in else None

        def get_nonce(self, request):
            return self.fixed_nonce

    order = ("@method", "@authority", "@target-uri")
    reverse = ("@target-uri", "@authority", "@method")
    minute = datetime.timedelta(minutes=1)
    app = f"https://tmpl.{ZONE}"
    cases = [
        ("plain get", "ff1gfz", "GET", f"{app}/peer/foo?a=1", {}, {}),
        ("root without path", "ff1gfz", "GET", app, {}, {}),
        ("4096 bits", "big4k0", "GET", f"{app}/peer/foo?a=1", {}, {}),
        ("delete", "ff1gfz", "DELETE", f"{app}/peer/foo", {}, {}),
        ("json body", "ff1gfz", "POST", f"{app}/peer/foo", {"json": {"a": 1}}, {}),
        ("form body", "ff1gfz", "PUT", f"{app}/peer/foo", {"data": b"a=1"}, {}),
        ("other order", "ff1gfz", "GET", f"{app}/peer/foo", {}, {"covered_component_ids": reverse}),
        (
            "headers first",
            "ff1gfz",
            "GET",
            f"{app}/peer/foo",
            {"headers": {"X-First": "one, two", "Accept": "*/*", "X-Empty": ""}},
            {"covered_component_ids": ("x-first", "accept", "x-empty") + order},
        ),
        ("nonce", "ff1gfz", "GET", f"{app}/peer/foo", {}, {"nonce": 'n0nce-"quoted"\\'}),
        ("expires", "ff1gfz", "GET", f"{app}/peer/foo", {}, {"expires_in": minute}),
        ("no alg", "ff1gfz", "GET", f"{app}/peer/foo", {}, {"include_alg": False}),
        ("other label", "ff1gfz", "GET", f"{app}/peer/foo", {}, {"label": "sig-b2_1.x*"}),
        ("port", "ff1gfz", "GET", f"https://tmpl.{ZONE}:8443/peer/foo", {}, {}),
        ("upper case host", "ff1gfz", "GET", f"https://TMPL.{ZONE.upper()}/Peer/Foo", {}, {}),
        ("plain http", "ff1gfz", "GET", f"http://tmpl.{ZONE}/peer", {}, {}),
        ("query only", "ff1gfz", "GET", f"{app}?a=1&b=%C3%BC", {}, {}),
        ("odd path", "ff1gfz", "GET", f"{app}/a b/ü/%7euser/%2f/%e2%82%ac;x=1?q=a b&c=ü|", {}, {}),
        ("dot segments", "ff1gfz", "GET", f"{app}/a/./b/../c/", {}, {}),
        (
            "authorization",
            "ff1gfz",
            "GET",
            f"{app}/peer",
            {"headers": {"Authorization": "secret"}},
            {},
        ),
    ]
    vectors = []
    for name, key_id, method, url, arguments, options in cases:
        options = dict(options)
        nonce = options.pop("nonce", None)
        auth = Fixed(
            signature_algorithm=algorithms.RSA_PSS_SHA512,
            key=keys[key_id]["private"].encode(),
            key_id=key_id,
            **options,
        )
        auth.fixed_nonce = nonce
        request = requests.Request(method, url, **arguments).prepare()
        auth(request)
        # What a proxy would say of this request as it goes over the wire.
        parts = requests.compat.urlsplit(request.url)
        vectors.append(
            {
                "name": name,
                "method": request.method,
                "proto": parts.scheme,
                "host": parts.netloc,
                "uri": request.path_url,
                "headers": [[n.lower(), v] for n, v in request.headers.items()],
                "keyid": key_id,
                "nonce": nonce,
            }
        )
    return {
        "made_with": [version("requests-http-signature"), version("http-message-signatures")],
        "created": CREATED,
        "keys": keys,
        "vectors": vectors,
    }


def targets():
    import requests

    cases = []
    for host in ["a.example", "A.Example", "a.example:8443", "a.example:443", "a.example:", "a_b-c.example."]:
        cases.append((host, "/x?y=1"))
    for uri in [
        "/", "/?", "/?a", "/?a?b", "//", "//a", "/a//b", "/.", "/..", "/./", "/../", "/a/.", "/a/..",
        "/a/./b", "/a/../b", "/../../a", "/a/b/../../..", "/..//a", "/a//../b", "/.../a", "/..a/b..",
        "/%2e%2e/a", "/a/%2E/b", "/%41%7e%2D%5f%2f%2F", "/%e2%82%ac", "/a%20b", "/a%3fb?c%23d", "/a;b=c,d",
        "/!$&'()*+,;=:@", "/~a", "/a[b]", "/a?b[]=c", "/a|b^c`d{e}", '/a"b<c>', "/a?b|c^d`e{f}", "/a\\b",
        "/a?/../b", "/a?b=/./c", "/a%25b", "/%2541", "/a?%41=%7E", "/a?b=c+d&e=f%2B", "/a/b/", "/..?x", "/a/..?x",
    ]:  # fmt: skip
        cases.append(("a.example", uri))
    rows = []
    for host, uri in cases:
        url = requests.Request("GET", f"https://{host}{uri}").prepare().url
        rows.append({"host": host, "uri": uri, "target": url})
    return {"made_with": [version("requests"), version("urllib3")], "targets": rows}


if __name__ == "__main__":
    made = {"peers": peers, "targets": targets}[sys.argv[1]]()
    with open(sys.argv[2], "w") as file:
        json.dump(made, file, indent=1)
        file.write("\n")
