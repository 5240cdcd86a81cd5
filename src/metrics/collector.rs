//! Sums the slabs into metric families when Prometheus asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use tracing_appender::non_blocking::ErrorCounter;

use super::{
    CLOSED_AT, CODES, CODES_AT, COMPARED_AT, Comparison, HANDSHAKES_AT, Handshake, Imbalances, LIMITS_AT,
    Limit, OPENED_AT, PANICS_AT, PICK_BOUNDS, PICKS_AT, PROBE_BOUNDS, PROBE_TIMES_SIZE, Probe, REFUSALS_AT,
    Reloads, Roll, SHADOW_AT, Told,
};
use crate::certificates::Place;
use crate::clock::Clock;
use crate::fleet::{Arm, Backend, Fleet, Keeps, Pool, Role, Slot, State, Tier};
use crate::imbalance::Measure;
use crate::outcome::{Decision, Refusal};
use crate::pin::Rejection;

/// What the figures are read from.
pub struct Sources {
    /// Says which pools and backends there are.
    pub fleet: Arc<ArcSwap<Fleet>>,
    /// Who counts, and what for.
    pub roll: Arc<Roll>,
    /// Of every log writer.
    pub dropped_lines: Vec<ErrorCounter>,
    /// How reloads went.
    pub reloads: Arc<Reloads>,
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
    pub(super) roll: Arc<Roll>,
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
        let (roll, imbalances) = (Arc::clone(&sources.roll), Arc::clone(&sources.imbalances));
        registry.register(Box::new(Signpost { desc, sources }))?;
        Ok(Self { registry, roll, imbalances })
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
            self.refusals(),
            self.limited(),
            self.panics(),
            self.dropped(),
        ];
        families.push(self.handshakes());
        families.extend(self.certificates());
        families.extend(self.connections());
        families.extend(self.reloads());
        families.extend([self.redirects(&fleet), self.picks(&fleet)]);
        families.extend(self.strategies(&fleet));
        families.extend(self.imbalances());
        families.extend(self.standings(&fleet));
        families.extend(self.loads(&fleet));
        families.extend([self.rejected_pins(&fleet), fail_open(&fleet), spilled(&fleet)]);
        families.extend([self.probes(&fleet), self.probe_times(&fleet), self.reports(&fleet)]);
        // A family may not be empty.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

impl Signpost {
    fn sum(&self, slot: Slot, offset: usize) -> u64 {
        self.sources.roll.sum(slot, offset)
    }

    fn build_info(&self) -> MetricFamily {
        let labels = [("version", self.sources.version)];
        family("signpost_build_info", "What was built; always 1.", MetricType::GAUGE, [gauge(&labels, 1.0)])
    }

    fn responses(&self) -> MetricFamily {
        let metrics = CODES
            .iter()
            .enumerate()
            .map(|(at, code)| counter(&[("code", code.as_str())], self.sum(Slot(0), CODES_AT + at)));
        family("signpost_responses_total", "Answers on the traffic listeners.", MetricType::COUNTER, metrics)
    }

    fn refusals(&self) -> MetricFamily {
        let metrics = Refusal::ALL.iter().map(|&refusal| {
            counter(&[("reason", refusal.reason())], self.sum(Slot(0), REFUSALS_AT + refusal as usize))
        });
        family("signpost_refusals_total", "Requests that were not redirected.", MetricType::COUNTER, metrics)
    }

    fn limited(&self) -> MetricFamily {
        let metrics = Limit::ALL
            .iter()
            .map(|&limit| counter(&[("limit", limit.name())], self.sum(Slot(0), LIMITS_AT + limit as usize)));
        family("signpost_limited_total", "Times that a limit was hit.", MetricType::COUNTER, metrics)
    }

    fn panics(&self) -> MetricFamily {
        family(
            "signpost_panics_total",
            "Requests and changes that were given up because of a mistake in the program.",
            MetricType::COUNTER,
            [counter(&[], self.sum(Slot(0), PANICS_AT))],
        )
    }

    fn handshakes(&self) -> MetricFamily {
        let metrics = Handshake::ALL.iter().map(|&handshake| {
            counter(&[("result", handshake.name())], self.sum(Slot(0), HANDSHAKES_AT + handshake as usize))
        });
        family(
            "signpost_tls_handshakes_total",
            "TLS handshakes, by how they went.",
            MetricType::COUNTER,
            metrics,
        )
    }

