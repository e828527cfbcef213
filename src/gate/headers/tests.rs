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

fn named(name: &str) -> Client {
    Client::Terminal(Known { id: "t3rm1n".into(), name: name.into() })
}

/// The value that a template renders to, as bytes.
fn value(source: &str, client: &Client, encoding: HeaderEncoding) -> Vec<u8> {
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
        let client = named(name);
        let expected: Vec<u8> = latin1.chars().map(|c| u8::try_from(c).expect("latin-1")).collect();
        assert_eq!(value("{{ auth.client_name }}", &client, HeaderEncoding::Latin1), expected);
        let sent = value("{{ auth.client_name }}", &client, HeaderEncoding::Utf8);
        assert_eq!(sent, utf8.as_bytes());
    }
}

#[test]
fn an_empty_template_is_a_header_that_is_empty() {
    for source in ["", "\n", "{{ auth.client_id }}"] {
        assert_eq!(value(source, &Client::Anonymous, HeaderEncoding::Latin1), b"", "{source:?}");
    }
    let none = HeaderTemplates::compile(&BTreeMap::new()).expect("no header");
    assert!(none.is_empty());
    let rendered = none.render(&Client::Anonymous, None, HeaderEncoding::Latin1);
    assert!(rendered.expect("renders").is_empty());
}

#[test]
fn a_box_without_identity_says_nothing_of_itself() {
    let templates = HeaderTemplates::compile(&template("<{{ portal.domain }}{{ portal.id[:6] }}>"));
    let headers = templates.expect("compiles").render(&named("x"), None, HeaderEncoding::Latin1);
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
