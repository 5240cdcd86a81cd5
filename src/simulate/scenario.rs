//! What is simulated, as a file in TOML says it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::draw::Lengths;
use super::recorded::{self, Recorded};
use crate::settings::{HumanDuration, SettingValue};

/// Everything about a simulation but the strategies and the seed. What is left out of a file is as in
/// [`Scenario::default`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// How many dispatchers share the visitors, each with an estimate of its own.
    pub dispatchers: usize,
    /// How long it runs before anything is measured.
    #[serde(with = "span")]
    pub warm_up: Duration,
    /// How long it is measured.
    #[serde(with = "span")]
    pub measured: Duration,
    /// How long dispatchers go on sending visitors to a backend that has died, and none to one that has joined.
    #[serde(with = "span")]
    pub detection: Duration,
    /// When visitors come.
    pub arrivals: Arrivals,
    /// How long they stay.
    pub sessions: Sessions,
    /// What backends tell.
    pub reports: ReportModel,
    /// What some strategies go by.
    pub strategies: Strategies,
    /// Who they are.
    pub backends: Vec<Backends>,
}

/// When visitors come.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Arrivals {
    /// So many a second, each by chance and independent of the others (a Poisson process).
    pub rate: f64,
    /// Instead of that: as in an access log of Signpost's in JSON. Its place is relative to the scenario's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
    /// How many different visitors there are, each as likely to come as another, for those who hash them; 0: all differ.
    pub visitors: u64,
    /// The share of redirects that are not followed, 0 to 1: they count as dispatches and never reach a backend. Bots
    /// that send HEAD, and monitors, do that.
    pub unfollowed: f64,
}

/// What some strategies go by, as in a pool's settings.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Strategies {
    /// Of `consistent_hash`: how much load a backend may have, in percent of its share; 0: any.
    pub balance_factor: u16,
    /// Of `first`: the utilization at which a backend is full.
    pub max_utilization: f64,
}

/// How long visitors stay.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// By which law.
    pub lengths: Law,
    /// The mean length.
    #[serde(with = "span")]
    pub mean: Duration,
    /// Of `pareto`: over 1; the nearer to that, the heavier its tail.
    pub shape: f64,
    /// Of `lognormal`: the standard deviation of the logarithm.
    pub sigma: f64,
    /// Of `log`: the field of a line of `arrivals.log` that has the length, in seconds.
    pub field: String,
}

/// The law of session lengths.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Law {
    /// Most are short, a few very long.
    Pareto,
    /// Who has stayed long is as likely to leave as who has just come.
    Exponential,
    /// In between.
    Lognormal,
    /// All alike.
    Fixed,
    /// As the log of arrivals says.
    Log,
}

/// What backends tell of their load, and how well that arrives.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportModel {
    /// From one to the next.
    #[serde(with = "span")]
    pub interval: Duration,
    /// How late they come.
    #[serde(with = "span")]
    pub delay: Duration,
    /// Whether they say how old they are.
    pub dated: bool,
    /// The share of them that is lost, 0 to 1.
    pub loss: f64,
    /// When they end.
    #[serde(with = "maybe_span", skip_serializing_if = "Option::is_none")]
    pub stop: Option<Duration>,
    /// How long one is good for; three intervals where it is left out, and 15 s at least.
    #[serde(with = "maybe_span", skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Whether every dispatcher asks for its own, at times of its own, or all are told at once.
    pub to: ReportRecipient,
    /// What they say.
    pub of: Vec<Figure>,
}

/// Who is told at once.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportRecipient {
    /// One dispatcher, which has asked.
    Each,
    /// All dispatchers.
    All,
}

/// A figure of a report.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Sessions that are active.
    Sessions,
    /// How many it takes.
    Capacity,
    /// Sessions over capacity.
    Utilization,
    /// Visitors a second since the report before.
    Rate,
}

/// Some backends that are alike.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Backends {
    /// How many.
    #[serde(default = "one")]
    pub count: usize,
    /// How many sessions each takes; utilization is sessions over this.
    pub capacity: f64,
    /// Its share of visitors, 1 to 256; its capacity over the smallest where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// When they come, if not at the beginning.
    #[serde(with = "maybe_span", default, skip_serializing_if = "Option::is_none")]
    pub joins: Option<Duration>,
    /// When they die, with all their sessions.
    #[serde(with = "maybe_span", default, skip_serializing_if = "Option::is_none")]
    pub dies: Option<Duration>,
}

