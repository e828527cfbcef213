//! Containers that cannot be started as they are, and that only Compose can create again.

use std::net::IpAddr;
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::{Attempt, AttemptError};
use crate::domain::lifecycle::WakeError;
use crate::wake::docker::{Container, EngineError, Snapshot, State};
use crate::wake::observed::Observed;
use crate::wake::sharing::SharedNeed;

/// Why a container cannot be started: something it was created with is missing, or is in
/// use by another container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StartBlocker {
    Network,
    /// The container whose network it joins.
    Neighbour,
    Volume,
    Device,
    Image,
    /// Its port is taken by another container.
    Port(u16),
    /// Its fixed address is taken by another container.
    Address(IpAddr),
}

/// Who holds a port or an address that a container needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder<'a> {
    /// An old container of the same app.
    Own,
    Other(&'a str),
    /// None of the engine's containers.
    Unknown,
}

impl StartBlocker {
    /// Recognises the cause in the engine's error messages, those of several versions of
    /// Docker and of Podman.
    fn from_error(error: &EngineError, container: &Container) -> Option<Self> {
        let message = match error {
            EngineError::Away(_) => return None,
            EngineError::NotFound(message)
            | EngineError::Conflict(message)
            | EngineError::Refused { message, .. } => message.to_lowercase(),
        };
        let has = |part: &str| message.contains(part);
        let is_taken = has("already allocated") || has("address already in use");
        if let Some(port) = taken_port(&message).filter(|_| is_taken) {
            return Some(Self::Port(port));
        }
        let named = |address: &&IpAddr| has(&address.to_string());
        let fixed = || container.fixed_addresses.iter();
        if is_taken && let Some(address) = fixed().find(named).or_else(|| fixed().next()) {
            return Some(Self::Address(*address));
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
        .find_map(|(blocker, word)| has(word).then_some(blocker))
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Network => "its network was removed",
            Self::Neighbour => "the container whose network it joins was replaced or is stopped",
            Self::Volume => "a volume or directory that it mounts was removed",
            Self::Device => "one of its devices is missing",
            Self::Image => "its image is missing",
            Self::Port(_) => "its port is taken",
            Self::Address(_) => "its address is taken",
        }
    }

    /// Returns whether a container holds the port or address. A paused container keeps
    /// it.
    fn is_held_by(self, container: &Container) -> bool {
        let is_up = matches!(container.state, State::Running | State::Paused | State::Restarting);
        is_up
            && match self {
                Self::Port(port) => container.ports.contains(&port),
                Self::Address(address) => container.addresses.contains(&address),
                _ => false,
            }
    }

    fn holder<'a>(self, snapshot: &'a Snapshot, observed: &Observed) -> Holder<'a> {
        let mut holders = snapshot.containers.values().filter(|c| self.is_held_by(c));
        match holders.next() {
            Some(holder) if observed.containers.iter().any(|c| c.id == holder.id) => Holder::Own,
            Some(holder) => Holder::Other(&holder.name),
            None => Holder::Unknown,
        }
    }

    /// Returns the name of the port or address that is taken; `None` for other causes.
    fn taken_resource(self) -> Option<String> {
        match self {
            Self::Port(port) => Some(format!("port {port}")),
            Self::Address(address) => Some(format!("address {address}")),
            _ => None,
        }
    }
}

/// Returns the port in `Bind for 0.0.0.0:8080 failed` and
/// `listen tcp4 0.0.0.0:8080: bind: …`.
fn taken_port(message: &str) -> Option<u16> {
    message.split([' ', ',']).find_map(|word| {
        let (address, port) = word.trim_end_matches(':').rsplit_once(':')?;
        let is_address = address.contains('.') || address.ends_with(']') || address.is_empty();
        port.parse().ok().filter(|_| is_address)
    })
}