    /// When each certificate ends, and whether its files are what is served.
    fn certificates(&self) -> [MetricFamily; 2] {
        let shelf = self.sources.roll.certificates().map(|published| published.load_full());
        let of = |figure: fn(&Place) -> f64| {
            let metric = move |place: &Place| {
                let name = place.files.cert.to_string_lossy();
                gauge(&[("name", &name)], figure(place))
            };
            shelf.iter().flat_map(|shelf| shelf.places()).map(metric).collect::<Vec<_>>()
        };
        [
            family(
                "signpost_certificate_expiry_timestamp_seconds",
                "When the certificate that is served ends.",
                MetricType::GAUGE,
                of(|place| place.pair.ends() as f64),
            ),
            family(
                "signpost_certificate_last_reload_successful",
                "Whether the certificate's files were right when they were last read.",
                MetricType::GAUGE,
                of(|place| f64::from(u8::from(place.last_read_successful))),
            ),
        ]
    }

    fn dropped(&self) -> MetricFamily {
        let lines: usize = self.sources.dropped_lines.iter().map(ErrorCounter::dropped_lines).sum();
        family(
            "signpost_log_lines_dropped_total",
            "Lines of log and access log that were dropped because nobody read them fast enough.",
            MetricType::COUNTER,
            [counter(&[], lines as u64)],
        )
    }

    fn connections(&self) -> [MetricFamily; 2] {
        let of = |slot| (self.sum(slot, OPENED_AT), self.sum(slot, CLOSED_AT));
        let listeners = self.sources.roll.listeners();
        let figures: Vec<_> = listeners.iter().map(|(address, slot)| (address.as_str(), of(*slot))).collect();
        let open = figures.iter().map(|&(address, (opened, closed))| {
            gauge(&[("listener", address)], opened.saturating_sub(closed) as f64)
        });
        let total = figures.iter().map(|&(address, (opened, _))| counter(&[("listener", address)], opened));
        [
            family("signpost_connections", "Connections open now.", MetricType::GAUGE, open),
            family("signpost_connections_total", "Connections accepted.", MetricType::COUNTER, total),
        ]
    }

    fn reloads(&self) -> [MetricFamily; 2] {
        let Reloads { successes, errors, last_successful } = &*self.sources.reloads;
        let results = [("success", successes), ("error", errors)]
            .map(|(result, count)| counter(&[("result", result)], count.load(Ordering::Relaxed)));
        let last = f64::from(u8::from(last_successful.load(Ordering::Relaxed)));
        [
            family(
                "signpost_settings_reloads_total",
                "Times that settings were read again.",
                MetricType::COUNTER,
                results,
            ),
            family(
                "signpost_settings_last_reload_successful",
                "Whether the last reload was published.",
                MetricType::GAUGE,
                [gauge(&[], last)],
            ),
        ]
    }

    fn redirects(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in &fleet.pools {
            for (arm, backend, slot) in counted(pool).filter(|(arm, ..)| sends(pool, *arm)) {
                metrics.extend(Decision::ALL.map(|decision| {
                    let labels = [
                        ("pool", &*pool.roster.name),
                        ("strategy", pool.roster.arms[arm].kind.name()),
                        ("backend", &*backend.id),
                        ("decision", decision.name()),
                    ];
                    counter(&labels, self.sum(slot, decision as usize))
                }));
            }
        }
        family(
            "signpost_redirects_total",
            "Visitors sent to a backend, and why there.",
            MetricType::COUNTER,
            metrics,
        )
    }

    fn picks(&self, fleet: &Fleet) -> MetricFamily {
        let metrics = arms(fleet).map(|(pool, _, arm)| {
            let labels = [("pool", &*pool.roster.name), ("strategy", arm.kind.name())];
            self.histogram(&labels, arm.slot, PICKS_AT, &PICK_BOUNDS, 1e9)
        });
        family(
            "signpost_pick_duration_seconds",
            "What a pick by the strategy takes, one in 61 timed; some 25 ns of it are the clock's own.",
            MetricType::HISTOGRAM,
            metrics,
        )
    }

