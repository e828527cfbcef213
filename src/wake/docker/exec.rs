//! Commands that run in a container besides its main process, by `docker exec`.

use bollard::models::{HealthConfig, ProcessConfig};

use super::{Engine, EngineError, READ_TIMEOUT, with_timeout};

/// The commands that run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commands {
    Nothing,
    /// At least one that is not the container's health check.
    Running,
    /// These commands, one of which may be the health check: a proxy in front of the
    /// engine forbids the call that tells them apart.
    Unclear(Vec<String>),
}

impl Engine {
    /// Returns the commands that run in a container, other than its health check.
    pub async fn commands(&self, id: &str) -> Result<Commands, EngineError> {
        let client = self.client()?;
        let inspected = with_timeout(READ_TIMEOUT, client.inspect_container(id, None)).await?;
        let config = inspected.config.unwrap_or_default();
        let check = check(config.healthcheck.as_ref(), config.shell);
        let mut unclear = Vec::new();
        for command in inspected.exec_ids.unwrap_or_default() {
            match with_timeout(READ_TIMEOUT, client.inspect_exec(&command)).await {
                Ok(exec) if exec.running != Some(true) => {}
                Ok(exec)
                    if check.is_some() && command_line(exec.process_config.as_ref()) == check => {}
                Ok(_) => return Ok(Commands::Running),
                // The command has ended.
                Err(EngineError::NotFound(_)) => {}
                Err(away @ EngineError::Away(_)) => return Err(away),
                Err(_) => unclear.push(command),
            }
        }
        Ok(match (unclear.is_empty(), check) {
            (true, _) => Commands::Nothing,
            (false, None) => Commands::Running,
            (false, Some(_)) => Commands::Unclear(unclear),
        })
    }
}

fn command_line(process: Option<&ProcessConfig>) -> Option<Vec<String>> {
    let ProcessConfig { entrypoint, arguments, .. } = process?;
    Some(entrypoint.iter().chain(arguments.iter().flatten()).cloned().collect())
}

/// Returns the words of a container's health check; `None` if it has none.
fn check(health: Option<&HealthConfig>, shell: Option<Vec<String>>) -> Option<Vec<String>> {
    let test = health?.test.as_deref()?;
    let (kind, rest) = test.split_first()?;
    match kind.as_str() {
        "CMD" => Some(rest.to_vec()),
        "CMD-SHELL" => {
            let shell = shell.filter(|words| !words.is_empty());
            let shell = shell.unwrap_or_else(|| ["/bin/sh", "-c"].map(Into::into).into());
            Some(shell.into_iter().chain(rest.iter().cloned()).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_health_check_is_known_by_its_words() {
        let health = |words: &[&str]| HealthConfig {
            test: Some(words.iter().map(|word| (*word).to_owned()).collect()),
            ..HealthConfig::default()
        };
        let check = |words: &[&str]| check(Some(&health(words)), None).map(|words| words.join(" "));
        assert_eq!(check(&["CMD", "/app", "healthcheck"]).as_deref(), Some("/app healthcheck"));
        assert_eq!(check(&["CMD-SHELL", "curl -f a"]).as_deref(), Some("/bin/sh -c curl -f a"));
        assert_eq!(check(&["NONE"]), None);
        assert_eq!(check(&[]), None);
    }
}