impl Attempt {
    /// Handles an error of the engine to start a container.
    pub(super) async fn handle_start_error(
        &mut self,
        container: &Container,
        observed: &Observed,
        error: EngineError,
    ) -> Result<(), AttemptError> {
        let Some(blocker) = StartBlocker::from_error(&error, container) else {
            return Err(error.into());
        };
        let app = &self.app.name;
        debug!(%app, container = %container.name, %error, ?blocker, "container not started");
        if let Some(resource) = blocker.taken_resource() {
            match blocker.holder(&self.view.snapshot(), observed) {
                Holder::Other(name) => {
                    let reason = format!("{resource} is taken by container {name}");
                    return Err(WakeError::Engine(reason).into());
                }
                Holder::Own => {}
                Holder::Unknown => return Err(error.into()),
            }
        }
        let has_compose_file = self.context.compose.file(&self.app.name).is_some();
        if let (Some(project), true) =
            (self.selector.project().map(str::to_owned), has_compose_file)
        {
            return self.recreate(&project, observed, blocker).await;
        }
        let name = &container.name;
        Err(match blocker {
            StartBlocker::Image => WakeError::ImageMissing { image: container.image.clone() },
            StartBlocker::Port(_) | StartBlocker::Address(_) => WakeError::Engine(format!(
                "{} of container {name} is taken by an old container of the app; remove it",
                blocker.taken_resource().unwrap_or_default()
            )),
            _ => WakeError::Engine(format!(
                "container {name} has to be recreated, {}: run `docker compose up -d \
                 --force-recreate` in the folder of its compose file",
                blocker.as_str()
            )),
        }
        .into())
    }

    async fn recreate(
        &mut self,
        project: &str,
        observed: &Observed,
        blocker: StartBlocker,
    ) -> Result<(), AttemptError> {
        info!(app = %self.app.name, reason = blocker.as_str(), "compose recreates the containers");
        let snapshot = self.view.snapshot();
        let is_needed =
            |c: &Container| self.registry.need(c, observed, &snapshot) != SharedNeed::Nothing;
        let service = |c: &Arc<Container>| c.labels.service.clone();
        let name = Arc::clone(&self.app.name);
        if observed.containers.iter().any(|container| is_needed(container)) {
            // Containers that another app uses are left alone.
            let own: Vec<_> = observed.own().filter_map(service).collect();
            let result = self.context.compose.recreate_only(&name, project, &own).await;
            return self.finish_compose(project, result).await;
        }
        let without_orphans = blocker.taken_resource().is_some();
        let result = self.context.compose.recreate(&name, project, without_orphans).await;
        self.finish_compose(project, result).await
    }

    /// Returns whether Compose would create containers from the app's file that differ
    /// from the existing ones.
    pub(super) async fn is_outdated(&self, observed: &Observed) -> bool {
        let name = &self.app.name;
        let Some(project) = self.selector.project() else { return false };
        let compose = &self.context.compose;
        if compose.file(name).is_none() {
            return false;
        }
        let created: Vec<_> =
            observed.containers.iter().filter(|c| c.labels.config_hash.is_some()).collect();
        if created.is_empty()
            || created.iter().any(|c| c.labels.project.as_deref() != Some(project))
        {
            return false;
        }
        for container in &created {
            let image = self.context.engine.image_id(&container.image).await;
            if image.is_some_and(|image| image != container.image_id) {
                info!(app = %name, image = container.image, "the image has changed");
                return true;
            }
        }
        let created: Vec<_> = created.into_iter().map(|container| &**container).collect();
        let is_changed = compose.is_changed(name, project, &created).await;
        if is_changed {
            info!(app = %name, "the compose file has changed");
        }
        is_changed
    }

