"""Makes the vectors of this folder with the Python packages that peers use.

    python -m venv v && v/bin/pip install requests-http-signature==0.7.1 'http-message-signatures<1'
    v/bin/python make.py peers peers-0.7.json
    v/bin/python make.py targets targets.json

and again with requests-http-signature 2 for peers-2.0.json; jinja2 for
`make.py headers headers.json`, pydantic 2 for `make.py values values.json`. The keys are made anew each time and guard nothing.
`large-key.pem` is of `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:6144`.
`too-large-key.pem` is the public half of one with 8,192 bits.
"""

import datetime
import importlib.metadata
import json
import random
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


def values():
    """What pydantic makes of the values of an app_meta.json."""
    import pydantic

    read = {}
    for kind, annotation in {"port": int, "flag": bool, "seconds": int | None, "text": str}.items():
        read[kind] = pydantic.TypeAdapter(annotation).validate_python
    texts = ["80", " 80 ", "\t80\n", "+80", "-80", "- 80", "080", "0", "-0", "00", "", " ", "80.0", "80.00", "80.", "80.5", ".0", "8e1"]
    texts += ["8_0", "8__0", "_80", "80_", "0x50", "٨٠", "eighty", "80 0", "80,0", "1_000.0", "65536", "99999999999999999999", "+", "-", "+-1", "0.0", "-80.0"]
    texts += ["1", "t", "true", "True", "TRUE", "tRuE", "y", "yes", "YES", "on", "On", "f", "false", "n", "no", "off", "OFF", " yes", "yes ", "j", "null", "none"]
    given = [None, True, False, 0, 1, 2, -1, 80, 80.0, 80.5, 0.0, 1.0, -0.0, 1e3, 1e19, 1e300, 65535, 65536, 2**63, [], {}, [80], {"a": 1}]
    rows = []
    for kind, validate in read.items():
        for value in given + texts:
            try:
                rows.append({"kind": kind, "given": value, "read": validate(value), "refused": False})
            except pydantic.ValidationError:
                rows.append({"kind": kind, "given": value, "read": None, "refused": True})
    return {"made_with": [version("pydantic")], "rows": rows}


def wild(random):
    """A random template of the supported part of the language, or near it."""
    pick = random.choice

    def operand():
        term = pick(
            ["'a'", '"B ü"', "''", "'x-y'", "7", "0", "nope", "auth.nope", "portal['id']", "auth['client_id']"]
            + ["auth.client_type", "auth.client_id", "auth.client_name", "portal.domain", "portal.short_id"] * 3
        )  # fmt: skip
        if "." in term or "[" in term:
            term += pick([""] * 6 + ["[:6]", "[2:]", "[-3:]", "[:-2]", "[1:3]", "[0]", "[-1]", "[99]", "[5:2]", "[:]", "[::2]"])
        for _ in range(pick([0, 0, 0, 1, 1, 2])):
            term += pick(
                ["|upper", "|lower", "|trim", "|length", "|first", "|last", "|default('d')", "|d('d', true)"]
                + ["|default", "|replace('.', '-')", "|replace('e', '')", " | upper", "|default('d', false)", "|title"]
            )  # fmt: skip
        return term

    def expression(depth=0):
        kind = random.randrange(12 if depth < 3 else 6)
        if kind < 4:
            return operand()
        if kind < 6:
            return operand() + " ~ " + operand()
        if kind < 8:
            return f"{operand()} {pick(['==', '!=', '=='])} {operand()}"
        if kind == 8:
            return f"{expression(depth + 1)} {pick(['and', 'or'])} {expression(depth + 1)}"
        if kind == 9:
            return f"{expression(depth + 1)} if {expression(depth + 1)}" + pick([f" else {expression(depth + 1)}", ""])
        if kind == 10:
            return pick(["not {}", "({})", "not ({})", "({})|upper", "({}) ~ 'x'", "({}) == 'a'"]).format(expression(depth + 1))
        return f"{operand()} is {pick(['', 'not '])}{pick(['defined', 'undefined', 'none'])}"

    def tag(depth=0):
        left, right = pick(["", "", "", "-"]), pick(["", "", "", "-"])
        kind = random.randrange(8)
        if kind < 5 or depth > 2:
            return f"{{{{{left} {expression()} {right}}}}}"
        if kind < 7:
            middle = pick(["", f"{{% else %}}{text(depth + 1)}", f"{{% elif {expression()} %}}{text(depth + 1)}"])
            return f"{{%{left} if {expression()} %}}{text(depth + 1)}{middle}{{% endif {right}%}}"
        return f"{{#{left} {pick(['note', '{{ x }}', '{% if %}', chr(39)])} {right}#}}"

    def text(depth=0):
        around = ["", "", "a", " b ", "\n", " \n ", "}}", "{", "c\n", "ü", "%}", "'", "#"]
        return "".join(pick(around) + tag(depth) + pick(around) for _ in range(pick([1, 1, 2])))

    return text()


