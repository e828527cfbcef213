//! Cookies, tokens and signatures that prove nothing.

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};

use super::{Case, HOST, private};
use crate::support::boxes::{TERMINAL, TERMINAL_SECRET};
use crate::support::client::Request;
use crate::support::sign::{BOX_KEY, Mac, jws, token, token_of, unix_now};

pub fn cases() -> Vec<Case> {
    let tokens = algorithms().into_iter().chain(claims()).chain(shapes());
    let tokens = tokens
        .map(|(what, token)| Case::new(format!("token: {what}"), &private().cookie(token), 401));
    tokens.chain(cookies()).chain(signatures()).chain(management()).collect()
}

type Token = (String, String);

fn named(what: &str, token: String) -> Token {
    (what.to_owned(), token)
}

fn good() -> Value {
    json!({"sub": TERMINAL, "iat": unix_now() - 60})
}

/// Headers that name another algorithm, under the right key and the wrong ones.
fn algorithms() -> Vec<Token> {
    let secret = TERMINAL_SECRET.as_bytes();
    let public = BOX_KEY.public_pem.as_bytes();
    let mut tokens = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = BASE64_URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
        let claims = BASE64_URL_SAFE_NO_PAD.encode(good().to_string());
        tokens.push((format!("{alg:?} unsigned"), format!("{header}.{claims}.")));
        tokens.push((format!("{alg:?} without a dot"), format!("{header}.{claims}")));
    }
    let others = [
        "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS512", "EdDSA",
        "hs256", "HS256 ", "HS-256", "none", "A128GCM",
    ];
    for alg in others {
        for (whose, key) in [("the secret", secret), ("the public key", public), ("nothing", b"")] {
            let token = jws(Mac::Sha256, key, &json!({"alg": alg, "typ": "JWT"}), &good());
            tokens.push((format!("{alg} under {whose}"), token));
        }
    }
    for (alg, mac) in [("HS384", Mac::Sha384), ("HS512", Mac::Sha512)] {
        tokens.push((format!("{alg}, really"), jws(mac, secret, &json!({"alg": alg}), &good())));
        let lying = jws(mac, secret, &json!({"alg": "HS256"}), &good());
        tokens.push((format!("{alg} called HS256"), lying));
    }
    let odd = [
        json!({}),
        json!({"alg": null}),
        json!({"alg": 256}),
        json!({"alg": ["HS256"]}),
        json!({"ALG": "HS256"}),
        json!([]),
        json!("HS256"),
        json!(null),
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"alg": "HS256", "crit": []}),
        json!({"alg": "HS256", "b64": false, "crit": ["b64"]}),
    ];
    for header in odd {
        tokens.push((format!("header {header}"), jws(Mac::Sha256, secret, &header, &good())));
    }
    for (whose, key) in [("the public key", public), ("no bytes", b""), ("zeros", &[0; 32])] {
        let token = jws(Mac::Sha256, key, &json!({"alg": "HS256"}), &good());
        tokens.push((format!("HS256 under {whose}"), token));
    }
    let jwk = json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}});
    tokens.push(named("its own key", jws(Mac::Sha256, &[0; 3], &jwk, &good())));
    tokens
}

