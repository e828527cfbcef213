//! What the operator's listener serves, as data; [`crate::http`] makes HTTP of it.

pub(crate) mod apps;
