//! `nightporter serve`
use super::Answer;
use crate::config::Environment;
use std::io::Write;
use std::path::Path;
pub(super) fn run(_file: Option<&Path>, _env: &Environment, _out: &mut dyn Write) -> Answer {
    todo!()
}