/// Rightly signed, and still no terminal's.
fn claims() -> Vec<Token> {
    let now = unix_now();
    let claims = [
        json!({"iat": now}),
        json!({"sub": ""}),
        json!({"sub": null}),
        json!({"sub": 7}),
        json!({"sub": [TERMINAL]}),
        json!({"sub": {"id": TERMINAL}}),
        json!({"sub": "stranger"}),
        json!({"sub": "phone1 "}),
        json!({"sub": " phone1"}),
        json!({"sub": "PHONE1"}),
        json!({"sub": "phone%31"}),
        json!({"sub": "phone1\u{0}"}),
        json!({"sub": "' OR 1=1 --"}),
        json!({"sub": "../phone1"}),
        json!({"sub": "x".repeat(5000)}),
        json!({"sub": "\u{0}"}),
        json!({"sub": TERMINAL, "exp": now - 1}),
        json!({"sub": TERMINAL, "exp": 0}),
        json!({"sub": TERMINAL, "exp": -1}),
        json!({"sub": TERMINAL, "exp": "never"}),
        json!({"sub": TERMINAL, "exp": null}),
        json!({"sub": TERMINAL, "exp": [now + 60]}),
        json!({"sub": TERMINAL, "iat": now + 600}),
        json!({"sub": TERMINAL, "iat": "today"}),
        json!({"sub": TERMINAL, "nbf": now + 600}),
        json!({"sub": TERMINAL, "aud": "box"}),
        json!({"sub": TERMINAL, "aud": []}),
        json!([TERMINAL]),
        json!(TERMINAL),
        json!(null),
    ];
    claims
        .into_iter()
        .map(|claims| {
            let shown: String = claims.to_string().chars().take(60).collect();
            (format!("claims {shown}"), token_of(TERMINAL_SECRET, &claims))
        })
        .collect()
}

fn shapes() -> Vec<Token> {
    let good = token(TERMINAL_SECRET, TERMINAL);
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("a token has three parts");
    };
    let other = BASE64_URL_SAFE_NO_PAD.encode(json!({"sub": "admin"}).to_string());
    let standard = BASE64_STANDARD.encode(json!({"alg": "HS256"}).to_string());
    let nested = BASE64_URL_SAFE_NO_PAD.encode("[".repeat(4000));
    vec![
        named("nothing", String::new()),
        named("one part", header.into()),
        named("two parts", format!("{header}.{claims}")),
        named("no signature", format!("{header}.{claims}.")),
        named("four parts", format!("{good}.{signature}")),
        named("five parts", format!("{good}.a.b")),
        named("only dots", "..".into()),
        named("many dots", ".".repeat(5000)),
        named("other claims", format!("{header}.{other}.{signature}")),
        named("parts swapped", format!("{claims}.{header}.{signature}")),
        named("half a signature", format!("{header}.{claims}.{}", &signature[..20])),
        named("signature twice", format!("{header}.{claims}.{signature}{signature}")),
        named("upper case", good.to_uppercase()),
        named("a space inside", format!("{header}. {claims}.{signature}")),
        named("padding", format!("{standard}=.{claims}.{signature}")),
        named("nested header", format!("{nested}.{claims}.{signature}")),
        named("not base64", format!("{header}.$$$.{signature}")),
        named("percent-encoded", good.replace('.', "%2e")),
        named("Bearer twice", format!("Bearer Bearer {good}")),
        named("Basic", format!("Basic {good}")),
        named("a long token", format!("{header}.{}.{signature}", "A".repeat(60_000))),
        named("half quoted", format!("\"{good}")),
        named("an extra quote", format!("{good}\"")),
        named("the secret itself", TERMINAL_SECRET.into()),
    ]
}

fn cookies() -> Vec<Case> {
    let good = token(TERMINAL_SECRET, TERMINAL);
    let cookies = [
        String::new(),
        ";".into(),
        ";;;;".into(),
        "=".into(),
        "=;=".into(),
        "authorization".into(),
        format!("Authorization={good}"),
        format!("AUTHORIZATION={good}"),
        format!("authorization ={good}x"),
        format!("x-authorization={good}"),
        format!("authorization2={good}"),
        format!("a=authorization={good}"),
        format!("authorization={good}; authorization="),
        format!("authorization={good};authorization=x"),
        format!("authorization={good}, authorization=x"),
        format!("x=\"; authorization={good}x"),
        "authorization=x; ".repeat(2000),
        format!("$Version=1; {}={good}", "authorisation"),
        format!("__Host-authorization={good}"),
        format!("authorization[]={good}"),
    ];
    let case = |cookie: String| {
        let shown: String = cookie.chars().take(40).collect();
        Case::new(format!("cookie {shown:?}"), &private().header("Cookie", cookie), 401)
    };
    cookies.into_iter().map(case).collect()
}