    /// What each strategy of a pool has picked, and how that compares with what was chosen.
    fn strategies(&self, fleet: &Fleet) -> [MetricFamily; 3] {
        let live = arms(fleet).map(|(pool, index, arm)| {
            let is = f64::from(u8::from(pool.roles.live == index));
            gauge(&[("pool", &*pool.roster.name), ("strategy", arm.kind.name())], is)
        });
        let mut picks = Vec::new();
        for pool in &fleet.pools {
            for (arm, backend, slot) in counted(pool) {
                let of = |role: Role, count| {
                    let labels = [
                        ("pool", &*pool.roster.name),
                        ("strategy", pool.roster.arms[arm].kind.name()),
                        ("role", role.name()),
                        ("backend", &*backend.id),
                    ];
                    counter(&labels, count)
                };
                if sends(pool, arm) {
                    let role = if pool.roles.of(arm) == Role::Split { Role::Split } else { Role::Live };
                    let picked = [Decision::Picked, Decision::Repinned];
                    picks.push(of(
                        role,
                        picked.map(|decision| self.sum(slot, decision as usize)).iter().sum(),
                    ));
                }
                if shadows(pool, arm) {
                    picks.push(of(Role::Shadow, self.sum(slot, SHADOW_AT)));
                }
            }
        }
        let compared = arms(fleet).filter(|(pool, index, _)| shadows(pool, *index));
        let compared = compared.flat_map(|(pool, _, arm)| {
            Comparison::ALL.map(|comparison| {
                let labels = [
                    ("pool", &*pool.roster.name),
                    ("strategy", arm.kind.name()),
                    ("result", comparison.name()),
                ];
                counter(&labels, self.sum(arm.slot, COMPARED_AT + comparison as usize))
            })
        });
        [
            family(
                "signpost_strategy_live",
                "1 for the strategy that sends a pool's visitors now, those of a split aside.",
                MetricType::GAUGE,
                live,
            ),
            family(
                "signpost_strategy_picks_total",
                "Picks by each strategy: a shadow's change nothing for the visitor.",
                MetricType::COUNTER,
                picks,
            ),
            family(
                "signpost_shadow_comparisons_total",
                "A shadow's picks beside where the visitor was sent: by another strategy, or by a pin.",
                MetricType::COUNTER,
                compared,
            ),
        ]
    }

    /// How evenly strategies spread visitors, and how even the load is that comes of it.
    fn imbalances(&self) -> [MetricFamily; 4] {
        let [mut dispatches, mut now, mut sums, mut observed] = [const { Vec::new() }; 4];
        for figures in self.sources.imbalances.shown() {
            let of = [("pool", &*figures.pool), ("strategy", figures.strategy.name())];
            let measured = |measure: Measure| ("measure", measure.name());
            dispatches.extend(figures.dispatches.into_iter().flat_map(|imbalance| {
                let role = ("role", figures.role.name());
                Measure::ALL
                    .map(|measure| gauge(&[of[0], of[1], role, measured(measure)], imbalance.get(measure)))
            }));
            let Some(load) = &figures.load else { continue };
            let source = ("source", load.source.name());
            now.extend(load.now.into_iter().flat_map(|imbalance| {
                Measure::ALL
                    .map(|measure| gauge(&[of[0], of[1], source, measured(measure)], imbalance.get(measure)))
            }));
            sums.extend(Measure::ALL.map(|measure| {
                let sum = load.so_far.sums[measure as usize];
                counter(&[of[0], of[1], source, measured(measure)], sum)
            }));
            observed.push(counter(&[of[0], of[1], source], load.so_far.observed));
        }
        [
            family(
                "signpost_dispatch_imbalance",
                "How unevenly a strategy sent visitors of the last minute or so, per weight; a shadow: would have.",
                MetricType::GAUGE,
                dispatches,
            ),
            family(
                "signpost_load_imbalance",
                "How uneven the load is that a strategy makes, over capacity; modelled: would make.",
                MetricType::GAUGE,
                now,
            ),
            family(
                "signpost_load_imbalance_seconds_total",
                "The same summed up over time, the beginning of each turn left out.",
                MetricType::COUNTER,
                sums,
            ),
            family(
                "signpost_load_observed_seconds_total",
                "For how long that was summed up.",
                MetricType::COUNTER,
                observed,
            ),
        ]
    }

