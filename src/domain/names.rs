//! Which app a host names: an app that claims the whole host, or else the app of its first
//! label.
//!
//! A host that two apps claim is nobody's: the proxy may send its requests to either of them,
//! and the rules of one must not decide about the other. An app's name claims the hosts that
//! begin with it, within `gate.domain` if that is given.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::request::Host;

/// The whole hosts that one app claims, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub app: Arc<str>,
    pub hosts: Vec<String>,
}

/// A host that several apps claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contested {
    pub host: String,
    /// Two or more, sorted.
    pub apps: Vec<Arc<str>>,
}

impl fmt::Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let apps: Vec<_> = self.apps.iter().map(|app| format!("`{app}`")).collect();
        let (host, apps) = (&self.host, apps.join(" and "));
        write!(f, "the host `{host}` is claimed by {apps}, so it is nobody's")
    }
}

/// The installed apps by what names them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Lower-case name → name as the store spells it.
    by_label: HashMap<Box<str>, Arc<str>, RandomState>,
    /// Claimed host → the app; `None` if several claim it.
    by_host: HashMap<Box<str>, Option<Arc<str>>, RandomState>,
    pub contested: Vec<Contested>,
}

impl Names {
    /// Combines the names of all apps with the hosts that some claim. Claims of apps that are
    /// not installed count for nothing.
    #[must_use]
    pub fn new(names: Vec<String>, claims: &[Claims], domain: Option<&str>) -> Self {
        let by_label = by_label(names);
        let mut claimants: BTreeMap<&str, BTreeSet<&Arc<str>>> = BTreeMap::new();
        for Claims { app, hosts } in claims {
            let Some(app) = by_label.get(&*app.to_ascii_lowercase()) else { continue };
            for host in hosts {
                claimants.entry(host).or_default().insert(app);
            }
        }
        let (mut by_host, mut contested) = (HashMap::default(), Vec::new());
        for (host, mut apps) in claimants {
            let label = Host::parse(host).and_then(|host| host.label(domain));
            apps.extend(label.ok().and_then(|label| by_label.get(&*label)));
            let only = match apps.len() {
                1 => apps.first().map(|app| Arc::clone(app)),
                _ => None,
            };
            if only.is_none() {
                let apps = apps.into_iter().cloned().collect();
                contested.push(Contested { host: host.to_owned(), apps });
            }
            by_host.insert(host.into(), only);
        }
        Self { by_label, by_host, contested }
    }

    /// Returns the whole hosts that an app claims and no other, sorted.
    #[must_use]
    pub fn claimed_by(&self, app: &str) -> Vec<&str> {
        let is_its_own = |claimed: &Option<Arc<str>>| claimed.as_ref().is_some_and(|a| **a == *app);
        let all = self.by_host.iter().filter(|(_, claimed)| is_its_own(claimed));
        let mut hosts: Vec<_> = all.map(|(host, _)| &**host).collect();
        hosts.sort_unstable();
        hosts
    }

    /// Returns the app that a host names; `None` if it names none, or several.
    #[must_use]
    pub fn app(&self, host: Host<'_>, domain: Option<&str>) -> Option<&Arc<str>> {
        // Most boxes have no such hosts, and pay nothing for them.
        if !self.by_host.is_empty()
            && let Some(app) = self.by_host.get(&*host.lower())
        {
            return app.as_ref();
        }
        self.by_label.get(&*host.label(domain).ok()?)
    }
}

