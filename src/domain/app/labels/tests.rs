use std::collections::BTreeMap;

use super::*;
use crate::domain::strategy::{Strategy, StrategyChoice};

fn labelled(container: &str, labels: &[(&str, &str)]) -> Labelled {
    let labels: BTreeMap<_, _> =
        labels.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect();
    Labelled::new(container.into(), None, &labels, vec![80])
}

fn source(labelled: Labelled) -> Source {
    Source { parsed: read(&labelled), labelled, is_removed: false }
}

/// Describes an app of these containers.
fn described(containers: &[(&str, &[(&str, &str)])]) -> Described {
    let sources: Vec<_> =
        containers.iter().map(|(name, labels)| source(labelled(name, labels))).collect();
    describe("notes", &sources.iter().collect::<Vec<_>>())
}

/// Describes an app of one container, besides the label that names the app.
fn of(labels: &[(&str, &str)]) -> Described {
    described(&[("web", &[&[("app", "notes")], labels].concat())])
}

fn meta(labels: &[(&str, &str)]) -> AppMeta {
    of(labels).meta.unwrap_or_else(|findings| panic!("{labels:?}: {findings:?}"))
}

fn rules(meta: &AppMeta) -> Vec<(&str, Access)> {
    meta.paths.iter().map(|rule| (rule.prefix.as_str(), rule.access)).collect()
}

#[test]
fn an_app_is_private_where_no_label_says_otherwise() {
    use Access::{Peer, Private, Public};
    let plain = of(&[]);
    assert!(!plain.is_described && plain.notices.is_empty());
    let alone = plain.meta.expect("described");
    assert_eq!(rules(&alone), [("", Private)]);
    assert_eq!((&*alone.name, &*alone.pretty_name, &*alone.icon), ("notes", "Notes", ""));
    let some = meta(&[
        ("public", " /shared/ ,/static/"),
        ("peer", "/inbox"),
        ("private", "/shared/mine/"),
    ]);
    assert_eq!(
        rules(&some),
        [
            ("/shared/mine/", Private),
            ("/shared/", Public),
            ("/static/", Public),
            ("/inbox", Peer),
            ("", Private)
        ]
    );
    assert_eq!(rules(&meta(&[("public", "/")])), [("/", Public), ("", Private)]);
}

#[test]
fn every_label_has_its_meaning() {
    let all = meta(&[
        ("headers.X-Ptl-Client-Id", "{{ auth.client_id }}"),
        ("headers.X-Ptl-Role", "guest, reader"),
        ("hosts", "Wiki.Example.org, example.org."),
        ("port", "8080"),
        ("strategy", "hold"),
        ("idle-for-pause", "5m"),
        ("idle-for-stop", "1h 30m"),
        ("name", "My Notes"),
        ("icon", "icon.svg"),
        ("public", "/x"),
    ]);
    for rule in &all.paths {
        assert_eq!(rule.headers["X-Ptl-Client-Id"], "{{ auth.client_id }}");
        assert_eq!(rule.headers["X-Ptl-Role"], "guest, reader");
    }
    assert_eq!(all.hosts, ["example.org", "wiki.example.org"]);
    assert_eq!(all.wake, Some(StrategyChoice::Always(Strategy::Hold)));
    assert_eq!(all.lifecycle.idle_for_pause, Some(300));
    assert_eq!(all.lifecycle.idle_for_stop, Some(5400));
    assert_eq!((&*all.pretty_name, &*all.icon), ("My Notes", "icon.svg"));
    let entry = &all.entrypoints[0];
    assert_eq!((entry.container_name.as_str(), entry.container_port), ("web", 8080));
    assert!(meta(&[("always-on", "TRUE")]).lifecycle.always_on);
    assert!(!meta(&[("always-on", "off")]).lifecycle.always_on);
    assert_eq!(meta(&[]).entrypoints[0].container_port, 80, "the only port that is exposed");
}