    /// Has Compose apply the changes. If it cannot, the app is started as it was.
    pub(super) async fn apply_changes(&mut self, observed: &Observed) -> Result<(), AttemptError> {
        match self.compose_up().await {
            Err(AttemptError::Failed(
                failure @ (WakeError::Compose(_)
                | WakeError::ImageMissing { .. }
                | WakeError::ImageNotFetched { .. }),
            )) => {
                warn!(app = %self.app.name, %failure, "changes not applied; starting it as it was");
                self.refresh(observed).await;
                let observed = self.observe();
                self.start(&observed).await
            }
            Ok(()) => {
                let observed = self.observe();
                let created = observed.containers.iter().filter(|c| c.labels.config_hash.is_some());
                self.context.compose.note_applied(&self.app.name, created.map(|c| &**c));
                Ok(())
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_recreation_mends_is_recognised() {
        let fixed_addresses =
            vec!["10.5.0.5".parse().expect("IPv4"), "fd00::5".parse().expect("IPv6")];
        let address = |n: usize| Some(StartBlocker::Address(fixed_addresses[n]));
        let (first, second) = (address(0), address(1));
        let web = Container { fixed_addresses, ..Container::sample("shop", "web", State::Exited) };
        let refused = |message: &str| EngineError::Refused { status: 500, message: message.into() };
        let not_found = |message: &str| EngineError::NotFound(message.into());
        for (error, expected) in [
            (not_found("No such container: b6e1d8b9"), Some(StartBlocker::Neighbour)),
            (not_found("No such container: web"), None),
            (not_found("network shop_default not found"), Some(StartBlocker::Network)),
            (
                EngineError::Conflict(
                    "cannot join network of a non running container: b6e1d8b9".into(),
                ),
                Some(StartBlocker::Neighbour),
            ),
            (
                refused(
                    "error gathering device information while adding custom device \
                     \"/dev/ttyUSB0\": no such file or directory",
                ),
                Some(StartBlocker::Device),
            ),
            (
                refused(
                    "error evaluating symlinks from mount source \"/v/_data\": lstat /v: no such \
                     file or directory",
                ),
                Some(StartBlocker::Volume),
            ),
            (
                refused(
                    "invalid mount config for type \"bind\": bind source path does not exist: /b",
                ),
                Some(StartBlocker::Volume),
            ),
            (refused("No such image: shop:7"), Some(StartBlocker::Image)),
            (
                refused(
                    "driver failed programming external connectivity on endpoint web (f71c): \
                     Bind for 0.0.0.0:18977 failed: port is already allocated",
                ),
                Some(StartBlocker::Port(18977)),
            ),
            (
                refused("listen tcp4 0.0.0.0:8080: bind: address already in use"),
                Some(StartBlocker::Port(8080)),
            ),
            (refused("Address already in use"), first),
            (refused("failed to set up container networking: Address already in use"), first),
            (
                refused("IPAM error: requested ip address fd00::5 is already allocated to b6e1"),
                second,
            ),
            (refused("exec: \"/nope\": permission denied"), None),
            (EngineError::Away("no such file".into()), None),
        ] {
            assert_eq!(StartBlocker::from_error(&error, &web), expected, "{error}");
        }
        // A container without a fixed address has none that could be taken.
        let any = Container::sample("shop", "web", State::Exited);
        assert_eq!(StartBlocker::from_error(&refused("Address already in use"), &any), None);
    }

    #[test]
    fn who_has_a_port_or_an_address_is_found_awake_and_paused() {
        let at = "10.5.0.5".parse().expect("IPv4");
        let holder = |state| Container {
            addresses: vec![at],
            ports: vec![8080],
            ..Container::sample("other", "web", state)
        };
        for blocker in [StartBlocker::Port(8080), StartBlocker::Address(at)] {
            for (state, is_held) in
                [(State::Running, true), (State::Paused, true), (State::Exited, false)]
            {
                assert_eq!(blocker.is_held_by(&holder(state)), is_held, "{blocker:?} {state:?}");
            }
        }
        assert!(!StartBlocker::Port(80).is_held_by(&holder(State::Running)));
    }
}