fn signatures() -> Vec<Case> {
    let parameters = r#"("@method" "@authority" "@target-uri");created=1;keyid="abcdef""#;
    let inputs = [
        "",
        "=",
        "sig",
        "sig=",
        "sig=()",
        "sig=(",
        "sig=)",
        "sig=1",
        "sig=\"x\"",
        "sig=:AAAA:",
        r#"sig=("@method" "@authority" "@target-uri")"#,
        r#"sig=("@method" "@authority" "@target-uri");created=1"#,
        r#"sig=("@method" "@authority" "@target-uri");keyid="abcdef""#,
        r#"sig=("@method" "@authority" "@target-uri");created="1";keyid="abcdef""#,
        r#"sig=("@method" "@authority" "@target-uri");created=1;keyid=abcdef"#,
        r#"sig=("@method" "@authority" "@target-uri");created=999999999999999;keyid="abcdef""#,
        r#"sig=("@method" "@authority" "@target-uri");created=-1;keyid="abcdef""#,
        r#"sig=("@method" "@method" "@method");created=1;keyid="abcdef""#,
        r#"sig=("@unknown");created=1;keyid="abcdef""#,
        r#"sig=("@method";req "@authority" "@target-uri");created=1;keyid="abcdef""#,
        r#"sig=("@query-param";name="x");created=1;keyid="abcdef""#,
        r#"sig=("signature");created=1;keyid="abcdef""#,
        r#"sig=(@method);created=1;keyid="abcdef""#,
        r#"sig=("@method" "@authority" "@target-uri");created=1;keyid="""#,
        r#"sig=("@method" "@authority" "@target-uri");created=1;keyid="abcdef";alg="hmac-sha256""#,
        r#"sig=("@method" "@authority" "@target-uri");created=1;keyid="abcdef";alg="none""#,
        r#"sig=("@method" "@authority" "@target-uri");created=1;keyid="' OR 1=1""#,
    ];
    let values = ["sig=:AAAA:", "sig=::", "sig=:!:", "other=:AAAA:", "", "sig=:AAAA:, sig=:BBBB:"];
    let asked = |input: &str, value: &str| {
        Request::auth(HOST, "/peer").header("Signature-Input", input).header("Signature", value)
    };
    let mut cases: Vec<Case> = inputs
        .iter()
        .map(|input| Case::new(format!("input {input:?}"), &asked(input, "sig=:AAAA:"), 401))
        .collect();
    let input = format!("sig={parameters}");
    for value in values {
        cases.push(Case::new(format!("signature {value:?}"), &asked(&input, value), 401));
    }
    let many = (0..2000).map(|n| format!("s{n}={parameters}")).collect::<Vec<_>>().join(", ");
    let many = many[..60_000].to_owned();
    cases.push(Case::new("many inputs", &asked(&many, "sig=:AAAA:"), 401));
    let long = format!("sig=:{}:", "A".repeat(60_000));
    cases.push(Case::new("a long signature", &asked(&input, &long), 401));
    let twice = asked(&input, "sig=:AAAA:").header("Signature", "sig=:AAAA:");
    cases.push(Case::new("two Signature headers", &twice, 401));
    cases
}

fn management() -> Vec<Case> {
    let long = "x".repeat(60_000);
    ["", " ", "Bearer", "null", "\"\"", "12345678", "'", "\u{e9}", "undefined", &long]
        .map(|secret| {
            let asked = Request::new("GET", "/internal/authenticate_management")
                .header("Authorization", secret);
            let shown: String = secret.chars().take(20).collect();
            Case::new(format!("management {shown:?}"), &asked, 401)
        })
        .into()
}
