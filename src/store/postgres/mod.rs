//! stub
use super::{AppRow, Peer, Terminal, Touched, Unavailable};
use crate::config::Secret;
use crate::domain::identity::Identity;
use std::sync::Arc;
use std::time::SystemTime;
#[derive(Debug)]
pub struct Postgres;
impl Postgres {
    pub async fn watch(&self) -> std::convert::Infallible {
        todo!()
    }
    pub fn health(&self) -> super::Health {
        todo!()
    }
    pub async fn app_names(&self) -> Result<Vec<String>, Unavailable> {
        todo!()
    }
    pub async fn app(&self, _name: &str) -> Result<Option<AppRow>, Unavailable> {
        todo!()
    }
    pub async fn identity(&self) -> Result<Option<Identity>, Unavailable> {
        todo!()
    }
    pub async fn terminal(&self, _id: &str) -> Result<Option<Terminal>, Unavailable> {
        todo!()
    }
    pub async fn terminals(&self) -> Result<Vec<Terminal>, Unavailable> {
        todo!()
    }
    pub async fn peers(&self) -> Result<Vec<Peer>, Unavailable> {
        todo!()
    }
    pub async fn terminal_secret(&self) -> Result<Option<Secret>, Unavailable> {
        todo!()
    }
    pub async fn ensure_terminal_secret(&self) -> Result<Secret, Unavailable> {
        todo!()
    }
    pub async fn management_secret(&self) -> Result<Option<Secret>, Unavailable> {
        todo!()
    }
    pub async fn add_terminal(&self, _terminal: &Terminal) -> Result<bool, Unavailable> {
        todo!()
    }
    pub async fn remove_terminal(&self, _id: &str) -> Result<bool, Unavailable> {
        todo!()
    }
    pub async fn write_touches(
        &self,
        _touched: Touched,
        _uses: &[(Arc<str>, SystemTime)],
    ) -> Result<(), Unavailable> {
        todo!()
    }
}