fn one() -> usize {
    1
}

impl Default for Scenario {
    fn default() -> Self {
        let backends = |count, capacity| Backends { count, capacity, weight: None, joins: None, dies: None };
        Self {
            dispatchers: 1,
            warm_up: Duration::from_secs(120),
            measured: Duration::from_secs(1800),
            detection: Duration::from_secs(3),
            arrivals: Arrivals::default(),
            sessions: Sessions::default(),
            reports: ReportModel::default(),
            strategies: Strategies::default(),
            backends: vec![backends(5, 200.0), backends(3, 400.0), backends(2, 800.0)],
        }
    }
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { rate: 100.0, log: None, visitors: 0, unfollowed: 0.0 }
    }
}

impl Default for Strategies {
    fn default() -> Self {
        Self { balance_factor: 0, max_utilization: 0.8 }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        let mean = Duration::from_secs(20);
        Self { lengths: Law::Pareto, mean, shape: 1.5, sigma: 1.0, field: "session_seconds".to_owned() }
    }
}

impl Default for ReportModel {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            delay: Duration::ZERO,
            dated: false,
            loss: 0.0,
            stop: None,
            max_age: None,
            to: ReportRecipient::Each,
            of: vec![Figure::Sessions, Figure::Capacity],
        }
    }
}

/// The largest scenario: no more of anything.
const MOST_BACKENDS: usize = 10_000;
const MOST_DISPATCHERS: usize = 256;
const MOST_RATE: f64 = 1e7;

impl Scenario {
    /// Reads a file, and the log that it names.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut scenario = Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if let (Some(log), Some(folder)) = (&mut scenario.arrivals.log, path.parent()) {
            *log = folder.join(&*log);
        }
        Ok(scenario)
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let problems = scenario.problems();
        if problems.is_empty() { Ok(scenario) } else { Err(problems.join("\n")) }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut rule = |holds: bool, key: &str, takes: &str| {
            if !holds {
                problems.push(format!("{key}: takes {takes}"));
            }
        };
        let Self { arrivals, sessions, reports, strategies, backends, .. } = self;
        let count: usize = backends.iter().map(|backends| backends.count).fold(0, usize::saturating_add);
        rule((1..=MOST_DISPATCHERS).contains(&self.dispatchers), "dispatchers", "1 to 256");
        rule(!self.measured.is_zero(), "measured", "more than 0s");
        rule(arrivals.rate > 0.0 && arrivals.rate <= MOST_RATE, "arrivals.rate", "more than 0, up to 1e7");
        rule((0.0..=1.0).contains(&arrivals.unfollowed), "arrivals.unfollowed", "0 to 1");
        rule(!sessions.mean.is_zero(), "sessions.mean", "more than 0s");
        rule(sessions.shape > 1.0 && sessions.shape <= 1000.0, "sessions.shape", "more than 1, up to 1000");
        rule((0.0..=10.0).contains(&sessions.sigma), "sessions.sigma", "0 to 10");
        rule(
            sessions.lengths != Law::Log || arrivals.log.is_some(),
            "sessions.lengths",
            "log only with arrivals.log",
        );
        rule(reports.interval >= Duration::from_millis(1), "reports.interval", "1ms or more");
        rule((0.0..=1.0).contains(&reports.loss), "reports.loss", "0 to 1");
        rule(
            reports.of.iter().any(|&figure| figure != Figure::Capacity),
            "reports.of",
            "sessions, utilization or rate",
        );
        rule(
            matches!(strategies.balance_factor, 0 | 101..=10_000),
            "strategies.balance_factor",
            "0, or 101 to 10000",
        );
        rule(
            strategies.max_utilization > 0.0 && strategies.max_utilization <= 100.0,
            "strategies.max_utilization",
            "more than 0, up to 100",
        );
        rule((1..=MOST_BACKENDS).contains(&count), "backends", "1 to 10000 of them");
        for backends in backends {
            let Backends { capacity, weight, .. } = backends;
            rule(*capacity > 0.0 && *capacity <= 1e9, "backends.capacity", "more than 0, up to 1e9");
            rule(weight.is_none_or(|weight| (1..=256).contains(&weight)), "backends.weight", "1 to 256");
        }
        problems
    }

    /// How long a report is good for.
    pub fn report_max_age(&self) -> Duration {
        self.reports.max_age.unwrap_or_else(|| Duration::from_secs(15).max(3 * self.reports.interval))
    }

    /// Each backend by itself, with its weight.
    pub(super) fn each_backend(&self) -> impl Iterator<Item = (&Backends, u16)> {
        let smallest = self.backends.iter().map(|backends| backends.capacity).fold(f64::INFINITY, f64::min);
        self.backends.iter().flat_map(move |backends| {
            let by_capacity = (backends.capacity / smallest).round().clamp(1.0, 256.0) as u16;
            std::iter::repeat_n((backends, backends.weight.unwrap_or(by_capacity)), backends.count)
        })
    }

    /// The law that lengths are drawn by; `None` where a log has them.
    pub(super) fn lengths(&self) -> Option<Lengths> {
        let Sessions { lengths, mean, shape, sigma, .. } = self.sessions;
        let mean = mean.as_secs_f64();
        match lengths {
            Law::Pareto => Some(Lengths::Pareto { least: mean * (shape - 1.0) / shape, shape }),
            Law::Exponential => Some(Lengths::Exponential { mean }),
            Law::Lognormal => Some(Lengths::Lognormal { mu: mean.ln() - sigma * sigma / 2.0, sigma }),
            Law::Fixed => Some(Lengths::Fixed { seconds: mean }),
            Law::Log => None,
        }
    }

    /// What was recorded, where arrivals are.
    ///
    /// # Errors
    /// Why the log can't be read.
    pub(super) fn recorded(&self) -> Result<Option<Recorded>, String> {
        let Some(log) = &self.arrivals.log else { return Ok(None) };
        let field = (self.sessions.lengths == Law::Log).then_some(self.sessions.field.as_str());
        recorded::read(log, field).map(Some).map_err(|error| format!("{}: {error}", log.display()))
    }
}

