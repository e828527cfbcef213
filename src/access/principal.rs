//! Who sent a request to the operator's API, what they may do, and whose rows they see.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::ledger::record::Micros;

/// Something that a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    /// To see states, counts and records. What identifies a person is masked.
    Read,
    /// To see what identifies a person, and to filter by it. Needs `Read` to be of use.
    Pii,
    /// To wake apps, to put them to sleep, and to change settings that are rows.
    Operate,
}

impl Right {
    pub const ALL: [Self; 3] = [Self::Read, Self::Pii, Self::Operate];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Pii => "pii",
            Self::Operate => "operate",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Pii => 2,
            Self::Operate => 4,
        }
    }
}

/// A set of rights. Its text is their names with commas between them, such as `read,operate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rights(u8);

impl Rights {
    pub const ALL: Self = Self::new(&Right::ALL);

    #[must_use]
    pub const fn new(rights: &[Right]) -> Self {
        let (mut bits, mut index) = (0, 0);
        // A constant cannot be made by an iterator.
        while index < rights.len() {
            bits |= rights[index].bit();
            index += 1;
        }
        Self(bits)
    }

    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// Returns whether each of these rights is one of `others`.
    #[must_use]
    pub const fn is_within(self, others: Self) -> bool {
        self.0 & !others.0 == 0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the names of the rights, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Right::ALL.into_iter().filter(move |right| self.has(*right)).map(Right::as_str)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

/// A name that is not one of a right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid right {0:?}: expected read, pii or operate")]
pub struct InvalidRight(String);

impl FromStr for Rights {
    type Err = InvalidRight;

    fn from_str(text: &str) -> Result<Self, InvalidRight> {
        let mut rights = Self::default();
        for name in text.split(',').map(str::trim) {
            let right = Right::ALL.into_iter().find(|right| right.as_str() == name);
            let right = right.ok_or_else(|| InvalidRight(name.chars().take(40).collect()))?;
            rights.0 |= right.bit();
        }
        Ok(rights)
    }
}

/// Whose rows and states a principal sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Those of every tenant, one of them at a time.
    All,
    /// Those of the box with this id.
    Tenant(Arc<str>),
}

impl Scope {
    /// The text of [`Scope::All`]. No box has this id.
    pub const STAR: &'static str = "*";

    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == Self::STAR { Self::All } else { Self::Tenant(text.into()) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::All => Self::STAR,
            Self::Tenant(tenant) => tenant,
        }
    }

    /// Returns whether the tenant's rows may be seen. Nothing belongs to a box without an id.
    #[must_use]
    pub fn covers(&self, tenant: &str) -> bool {
        match self {
            Self::All => true,
            Self::Tenant(own) => !own.is_empty() && **own == *tenant,
        }
    }

    /// Returns whether all that `other` covers is covered.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        match other {
            Self::All => *self == Self::All,
            Self::Tenant(tenant) => self.covers(tenant),
        }
    }
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub scope: Scope,
    pub rights: Rights,
    /// The id of the token; [`Principal::ROOT`] for `ops.token`, and for everyone who reaches a
    /// listener without one.
    pub token: Arc<str>,
    /// When the token ends; `None` if it does not.
    pub expires: Option<Micros>,
}

impl Principal {
    /// What stands for `ops.token` where a token's id is expected. No token has this id.
    pub const ROOT: &'static str = "root";

    /// A sender with the configured token; without one, everyone who reaches the listener.
    #[must_use]
    pub fn root() -> Self {
        Self { scope: Scope::All, rights: Rights::ALL, token: Self::ROOT.into(), expires: None }
    }

    /// A program in one of the networks `ops.monitors`, which has no token.
    #[must_use]
    pub fn monitor() -> Self {
        Self { rights: Rights::new(&[Right::Read]), ..Self::root() }
    }

    #[must_use]
    pub fn may(&self, right: Right) -> bool {
        self.rights.has(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_as_they_are_written() {
        for (text, written) in [
            ("read", "read"),
            ("operate, read", "read,operate"),
            ("read,pii,operate", "read,pii,operate"),
            ("pii,pii", "pii"),
        ] {
            let rights: Rights = text.parse().expect(text);
            assert_eq!(rights.to_string(), written);
            assert_eq!(written.parse(), Ok(rights));
        }
        for text in ["", "all", "read,", "Read", "read;pii", "read pii"] {
            assert!(text.parse::<Rights>().is_err(), "{text:?}");
        }
        assert!(Rights::ALL.to_string() == "read,pii,operate");
    }

    #[test]
    fn a_set_of_rights_is_within_those_that_have_all_of_it() {
        let (read, both) =
            (Rights::new(&[Right::Read]), Rights::new(&[Right::Read, Right::Operate]));
        assert!(read.is_within(both) && both.is_within(Rights::ALL) && read.is_within(read));
        assert!(!both.is_within(read) && !Rights::ALL.is_within(both));
        assert!(!read.has(Right::Pii) && !read.has(Right::Operate) && read.has(Right::Read));
        assert!(Rights::default().is_empty() && !read.is_empty());
    }

    #[test]
    fn a_scope_covers_its_own_tenant_and_nobody_without_an_id() {
        let (all, own) = (Scope::parse("*"), Scope::parse("box"));
        assert!(all.covers("box") && all.covers("") && own.covers("box"));
        for other in ["", "*", "bo", "box2", "BOX"] {
            assert!(!own.covers(other), "{other:?}");
        }
        assert!(!Scope::Tenant("".into()).covers(""));
        assert!(all.includes(&all) && all.includes(&own) && own.includes(&own));
        assert!(!own.includes(&all) && !own.includes(&Scope::parse("other")));
    }
}
