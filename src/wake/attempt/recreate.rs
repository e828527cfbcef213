//! Containers that cannot be started as they are: only Compose can make them anew.

use std::net::IpAddr;
use std::sync::Arc;

use tracing::{debug, info, warn};

use super::{Attempt, Trouble};
use crate::domain::lifecycle::Failure;
use crate::wake::docker::{Container, EngineError, Snapshot, State};
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
    /// The address that it is to have is taken by another container.
    Address(IpAddr),
}

/// Who has what a container is to have alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder<'a> {
    /// An old container of the same app.
    Own,
    Other(&'a str),
    /// None of the engine's containers.
    Unknown,
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
            Self::Address(_) => "its address is taken",
        }
    }

    /// Whether a container has what is to be had by one alone. A paused one keeps it.
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

    /// What is taken, if that is what is wrong.
    fn taken(self) -> Option<String> {
        match self {
            Self::Port(port) => Some(format!("port {port}")),
            Self::Address(address) => Some(format!("address {address}")),
            _ => None,
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
        if let Some(taken) = gone.taken() {
            match gone.holder(&self.view.snapshot(), observed) {
                Holder::Other(name) => {
                    let reason = format!("{taken} is taken by container {name}");
                    return Err(Failure::Engine(reason).into());
                }
                Holder::Own => {}
                Holder::Unknown => return Err(error.into()),
            }
        }
        let is_there = self.means.compose.file(&self.app.name).is_some();
        if let (Some(project), true) = (self.selector.project().map(str::to_owned), is_there) {
            return self.make_anew(&project, observed, gone).await;
        }
        let name = &container.name;
        Err(match gone {
            Gone::Image => Failure::ImageMissing { image: container.image.clone() },
            Gone::Port(_) | Gone::Address(_) => Failure::Engine(format!(
                "{} of container {name} is taken by an old container of the app; remove that one",
                gone.taken().unwrap_or_default()
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
        let is_in_the_way = gone.taken().is_some();
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
                failure @ (Failure::Compose(_)
                | Failure::ImageMissing { .. }
                | Failure::ImageNotFetched { .. }),
            )) => {
                warn!(app = %self.app.name, %failure, "changes not applied; started as it was");
                self.look(observed).await;
                let observed = self.observe();
                self.start(&observed).await
            }
            Ok(()) => {
                let observed = self.observe();
                let made = observed.containers.iter().filter(|c| c.belongs.config_hash.is_some());
                self.means.compose.note_applied(&self.app.name, made.map(|c| &**c));
                Ok(())
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
        let fixed_addresses =
            vec!["10.5.0.5".parse().expect("IPv4"), "fd00::5".parse().expect("IPv6")];
        let address = |n: usize| Some(Gone::Address(fixed_addresses[n]));
        let (first, second) = (address(0), address(1));
        let web = Container { fixed_addresses, ..Container::sample("shop", "web", State::Exited) };
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
            (refused("Address already in use"), first),
            (refused("failed to set up container networking: Address already in use"), first),
            (
                refused("IPAM error: requested ip address fd00::5 is already allocated to b6e1"),
                second,
            ),
            (refused("exec: \"/nope\": permission denied"), None),
            (EngineError::Away("no such file".into()), None),
        ] {
            assert_eq!(Gone::of(&error, &web), expected, "{error}");
        }
        // Without an address of its own it has none that could be taken.
        let any = Container::sample("shop", "web", State::Exited);
        assert_eq!(Gone::of(&refused("Address already in use"), &any), None);
    }

    #[test]
    fn who_has_a_port_or_an_address_is_found_awake_and_paused() {
        let at = "10.5.0.5".parse().expect("IPv4");
        let holder = |state| Container {
            addresses: vec![at],
            ports: vec![8080],
            ..Container::sample("other", "web", state)
        };
        for gone in [Gone::Port(8080), Gone::Address(at)] {
            for (state, is_so) in
                [(State::Running, true), (State::Paused, true), (State::Exited, false)]
            {
                assert_eq!(gone.is_held_by(&holder(state)), is_so, "{gone:?} {state:?}");
            }
        }
        assert!(!Gone::Port(80).is_held_by(&holder(State::Running)));
    }
}