    /// A histogram whose buckets, one more for what is over, and sum stand at `at`; `unit` of its counts are a second.
    fn histogram(&self, labels: &[(&str, &str)], slot: Slot, at: usize, bounds: &[u64], unit: f64) -> Metric {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(bounds.len());
        for (index, &bound) in bounds.iter().enumerate() {
            count += self.sum(slot, at + index);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound as f64 / unit);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count + self.sum(slot, at + bounds.len()));
        histogram.set_sample_sum(self.sum(slot, at + bounds.len() + 1) as f64 / unit);
        let mut metric = Metric::default();
        metric.set_label(pairs(labels));
        metric.set_histogram(histogram);
        metric
    }

    fn probes(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in fleet.pools.iter().filter(|pool| pool.roster.is_probed) {
            for backend in &pool.roster.backends {
                metrics.extend(Probe::ALL.map(|result| {
                    let labels =
                        [("pool", &*pool.roster.name), ("backend", &*backend.id), ("result", result.name())];
                    counter(&labels, self.sum(backend.probes, result as usize))
                }));
            }
        }
        family("signpost_probes_total", "Health checks, and how they ended.", MetricType::COUNTER, metrics)
    }

    fn probe_times(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in fleet.pools.iter().filter(|pool| pool.roster.is_probed) {
            metrics.extend(Probe::ALL.map(|result| {
                let labels = [("pool", &*pool.roster.name), ("result", result.name())];
                let at = result as usize * PROBE_TIMES_SIZE;
                self.histogram(&labels, pool.roster.probe_times, at, &PROBE_BOUNDS, 1e6)
            }));
        }
        family("signpost_probe_duration_seconds", "What health checks took.", MetricType::HISTOGRAM, metrics)
    }

    fn reports(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in fleet.pools.iter().filter(|pool| pool.roster.reports_expire.is_some()) {
            for backend in &pool.roster.backends {
                metrics.extend(Told::ALL.map(|told| {
                    let labels =
                        [("pool", &*pool.roster.name), ("backend", &*backend.id), ("result", told.name())];
                    counter(&labels, self.sum(backend.reports, told as usize))
                }));
            }
        }
        family(
            "signpost_load_reports_total",
            "Load reports of backends, and what became of them.",
            MetricType::COUNTER,
            metrics,
        )
    }

    /// What is known of each backend's load.
    fn loads(&self, fleet: &Fleet) -> [MetricFamily; 3] {
        let now = self.sources.clock.now();
        let [mut loads, mut stale, mut shares] = [const { Vec::new() }; 3];
        for pool in fleet.pools.iter().filter(|pool| pool.roster.reports_expire.is_some()) {
            let of_pool = ("pool", &*pool.roster.name);
            shares.extend(pool.own_share.get().map(|share| gauge(&[of_pool], share)));
            for (index, backend) in pool.roster.backends.iter().enumerate() {
                let labels = [of_pool, ("backend", &*backend.id)];
                let load = pool.load(pool.roles.live, index, now);
                stale.push(gauge(&labels, f64::from(u8::from(load.is_none()))));
                let utilisation =
                    load.and_then(|load| load.utilisation(pool.standings[index].weight.get().into()));
                loads.extend(utilisation.map(|utilisation| gauge(&labels, utilisation)));
            }
        }
        [
            family(
                "signpost_backend_load",
                "The load of a backend as it is estimated now: what is in use over capacity, or weight where that is unknown.",
                MetricType::GAUGE,
                loads,
            ),
            family(
                "signpost_backend_load_stale",
                "1 for a backend that has not reported its load of late: it has its turn as in round_robin.",
                MetricType::GAUGE,
                stale,
            ),
            family(
                "signpost_pool_own_share",
                "The share of a pool's visitors that this process sends, as it is learnt.",
                MetricType::GAUGE,
                shares,
            ),
        ]
    }

    /// Where each backend stands.
    fn standings(&self, fleet: &Fleet) -> [MetricFamily; 4] {
        let mut states = Vec::new();
        let mut eligible = Vec::new();
        let mut weights = Vec::new();
        let mut drained = Vec::new();
        for pool in &fleet.pools {
            for ((backend, standing), keeps) in
                pool.roster.backends.iter().zip(&pool.standings).zip(&pool.keeps)
            {
                let [of_pool, of_backend] = [("pool", &*pool.roster.name), ("backend", &*backend.id)];
                states.extend(State::ALL.map(|state| {
                    let is = f64::from(u8::from(standing.state() == state));
                    gauge(&[of_pool, of_backend, ("state", state.name())], is)
                }));
                let is = f64::from(u8::from(*keeps == Keeps::AndRenews));
                eligible.push(gauge(&[of_pool, of_backend], is));
                weights.push(gauge(&[of_pool, of_backend], standing.weight_in_effect()));
                drained.extend(standing.drained_at.map(|at| gauge(&[of_pool, of_backend], at as f64)));
            }
        }
        [
            family(
                "signpost_backend_state",
                "1 for the state that a backend is in.",
                MetricType::GAUGE,
                states,
            ),
            family(
                "signpost_backend_eligible",
                "1 for a backend that new visitors may be sent to.",
                MetricType::GAUGE,
                eligible,
            ),
            family(
                "signpost_backend_weight",
                "A backend's weight in effect: in slow start some tenths of it.",
                MetricType::GAUGE,
                weights,
            ),
            family(
                "signpost_backend_drained_timestamp_seconds",
                "When no pin to a draining backend can be valid any more.",
                MetricType::GAUGE,
                drained,
            ),
        ]
    }

    fn rejected_pins(&self, fleet: &Fleet) -> MetricFamily {
        let mut metrics = Vec::new();
        for pool in fleet.pools.iter().filter(|pool| pool.roster.pins.is_some()) {
            metrics.extend(Rejection::ALL.map(|rejection| {
                let labels = [("pool", &*pool.roster.name), ("reason", rejection.reason())];
                counter(&labels, self.sum(pool.roster.slot, rejection as usize))
            }));
        }
        family("signpost_pins_rejected_total", "Pins that did not count.", MetricType::COUNTER, metrics)
    }
}

