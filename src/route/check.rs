//! A request of our own to a worker: is it well?

use std::io;

use hyper::{Request, StatusCode, header};

use super::upload::Upload;
use super::{Front, ListenerId, Upstream};

/// Who asks, in the app's logs.
const USER_AGENT: &str = concat!("cohortd/", env!("CARGO_PKG_VERSION"), " (health check)");

impl Front {
    /// Asks a worker for a path, over a connection of its own, and lets it go when the answer's
    /// head is there.
    ///
    /// # Errors
    /// The worker can't be reached, or answers with something else than HTTP.
    pub async fn check(&self, upstream: &Upstream, path: &str) -> io::Result<StatusCode> {
        let request = Request::get(path)
            .header(header::HOST, "localhost")
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Upload::default())
            .map_err(io::Error::other)?;
        let _needing = self.needs_a_worker().await;
        let mut line = upstream.connect_anew(ListenerId(0), None, &self.pairs).await?;
        let response = line.sender.send_request(request).await.map_err(io::Error::other)?;
        Ok(response.status())
    }
}