/// A duration as settings write it.
mod span {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = HumanDuration::parse(&text)
            .map_err(|takes| serde::de::Error::custom(format!("takes {takes}")))?;
        Ok(span.0)
    }

    pub(super) fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&HumanDuration(*span))
    }
}

/// The same, where it may be missing.
mod maybe_span {
    use super::*;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        span::deserialize(deserializer).map(Some)
    }

    pub(super) fn serialize<S: Serializer>(
        span: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => span::serialize(span, serializer),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_leaves_out_is_as_by_default() {
        let scenario = Scenario::parse("dispatchers = 4\n[reports]\ninterval = '20s'").unwrap();
        assert_eq!((scenario.dispatchers, scenario.reports.interval), (4, Duration::from_secs(20)));
        assert_eq!(scenario.report_max_age(), Duration::from_secs(60));
        let weights: Vec<u16> = scenario.each_backend().map(|(_, weight)| weight).collect();
        assert_eq!(weights, [1, 1, 1, 1, 1, 2, 2, 2, 4, 4]);
    }

    #[test]
    fn mistakes_are_told_by_their_keys() {
        for (text, key) in [
            ("dispatcher = 4", "dispatcher"),
            ("[reports]\nintervall = '5s'", "intervall"),
            ("[reports]\ninterval = '5'", "interval"),
            ("[reports]\nof = ['capacity']", "reports.of"),
            ("[reports]\nof = ['sesions']", "sesions"),
            ("[sessions]\nshape = 1", "sessions.shape"),
            ("[sessions]\nlengths = 'log'", "arrivals.log"),
            ("[arrivals]\nrate = 0", "arrivals.rate"),
            ("[arrivals]\nrate = nan", "arrivals.rate"),
            ("[arrivals]\nunfollowed = 1.5", "arrivals.unfollowed"),
            ("[arrivals]\nunfollowed = -0.1", "arrivals.unfollowed"),
            ("[[backends]]\ncapacity = 0", "backends.capacity"),
            ("[[backends]]\ncapacity = 1\nweight = 300", "backends.weight"),
            ("backends = []", "backends"),
        ] {
            let error = Scenario::parse(text).unwrap_err();
            assert!(error.contains(key), "{text}: {error}");
        }
        let both = Scenario::parse("dispatchers = 0\nmeasured = '0s'").unwrap_err();
        assert_eq!(both.lines().count(), 2, "{both}");
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let mut scenario = Scenario::default();
        scenario.reports.stop = Some(Duration::from_secs(300));
        scenario.backends[1].dies = Some(Duration::from_millis(90_500));
        let text = toml::to_string(&scenario).unwrap();
        let again = Scenario::parse(&text).unwrap();
        assert_eq!(toml::to_string(&again).unwrap(), text);
    }
}
