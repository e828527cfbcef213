//! One subrequest: its headers in, a [`Verdict`] out.
//!
//! The order is the contract's: app, path rule, client, access, headers, touch.
//! No error becomes a grant: nothing converts into [`Verdict::Grant`], and the
//! one place that makes one is at the end of [`Gate::auth`].

pub mod credentials;
pub mod headers;
pub mod verdict;
