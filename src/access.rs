//! Who may use the operator's API: tokens, what each may do, whose rows it sees, and which
//! values it sees masked.

mod masking;
mod principal;
mod table;
pub mod token;
mod tokens;

pub use self::masking::{HIDDEN, MaskKey, Private, Viewer};
pub use self::principal::{InvalidRight, Principal, Right, Rights, Scope};
pub use self::tokens::{LookUpError, REMEMBERED, Tokens};