def wide(random):
    """A random template of filters, methods, tests, arithmetic, loops and assignments."""
    pick = random.choice
    texts = ["auth.client_type", "auth.client_id", "auth.client_name", "portal.domain", "portal.short_id", "portal.id"]
    literals = ["'a'", "'b c-d'", "' x '", "'a,b,,c'", "''", "'Zoë'", "'UP low'", "'a1'", "'-7'", "'3.9'", "'1e2'"]
    filters = ["upper", "lower", "title", "capitalize", "trim", "trim('a')", "string", "length", "count", "first", "last", "list", "reverse"]
    filters += ["join", "join('-')", "join(', ')", "int", "int(7)", "int(default=-1)", "abs", "round", "round(1)", "center(9)", "center(8)"]
    filters += ["truncate(6)", "truncate(7, true)", "truncate(5, false, '..', 0)", "truncate(length=9, killwords=true)", "urlencode", "e", "safe", "tojson"]
    filters += ["replace('e', 'xx')", "replace('e', '-', 1)", "replace('', '.')", "replace(1, 2)", "default('d')", "default('d', true)", "d(boolean=true)"]
    methods = [".upper()", ".lower()", ".title()", ".capitalize()", ".strip()", ".strip('ax')", ".lstrip()", ".rstrip('1')", ".split()", ".split('.')", ".split('.')[0]"]
    methods += [".split(',', 1)", ".split('-')[-1]", ".rsplit('.', 1)", ".rsplit('.', 1)[0]", ".split('e')|join('E')", ".startswith('t')", ".endswith('e')", ".replace('e', '3')"]
    methods += [".replace('e', '3', 1)", ".find('e')", ".rfind('e')", ".count('e')", ".zfill(8)", ".ljust(7)", ".rjust(7)", ".center(9)", ".isdigit()", ".isalpha()", ".isupper()"]
    methods += [".islower()", ".isalnum()", ".removeprefix('t')", ".removesuffix('e')", ".join(['x', 'y'])", ".swapcase()", ".format(1)", ".encode()"]
    tests = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true", "false", "odd", "even", "divisibleby(3)", "divisibleby 2"]
    tests += ["eq('a')", "equalto 'a'", "in ['a', 'b']", "in('abc')", "lower", "upper", "sequence", "ne 1", "gt 1", "lt(3)"]

    def text():
        term = pick(texts + texts + literals + ["x", "nope"])
        if term in texts:
            term += pick([""] * 8 + ["[:3]", "[-2:]", "[::2]", "[::-1]", "[4:1:-1]", "[0]", "[-1]", "[99]", "[1:][0]"])
        for _ in range(pick([0, 0, 1, 1, 2])):
            term += pick(methods) if pick([True, False]) and term != "nope" else pick(["|", " | "]) + pick(filters)
        return term

    def number():
        simple = ["0", "1", "2", "3", "7", "10", "2.5", "0.1", "100", text() + "|length", "'42'|int", "true"]
        kind = random.randrange(6)
        if kind < 2:
            return pick(simple)
        return f"{pick(['', '', '-', '('])}{pick(simple)}{pick([' + ', ' - ', ' * ', ' // ', ' % ', ' / ', '**'])}{pick(simple)}".replace("(", "(", 1) + ""

    def value(depth=0):
        kind = random.randrange(11 if depth < 2 else 4)
        if kind < 3:
            return text()
        if kind == 3:
            term = number()
            return term + ")" if term.startswith("(") else term
        if kind == 4:
            return f"{text()} {pick(['==', '!=', '<', '>', '<=', '>='])} {text()}"
        if kind == 5:
            return f"{text()} {pick(['in', 'not in'])} {pick(['[', '('])}'a', {text()}, 'terminal'{pick([']', ')'])}".replace("('a'", "('a'")
        if kind == 6:
            return f"{text()} is {pick(['', 'not '])}{pick(tests)}"
        if kind == 7:
            return f"{value(depth + 1)} {pick(['and', 'or', '~', 'if'])} {value(depth + 1)}"
        if kind == 8:
            return f"[{text()}, {number()}, none, true]{pick(['', '[0]', '[-1]', '|join', '|length', '|first', '[1:]', '|last'])}"
        if kind == 9:
            return f"{text()} if {value(depth + 1)} else {text()}"
        return f"({value(depth + 1)}){pick(['', '|string', '|upper', ' ~ 1', '|default(2)'])}"

    def part(depth=0):
        left, right = pick(["", "", "-"]), pick(["", "", "-"])
        kind = random.randrange(9 if depth < 2 else 5)
        if kind < 5:
            return f"{{{{{left} {value()} {right}}}}}"
        if kind == 5:
            return f"{{%{left} set x = {value()} {right}%}}{body(depth + 1)}"
        if kind == 6:
            inner = pick(["{{ c }}", "{{ loop.index }}{{ c }}", "{{ c }}{% if not loop.last %},{% endif %}", "{% set x = c %}{{ x }}", "{{ x }}", body(depth + 1)])
            otherwise = pick(["", "{% else %}none"])
            return f"{{%{left} for c in {pick([text(), 'portal.domain.split(' + chr(39) + '.' + chr(39) + ')', '[1, 2, 3]', 'nope', '[]'])} %}}{inner}{otherwise}{{% endfor {right}%}}"
        if kind == 7:
            return f"{{% if {value()} %}}{body(depth + 1)}{{% elif {value()} %}}b{{% else %}}{body(depth + 1)}{{% endif %}}"
        return pick(["{% raw %}{{ x }} {% endraw %}", "{#- c -#}", "{% set x %}{{ auth.client_type }}!{% endset %}{{ x|upper }}", " {%- raw -%} a {%- endraw -%} "])

    def body(depth=0):
        return "".join(pick(["", "", " ", "a", "\n"]) + part(depth) for _ in range(pick([1, 1, 2])))

    return body()


