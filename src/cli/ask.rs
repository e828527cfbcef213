//! Questions to the running process, and what goes wrong with them.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use http::{HeaderName, Method, header};
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::CliError;
use super::client::Listener;
use crate::config::Config;

/// How long the process may take to answer: longer than a read of the archive.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Longest problem document that is read.
const MAX_PROBLEM: usize = 64 * 1024;

/// The operator's listener of the running process.
#[derive(Debug)]
pub(super) struct Ops<'a>(Listener<'a>);

/// What a document is sent with.
const JSON: (HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

/// The body of an error response.
#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
}

impl<'a> Ops<'a> {
    pub(super) fn new(config: &'a Config) -> Result<Self, CliError> {
        Listener::ops(config).map(Self)
    }

    /// Returns the body of a response with status 200.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.ask(Method::GET, path).await
    }

    /// The same, of a request with another method.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, CliError> {
        let whole = async {
            let body = self.open(method, path, &[]).await?.into_body();
            let body = body.collect().await.map_err(|error| self.away(error))?;
            Ok::<_, CliError>(body.to_bytes())
        };
        let body = timeout(TIMEOUT, whole).await;
        let body =
            body.unwrap_or_else(|_| Err(self.away(io::Error::from(io::ErrorKind::TimedOut))))?;
        serde_json::from_slice(&body).map_err(|error| self.invalid(error))
    }

    /// Sends a document; returns the body of a response with a status of success.
    pub(super) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        document: &serde_json::Value,
    ) -> Result<T, CliError> {
        let body = document.to_string().into();
        let whole = async {
            let sent = self.0.send(method, path, &[JSON], body).await;
            let response = self.succeeded(sent.map_err(|error| self.away(error))?).await?;
            let body = response.into_body().collect().await.map_err(|error| self.away(error))?;
            Ok::<_, CliError>(body.to_bytes())
        };
        let body = timeout(TIMEOUT, whole).await;
        let body =
            body.unwrap_or_else(|_| Err(self.away(io::Error::from(io::ErrorKind::TimedOut))))?;
        serde_json::from_slice(&body).map_err(|error| self.invalid(error))
    }

    /// Returns a response with a status of success, whose body has not been read yet. The
    /// problem of any other response is the error.
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
    ) -> Result<http::Response<Incoming>, CliError> {
        let response = self.0.open(method, path, headers).await;
        self.succeeded(response.map_err(|error| self.away(error))?).await
    }

    /// Returns the response if its status is one of success, or its problem.
    async fn succeeded(
        &self,
        response: http::Response<Incoming>,
    ) -> Result<http::Response<Incoming>, CliError> {
        let Self(listener) = self;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = Limited::new(response.into_body(), MAX_PROBLEM).collect().await;
        let body = body.map(Collected::to_bytes).unwrap_or_default();
        Err(match serde_json::from_slice(&body) {
            // Its words are for programs.
            Ok(Problem { detail }) if status != 401 => match status.as_u16() {
                404 => CliError::NotFound(detail),
                _ => CliError::Message(detail),
            },
            _ => CliError::Message(format!("{} answered with status {status}", listener.addr)),
        })
    }

    /// Reads a part of a response.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        value: serde_json::Value,
    ) -> Result<T, CliError> {
        serde_json::from_value(value).map_err(|error| self.invalid(error))
    }

    fn away(&self, error: impl Display) -> CliError {
        let hint = "is `nightporter serve` running, with this configuration?";
        CliError::Message(format!("{}: {error}; {hint}", self.0.addr))
    }

    fn invalid(&self, error: impl Display) -> CliError {
        CliError::Message(format!("{}: invalid response: {error}", self.0.addr))
    }
}

/// Encodes one segment of a path.
pub(super) fn segment(text: &str) -> impl Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}
