use proptest::prelude::*;

use super::*;

fn template(source: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("X-Ptl-Test".to_owned(), source.to_owned())])
}

fn identity() -> Identity {
    Identity {
        id: "ff1gfzyxwv".repeat(10),
        domain: "ff1gfz.box.example".into(),
        public_key_pem: "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n".into(),
    }
}

fn named(name: &str) -> KnownClient {
    KnownClient { id: "t3rm1n".into(), name: name.into() }
}

/// The value that a template renders to, as bytes.
fn value(source: &str, client: Client<'_>, encoding: HeaderEncoding) -> Vec<u8> {
    let templates = HeaderTemplates::compile(&template(source)).expect(source);
    let headers = templates.render(client, Some(&identity()), encoding).expect(source);
    let [(name, value)] = &*headers else { panic!("one header: {headers:?}") };
    assert_eq!(name, "x-ptl-test");
    value.as_bytes().to_vec()
}

#[test]
fn values_have_one_byte_a_character_or_utf8() {
    for (name, latin1, utf8) in [
        ("Zoë Müller", "Zo\u{eb} M\u{fc}ller", "Zoë Müller"),
        ("☎ 👍🏽 x", "? ?? x", "☎ 👍🏽 x"),
        ("a\r\nSet-Cookie: b", "a  Set-Cookie: b", "a  Set-Cookie: b"),
        ("a\0b\x7fc\u{85}d\te", "a b c d e", "a b c d e"),
        (" \n a \t ", "a", "a"),
        ("\n", "", ""),
        ("{{ portal.id }}", "{{ portal.id }}", "{{ portal.id }}"),
    ] {
        let known = named(name);
        let client = Client::Terminal(&known);
        let expected: Vec<u8> = latin1.chars().map(|c| u8::try_from(c).expect("latin-1")).collect();
        assert_eq!(value("{{ auth.client_name }}", client, HeaderEncoding::Latin1), expected);
        let sent = value("{{ auth.client_name }}", client, HeaderEncoding::Utf8);
        assert_eq!(sent, utf8.as_bytes());
    }
}

#[test]
fn an_empty_template_is_a_header_that_is_empty() {
    for source in ["", "\n", "{{ auth.client_id }}"] {
        assert_eq!(value(source, Client::Anonymous, HeaderEncoding::Latin1), b"", "{source:?}");
    }
    let none = HeaderTemplates::compile(&BTreeMap::new()).expect("no header");
    assert!(none.is_empty());
    let rendered = none.render(Client::Anonymous, None, HeaderEncoding::Latin1);
    assert!(rendered.expect("renders").is_empty());
}

#[test]
fn a_box_without_identity_says_nothing_of_itself() {
    let templates = HeaderTemplates::compile(&template("<{{ portal.domain }}{{ portal.id[:6] }}>"));
    let headers = templates.expect("compiles").render(
        Client::Terminal(&named("x")),
        None,
        HeaderEncoding::Latin1,
    );
    assert_eq!(headers.expect("renders")[0].1, "<>");
}

#[test]
fn names_that_would_speak_to_others_are_refused() {
    for (name, problem) in [
        ("", TemplateProblem::Name),
        ("a b", TemplateProblem::Name),
        ("a:", TemplateProblem::Name),
        ("ü", TemplateProblem::Name),
        ("a\r\nb", TemplateProblem::Name),
        ("Connection", TemplateProblem::Reserved),
        ("TE", TemplateProblem::Reserved),
        ("Transfer-Encoding", TemplateProblem::Reserved),
        ("transfer_encoding", TemplateProblem::Reserved),
        ("Content-Length", TemplateProblem::Reserved),
        ("Content-Type", TemplateProblem::Reserved),
        ("Set-Cookie", TemplateProblem::Reserved),
        ("WWW-Authenticate", TemplateProblem::Reserved),
        ("Proxy-Authorization", TemplateProblem::Reserved),
        ("X-Forwarded-For", TemplateProblem::Reserved),
        ("X_Forwarded_Host", TemplateProblem::Reserved),
        ("X-Real-IP", TemplateProblem::Reserved),
        ("Forwarded", TemplateProblem::Reserved),
        ("Host", TemplateProblem::Reserved),
    ] {
        let headers = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        let error = HeaderTemplates::compile(&headers).expect_err(name);
        assert_eq!(error, TemplateError { header: name.into(), problem }, "{name}");
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
    }
    for name in ["X-Ptl-Client-Id", "Remote-User", "Authorization", "Cookie", "X-Contents", "x_y"] {
        let headers = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        assert!(HeaderTemplates::compile(&headers).is_ok(), "{name}");
    }
    let twice = ["X-A", "x-a"].map(|name| (name.to_owned(), String::new()));
    let error = HeaderTemplates::compile(&BTreeMap::from(twice)).expect_err("twice");
    assert_eq!(error.problem, TemplateProblem::Twice);
}