#[test]
fn what_cannot_be_read_denies_and_says_why() {
    for (label, value, part) in [
        ("pirvate", "/admin/", "is unknown"),
        ("Public", "/", "is unknown"),
        ("public.paths", "/", "is unknown"),
        ("", "x", "is unknown"),
        ("headers", "x", "is unknown"),
        ("path", "/", "is unknown"),
        ("public", "", "empty path"),
        ("public", "/a,,/b", "empty path"),
        ("public", "/a,", "empty path"),
        ("private", "admin/", "must begin with `/`"),
        ("private", "/admin/*", "not allowed"),
        ("private", "/admin?x", "not allowed"),
        ("private", "/a b", "not allowed"),
        ("private", "^/admin", "must begin with `/`"),
        ("private", "/(admin|root)", "not allowed"),
        ("peer", "/a#b", "not allowed"),
        ("public", "/a\\b", "not allowed"),
        ("public", "/a;/b", "not allowed"),
        ("public", "/a\u{7}", "not allowed"),
        ("public", "/a/../b", "segment"),
        ("public", "/./a", "segment"),
        ("public", "//a", "empty segment"),
        ("public", "/a//b", "empty segment"),
        ("public", "https://notes.example/", "must begin"),
        ("headers.", "x", "invalid header name"),
        ("headers.X Y", "x", "invalid header name"),
        ("headers.X:Y", "x", "invalid header name"),
        ("headers.X", "a\r\nb", "control character"),
        ("hosts", "", "is empty"),
        ("hosts", "a.example,", "invalid host"),
        ("hosts", "a.example:443", "without scheme and port"),
        ("hosts", "https://a.example", "without scheme and port"),
        ("hosts", "*.example.org", "invalid host"),
        ("hosts", "bücher.example", "invalid host"),
        ("hosts", "a..example", "invalid host"),
        ("hosts", "-a.example", "invalid host"),
        ("hosts", "192.0.2.1", "invalid host"),
        ("hosts", "a.example/x", "invalid host"),
        ("hosts", "[::1]", "without scheme and port"),
        ("port", "0", "invalid port"),
        ("port", "+80", "invalid port"),
        ("port", "65536", "invalid port"),
        ("port", "80/tcp", "invalid port"),
        ("port", "http", "invalid port"),
        ("port", "", "is empty"),
        ("strategy", "sometimes", "invalid strategy"),
        ("strategy", "Hold", "invalid strategy"),
        ("idle-for-pause", "300", "a number and a unit"),
        ("idle-for-pause", "soon", "a number and a unit"),
        ("idle-for-pause", "-5m", "a number and a unit"),
        ("idle-for-pause", "4s", "at least 5 seconds"),
        ("idle-for-stop", "1500ms", "whole seconds"),
        ("idle-for-stop", "2years", "a year at most"),
        ("always-on", "maybe", "true or false"),
        ("always-on", "", "is empty"),
        ("name", "", "is empty"),
        ("name", "a\nb", "control character"),
        ("icon", "../secret", "invalid icon"),
        ("icon", "/etc/passwd", "invalid icon"),
    ] {
        let findings = of(&[(label, value)]).meta.expect_err(label);
        let text = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert!(text.contains(part), "{label}={value:?}: {text}");
        assert!(text.contains("container web"), "{text}");
        // A mistake denies also where another label would grant.
        let other = if label == "peer" { ("public", "/x") } else { ("peer", "/x") };
        assert!(of(&[(label, value), other]).meta.is_err(), "{label}={value:?}");
    }
}

#[test]
fn labels_that_exclude_each_other_deny() {
    for labels in [
        &[("public", "/a"), ("private", "/a")][..],
        &[("public", "/a,/b"), ("peer", "/b")],
        &[("always-on", "true"), ("idle-for-stop", "1h")],
        &[("idle-for-pause", "1h"), ("idle-for-stop", "1h")],
        &[("headers.X-A", "1"), ("headers.x-a", "1")],
    ] {
        assert!(of(labels).meta.is_err(), "{labels:?}");
    }
    assert!(of(&[("public", "/a,/a")]).meta.is_ok(), "the same twice is not a contradiction");
}

