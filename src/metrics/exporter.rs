//! Sums the counters of all threads into metric families when Prometheus asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::counter_registry::CounterRegistry;
use super::family::{PoolSources, counter, family, gauge};
use super::imbalances::Imbalances;
use super::labels::{Handshake, Limit};
use super::pool_counters::CountedFleet;
use super::process_counters::{ListenerCounters, PROCESS, STATUSES};
use super::thread_counters::CounterId;
use super::{Reloads, StateFileStatus};
use crate::certificates::CertificateEntry;
use crate::request::outcome::Rejection;
use crate::util::clock::Clock;

/// What the figures are read from.
pub struct Sources {
    /// Says which pools and backends there are.
    pub fleet: Arc<ArcSwap<CountedFleet>>,
    /// The counters of all threads.
    pub counters: Arc<CounterRegistry>,
    /// Returns the number of lines that the log writers have dropped.
    pub dropped_lines: Box<dyn Fn() -> u64 + Send + Sync>,
    /// How reloads went.
    pub reloads: Arc<Reloads>,
    /// Whether operator overrides are saved.
    pub state_file: Arc<StateFileStatus>,
    /// How evenly strategies spread visitors and load.
    pub imbalances: Arc<Imbalances>,
    /// Of the estimates of load.
    pub clock: Clock,
    /// The version of this program.
    pub version: &'static str,
}

/// Everything `/metrics` shows. A registry of our own: nothing is global.
pub struct Registry {
    registry: prometheus::Registry,
    pub(super) counters: Arc<CounterRegistry>,
    pub(super) imbalances: Arc<Imbalances>,
}

impl Registry {
    /// Shows what these say at the time of each scrape.
    ///
    /// # Errors
    /// Two collectors of one name, which would be a mistake in this module.
    pub fn new(sources: Sources) -> prometheus::Result<Self> {
        let registry = prometheus::Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let desc = Desc::new("signpost".into(), "All of signpost_*.".into(), vec![], Default::default())?;
        let (counters, imbalances) = (Arc::clone(&sources.counters), Arc::clone(&sources.imbalances));
        registry.register(Box::new(Signpost { desc, sources }))?;
        Ok(Self { registry, counters, imbalances })
    }

