//! Containers that cannot be started as they are: only Compose can make them anew.

use std::sync::Arc;

use tracing::{debug, info, warn};

use super::{Attempt, Trouble};
use crate::domain::lifecycle::Failure;
use crate::wake::docker::{Container, EngineError, State};
use crate::wake::observed::Observed;
use crate::wake::sharing::Need;

/// What a container was made with and is no more, or is not the same any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    Network,
    /// The container whose network it joins.
    Neighbour,
    Volume,
    Device,
    Image,
    /// Its port is taken by another container.
    Port(u16),
}

impl Gone {
    /// Recognises what is missing in the engine's own words, of several versions and
    /// of Podman.
    fn of(error: &EngineError, container: &Container) -> Option<Self> {
        let message = match error {
            EngineError::Away(_) => return None,
            EngineError::NotFound(message)
            | EngineError::Conflict(message)
            | EngineError::Refused { message, .. } => message.to_lowercase(),
        };
        let has = |part: &str| message.contains(part);
        let is_port = has("port is already allocated") || has("address already in use");
        if let Some(port) = taken_port(&message).filter(|_| is_port) {
            return Some(Self::Port(port));
        }
        let is_neighbour = has("no such container") && !has(&container.id.to_lowercase());
        if is_neighbour || has("cannot join network of a non running container") {
            return Some(Self::Neighbour);
        }
        let missing = ["not found", "no such", "does not exist"].into_iter().any(has);
        if !missing {
            return None;
        }
        [
            (Self::Device, "device"),
            (Self::Volume, "mount"),
            (Self::Volume, "volume"),
            (Self::Image, "image"),
            (Self::Network, "network"),
        ]
        .into_iter()
        .find_map(|(gone, word)| has(word).then_some(gone))
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Network => "its network was removed",
            Self::Neighbour => "the container whose network it joins was replaced or does not run",
            Self::Volume => "something that it mounts was removed",
            Self::Device => "a device of it is gone",
            Self::Image => "its image is missing",
            Self::Port(_) => "its port is taken",
        }
    }
}

/// The port in `Bind for 0.0.0.0:8080 failed` and `listen tcp4 0.0.0.0:8080: bind: …`.
fn taken_port(message: &str) -> Option<u16> {
    message.split([' ', ',']).find_map(|word| {
        let (address, port) = word.trim_end_matches(':').rsplit_once(':')?;
        let is_address = address.contains('.') || address.ends_with(']') || address.is_empty();
        port.parse().ok().filter(|_| is_address)
    })
}

impl Attempt {
    /// What follows where the engine does not start a container.
    pub(super) async fn not_started(
        &mut self,
        container: &Container,
        observed: &Observed,
        error: EngineError,
    ) -> Result<(), Trouble> {
        let Some(gone) = Gone::of(&error, container) else { return Err(error.into()) };
        debug!(app = %self.app.name, container = %container.name, %error, ?gone, "not started");
        if let Gone::Port(port) = gone {
            let snapshot = self.view.snapshot();
            let mut others = snapshot.containers.values();
            let holder = others.find(|c| c.state == State::Running && c.ports.contains(&port));
            match holder {
                Some(holder) if !observed.containers.iter().any(|c| c.id == holder.id) => {
                    let name = &holder.name;
                    let reason = format!("port {port} is taken by container {name}");
                    return Err(Failure::Engine(reason).into());
                }
                Some(_) => {}
                // By a program that is none of the engine's.
                None => return Err(error.into()),
            }
        }
        let is_there = self.means.compose.file(&self.app.name).is_some();
        if let (Some(project), true) = (self.selector.project().map(str::to_owned), is_there) {
            return self.make_anew(&project, observed, gone).await;
        }
        let name = &container.name;
        Err(match gone {
            Gone::Image => Failure::ImageMissing { image: container.image.clone() },
            Gone::Port(port) => Failure::Engine(format!(
                "port {port} of container {name} is taken by an old container of the app; \
                 remove that one"
            )),
            _ => Failure::Engine(format!(
                "container {name} has to be made anew, {}: run `docker compose up -d \
                 --force-recreate` where its compose file is",
                gone.as_str()
            )),
        }
        .into())
    }

