//! What the operator's listener serves, as data; [`crate::http`] turns it into HTTP.

pub(crate) mod apps;