    /// The text format, version 0.0.4.
    ///
    /// # Errors
    /// What the encoder says of a family that breaks the format.
    pub fn text(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// All families of `signpost_*`; those of pools are in `strategies` and `pools`.
struct Signpost {
    desc: Desc,
    sources: Sources,
}

impl Collector for Signpost {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let fleet = self.sources.fleet.load();
        let mut families = vec![
            self.build_info(),
            self.responses(),
            self.aborted(),
            self.refusals(),
            self.limited(),
            self.panics(),
            self.dropped(),
        ];
        families.push(self.handshakes());
        families.extend(self.certificates());
        families.extend(self.connections());
        families.extend(self.reloads());
        families.push(self.state_file());
        let pools = PoolSources {
            fleet: &fleet,
            counters: &self.sources.counters,
            imbalances: &self.sources.imbalances,
            now: self.sources.clock.now(),
        };
        families.extend(pools.strategy_families());
        families.extend(pools.pool_families());
        // A family may not be empty.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

impl Signpost {
    fn sum(&self, id: CounterId) -> u64 {
        self.sources.counters.sum(id)
    }

    fn build_info(&self) -> MetricFamily {
        let labels = [("version", self.sources.version)];
        family(
            "signpost_build_info",
            "Always 1; the label is the version of the program.",
            MetricType::GAUGE,
            [gauge(&labels, 1.0)],
        )
    }

    fn responses(&self) -> MetricFamily {
        let metrics = STATUSES.iter().enumerate().map(|(number, code)| {
            counter(&[("code", code.as_str())], self.sum(PROCESS.responses.at(number)))
        });
        family(
            "signpost_responses_total",
            "Responses sent on the traffic listeners, by status code.",
            MetricType::COUNTER,
            metrics,
        )
    }

    fn aborted(&self) -> MetricFamily {
        family(
            "signpost_responses_aborted_total",
            "Responses on the traffic listeners that were not written to the socket in full.",
            MetricType::COUNTER,
            [counter(&[], self.sum(PROCESS.aborted))],
        )
    }

    fn refusals(&self) -> MetricFamily {
        let metrics = Rejection::ALL.iter().map(|&rejection| {
            counter(&[("reason", rejection.name())], self.sum(PROCESS.rejections.of(rejection)))
        });
        family(
            "signpost_rejected_requests_total",
            "Requests answered with an error status, by reason.",
            MetricType::COUNTER,
            metrics,
        )
    }

    fn limited(&self) -> MetricFamily {
        let metrics = Limit::ALL
            .iter()
            .map(|&limit| counter(&[("limit", limit.name())], self.sum(PROCESS.limits.of(limit))));
        family(
            "signpost_limit_hits_total",
            "Times that a limit was hit, by limit.",
            MetricType::COUNTER,
            metrics,
        )
    }

    fn panics(&self) -> MetricFamily {
        family(
            "signpost_panics_total",
            "Panics caught while a request or a change was handled.",
            MetricType::COUNTER,
            [counter(&[], self.sum(PROCESS.panics))],
        )
    }

    fn handshakes(&self) -> MetricFamily {
        let metrics = Handshake::ALL.iter().map(|&handshake| {
            counter(&[("result", handshake.name())], self.sum(PROCESS.handshakes.of(handshake)))
        });
        family("signpost_tls_handshakes_total", "TLS handshakes, by result.", MetricType::COUNTER, metrics)
    }

    /// When each certificate ends, and whether its files are what is served.
    fn certificates(&self) -> [MetricFamily; 2] {
        let shelf = self.sources.counters.certificates().map(|published| published.load_full());
        let of = |figure: fn(&CertificateEntry) -> f64| {
            let metric = move |place: &CertificateEntry| {
                let name = place.files.cert.to_string_lossy();
                gauge(&[("name", &name)], figure(place))
            };
            shelf.iter().flat_map(|shelf| shelf.places()).map(metric).collect::<Vec<_>>()
        };
        [
            family(
                "signpost_certificate_expiry_timestamp_seconds",
                "Unix time at which the served certificate expires, in seconds.",
                MetricType::GAUGE,
                of(|place| place.pair.ends() as f64),
            ),
            family(
                "signpost_certificate_last_reload_successful",
                "1 if the certificate's files were valid when they were last read, otherwise 0.",
                MetricType::GAUGE,
                of(|place| f64::from(u8::from(place.last_read_successful))),
            ),
        ]
    }

    fn dropped(&self) -> MetricFamily {
        family(
            "signpost_log_lines_dropped_total",
            "Log and access log lines dropped because the output was too slow or could not be written.",
            MetricType::COUNTER,
            [counter(&[], (self.sources.dropped_lines)())],
        )
    }

    fn connections(&self) -> [MetricFamily; 2] {
        let of = |counters: &ListenerCounters| (self.sum(counters.opened), self.sum(counters.closed));
        let listeners = self.sources.counters.listeners();
        let figures: Vec<_> =
            listeners.iter().map(|(address, counters)| (address.as_str(), of(counters))).collect();
        let open = figures.iter().map(|&(address, (opened, closed))| {
            gauge(&[("listener", address)], opened.saturating_sub(closed) as f64)
        });
        let total = figures.iter().map(|&(address, (opened, _))| counter(&[("listener", address)], opened));
        [
            family(
                "signpost_connections",
                "Connections that are open, by listener.",
                MetricType::GAUGE,
                open,
            ),
            family(
                "signpost_connections_total",
                "Connections accepted, by listener.",
                MetricType::COUNTER,
                total,
            ),
        ]
    }

    fn reloads(&self) -> [MetricFamily; 2] {
        let Reloads { successes, errors, last_successful } = &*self.sources.reloads;
        let results = [("success", successes), ("error", errors)]
            .map(|(result, count)| counter(&[("result", result)], count.load(Ordering::Relaxed)));
        let last = f64::from(u8::from(last_successful.load(Ordering::Relaxed)));
        [
            family(
                "signpost_config_reloads_total",
                "Reloads of the settings, by result.",
                MetricType::COUNTER,
                results,
            ),
            family(
                "signpost_config_last_reload_successful",
                "1 if the last reload of the settings succeeded, otherwise 0.",
                MetricType::GAUGE,
                [gauge(&[], last)],
            ),
        ]
    }

    fn state_file(&self) -> MetricFamily {
        let saved = self.sources.state_file.is_saved().map(u8::from).map(f64::from);
        family(
            "signpost_state_file_last_write_successful",
            "1 if admin.state_file is valid and the last write to it succeeded, otherwise 0.",
            MetricType::GAUGE,
            saved.map(|saved| gauge(&[], saved)),
        )
    }
}