#[test]
fn templates_that_would_differ_fail_or_grow_are_refused_with_a_reason() {
    let nested = format!("{{{{ {}'a'{} }}}}", "(".repeat(100), ")".repeat(100));
    let long = "x".repeat(MAX_LEN + 1);
    for (source, reason) in [
        ("{{ 'a' * 999999999 }}", "too long"),
        (
            "{% for a in portal.id %}{% for b in portal.id %}{{ a ~ b }}{% endfor %}{% endfor %}",
            "too long",
        ),
        ("{{ range(3) }}", "variables of `auth` and `portal`"),
        ("{{ auth.nope.x }}", "attributes"),
        ("{{ nope|title|last|nope }}", "filter is not supported"),
        ("{{ auth.client_id|trim('x', 'y') }}", "do not match the filter"),
        ("{{ auth.items }}", "not a text"),
        ("{{ portal.model_dump }}", "not a text"),
        ("{{ auth['keys'] }}", "not a text"),
        ("{{ auth.__class__ }}", "not a text"),
        ("{{ auth.items() }}", "methods"),
        ("{{ auth.client_id.upper }}", "attributes"),
        ("{{ auth }}", "cannot be printed"),
        ("{{ {'a': 1} }}", "unexpected character"),
        ("{% include 'x' %}", "statements"),
        ("{{ auth", "no end"),
        ("{{ 'a", "no end"),
        ("{# a", "no end"),
        ("{% if auth.client_id %}", "no end"),
        (nested.as_str(), "too deeply"),
        (long.as_str(), "longer"),
    ] {
        let error = HeaderTemplates::compile(&template(source)).expect_err(source).to_string();
        assert!(error.contains(reason) && error.contains("X-Ptl-Test"), "{source}: {error}");
    }
}

#[test]
fn a_value_that_is_too_long_is_an_error_that_names_the_header_only() {
    let templates = HeaderTemplates::compile(&template("{{ auth.client_name }}")).expect("fine");
    let known = named(&"secret".repeat(MAX_LEN / 6 + 1));
    let client = Client::Terminal(&known);
    let error = templates.render(client, None, HeaderEncoding::Latin1).expect_err("long");
    assert_eq!(error.to_string(), "header \"x-ptl-test\": the value grows too long");
    let literal = HeaderTemplates::compile(&template(&"ü".repeat(4096))).expect("fits");
    let long = literal.render(client, None, HeaderEncoding::Utf8);
    assert!(long.is_ok());
}

proptest! {
    #[test]
    fn any_template_is_survived(source in "(\\{\\{|\\{%|\\{#|\\PC{0,8}|auth\\.|portal|\\[|\\]|if |'|\\}\\}|%\\}|#\\}|~|\\|){0,12}") {
        let _ = HeaderTemplates::compile(&template(&source));
    }

    #[test]
    fn any_name_becomes_one_line(name in any::<String>()) {
        for encoding in [HeaderEncoding::Latin1, HeaderEncoding::Utf8] {
            let value = value("<{{ auth.client_name[:100] }}>", Client::Terminal(&named(&name)), encoding);
            prop_assert!(value.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f));
            prop_assert!(value.starts_with(b"<") && value.ends_with(b">"));
        }
    }
}