    async fn make_anew(
        &mut self,
        project: &str,
        observed: &Observed,
        gone: Gone,
    ) -> Result<(), Trouble> {
        info!(app = %self.app.name, reason = gone.as_str(), "compose makes the containers anew");
        let snapshot = self.view.snapshot();
        let is_needed = |c: &Container| self.wakes.need(c, observed, &snapshot) != Need::Nothing;
        let service = |c: &Arc<Container>| c.belongs.service.clone();
        let name = Arc::clone(&self.app.name);
        if observed.containers.iter().any(|container| is_needed(container)) {
            // What another app uses is not touched.
            let own: Vec<_> = observed.own().filter_map(service).collect();
            let done = self.means.compose.recreate_only(&name, project, &own).await;
            return self.after_compose(project, done).await;
        }
        let is_in_the_way = matches!(gone, Gone::Port(_));
        let done = self.means.compose.recreate(&name, project, is_in_the_way).await;
        self.after_compose(project, done).await
    }

    /// Whether Compose would make other containers from the app's file than there are.
    pub(super) async fn is_outdated(&self, observed: &Observed) -> bool {
        let name = &self.app.name;
        let Some(project) = self.selector.project() else { return false };
        let compose = &self.means.compose;
        if compose.file(name).is_none() {
            return false;
        }
        let made: Vec<_> =
            observed.containers.iter().filter(|c| c.belongs.config_hash.is_some()).collect();
        if made.is_empty() || made.iter().any(|c| c.belongs.project.as_deref() != Some(project)) {
            return false;
        }
        for container in &made {
            let image = self.means.engine.image_id(&container.image).await;
            if image.is_some_and(|image| image != container.image_id) {
                info!(app = %name, image = container.image, "the image is another by now");
                return true;
            }
        }
        let made: Vec<_> = made.into_iter().map(|container| &**container).collect();
        let is_changed = compose.is_changed(name, project, &made).await;
        if is_changed {
            info!(app = %name, "the compose file has changed");
        }
        is_changed
    }

    /// Has Compose apply what has changed; what it cannot apply keeps nobody from the app
    /// as it was.
    pub(super) async fn apply_changes(&mut self, observed: &Observed) -> Result<(), Trouble> {
        match self.compose_up().await {
            Err(Trouble::Failed(
                failure @ (Failure::Compose(_) | Failure::ImageMissing { .. }),
            )) => {
                warn!(app = %self.app.name, %failure, "changes not applied; started as it was");
                self.look(observed).await;
                let observed = self.observe();
                self.start(&observed).await
            }
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_recreation_mends_is_recognised() {
        let web = Container::sample("shop", "web", State::Exited);
        let refused = |message: &str| EngineError::Refused { status: 500, message: message.into() };
        let not_found = |message: &str| EngineError::NotFound(message.into());
        for (error, expected) in [
            (not_found("No such container: b6e1d8b9"), Some(Gone::Neighbour)),
            (not_found("No such container: web"), None),
            (not_found("network shop_default not found"), Some(Gone::Network)),
            (
                EngineError::Conflict(
                    "cannot join network of a non running container: b6e1d8b9".into(),
                ),
                Some(Gone::Neighbour),
            ),
            (
                refused(
                    "error gathering device information while adding custom device \
                     \"/dev/ttyUSB0\": no such file or directory",
                ),
                Some(Gone::Device),
            ),
            (
                refused(
                    "error evaluating symlinks from mount source \"/v/_data\": lstat /v: no such \
                     file or directory",
                ),
                Some(Gone::Volume),
            ),
            (
                refused(
                    "invalid mount config for type \"bind\": bind source path does not exist: /b",
                ),
                Some(Gone::Volume),
            ),
            (refused("No such image: shop:7"), Some(Gone::Image)),
            (
                refused(
                    "driver failed programming external connectivity on endpoint web (f71c): \
                     Bind for 0.0.0.0:18977 failed: port is already allocated",
                ),
                Some(Gone::Port(18977)),
            ),
            (
                refused("listen tcp4 0.0.0.0:8080: bind: address already in use"),
                Some(Gone::Port(8080)),
            ),
            (refused("exec: \"/nope\": permission denied"), None),
            (EngineError::Away("no such file".into()), None),
        ] {
            assert_eq!(Gone::of(&error, &web), expected, "{error}");
        }
    }
}
