//! Signpost inside another program: an [`Engine`] and its [`Dispatcher`], which is a [`tower::Service`].

mod dispatcher;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use crate::control::Event;
use crate::control_plane::{self, ControlPlane, dispatch_config};
use crate::dispatch::client_limits::ClientLimits;
use crate::readiness::Readiness;
use crate::settings::Settings;
pub use dispatcher::Dispatcher;

/// Pools at work without listeners: builds and publishes the fleet, checks the health of backends, counts.
///
/// All of that runs on a thread of its own, with a runtime of its own, so it needs nothing of the caller's. It ends when
/// the engine is dropped; dispatchers then go on with the last fleet.
///
/// Of the settings, `[pools]` and these keys of `[server]` have an effect: `error_pages`, `trusted_proxies`,
/// `client_ip_header`, and of `limits` `max_target_bytes`, `max_headers`, `max_probes` and
/// `requests_per_second_per_client`. Listeners, TLS, the admin API and logs are the application's.
pub struct Engine {
    plane: ControlPlane,
    dispatcher: Dispatcher,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the engine. Returns when the first fleet is published; health checks begin at once, see [`Self::ready`].
    ///
    /// # Errors
    /// A thread or a runtime cannot be created.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let settings = signpost::settings::Settings::from_toml(
    ///     "[pools.site]\nbackends = [\"https://a.example.com\", \"https://b.example.com\"]",
    /// )
    /// .map_err(|errors| errors[0].to_string())?;
    /// let engine = signpost::Engine::start(&settings)?;
    /// engine.ready().await;
    /// let app: axum::Router = axum::Router::new().fallback_service(engine.dispatcher());
    /// # Ok(()) }
    /// ```
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let limits = &settings.server.limits;
        let clients = ClientLimits::new(limits.requests_per_second_per_client, 0);
        let stop = CancellationToken::new();
        let (started, start) = std::sync::mpsc::channel();
        let control = {
            let (settings, stop, clients) = (settings.clone(), stop.clone(), Arc::clone(&clients));
            move || {
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
                LocalSet::new().block_on(&runtime, async {
                    match ControlPlane::new(&settings, Box::new(|| 0)) {
                        Ok((plane, tasks)) => {
                            tasks.start(&plane);
                            if clients.limits_requests() {
                                tokio::task::spawn_local(control_plane::sweep(clients));
                            }
                            let _ = started.send(Ok(plane));
                            stop.cancelled().await;
                        }
                        Err(error) => drop(started.send(Err(error))),
                    }
                });
            }
        };
        let thread = thread::Builder::new().name("signpost-control".to_owned()).spawn(control)?;
        let plane = start.recv().map_err(io::Error::other)??;
        let mut config = dispatch_config(settings, &clients, &Readiness::default());
        // Readiness is the application's to tell.
        config.health_path = None;
        let dispatcher = Dispatcher::new(plane.clone(), config);
        Ok(Self { plane, dispatcher, stop, thread: Some(thread) })
    }

    /// The service that redirects requests. Cheap to clone.
    pub fn dispatcher(&self) -> Dispatcher {
        self.dispatcher.clone()
    }

    /// Waits until every backend has had its first health check, or `startup_timeout` of its pool has expired. Requests
    /// that come before are redirected too, to backends whose health is unknown.
    pub async fn ready(&self) {
        let mut settled = self.plane.settled.clone();
        // Fails only after the engine has stopped.
        let _ = settled.wait_for(|settled| *settled).await;
    }

    /// Replaces the pools. Returns when new requests see them; backends that stay keep their health and their load.
    /// The `[server]` section of these settings is not read, but for `error_pages`.
    pub async fn update(&self, settings: &Settings) {
        let (published, done) = oneshot::channel();
        let (pools, error_pages) = (settings.pools.clone(), settings.server.error_pages.clone());
        let sent = self.plane.events.send(Event::Pools { pools, error_pages, published }).await;
        if sent.is_ok() {
            let _ = done.await;
        }
    }

    /// Every metric, in the text format of Prometheus (version 0.0.4).
    ///
    /// # Errors
    /// A metric cannot be encoded, which is a bug.
    pub fn metrics(&self) -> io::Result<Vec<u8>> {
        self.plane.exporter.text().map_err(io::Error::other)
    }
}

impl Drop for Engine {
    /// Stops the thread and waits for it, some microseconds.
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("dispatcher", &self.dispatcher).finish_non_exhaustive()
    }
}