fn made() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../tests/vectors/headers.json")).expect("json")
}

#[test]
fn templates_render_as_jinja2_does_or_are_refused() {
    let made = made();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let identity = Identity {
        id: text(&made["box"]["id"]),
        domain: text(&made["box"]["domain"]),
        public_key_pem: text(&made["box"]["public_key_pem"]),
    };
    let clients: Vec<_> = made["clients"]
        .as_array()
        .expect("clients")
        .iter()
        .map(|client| {
            let known = KnownClient {
                id: text(&client["client_id"]).into(),
                name: text(&client["client_name"]).into(),
            };
            (client["client_type"].as_str(), known)
        })
        .collect();
    let (mut same, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    // The number of templates that Jinja2 renders for every client, and those of them that
    // are refused here.
    let (mut renders, mut needless) = (0, Vec::new());
    for template in made["templates"].as_array().expect("templates") {
        let source = template["source"].as_str().expect("source");
        let texts = template["texts"].as_array().expect("texts");
        let is_fine = texts.iter().all(serde_json::Value::is_string);
        renders += usize::from(is_fine);
        let compiled = match Template::compile(source) {
            Ok(compiled) => compiled,
            Err(problem) => {
                assert_eq!(template["real"], false, "{source}: {problem}");
                refused.push(source);
                if is_fine {
                    needless.push((source, problem));
                }
                continue;
            }
        };
        for ((kind, known), expected) in clients.iter().zip(texts) {
            let client = match kind {
                Some("terminal") => Client::Terminal(known),
                Some("peer") => Client::Peer(known),
                _ => Client::Anonymous,
            };
            match compiled.render(&variables(client, Some(&identity))) {
                Ok(text) if Some(text.as_str()) == expected.as_str() => same += 1,
                Err(_) if template["real"] == false => {}
                other => wrong.push(format!("{source:?}: {other:?}, but Jinja2 {expected:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(same > 5000, "only {same} texts compared, {} templates refused", refused.len());
    let count = needless.len();
    needless.truncate(20);
    assert!(
        count * 8 < renders,
        "{count} of {renders} templates are refused, such as {needless:#?}"
    );
    for source in ["{{ auth }}", "{{ 'a'.upper }}", "{{ '%s' % 'a' }}", "{{ auth.__class__ }}"] {
        assert!(refused.contains(&source), "{source}");
    }
}

/// An app's description comes from its author, so any template in it must be cheap to
/// handle. These would fill the memory, take minutes, or overflow the stack.
#[test]
fn hostile_templates_are_refused_before_they_cost_anything() {
    let chain = |first: &str, link: &str| {
        format!("{{{{ {first}{} }}}}", link.repeat((MAX_LEN - 20 - first.len()) / link.len()))
    };
    let times = |begin: &str, again: &str, end: &str, count: usize| {
        format!("{begin}{}{end}", again.repeat(count))
    };
    let long = "x".repeat(3000);
    for (source, reason) in [
        (chain("1", "+1"), "expression is too long"),
        (chain("1", "-1"), "expression is too long"),
        (chain("1", "*1"), "expression is too long"),
        (chain("1", "**1"), "expression is too long"),
        (chain("1", " or 1"), "expression is too long"),
        (chain("1", " and 1"), "expression is too long"),
        (chain("1", " if 1"), "expression is too long"),
        (chain("'a'", "|upper"), "expression is too long"),
        (chain("'a'", ".upper()"), "expression is too long"),
        (chain("auth", ".a"), "expression is too long"),
        (chain("'a'", "[0]"), "expression is too long"),
        (chain("'a'", " is string"), ""),
        (chain("", "("), "too deeply"),
        (chain("", "["), "too deeply"),
        (chain("", "-"), "too deeply"),
        (chain("", "not "), "too deeply"),
        (chain("", "a["), "too deeply"),
        (chain("", "a|default("), "too deeply"),
        (chain("1", " if 1 else 1"), "too"),
        (times("", "{% if 1 %}", "", 700), "too deeply"),
        (times("", "{% for a in 'a' %}", "", 400), "too deeply"),
        // Doubles with each statement.
        (times("{% set a = [1] %}", "{% set a = a + a %}", "", 300), "uses too much memory"),
        (times("{% set a = [1] %}", "{% set a = [a, a] %}", "", 300), "uses too much memory"),
        (times("{% set a = 'aa' %}", "{% set a = a ~ a %}", "", 300), "too long"),
        (times("{% set a = 'aa' %}", "{% set a = a + a %}", "", 300), "too long"),
        (times("{% set a = 'aa' %}", "{% set a = a.join(a|list) %}", "", 200), "too long"),
        // Processes a long text in each of thousands of steps.
        (
            format!(
                "{{% set a = '{long}' %}}{{% for b in a %}}{{% if a == b %}}{{% endif %}}{{% endfor %}}"
            ),
            "uses too much memory",
        ),
        (
            format!(
                "{{% set a = '{long}' %}}{{% for b in a %}}{{% set c = a[2999] %}}{{% endfor %}}"
            ),
            "uses too much memory",
        ),
        (format!("{{% set a = '{long}' %}}{{{{ a.strip(a) }}}}"), "too many characters"),
        (
            times("", "{% for a in portal.id %}", &times("", "{% endfor %}", "", 20), 20),
            "takes too long",
        ),
        ("{{ 9 ** 9 ** 9 ** 9 }}".to_owned(), "cannot be computed"),
        ("{{ 'a'.center(999999999) }}".to_owned(), "too long"),
        ("{{ 'a'.zfill(999999999) }}".to_owned(), "too long"),
        ("{{ 'abc'[::0] }}".to_owned(), "step"),
    ] {
        assert!(source.len() <= MAX_LEN, "{} bytes: {source:.60}", source.len());
        match HeaderTemplates::compile(&template(&source)) {
            Err(error) => assert!(error.to_string().contains(reason), "{source:.60}: {error}"),
            Ok(_) => panic!("{source:.60} is accepted"),
        }
    }
    for harmless in
        ["{{ 'abc'[999999999:-999999999:-999999999] }}", "{{ 'abc'[-(9 ** 18):9 ** 18] }}"]
    {
        assert!(HeaderTemplates::compile(&template(harmless)).is_ok(), "{harmless}");
    }
}

#[test]
fn replacements_of_replacements_do_not_fill_the_memory() {
    let many = "a".repeat(1500);
    let grows = format!(
        "{{{{ \"{many}\"|replace(\"a\", \"{}\")|replace(\"b\", \"{}\") }}}}",
        many.replace('a', "b"),
        "c".repeat(1000),
    );
    let began = std::time::Instant::now();
    for source in [grows.as_str(), "{{ 'x'|replace('', 'yyyyyyyyyy')|replace('y', 'z') }}"] {
        let compiled = HeaderTemplates::compile(&template(source));
        assert_eq!(compiled.is_err(), source == grows, "{compiled:?}");
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn the_headers_of_a_rule_are_bounded_in_number_and_size() {
    let headers = |count: usize, value: &str| -> BTreeMap<String, String> {
        (0..count).map(|n| (format!("X-Ptl-{n}"), value.to_owned())).collect()
    };
    HeaderTemplates::compile(&headers(MAX_HEADERS, "x")).expect("as many as are allowed");
    let error = HeaderTemplates::compile(&headers(MAX_HEADERS + 1, "x")).expect_err("one more");
    assert_eq!(error.problem, TemplateProblem::TooMany);
    let large = HeaderTemplates::compile(&headers(9, &"x".repeat(MAX_LEN))).expect("valid");
    let error = large.render(Client::Anonymous, None, HeaderEncoding::Latin1).expect_err("large");
    assert!(error.reason.contains("65536 bytes"), "{error}");
}