/// Maps each label of a host to the name of the installed app. If names differ only in
/// letter case, the lower-case one gets the label. If none is lower-case, no app gets it,
/// because it is unknown which of them the proxy asks about.
fn by_label(names: Vec<String>) -> HashMap<Box<str>, Arc<str>, RandomState> {
    let mut labels: HashMap<Box<str>, Arc<str>, RandomState> = HashMap::default();
    let mut ambiguous = HashSet::new();
    for name in names {
        let label = name.to_ascii_lowercase();
        let is_exact = label == name;
        match labels.entry(label.into()) {
            Slot::Vacant(vacant) => drop(vacant.insert(name.into())),
            Slot::Occupied(mut occupied) => {
                ambiguous.insert(occupied.key().clone());
                if is_exact {
                    occupied.insert(name.into());
                }
            }
        }
    }
    labels.retain(|label, name| **label == **name || !ambiguous.contains(label));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str], claims: &[(&str, &[&str])], domain: Option<&str>) -> Names {
        let claims: Vec<_> = claims
            .iter()
            .map(|(app, hosts)| Claims {
                app: (*app).into(),
                hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            })
            .collect();
        Names::new(names.iter().map(|name| (*name).to_owned()).collect(), &claims, domain)
    }

    fn app<'a>(names: &'a Names, host: &str, domain: Option<&str>) -> Option<&'a str> {
        names.app(Host::parse(host).expect("a host"), domain).map(|app| &**app)
    }

    #[test]
    fn names_that_differ_in_letter_case_alone_have_one_meaning() {
        let all = ["Notes", "notes", "WIKI", "Wiki", "Chat", "\u{212a}ube"];
        for turn in 0..all.len() {
            let mut rotated = all;
            rotated.rotate_left(turn);
            let names = names(&rotated, &[], None);
            assert_eq!(app(&names, "notes", None), Some("notes"));
            assert_eq!(app(&names, "wiki", None), None);
            assert_eq!(app(&names, "chat", None), Some("Chat"));
            assert_eq!(app(&names, "kube", None), None, "it is not ASCII, so no host has it");
        }
    }

    #[test]
    fn a_claimed_host_is_found_however_it_is_written() {
        let hosts: &[&str] = &["example.org", "wiki.example.net", "xn--bcher-kva.example"];
        let names = names(&["wiki", "notes"], &[("wiki", hosts)], Some("box.example"));
        for host in [
            "example.org",
            "EXAMPLE.org",
            "example.org.",
            "example.org:8443",
            "Example.ORG.:443",
            "wiki.example.net",
            "XN--BCHER-KVA.example",
            "wiki.box.example",
        ] {
            assert_eq!(app(&names, host, Some("box.example")), Some("wiki"), "{host}");
        }
        for host in
            ["www.example.org", "example.net", "example", "org", "example.org.box.example", "x.org"]
        {
            assert_eq!(app(&names, host, Some("box.example")), None, "{host}");
        }
        assert_eq!(app(&names, "notes.box.example", Some("box.example")), Some("notes"));
    }

    #[test]
    fn a_host_that_two_apps_claim_is_nobodys() {
        let all = &["wiki", "notes", "Chat"];
        let claims: &[(&str, &[&str])] = &[
            ("wiki", &["a.example", "notes.box.example", "wiki.box.example", "notes.else.example"]),
            ("notes", &["a.example", "chat.box.example"]),
            ("gone", &["wiki.box.example", "b.example"]),
        ];
        let domain = Some("box.example");
        let names_here = names(all, claims, domain);
        for (host, expected) in [
            ("a.example", None),
            ("notes.box.example", None),
            ("chat.box.example", None),
            ("wiki.box.example", Some("wiki")),
            // Only hosts within the domain are claimed by a name.
            ("notes.else.example", Some("wiki")),
            ("b.example", None),
        ] {
            assert_eq!(app(&names_here, host, domain), expected, "{host}");
        }
        let contested: Vec<_> = names_here.contested.iter().map(|c| c.host.as_str()).collect();
        assert_eq!(contested, ["a.example", "chat.box.example", "notes.box.example"]);
        // Without a domain, a name claims every host that begins with it.
        let names_anywhere = names(all, claims, None);
        assert_eq!(app(&names_anywhere, "notes.else.example", None), None);
        assert_eq!(app(&names_anywhere, "notes.third.example", None), Some("notes"));
    }
}
