//! The search for the key that a name or a variable means, also if it is misspelt.

use super::key::Table;

/// The prefix of every environment variable that sets a key.
const PREFIX: &str = "NIGHTPORTER_";

/// The variable that names the configuration file itself; the command line reads it.
const CONFIG_VARIABLE: &str = "NIGHTPORTER_CONFIG";

/// How similar a name must be to a key to count as its misspelling
/// (1.0 is equal). Lower values suggest `store.url` for `store.uri`, but also
/// unrelated names of the same section.
const SIMILAR: f64 = 0.75;

/// Returns the key with exactly this name.
pub(super) fn known(table: Table, name: &str) -> Option<&'static str> {
    table.names().find(|key| *key == name)
}

/// Returns whether a section has keys: `gate`, `gate.tls`, …
pub(super) fn is_section(table: Table, name: &str) -> bool {
    table.names().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// Returns the variable of a key: `gate.tls.key` → `NIGHTPORTER_GATE__TLS__KEY`.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// Returns whether a variable can only be meant for this program.
///
/// Orchestrators set `NIGHTPORTER_PORT` and `NIGHTPORTER_SERVICE_HOST`
/// themselves if a service is called `nightporter`.
pub(super) fn is_ours(variable: &str) -> bool {
    let Some(rest) = variable.strip_prefix(PREFIX) else {
        return false;
    };
    let set_by_orchestrator = rest == "PORT"
        || rest == "SERVICE_HOST"
        || rest.starts_with("PORT_")
        || rest.starts_with("SERVICE_PORT");
    !set_by_orchestrator && variable != CONFIG_VARIABLE
}

/// Returns the key that an unknown name most likely means.
pub(super) fn nearest(table: Table, name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let same_leaf = || {
        let leaf = name.rsplit('.').next()?;
        let mut same = table.names().filter(|key| key.rsplit('.').next() == Some(leaf));
        same.next().filter(|_| same.next().is_none())
    };
    most_similar(&name, table.names()).or_else(same_leaf)
}

/// Returns the section that an unknown one most likely means.
pub(super) fn nearest_section(table: Table, name: &str) -> Option<&'static str> {
    let sections = table.names().filter_map(|key| Some(key.rsplit_once('.')?.0));
    most_similar(name, sections)
}

/// Returns the variable that an unknown one most likely means; a name with one underscore
/// where two are needed is found too.
pub(super) fn nearest_variable(table: Table, name: &str) -> Option<String> {
    let flat = |name: &str| name.replace("__", "_").to_uppercase();
    let mut names = table.names().filter(|key| !table.is_listed(key)).map(variable);
    names.find(|known| flat(known) == flat(name)).or_else(|| {
        let rest = name.strip_prefix(PREFIX)?;
        let key = nearest(table, &rest.replace("__", "."))?;
        (!table.is_listed(key)).then(|| variable(key))
    })
}

fn most_similar(
    name: &str,
    candidates: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    candidates
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(likeness, _)| *likeness >= SIMILAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests;