def headers():
    import jinja2

    class Scope:
        def __init__(self, **variables):
            vars(self).update(variables)

    long_id = "ff1gfzyxwv" * 10 + "abc"
    pem = "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n"
    box = {"domain": "ff1gfz.box.example", "id": long_id, "short_id": "ff1gfz", "public_key_pem": pem}
    clients = [
        {"client_type": "terminal", "client_id": "t3rm1n", "client_name": "Zoë's Müller <phone> & ☎ \"x\""},
        {"client_type": "peer", "client_id": long_id[::-1], "client_name": "{{ portal.id }}\nSet-Cookie: a"},
        {"client_type": "anonymous", "client_id": "", "client_name": ""},
    ]
    real = [
        "{{ auth.client_type }}", "{{ auth.client_id }}", "{{ auth.client_name }}", "{{ portal.domain }}",
        "{{ portal.id }}", "{{ portal.short_id }}", "{{ portal.public_key_pem }}", "{{ portal.id[:6] }}@example.com",
        "admin@{{ portal.domain }}", "admin", "true", "", "https://notes.{{ portal.domain }}/",
    ]  # fmt: skip
    odd = [
        # line ends and white space
        "a\n", "a\n\n", "a\r\n", "a\rb", "a\r\nb\n", "\n", "\n\n", "{{ auth.client_type }}\n", "{{ auth.client_type }}\n\n",
        "{{ auth.client_type }}\r\n", "{{\nauth.client_type\n}}", "{{ '\n' }}", "{{ 'a\r\nb' }}", " a {{- ' b ' -}} c ",
        " a {%- if true -%} b {%- endif -%} c ", "a {%+ if true +%} b {% endif %}", "{% if true %}\na\n{% endif %}\n", "  {% if true %}a{% endif %}  ",
        "{{auth.client_type}}", "{{   auth . client_type   }}", "\u00fc{{ 'ü' }}☎",
        # no code, or half of it
        "{", "}}", "{ {", "{#", "{# a #}", "a{# b #}c", "a{#- b -#} c", "{{", "{{ }}", "{{ '}}' }}", "{{ '{{' }}", "{% raw %}{{ x }}{% endraw %}",
        "{% endif %}", "{% if true %}", "{{ auth.client_id", "{% %}", "${{ auth.client_type }}", "{{ {} }}", "{{ # }}", "{{ a b }}", "# for x in y", "## x",
        # what is not there
        "{{ nope }}", "{{ nope.x }}", "{{ auth.nope }}", "{{ auth.nope.x }}", "{{ auth['client_id'] }}", "{{ auth['nope'] }}", "{{ nope[0] }}",
        "{{ portal.id[200] }}", "{{ portal.id[200:] }}", "{{ auth.client_id[0] }}", "{{ nope ~ 'x' }}", "{{ auth.nope ~ 'x' }}", "{{ nope|upper }}",
        "{{ nope|length }}", "{{ nope == '' }}", "{{ not nope }}", "{{ nope or 'x' }}", "{{ nope is defined }}", "{{ auth.client_id is defined }}",
        "{{ auth.nope is not defined }}", "{{ nope is undefined }}", "{{ nope + 'x' }}", "{{ nope() }}",
        # slices
        "{{ portal.id[6:] }}", "{{ portal.id[-6:] }}", "{{ portal.id[:-6] }}", "{{ portal.id[2] }}", "{{ portal.id[-1] }}", "{{ portal.id[::2] }}",
        "{{ portal.id[::-1] }}", "{{ portal.id[8:2] }}", "{{ portal.id[8:2:-1] }}", "{{ portal.id[:6][1:] }}", "{{ auth.client_name[:4] }}", "{{ 'ü☎x'[1] }}",
        "{{ portal.id[0:6:0] }}", "{{ portal.id['a':] }}", "{{ portal.id[1.0] }}", "{{ portal.short_id[none:3] }}",
        # conditions
        "{% if auth.client_type == 'terminal' %}t{% elif auth.client_type == 'peer' %}p{% else %}a{% endif %}",
        "{{ 'yes' if auth.client_id else 'no' }}", "{{ 'yes' if auth.client_type == 'peer' }}", "{{ auth.client_id or 'none' }}", "{{ auth.client_id and 'some' }}",
        "{{ auth.client_type in 'terminal,peer' }}", "{{ auth.client_type not in 'terminal' }}", "{{ auth.client_type in ['peer'] }}", "{{ 'a' < 'b' }}",
        "{{ 1 < 2 < 3 }}", "{{ 3 > 2 > 2 }}", "{{ 1 == 1.0 }}", "{{ '1' == 1 }}", "{{ 'a' < 1 }}", "{{ 1 in 'a1' }}", "{{ not true }}", "{{ true and none }}",
        "{{ not auth.client_id == 'x' }}", "{{ auth.client_type != 'peer' }}", "{% if not auth.client_id %}x{% endif %}", "{{ 1 if 0 else 2 }}", "{{ 'a' if '' }}",
        # literals
        "{{ true }}", "{{ True }}", "{{ false }}", "{{ none }}", "{{ None }}", "{{ 1 }}", "{{ -1 }}", "{{ 1.0 }}", "{{ 1e3 }}", "{{ 0x10 }}", "{{ 1_000 }}",
        "{{ 'a' 'b' }}", "{{ 'a' \"b\" }}", "{{ '\\n' }}", "{{ '\\x41' }}", "{{ '\\u00fc' }}", "{{ '\\101' }}", "{{ '\\q' }}", "{{ '\\'' }}", "{{ [1, 2] }}",
        "{{ {'a': 1} }}", "{{ (1, 2) }}", "{{ ('a') }}", "{{ ('a',)[0] }}", "{{ ['a', 'b'][1] }}", "{{ {'a': 'b'}.a }}", "{{ {'a': 'b'}['a'] }}", "{{ 99999999999999999999 }}",
        # arithmetic and text
        "{{ 1 + 2 * 3 }}", "{{ 7 / 2 }}", "{{ 8 / 2 }}", "{{ 7 // 2 }}", "{{ -7 // 2 }}", "{{ (-7) // 2 }}", "{{ 7 // -2 }}", "{{ -7 % 3 }}", "{{ (-7) % 3 }}", "{{ 7 % -3 }}",
        "{{ 2 ** 3 }}", "{{ 2 ** 3 ** 2 }}", "{{ -2 ** 2 }}", "{{ 2 ** -1 }}", "{{ 2 ** 100 }}", "{{ 2 ** 200 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ true + 1 }}", "{{ 'a' + 'b' }}",
        "{{ 'a' + 1 }}", "{{ 'a' * 3 }}", "{{ 3 * 'a' }}", "{{ '%s' % 'a' }}", "{{ -'a' }}", "{{ 5 - 3 }}", "{{ - 5 }}", "{{ +5 }}", "{{ 9223372036854775807 + 1 }}",
        "{{ 'a' ~ 'b' }}", "{{ auth.client_type ~ '-' ~ portal.short_id }}", "{{ portal.id[:6] ~ 1 }}", "{{ 'a' ~ true }}", "{{ 'a' ~ 1.5 }}", "{{ 'a' ~ none }}", "{{ auth ~ '' }}",
        "{{ 'a' ~ (1 == 1) }}", "{{ 'a' ~ [1] }}", "{{ '~' }}", "{{ 'a~b' ~ 'c' }}", "{{ auth.client_id|length ~ 'x' }}", "{{- 'a' ~ 'b' -}}", "{{ 'a' ~ 1_0 }}", "{{ 1 ~ 2 }}",
        "{{ 'a' ~ 'b' == 'ab' }}", "{{ 1 == 1 ~ '' }}", "{% set x = true ~ 'a' %}{{ x }}", "{% if true ~ '' == 'True' %}a{% endif %}", "{{ '\\'' ~ true }}", "{{ 007 ~ '' }}",
        "{% raw %}{{{% endraw %}{{ true ~ '' }}", "{# {{ #}{{ true ~ '' }}", "{# ' #}{{ true ~ '' }}", "{% raw %}'{% endraw %}{{ true ~ '' }}",
        # filters
        "{{ auth.client_name|upper }}", "{{ auth.client_name|lower }}", "{{ 'Straße ǆ ΑΣ İ'|upper }}", "{{ 'STRASSE ΑΣ İ'|lower }}", "{{ auth.client_id|length }}", "{{ ' a '|trim }}",
        "{{ 'xax'|trim('x') }}", "{{ auth.client_id|default('x') }}", "{{ auth.client_id|default('x', true) }}", "{{ auth.client_id|default('x', boolean=true) }}", "{{ nope|default }}",
        "{{ auth.client_id|default('x', boolean=false) }}", "{{ nope|default('x') }}", "{{ nope.x|default('x') }}", "{{ auth.nope|d('x') }}", "{{ auth.client_id|default(1, 1) }}",
        "{{ portal.domain|replace('.', '-') }}", "{{ portal.domain|replace('.', '-', 1) }}", "{{ portal.domain|replace('', '-') }}", "{{ 'a1'|replace(1, 2) }}", "{{ portal.id|first }}", "{{ portal.id|last }}",
        "{{ ''|first }}", "{{ 1|upper }}", "{{ true|upper }}", "{{ true|lower }}", "{{ none|upper }}", "{{ 1.5|upper }}", "{{ [1]|upper }}", "{{ none|lower }}", "{{ 1.0|trim }}", "{{ true|replace('T', 'x') }}",
        "{{ true|trim }}", "{{ none|default('x', true) }}", "{{ 'x'|replace('x', true) }}", "{{ [true]|first }}", "{{ [1, 2]|length }}", "{{ 5|length }}", "{{ auth|length }}", "{{ 'a'|upper|lower }}", "{{ auth.client_id|upper or 'x' }}",
        "{{ 'a'|title }}", "{{ 'a'|capitalize }}", "{{ '<'|e }}", "{{ 'a'|safe }}", "{{ [1, 2]|join }}", "{{ 'a'|nope }}", "{{ 'a b'|urlencode }}", "{{ auth|tojson }}", "{{ 'a'|string }}", "{{ '1'|int }}",
        "{% filter upper %}a{{ auth.client_type }}{% endfilter %}", "{{ 'a'|list }}", "{{ 'abc'|reverse }}", "{{ 'a' is string }}", "{{ 3 is odd }}", "{{ 'a'|attr('x') }}",
        # statements, functions, methods
        "{% set x = portal.id %}{{ x }}", "{% set x %}a{% endset %}{{ x }}", "{% for i in [1, 2] %}{{ i }}{% endfor %}", "{% for i in [1, 2] %}{{ loop.index }}{% endfor %}", "{% for c in portal.short_id %}{{ c }}.{% endfor %}",
        "{% for c in nope %}x{% else %}none{% endfor %}", "{% for k in {'b': 1, 'a': 2} %}{{ k }}{% endfor %}", "{% for i in [true] %}{{ i }}{% endfor %}", "{% with a = 'b' %}{{ a }}{% endwith %}", "{% include 'x' %}",
        "{% import 'x' as y %}", "{% block a %}b{% endblock %}", "{% macro m() %}a{% endmacro %}{{ m() }}", "{% autoescape true %}{{ '<' }}{% endautoescape %}", "{% do 1 %}", "{% call x() %}{% endcall %}", "{% extends 'x' %}", "{{ range(3) }}",
        "{{ range(3)|length }}", "{% for i in range(3) %}{{ i }}{% endfor %}", "{{ dict(a=1) }}", "{{ namespace() }}", "{{ lipsum() }}", "{{ cycler('a') }}", "{{ joiner() }}", "{{ self }}", "{{ loop }}", "{{ caller }}", "{{ auth }}", "{{ portal }}",
        "{{ auth.client_type.upper() }}", "{{ auth.domain[:6] }}", "{{ portal.client_id[:6] }}", "{{ auth['x'][:6] }}", "{{ portal.domain.split('.')[0] }}", "{{ auth.client_id.startswith('t') }}", "{{ 'a'.join(['b', 'c']) }}", "{{ auth.__class__ }}", "{{ auth.__class__.__mro__ }}", "{{ auth.items }}", "{{ portal.keys() }}",
        "{{ ''.__class__ }}", "{{ 'a'.upper }}", "{{ auth.client_id.x }}", "{{ auth.client_type.0 }}", "{{ portal.id.0 }}", "{{ [1, 2].0 }}", "{{ true is true }}", "{{ auth is mapping }}", "{% set auth = 'x' %}{{ auth }}", "{% set auth = {'client_id': true} %}{{ auth.client_id ~ '' }}",
        "{% for auth in [{'a': none}] %}{{ auth.a ~ '' }}{% endfor %}", "{% with auth = {'a': true} %}{{ auth.a ~ '' }}{% endwith %}", "{{ auth if false else 'x' }}", "{{ auth == portal }}", "{{ auth == auth }}", "{{ auth in [auth] }}", "{{ 'id' in portal }}", "{{ 'client_id' in auth }}", "{{ not auth }}", "{% if auth %}x{% endif %}",
        "{% for k in auth %}{{ k }}{% endfor %}", "{{ auth['client' ~ '_id'] }}", "{{ auth[0] }}", "{{ auth[:1] }}", "{{ portal.short_id|first|upper }}", "{{ true == 1 }}", "{{ 1 == true }}", "{{ none == false }}", "{{ true < 2 }}", "{{ [1] == [1] }}", "{{ [1] + [2] }}", "{{ ([1] + [2])[1] }}",
    ]  # fmt: skip
    # What header templates of real apps look like, or would.
    usual = [
        "{{ auth.client_name | title }}", "{{ auth.client_name | capitalize }}", "{{ auth.client_name.upper() }}", "{{ auth.client_name|replace(' ', '_')|lower }}",
        "{{ auth.client_name.split(' ')[0] }}", "{{ auth.client_name.split()|first }}", "{{ auth.client_name|urlencode }}", "{{ auth.client_id|truncate(8, true, '') }}",
        "{{ auth.client_name|default('nobody', true) }}", "{{ auth.client_name or 'nobody' }}", "{{ auth.client_name if auth.client_name else auth.client_id }}", "{{ (auth.client_name or 'x')|lower }}",
        "{{ 'admin' if auth.client_type == 'terminal' else 'guest' }}", "{{ 'true' if auth.client_type in ['terminal', 'peer'] else 'false' }}", "{{ auth.client_type in ('terminal', 'peer') }}",
        "{% if auth.client_type == 'terminal' %}admin{% elif auth.client_type == 'peer' %}peer{% else %}guest{% endif %}", "{%- if auth.client_id -%} yes {%- else -%} no {%- endif -%}",
        "{{ auth.client_id }}@{{ portal.domain }}", "{{ auth.client_id ~ '@' ~ portal.domain }}", "{{ auth.client_id + '@' + portal.domain }}", "{{ [auth.client_id, portal.domain]|join('@') }}",
        "{{ '@'.join([auth.client_id, portal.domain]) }}", "{{ portal.domain.split('.')[0] }}", "{{ portal.domain.split('.', 1)[1] }}", "{{ portal.domain.split('.')[-2:]|join('.') }}", "{{ portal.domain.rsplit('.', 2)|first }}",
        "{{ portal.id[:6]|upper }}", "{{ portal.id[:6].upper() }}", "{{ portal.id[-6:] }}", "{{ portal.id[6:12] ~ '-' ~ portal.id[12:18] }}", "{{ portal.id|length }}", "{{ portal.id[::-1] }}",
        "{{ portal.public_key_pem|replace('\\n', '') }}", "{{ portal.public_key_pem.replace('\\n', ' ')|trim }}", "{{ portal.public_key_pem.split('\\n')[1] }}", "{{ portal.public_key_pem|urlencode }}",
        "{% set user = auth.client_name|lower|replace(' ', '.') %}{{ user }}@{{ portal.domain }}", "{% set is_admin = auth.client_type == 'terminal' %}{{ 'admin' if is_admin else 'user' }}", "{% set x = 1 %}{{ x + 1 }}",
        "{% for part in portal.domain.split('.') %}{{ part }}{% if not loop.last %}/{% endif %}{% endfor %}", "{% for c in portal.short_id %}{{ c|upper }}{% endfor %}", "{% for group in ['users', 'admins'] %}{{ group }}{{ ',' if not loop.last }}{% endfor %}",
        "{{ ['users', 'admins']|join(',') }}", "{{ ['users', 'admins'] if auth.client_type == 'terminal' else [] }}", "{{ {'terminal': 'admin', 'peer': 'peer'}[auth.client_type] }}", "{{ {'terminal': 'admin'}.get(auth.client_type, 'guest') }}",
        "{{ auth.client_name|e }}", "{{ auth.client_name|escape }}", "{{ auth.client_name|safe }}", "{{ auth.client_name|tojson }}", "{{ [auth.client_id, 1, true, none]|tojson }}", "{{ auth.client_name|tojson ~ 'x' }}", "{{ auth.client_id|string }}",
        "{{ auth.client_id|length > 0 }}", "{{ auth.client_id|length * 2 }}", "{{ auth.client_id is string }}", "{{ auth.client_name is defined and auth.client_name }}", "{{ not auth.client_id }}", "{{ auth.client_type.startswith('t') }}", "{{ auth.client_type.endswith('s') and 'x' or 'y' }}",
        "{{ auth.client_type|center(12) }}|", "{{ '%s-%s' % (auth.client_type, 1) }}", "{{ '%s'|format(auth.client_type) }}", "{{ '{}'.format(auth.client_type) }}", "{{ auth.client_type|wordcount }}", "{{ auth.client_type|indent }}", "{{ auth.client_name|striptags }}",
        "Bearer {{ portal.short_id }}", "{# a comment #}{{ auth.client_type }}", "{{ auth.client_type }}{# at the end #}", "{% raw %}{{ literally }}{% endraw %}", "{{ '{{' }}{{ auth.client_type }}{{ '}}' }}", "{{ \"it's\" }}", "{{ 'say \\'hi\\'' }}",
        "{{ 7 / 2 }} {{ 8 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}", "{{ 1.5 + 1 }} {{ 0.1 + 0.2 }} {{ 3.0 * 2 }} {{ 1 / 3 }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 7|round }}",
        "{{ '42'|int + 1 }} {{ '4.9'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ ''|int }} {{ none|int }} {{ '1_0'|int }} {{ ' 7 '|int }} {{ 3.9|int }} {{ true|int }} {{ '-5'|int|abs }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ true == 1 }}",
        "{{ 'ab' * 3 }} {{ [1, 'a', none, true, 1.5, [2]] }} {{ ['it\\'s'] }} {{ [] }} {{ 'a' in 'abc' }} {{ 1 in [1, 2] }} {{ 'x' not in ['y'] }}", "{{ 'a' 'b' }}{{ 'c' ~ 1 ~ none ~ true }}", "{{ auth.nope|default('x') }}{{ nope.x|default('y') }}", "{{ auth.items }}", "{{ auth.keys() }}",
        "{{ portal.values }}", "{{ auth.get('client_id') }}", "{{ auth['items'] }}", "{{ auth.dict() }}", "{{ auth.model_dump() }}", "{{ auth.copy }}", "{{ portal.json }}", "{% for k in auth.items() %}{{ k }}{% endfor %}", "{{ auth|list }}", "{{ auth|length }}", "{{ auth|string }}",
        "a{% if auth.client_id %}\nb\n{% endif %}\n c", "  {%- set x = 'y' -%}  {{ x }}  ", "{%+ if true %} a {%+ endif %}", "{{- auth.client_type -}}  \n", "a {{- 'b' }} {{ 'c' -}} d", "{% raw -%} x {%- endraw %} y", "x {%- raw %} y {% endraw -%} z", "{#- a -#} b {# c -#} d",
        "{% for a in 'xy' %}{% for b in [1, 2] %}{{ a }}{{ b }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = i %}{{ x }}{% endfor %}{{ x }}", "{% if true %}{% set y = 2 %}{% endif %}{{ y }}", "{% for i in [1] %}{% set z = 3 %}{% endfor %}{{ z }}",
        "{% for i in [] %}a{% else %}b{% endfor %}", "{% for i in [1, 2, 3] if i > 1 %}{{ i }}{% endfor %}", "{% for a, b in [[1, 2]] %}{{ a }}{% endfor %}", "{% for i in [1,2,3] %}{{ loop.revindex }}{{ loop.first }}{{ loop.length }}{% endfor %}", "{% for i in 'ab' recursive %}{{ i }}{% endfor %}",
        "{% set x %}a {{ auth.client_type }}{% endset %}{{ x|upper }}", "{% set a, b = 1, 2 %}{{ a }}", "{% set x = 'a' if nope else 'b' %}{{ x }}", "{{ x }}{% set x = 1 %}", "{{ 1 if true }}{{ 1 if false }}", "{{ 'a' if false else 'b' if false else 'c' }}", "{{ 1 is odd }} {{ 2 is even }} {{ 9 is divisibleby 3 }}",
        "{{ 'a' is in ['a'] }} {{ 1 is eq 1 }} {{ none is none }} {{ 1.5 is float }} {{ 1 is integer }} {{ true is integer }} {{ true is number }} {{ 'a' is not string }}", "{{ x is defined if y else z }}", "{{ x is defined or y }}", "{{ x is not defined }}",
    ]  # fmt: skip
    environment = jinja2.Environment(autoescape=False)

    def text(source, client):
        try:
            return environment.from_string(source).render(auth=Scope(**client), portal=Scope(**box))
        except Exception:
            return None

    templates = [
        {"source": source, "real": source in real, "texts": [text(source, client) for client in clients]}
        for source in real + odd + usual + [wild(random.Random(seed)) for seed in range(600)] + [wide(random.Random(seed)) for seed in range(2000)]
    ]
    return {"made_with": [version("jinja2")], "box": box, "clients": clients, "templates": templates}


if __name__ == "__main__":
    made = {"peers": peers, "targets": targets, "values": values, "headers": headers}[sys.argv[1]]()
    with open(sys.argv[2], "w") as file:
        # A template a line.
        text = json.dumps(made, indent=None if sys.argv[1] == "headers" else 1)
        file.write(text.replace('}, {"source"', '},\n{"source"'))
        file.write("\n")