/// Every strategy of every pool, with its place in the roster.
fn arms(fleet: &Fleet) -> impl Iterator<Item = (&Pool, usize, &Arm)> {
    fleet
        .pools
        .iter()
        .flat_map(|pool| pool.roster.arms.iter().enumerate().map(move |(index, arm)| (&**pool, index, arm)))
}

/// Every backend of a pool under each of its strategies, by its place in the roster, and where that is counted.
fn counted(pool: &Pool) -> impl Iterator<Item = (usize, &Backend, Slot)> {
    let arms = pool.roster.arms.iter().enumerate();
    arms.flat_map(|(index, arm)| {
        pool.roster.backends.iter().zip(&arm.counts).map(move |(backend, slot)| (index, backend, *slot))
    })
}

/// Whether a strategy sends visitors, now or in its turn.
fn sends(pool: &Pool, arm: usize) -> bool {
    pool.roles.of(arm) != Role::Shadow || pool.roster.rotate.is_some()
}

/// Whether it only runs beside, now or while another has its turn.
fn shadows(pool: &Pool, arm: usize) -> bool {
    pool.roles.of(arm) == Role::Shadow || pool.roster.rotate.is_some()
}

fn fail_open(fleet: &Fleet) -> MetricFamily {
    let metrics = fleet.pools.iter().map(|pool| {
        let is = f64::from(u8::from(pool.tier == Tier::FailOpen));
        gauge(&[("pool", &*pool.roster.name)], is)
    });
    family(
        "signpost_pool_fail_open",
        "1 while visitors are sent to backends that are down, because too many are.",
        MetricType::GAUGE,
        metrics,
    )
}

fn spilled(fleet: &Fleet) -> MetricFamily {
    let pools = fleet.pools.iter().filter(|pool| pool.roster.may_spill());
    let metrics = pools.flat_map(|pool| {
        let backends = pool.roster.backends.iter().enumerate();
        backends.map(|(index, backend)| {
            counter(&[("pool", &*pool.roster.name), ("backend", &*backend.id)], pool.spilled(index))
        })
    });
    family(
        "signpost_spilled_total",
        "Visitors who went elsewhere as a backend had no room for them.",
        MetricType::COUNTER,
        metrics,
    )
}

fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    metrics: impl IntoIterator<Item = Metric>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.into_iter().collect());
    family
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

fn counter(labels: &[(&str, &str)], value: impl Count) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value.number());
    let mut metric = Metric::default();
    metric.set_label(pairs(labels));
    metric.set_counter(counter);
    metric
}

/// What a counter takes.
trait Count {
    fn number(self) -> f64;
}

impl Count for u64 {
    fn number(self) -> f64 {
        self as f64
    }
}

impl Count for f64 {
    fn number(self) -> f64 {
        self
    }
}

fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_gauge(gauge);
    metric.set_label(pairs(labels));
    metric
}