#[test]
fn several_containers_say_one_thing() {
    let app = ("app", "notes");
    let web: &[_] = &[app, ("public", "/a,/b"), ("port", "80")];
    // The labels may stand on one of them.
    let one = described(&[("web", web), ("db", &[app])]).meta.expect("no conflict");
    assert_eq!(one.entrypoints[0].container_name, "web");
    // Or on several, where each says another thing, or the same.
    let spread = described(&[("web", web), ("db", &[app, ("name", "N"), ("headers.X-A", "1")])]);
    assert_eq!(spread.meta.expect("no conflict").pretty_name, "N");
    let same = described(&[("web", web), ("db", &[app, ("public", "/b , /a")])]);
    assert_eq!(same.meta.expect("the same").paths.len(), 3);
    for other in [("public", "/a"), ("private", "/c"), ("port", "81"), ("bogus", "1")] {
        let both = described(&[("web", web), ("db", &[app, other])]);
        assert!(both.meta.is_err(), "{other:?}");
    }
    for (one, other) in [
        (("name", "a"), ("name", "b")),
        (("icon", "a"), ("icon", "b")),
        (("strategy", "hold"), ("strategy", "page")),
        (("always-on", "true"), ("always-on", "false")),
        (("idle-for-stop", "1h"), ("idle-for-stop", "2h")),
        (("hosts", "a.example"), ("hosts", "a.example,b.example")),
        (("headers.X-A", "1"), ("headers.X-A", "2")),
        (("headers.X-A", "1"), ("headers.x-a", "1")),
    ] {
        for (first, second) in [(one, other), (other, one)] {
            let findings = described(&[("web", &[app, first]), ("db", &[app, second])]).meta;
            let text = findings.expect_err("a contradiction")[0].to_string();
            assert!(text.contains("contradicts container web"), "{text}");
        }
        assert!(described(&[("web", &[app, one]), ("db", &[app, one])]).meta.is_ok());
    }
}

#[test]
fn every_host_stays_claimed_by_an_app_with_a_mistake() {
    let app = ("app", "notes");
    let broken = described(&[
        ("web", &[app, ("hosts", "a.example"), ("bogus", "1")]),
        ("db", &[app, ("hosts", "b.example")]),
    ]);
    assert!(broken.meta.is_err());
    assert_eq!(broken.hosts, ["a.example", "b.example"]);
}

#[test]
fn a_removed_container_counts_only_where_no_other_speaks() {
    let app = ("app", "notes");
    let with = |removed: &[(&str, &str)], exists: &[(&str, &str)]| {
        let mut gone = source(labelled("old", removed));
        gone.is_removed = true;
        let here = source(labelled("new", exists));
        describe("notes", &[&gone, &here])
    };
    let (public, private) = ([app, ("public", "/")], [app, ("private", "/")]);
    assert_eq!(rules(&with(&public, &private).meta.expect("the new one"))[0].1, Access::Private);
    let bridged = with(&public, &[app]).meta.expect("the old one");
    assert_eq!(rules(&bridged)[0], ("/", Access::Public));
    assert_eq!(bridged.entrypoints[0].container_name, "new");
    assert!(with(&[app, ("bogus", "1")], &[app]).meta.is_err(), "its mistake is not forgotten");
}

#[test]
fn requests_go_to_one_service() {
    let app = ("app", "notes");
    let two = described(&[("a", &[app, ("port", "80")]), ("b", &[app, ("port", "80")])]);
    assert!(two.meta.expect("the rules are clear").entrypoints.is_empty());
    assert!(two.notices[0].problem.contains("could receive"), "{:?}", two.notices);
    let labels = BTreeMap::from([("nightporter.app".to_owned(), "notes".to_owned())]);
    let replica = |n: u8| {
        let service = Some(("p".into(), "web".into()));
        source(Labelled::new(format!("p-web-{n}"), service, &labels, vec![80]))
    };
    let replicas = [replica(1), replica(2)];
    let both = describe("notes", &replicas.iter().collect::<Vec<_>>()).meta.expect("no conflict");
    assert_eq!(both.entrypoints.len(), 2);
    for exposed in [vec![], vec![80, 443]] {
        let unclear = source(Labelled::new("web".into(), None, &labels, exposed));
        let unclear = describe("notes", &[&unclear]);
        assert!(unclear.meta.expect("described").entrypoints.is_empty());
        assert!(unclear.notices[0].problem.contains("is missing"), "{:?}", unclear.notices);
    }
}

#[test]
fn a_shared_container_describes_none_of_its_apps() {
    let shared = labelled("db", &[("app", "notes, wiki"), ("public", "/")]);
    assert_eq!(shared.apps(), ["notes", "wiki"]);
    let findings = describe("notes", &[&source(shared)]).meta.expect_err("refused");
    assert!(findings[0].problem.contains("several apps"), "{findings:?}");
    assert!(described(&[("db", &[("app", "notes,wiki")])]).meta.is_ok());
}

#[test]
fn labels_of_other_programs_and_of_services_are_none_of_it() {
    let labels = [
        ("traefik.enable", "true"),
        ("nightporter.app", "notes"),
        ("nightporter.replicas", "2"),
        ("nightporter.last_replicas", "2"),
        ("com.docker.compose.project", "x"),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let labelled = Labelled::new("web".into(), None, &labels, Vec::new());
    assert_eq!(labelled.labels.len(), 1);
    assert!(!read(&labelled).is_describing);
}
